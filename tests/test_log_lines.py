"""Log lines: one prefix per backend, all of one shape, always on stderr (drift prevention)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kparity import contracts
from kparity.cli.main import COMMANDS
from kparity.device import fingerprint
from kparity.device.codes import explain, reasons
from kparity.device.registry import BUILTIN
from kparity.gates.verdict import Row
from kparity.probe.dispatcher import announce
from tests.cli import TAG, run

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = contracts.load(contracts.PROBE)


def test_every_backend_is_rejected_in_one_shape() -> None:
    recipe = re.search(r"^grep -E '(.*)' ", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert recipe, "the README has the pattern that finds every rejection"
    for name in BUILTIN:
        line = CONTRACT.rejected(name, "KP-PROBE-CRASH", "crashed\twith\r\n\n[code]   SIGSEGV")
        assert (
            line == f"[{TAG}] {name} path rejected, attempting fallback: [KP-PROBE-CRASH] crashed with [code] SIGSEGV"
        )
        assert re.search(recipe[1], line) and not re.search(recipe[1], f"Backend: {name}")


@pytest.mark.parametrize(
    ("serving", "forced", "order", "words"),
    [
        ("", "", ["cuda", "cpu"], "attempting fallback"),
        ("", "", ["cpu", "cuda"], "no backend left"),
        ("", "it was required", ["cuda"], "refusing, it was required"),
        ("wgpu", "", ["wgpu", "cuda"], "wgpu serves already"),
    ],
)
def test_what_happens_next_is_said(serving: str, forced: str, order: list[str], words: str) -> None:
    lines: list[str] = []
    row = Row("cuda", "unavailable", "KP-CUDA-NODRIVER", "unavailable: no CUDA driver")
    announce(row, order, serving, forced, lines.append)
    assert lines == [f"[{TAG}] cuda path rejected, {words}: [KP-CUDA-NODRIVER] unavailable: no CUDA driver"]


def test_every_code_that_the_sources_name_is_explained() -> None:
    named: set[str] = set()
    for path in fingerprint.sources():
        if path.suffix == ".py":
            named |= set(re.findall(r"KP-[A-Z0-9]+-[A-Z0-9]+(?:-[A-Z0-9]+)*", path.read_text(encoding="utf-8")))
    assert len(named) > 30 and named <= set(reasons())
    for code in reasons():
        reason = explain(code.lower())
        assert reason.cause and reason.remedy and reason.title


def test_every_command_has_help() -> None:
    listed = run("--help").stdout
    for name, (_, line) in COMMANDS.items():
        assert name in listed
        done = run(name, "--help")
        assert done.returncode == 0 and len(done.stdout) > 60, name
        assert line
