"""``kparity preflight``: what is there, what is not, where it was looked for, and a remedy for three shells."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from kparity.device.codes import reasons
from kparity.device.registry import names
from kparity.device.remedies import SHELLS, Reason
from kparity.probe.preflight import remedies
from tests.cli import run

REASONS = reasons()
REMEDIES = sorted(code for code, reason in REASONS.items() if reason.ways)


def test_every_backend_has_a_line_and_a_missing_one_a_remedy() -> None:
    done = run("preflight", "--json")
    found = {finding["backend"]: finding for finding in json.loads(done.stdout)}
    assert set(found) == set(names()) and done.returncode == 0
    text = run("preflight", "--backends", "cpu,numpy,wgpu,opencl")  # what serves lacks nothing, whatever is not found
    assert text.returncode == 3 or "not found" not in text.stdout
    assert found["cpu"]["available"] and found["numpy"]["available"]
    for finding in found.values():
        if finding["available"]:
            assert finding["device"]["library"] and not finding["remedies"]
        else:
            assert finding["code"] in REASONS and finding["reason"]
            assert set(finding["remedies"]) == set(SHELLS) and all(finding["remedies"].values())
    assert "libcuda.so.1" in found["cuda"]["libraries"] and found["cuda"]["searched"]


@pytest.mark.skipif(any(Path("/dev").glob("nvidia*")), reason="this host has an NVIDIA device")
def test_a_named_backend_that_is_missing_is_exit_code_3() -> None:
    done = run("preflight", "--backends", "cuda", env={"SHELL": "/usr/bin/fish"})
    assert done.returncode == 3
    shown = (
        "cuda: NOT AVAILABLE",
        "[KP-CUDA-NODRIVER]",
        "libcuda.so.1: not found",
        "searched",
        "set -gx LD_LIBRARY_PATH",
    )
    assert [words for words in shown if words not in done.stdout] == []
    assert "export" not in done.stdout and "$env:" not in done.stdout
    every = run("preflight", "--backends", "cuda", "-v").stdout
    assert all(words in every for words in ("set -gx LD_", "export LD_", "$env:LD_"))


def test_remedies_are_lines_of_their_shell() -> None:
    reason = Reason("", "", "", ("A_PATH=/a folder/it's", "python -m pip install -e '/a folder[cuda]'"))
    assert reason.lines("sh")[0] == "export A_PATH='/a folder/it'\"'\"'s'"
    assert reason.lines("fish")[0] == r"set -gx A_PATH '/a folder/it\'s'"
    assert reason.lines("pwsh")[0] == "$env:A_PATH = '/a folder/it''s'"
    assert reason.lines("pwsh")[1].endswith(" pip install -e '/a folder[cuda]'")


@pytest.mark.parametrize(("shell", "option"), [("sh", "-n"), ("fish", "--no-execute")])
def test_a_shell_accepts_its_lines(shell: str, option: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    for code in REMEDIES:
        for line in remedies(code)[shell]:
            subprocess.run([shell, option, "-c", line], check=True)
