"""What people see: every width and encoding, readers that leave, and text that is not ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import LIARS

MODULE = (sys.executable, "-m", "kparity.cli.main")
QUICK = {
    "help": ("--help",),
    "ops": ("ops",),
    "op": ("ops", "rope"),
    "explain": ("explain", "bos_cosine"),
    "codes": ("explain",),
    "show": ("contract", "show", "backend-output-parity-v1"),
    "coverage": ("contract", "coverage"),
    "inspect": ("model", "inspect"),
    "mutants": ("mutate", "--list", "--op", "rope"),
    "probe": ("probe", "--backends", "cpu,numpy", "--depth", "bos"),
    "check": ("check", "-o", "add", "-b", "numpy", "--quick"),
    "cases": ("check", "-o", "add", "--quick", "--list"),
    "run": ("run", "--backend", "cpu", "--prompt", "Naïve — “was”", "--max-tokens", "2", "--depth", "bos"),
}
DOCUMENTS = {
    "inspect": ("model", "inspect", "--json"),
    "ops": ("ops", "--json"),
    "schema": ("schema", "receipt"),
    "show": ("contract", "show", "--json"),
    "check": ("check", "-o", "add", "-b", "numpy", "--quick", "--json", "-"),
}
PLAIN = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}


def kparity(*arguments: str, stdout: int = subprocess.PIPE, **env: str) -> subprocess.CompletedProcess[bytes]:
    """The command, without a terminal."""
    return subprocess.run(
        [*MODULE, *arguments], stdout=stdout, stderr=subprocess.PIPE, env={**PLAIN, **env}, timeout=120, check=False
    )


def shell(line: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which ``"$@"`` is the command; the exit code is the command's own."""
    script = ["bash", "-c", f"set -o pipefail; {line}", "bash", *MODULE, *arguments]
    return subprocess.run(script, capture_output=True, text=True, env={**PLAIN, **env}, timeout=120, check=False)


@pytest.mark.parametrize("name", QUICK)
def test_an_encoding_without_the_glyphs_gets_them_spelt_out(name: str) -> None:
    for env in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX"}):
        done = kparity(*QUICK[name], **env)
        assert done.returncode == 0, done.stderr
        assert done.stdout and done.stdout.isascii() and done.stderr.isascii()
        assert b"Traceback" not in done.stderr and b"\\u201" not in done.stdout


@pytest.mark.parametrize("name", DOCUMENTS)
def test_json_is_the_same_in_every_encoding(name: str) -> None:
    narrow, wide = kparity(*DOCUMENTS[name], PYTHONIOENCODING="ascii"), kparity(*DOCUMENTS[name])
    assert narrow.stdout.isascii() and narrow.returncode == wide.returncode == 0
    documents = [json.loads(done.stdout) for done in (narrow, wide)]
    assert name == "check" or documents[0] == documents[1]


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("line", ['"$@" | head -1', '"$@" | true', '"$@" >&-', '"$@" 2>&-', '"$@" <&-'])
def test_a_reader_who_left_changes_no_verdict(name: str, line: str) -> None:
    done = shell(line, *QUICK[name])
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.parametrize("line", ['"$@" | true', '"$@" >&-', '"$@" 2>&-'])
def test_a_failed_gate_is_exit_code_1_whoever_listens(line: str) -> None:
    liar = ("probe", "--backends", "liar-nan,cpu", "--depth", "bos")
    assert shell(line, *liar, PYTHONPATH=str(LIARS)).returncode == kparity(*liar, PYTHONPATH=str(LIARS)).returncode == 1


@pytest.mark.parametrize("name", QUICK)
def test_a_full_disk_is_one_sentence(name: str) -> None:
    done = shell('"$@" >/dev/full', *QUICK[name])
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("kparity: standard output cannot be written: No space left")


def test_work_for_a_file_is_done_although_nobody_reads_the_table(tmp_path: Path) -> None:
    for line in ('"$@" >&-', '"$@" | true', '"$@" >/dev/full'):
        path = tmp_path / "receipt.json"
        shell(line, "probe", "--backends", "cpu", "--depth", "bos", "--receipt", str(path))
        assert json.loads(path.read_text())["predicate"]["serving"] == "cpu"
        path.unlink()
