"""Silent-fallback regression tests: every lying backend is rejected aloud, and the next one serves."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from kparity.device import registry
from kparity.device.registry import host_has_gpu
from kparity.errors import WrongInput
from kparity.gates.table import GATES
from kparity.host import progress
from kparity.probe import runner
from kparity.probe.dispatcher import probe_all
from kparity.probe.messages import Request
from kparity.probe.sealed import Sealed
from tests.cli import LIARS as LIARS_FOLDER
from tests.cli import TAG, run
from tests.test_process import gone

LIARS = {
    "interleaved": "KP-KERNEL|KP-POS-COSINE",
    "noscale": "KP-BOS-COSINE|KP-EXACT-SCALE",
    "halfscale": "KP-EXACT-SCALE|KP-BOS-COSINE",
    "nan": "KP-BOS-NONFINITE",
    "flipped": "KP-RESIDENT",
    "cut": "KP-RESIDENT",
    "row": "KP-RESIDENT",
    "given": "KP-RESIDENT",
    "gain": "KP-RESIDENT",
    "column": "KP-EXACT-BITS|KP-BOS-COSINE",
    "swapped": "KP-EXACT-BITS|KP-BOS-COSINE",
    "stale": "KP-RESET|KP-PREFILL|KP-REPLAY",
    "replay": "KP-REPLAY",
    "loud": "KP-POS-NORM",
    "late": "KP-POS-NONFINITE|KP-EXACT-BITS",
    "batch": "KP-PREFILL",
    "unwritten": "KP-BOS-COSINE|KP-BOS-NONFINITE",
    "hidden": "KP-KERNEL",
    "tie": "KP-ARGMAX",
    "second": "KP-TURNS",
    "poser": "KP-FALSE-GPU",
    "renamed": "KP-FALSE-GPU",
    "crash": "KP-PROBE-CRASH",
    "hang": "KP-PROBE-HANG",
    "exit": "KP-PROBE-EXIT",
    "oom": "KP-PROBE-OOM",
    "lost": "KP-DEVICE-LOST",
    "error": "KP-PROBE-ERROR",
    "garbles": "KP-PROBE-MESSAGE",
    "floods": "KP-PROBE-MESSAGE",
    "shortcut": "KP-PROBE-GATES",
    "missing": "KP-IMPORT",
}
"""Liar → the codes that may name it; more than one where an earlier gate may see it too."""


@pytest.mark.parametrize("liar", LIARS)
def test_liar_is_rejected_and_the_next_backend_serves(liar: str) -> None:
    if liar == "renamed" and host_has_gpu():
        pytest.skip("this host has a GPU: its presence cannot refute the claim")
    done = run("probe", "--backends", f"liar-{liar},cpu", "--timeout", "6" if liar == "hang" else "60", liars=True)
    lines = done.stderr.splitlines()
    shape = rf"\[{TAG}\] liar-{liar} path rejected, attempting fallback: \[({LIARS[liar]})\] \S.*"
    assert re.fullmatch(shape, lines[0]), done.stderr
    assert lines[-1].startswith("Backend: cpu ("), done.stderr
    assert done.returncode == (0 if liar == "missing" else 1), done.stderr


def test_bos_depth_passes_what_it_cannot_see_and_says_so() -> None:
    done = run("probe", "--backends", "liar-interleaved", "--depth", "bos", "--json", liars=True)
    row = json.loads(done.stdout)["rows"][0]
    assert row["status"] == "accepted"
    notes = [gate["note"] for gate in row["gates"] if gate["verdict"] == "INCONCLUSIVE"]
    assert len(notes) == len(GATES) - 2 and all("cannot see RoPE" in note for note in notes)


def test_a_device_that_changes_after_its_probe_is_caught() -> None:
    done = run("run", "--backends", "liar-changed,cpu", "--prompt", "In the beginning", "--max-tokens", "2", liars=True)
    assert f"[{TAG}] liar-changed path rejected, attempting fallback: [KP-CHANGED]" in done.stderr
    assert "Backend: cpu (" in done.stderr
    assert done.returncode == 0


def test_a_forced_liar_refuses() -> None:
    done = run("run", "--backend", "liar-interleaved", "--prompt", "In the beginning", liars=True)
    assert done.returncode == 3
    assert re.search(rf"refusing, it was required: \[({LIARS['interleaved']})\]", done.stderr)
    assert "Backend:" not in done.stderr and done.stdout == ""


def test_a_name_that_looks_like_markup_or_moves_the_cursor_is_text() -> None:
    done = run("probe", "--backends", "liar-markup,cpu", liars=True)
    assert done.returncode == 0, done.stderr  # an honest backend of another package serves
    assert done.stderr.count("\n") == 1 and "Backend: liar-markup (" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr and "[/]" in done.stdout and "[bold]Card" in done.stdout


def test_a_child_that_makes_progress_lives_and_shows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(LIARS_FOLDER))
    monkeypatch.setenv("PYTHONPATH", str(LIARS_FOLDER))
    registry.targets.cache_clear()
    monkeypatch.setattr(runner, "silence", lambda stage, model: 3.0)
    progress.show()
    began = time.monotonic()
    (row,) = probe_all(["liar-slow"], Request()).rows
    progress.show(False)
    assert row.accepted and time.monotonic() - began > 4.0, "each kernel is a sign of life; the whole takes longer"
    lines = capsys.readouterr().err.splitlines()
    assert any(re.fullmatch(rf"probe: liar-slow: compile, 0 of {len(GATES)}, after \d+ s", line) for line in lines)
    assert len(lines) == len(set(lines))
    with runner.probing(["liar-hang"], Request()) as rows:
        row, *_ = next(rows)
    assert row.code == "KP-PROBE-HANG" and re.search("silent for 3 s at stage (ahead|walk|BOS)", row.reason)
    registry.targets.cache_clear()


def test_a_daemon_that_a_backend_left_is_gone(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    done = run("probe", "--backends", "liar-leaves", "--depth", "bos", liars=True, env={"KPARITY_TEST_PID": str(told)})
    assert done.returncode == 3, done.stderr
    assert gone(int(told.read_text()))


def test_the_reference_is_computed_once_and_cannot_be_written(tmp_path: Path) -> None:
    document = json.loads(run("probe", "--backends", "cpu,numpy", "--json").stdout)
    ran = [row for row in document["rows"] if row["status"] == "accepted"]
    assert {row["reference"] for row in ran} == {"plain fp64"} and len(ran) == 2
    file = Sealed(tmp_path)
    os.write(file.writer, b"reference")
    with pytest.raises(OSError):
        os.write(file.reader, b"x")
    file.seal()
    for descriptor in (file.writer, os.open(f"/proc/self/fd/{file.reader}", os.O_RDWR)):
        with pytest.raises(PermissionError):
            os.write(descriptor, b"x")
    assert os.pread(file.reader, 99, 0) == b"reference"
    file.close()


def test_without_proc_nothing_is_sealed_and_a_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str, *_: int) -> int:
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(os, "open", missing)
    with pytest.raises(WrongInput, match=r"/proc/self/fd.*mount /proc"):
        Sealed(tmp_path)


IMPORTS = {
    "import os; os._exit(0)": "KP-PROBE-EXIT",
    "raise SystemExit(0)": "KP-PROBE-EXIT",
    "import ctypes; ctypes.string_at(0)": "KP-PROBE-CRASH",
    "while True: pass": "KP-PROBE-HANG",
    "import os; print('Backend: cuda'); os.write(1, b'Backend: hip')": "KP-PROBE-ERROR",
}
"""What a module of another package does when it is imported → the code that names it."""


def imposed(folder: Path, text: str) -> dict[str, str]:
    """The environment in which a package brings a backend and an op, both ``harm``, by a module with this text."""
    info = folder / "harm-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: harm\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kparity.backends]\nharm = harm:X\n[kparity.ops]\nharm = harm:X\n")
    (folder / "harm.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("text", IMPORTS)
def test_an_import_of_another_package_ends_its_own_process_alone(text: str, tmp_path: Path) -> None:
    done = run("probe", "-b", "harm,cpu", "--depth", "bos", "--timeout", "9", env=imposed(tmp_path, text))
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"[{TAG}] harm path rejected, attempting fallback: [{IMPORTS[text]}] "), done.stderr
    assert lines[-1].startswith("Backend: cpu (") and done.returncode == 1, done.stderr
    assert "Backend:" not in done.stdout and "cpu" in done.stdout


def test_no_command_ends_where_a_package_is_read(tmp_path: Path) -> None:
    env = imposed(tmp_path, "import os; os._exit(0)")
    for code, arguments in (
        (0, ("explain",)), (2, ("explain", "KP-HARM")), (2, ("check", "-b", "cpu", "-o", "harm")),
        (2, ("source", "add", "-b", "harm")), (3, ("preflight", "-b", "harm")), (0, ("ops", "add")),
        (3, ("mutate", "-b", "harm", "-o", "add")),
    ):  # fmt: skip
        done = run(*arguments, env=env)
        assert done.returncode == code and done.stdout + done.stderr, (arguments, done)
