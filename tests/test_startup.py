"""What a command costs before it does anything: nothing heavy is imported unasked, and help is there at once."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from kparity.cli.main import COMMANDS
from tests.cli import python
from tools import speeds

UNASKED = ("numpy", "torch", "wgpu", "pyopencl", "cupy", "matplotlib", "yaml", "jsonschema", "rich", "tokenizers",
           "msgspec", "gguf", "duckdb", "jinja2", "cryptography", "xllamacpp", "kparity._native")  # fmt: skip
BENCH = "kparity.bench"

LOADED = """
import sys
from kparity.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("\\n" + " ".join(sys.modules))
"""


def loaded(*arguments: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    return set(python(LOADED, *arguments).splitlines()[-1].split())


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_imports_nothing_heavy(name: str | None) -> None:
    found = loaded(*filter(None, [name]), "--help")
    assert [module for module in UNASKED if module in found] == []
    assert "click" in found and not any(module.startswith(BENCH) for module in found)


def test_the_timing_core_imports_no_vendor_library() -> None:
    code = "import sys, kparity.bench.ops, kparity.bench.comparison; print(*sys.modules)"
    assert not {"torch", "wgpu", "pyopencl", "cupy", "xllamacpp", "matplotlib"} & set(python(code).split())


def test_help_is_there_within_120_ms() -> None:
    """By the processor's time: on an idle machine it is the wall's, and neighbours do not add to it."""
    command, best = [sys.executable, "-m", "kparity.cli.main", "--help"], 1.0
    for _ in range(10):
        before = os.times()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        best = min(best, after.children_user + after.children_system - before.children_user - before.children_system)
    assert 0.005 < best <= 0.120


# --- what measures them ---


def test_a_repack_that_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "DISTINCT", 1)
    table = list(speeds.repacking())
    assert {series.row.name.split(",")[0] for series in table} == {"repack TQ2_0", "repack TQ1_0", "repack I2_S"}
    assert all(series.check() is None and series.sample().wall_s > 0 for series in table)
    monkeypatch.setattr(speeds, "repack", lambda *_: np.zeros((speeds.ROWS, speeds.K // 16), np.uint32))
    assert all("output wrong" in (series.check() or "") for series in table)


def test_a_command_that_fails_is_no_time() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        speeds.process("fails", sys.executable, "-c", "raise SystemExit(1)").sample()
