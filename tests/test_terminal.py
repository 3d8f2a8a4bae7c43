"""What people see: every width and encoding, readers that leave, and text that is not ours."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from kparity.cli import table
from kparity.cli.main import cli
from kparity.cli.table import NONE, Table
from kparity.errors import KparityError
from kparity.gates.verdict import Gate, Measure, Row
from kparity.host.text import HIDDEN, number, printable
from tests.cli import LIARS
from tests.edits import put
from tests.gguf_files import STRING, altered
from tests.made_receipts import edited, receipt

MODULE = (sys.executable, "-m", "kparity.cli.main")
COMMANDS = {
    "help": ("--help",),
    "ops": ("ops",),
    "op": ("ops", "rope", "-v"),
    "explain": ("explain", "bos_cosine"),
    "codes": ("explain",),
    "show": ("contract", "show", "backend-output-parity-v1"),
    "coverage": ("contract", "coverage"),
    "inspect": ("model", "inspect"),
    "mutants": ("mutate", "--list", "--op", "rope"),
    "probe": ("probe", "--backends", "cpu,numpy", "--depth", "bos"),
    "verbose": ("probe", "--backends", "cpu", "-v", "--timings"),
    "check": ("check", "-o", "add", "-b", "numpy", "--quick"),
    "cases": ("check", "-o", "add", "--quick", "--list"),
    "preflight": ("preflight", "--backends", "cpu"),
    "run": (
        "run",
        "--backend",
        "cpu",
        "--prompt",
        "Naïve — “was”",
        "--max-tokens",
        "2",
        "--depth",
        "bos",
        "--beyond-proof",
    ),
    "receipt": ("receipt", "show", "r1.json"),
    "verify": ("receipt", "verify", "r1.json", "r2.json"),
    "list": ("receipt", "list", "."),
    "diff": ("receipt", "diff", "r1.json", "r2.json"),
    "compare": ("bench", "compare", "r1.json", "r2.json"),
}
DOCUMENTS = {
    "inspect": ("model", "inspect", "--json"),
    "ops": ("ops", "--json"),
    "schema": ("schema", "receipt"),
    "show": ("contract", "show", "--json"),
}
WIDE = {"ops", "op", "codes", "show", "inspect", "mutants", "coverage", "probe", "verbose", "check", "receipt", "list",
        "diff", "compare", "preflight", "explain", "verify"}  # fmt: skip
"""Commands that print tables and lines of ours."""
TIMED = ("probe", "verbose", "check", "preflight")
CODES = {"probe": 3}
"""Of those that do not end with 0: a probe of BOS alone is inconclusive."""
FEW = ("show", "probe", "check", "run", "verify")
ASCII = {"PYTHONIOENCODING": "ascii"}
PLAIN = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}


@pytest.fixture(scope="module", autouse=True)
def _receipts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder with two receipts, which commands name."""
    folder = tmp_path_factory.mktemp("receipts")
    for name in ("r1", "r2"):
        (folder / f"{name}.json").write_text(json.dumps(receipt("wgpu", "cpu", salt=name)))
    before = Path.cwd()
    os.chdir(folder)
    yield
    os.chdir(before)


def kparity(*arguments: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """The command, without a terminal."""
    return subprocess.run([*MODULE, *arguments], capture_output=True, env={**PLAIN, **env}, timeout=120, check=False)


def shell(line: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which ``"$@"`` is the command; the exit code is the command's own."""
    script = ["bash", "-c", f"set -o pipefail; {line}", "bash", *MODULE, *arguments]
    return subprocess.run(script, capture_output=True, text=True, env={**PLAIN, **env}, timeout=120, check=False)


def told(*arguments: str, columns: int = 0, log: bool = False) -> str:
    """What a command of this process prints."""
    done = CliRunner().invoke(cli, arguments, env={"COLUMNS": str(columns), "NO_COLOR": None, "FORCE_COLOR": None})
    assert done.exception is None or isinstance(done.exception, (SystemExit, KparityError)), done.exception
    error = f"kparity: {printable(str(done.exception))}\n" if isinstance(done.exception, KparityError) else ""
    return (done.output if log else done.stdout) + error


def words(text: str) -> set[str]:
    """The words of tables, without rules, colons of names, and values that are none."""
    return {word.rstrip(":") for word in text.split()} - {NONE, "\\"} - {word for word in text.split() if "──" in word}


# --- widths ---


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", sorted(WIDE))
def test_every_width_has_every_word_whole(name: str) -> None:
    stable = words(told(*COMMANDS[name])) & words(told(*COMMANDS[name]))
    if name in TIMED:
        stable = {word for word in stable if not re.fullmatch(r"[\d.]+", word)}
    assert len(stable) > 2
    for columns in (60, 80, 120, 200):
        text = told(*COMMANDS[name], columns=columns)
        long = [line for line in text.splitlines() if cell_len(line) > columns]
        assert all(" " not in line.strip().removesuffix(" \\") for line in long), long
        assert stable - words(text) == set(), columns


CELLS = st.one_of(
    st.none(), st.floats(), st.integers(), st.text(max_size=20), st.text("ab漢 —\n\x1b\u202e", max_size=70)
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS, st.text("漢xy ", max_size=70)), max_size=3), st.integers(60, 250))
def test_a_table_of_anything_fits(rows: list[tuple], columns: int) -> None:
    names = ("a", "long name", "n", "more")
    table = Table(*names, right={"n"})
    for *cells, text in rows:
        table.add(*cells, beneath=[text])
    lines = [line.plain for line in table.lines(columns)]
    for line in lines:
        assert cell_len(line) <= columns or len(line.split()) == 1 or line.lstrip()[:2] in ("a:", "n:", "lo", "mo")
        assert not any(unicodedata.category(each) in HIDDEN for each in line)
    whole = [line.plain for line in table.lines(None)]
    filled = zip(names, zip(*rows, strict=True), strict=False)
    empty = {word for name, cells in filled if not any(cells) for word in name.split()}  # nothing stands beneath
    assert words("\n".join(whole)) - words("\n".join(lines)) <= empty


@pytest.mark.parametrize(
    ("value", "beside", "text"),
    [
        (75289.4, None, "75300"), (0.0829444, 10, "0.0829"), (6.86616e-09, None, "6.87e-09"), (1559.0, None, "1559"),
        (123457.0, 0, "123457"), (0.999904, 0.99, "0.9999"), (0.98996, 0.99, "0.98996"), (0.99999999, None, "1"),
        (10.0000001, 10, "10.0000001"), (0.0, 0, "0"), (1.0, None, "1"), (float("nan"), 1, "nan"),
    ],
)  # fmt: skip
def test_three_digits_that_never_reach_the_limit_by_rounding(value: float, beside: float | None, text: str) -> None:
    assert number(value, beside) == text


def test_a_backend_is_a_few_lines_and_a_failed_gate_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    from kparity.cli.probe_table import print_probe
    from kparity.probe.dispatcher import Outcome

    for columns, most in ((80, 9), (200, 5)):
        text = told("probe", "--backends", "cpu", columns=columns)
        assert len(text.splitlines()) - 2 <= most and "exact_scaled_ulp 0." in text and "kernels" in text
    wrong = Gate("positions", "FAIL", [Measure("positions_cosine", 0.98996, 0.99, "≥", False)], "KP-POS-COSINE", "far")
    row = Row("cpu", "rejected", "KP-POS-COSINE", "far", gates=[Gate("open", "PASS"), wrong])
    print_probe(Outcome([row]))
    out = capsys.readouterr().out
    assert "FAIL positions: positions_cosine 0.98996 (≥ 0.99, FAIL)" in out and "[KP-POS-COSINE] far" in out


def terminal(*arguments: str, columns: int = 60, **env: str) -> str:
    """What a terminal of so many columns gets."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with subprocess.Popen([*MODULE, *arguments], stdout=theirs, stderr=subprocess.DEVNULL, env={**PLAIN, **env}):
        os.close(theirs)
        parts = []
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    return b"".join(parts).decode()


def test_escape_sequences_are_for_terminals_that_want_them() -> None:
    command = COMMANDS["check"]
    assert "\x1b[" in terminal(*command, TERM="xterm")
    for env in ({"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}):
        text = terminal(*command, **env)
        assert "\x1b" not in text and "utilisation" in text
        assert max(map(cell_len, text.splitlines())) <= 60
    assert b"\x1b" not in kparity(*command).stdout and b"\x1b[" in kparity(*command, FORCE_COLOR="1").stdout


# --- encodings ---


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", COMMANDS)
def test_an_encoding_without_the_glyphs_gets_them_spelt_out(name: str) -> None:
    env = {"probe": {"LC_ALL": "POSIX"}, "show": {"LANG": "C"}, "help": {"LC_ALL": "C"}}.get(name, ASCII)
    done = kparity(*COMMANDS[name], **env)
    assert done.returncode == CODES.get(name, 0), done.stderr
    assert done.stdout and done.stdout.isascii() and done.stderr.isascii()
    assert b"Traceback" not in done.stderr and b"\\u2" not in done.stdout


@pytest.mark.parametrize("name", DOCUMENTS)
def test_json_is_the_same_in_every_encoding(name: str) -> None:
    narrow, wide = kparity(*DOCUMENTS[name], PYTHONIOENCODING="ascii"), kparity(*DOCUMENTS[name])
    assert narrow.stdout.isascii() and narrow.returncode == wide.returncode == 0
    assert json.loads(narrow.stdout) == json.loads(wide.stdout)


# --- readers ---


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_who_left_changes_no_verdict(name: str) -> None:
    more = ('"$@" >&-', '"$@" | head -1', '"$@" 2>&-', '"$@" <&-') if name in FEW else ()
    for line in ('"$@" | true', *more):
        done = shell(line, *COMMANDS[name])
        assert done.returncode == CODES.get(name, 0), (line, done.stderr)
        assert not re.search("Traceback|Broken|Exception", done.stderr)


@pytest.mark.parametrize("line", ['"$@" | true', '"$@" >&-', '"$@" 2>&-'])
def test_a_failed_gate_is_exit_code_1_whoever_listens(line: str) -> None:
    assert shell(line, "probe", "--backends", "liar-nan,cpu", "--depth", "bos", PYTHONPATH=str(LIARS)).returncode == 1


@pytest.mark.parametrize("name", FEW)
def test_a_full_disk_is_one_sentence(name: str) -> None:
    done = shell('"$@" >/dev/full', *COMMANDS[name])
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("kparity: standard output cannot be written: No space left")


@pytest.mark.parametrize("line", ['"$@" >&-', '"$@" | true', '"$@" >/dev/full'])
def test_work_for_a_file_is_done_although_nobody_reads_the_table(line: str, tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    shell(line, "probe", "--backends", "cpu", "--depth", "bos", "--receipt", str(path))
    assert json.loads(path.read_text())["predicate"]["serving"] == "cpu"


# --- text that is not ours ---

EVIL = "x\nPASS: forged\r\x1b[2J\x1b]0;t\x07\x85\x9b31m\u202eevil\u2028y\x7f[bold red]z[/]"


def test_text_of_others_forges_no_line(tmp_path: Path) -> None:
    """Of receipts, models and arguments."""
    lie, odd = tmp_path / "lie.json", tmp_path / "odd.json"
    lie.write_text(json.dumps(edited(put("runs.0.device.device", EVIL), "wgpu", "cpu")))
    odd.write_text(json.dumps(edited(put(f"x{EVIL}", 1), "wgpu", "cpu")))
    model = altered(tmp_path, keys={"general.name": (STRING, EVIL), f"x{EVIL}": (STRING, "y")})
    for command in (
        ("receipt", "verify", str(odd)),
        ("receipt", "show", str(odd)),
        ("receipt", "show", str(lie)),
        ("receipt", "list", str(tmp_path)),
        ("receipt", "diff", "r1.json", str(lie)),
        ("receipt", "verify", f"{EVIL}.json"),
        ("bench", "compare", "r1.json", f"{EVIL}.json"),
        ("model", "inspect", str(model)),
        ("explain", EVIL),
        ("ops", EVIL),
    ):
        text = told(*command, log=True)
        assert {each for each in text if unicodedata.category(each) in HIDDEN} <= {"\n"}, command
        assert not any(line.lstrip().startswith(("PASS: forged", "y\x7f")) for line in text.splitlines()), command
        assert "forged" in text.lower() and re.search(r"(?i)\[bold red\]z|…", text), command
    stray = kparity("probe", f"--{EVIL}")
    assert stray.returncode == 2 and b"\x1b" not in stray.stderr and b"\nPASS" not in stray.stderr


def test_commands_print_in_one_place() -> None:
    """``say``, ``Table`` and ``log``, or ``printable`` where a text has lines."""
    bare = re.compile(
        r"click\.(?:echo|secho|style)\((?!printable)|(?<![.\w])(?<!def )print\(|sys\.stdout\.write\((?!printable)"
    )
    folder = Path(table.__file__).parent
    assert {path.name: found for path in folder.glob("*.py") if (found := bare.findall(path.read_text()))} == {}
