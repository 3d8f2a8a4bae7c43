"""A project of somebody else with one contract, one source and one test file, in a folder of its own."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kparity.contracts import code, evidence, files, nodes
from kparity.contracts.validate import Findings, validate

SOURCE = """
def judge(contract, value):
    return contract.threshold("error").holds(value)
"""

TESTS = """
import conftest
import pytest

def test_good(): assert len("x") == 1

def test_bad(): assert 1 == 2, "one is not two"

def test_skipped(): pytest.skip("no device here")

@pytest.mark.parametrize("n", [1, 2])
def test_many(n): pass

def test_empty(): assert 1 == 1

@pytest.mark.parametrize("n", [1, 2])
def test_some(n):
    if n == 2:
        pytest.skip("no second device")

@pytest.mark.xfail
def test_excused(): assert False

def test_measured(record_property):
    record_property("error", 0.25)
    print("as\\x1bmeasured")
    error = 0.25
    assert error <= 0.5
    conftest.helper()

class TestThings:
    def test_inside(self): pass
"""

DOCUMENT: dict[str, Any] = {
    "metadata": {
        "id": "mine-v1", "version": "1.0.0", "status": "active", "summary": "Mine.", "references": ["A book"],
        "changelog": [{"version": "1.0.0", "change": "First version."}],
    },
    "enforced_by": ["source.py"],
    "equations": {"error": {"formula": "a - b", "domain": "reals", "codomain": "reals", "invariants": ["a - a = 0"]}},
    "thresholds": {
        "error": {"value": 0.5, "rule": "at most", "basis": "Half of a unit, which is what rounding can make of it."}
    },
    "preconditions": [{"id": "PRE-MINE-1", "of": ["error"], "requires": "two numbers", "if_violated": "no verdict"}],
    "falsification_tests": [
        {"id": "FALSIFY-MINE-001", "rule": "r", "prediction": "p", "test": "test_mine.py::test_good",
         "if_fails": "f", "status": "functional"},
    ],
    "proof_obligations": [
        {"id": "PO-MINE-1", "type": "invariant", "property": "p", "formal": "f", "test": "test_mine.py::test_many"}
    ],
    "harnesses": [
        {"id": "H-MINE-1", "obligation": "PO-MINE-1", "bound": 2, "strategy": "bounded-exhaustive",
         "test": "test_mine.py::test_many[1]"},
    ],
}  # fmt: skip

ISSUE: dict[str, Any] = {
    "id": "ISSUE-MINE-1", "backend": "liar-honest", "match": {}, "symptom": "gibberish after 64 tokens",
    "cause": "the driver reorders two launches", "reference": "docs/driver.md#the-driver",
    "closure": {"a": "a driver in which the closing test passes", "c": "documented as unsupported"},
    "closing_test": "test_mine.py::test_good", "status": "open",
}  # fmt: skip


def document(**changes: Any) -> dict[str, Any]:
    """The good contract, with top-level sections replaced."""
    return {**copy.deepcopy(DOCUMENT), **copy.deepcopy(changes)}


def make(folder: Path, contract: dict[str, Any], name: str = "mine-v1") -> Path:
    """Write the project; the path of its contract."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text("[project]\nname = 'mine'\nversion = '1'\n")
    (folder / "source.py").write_text(SOURCE)
    (folder / "test_mine.py").write_text(TESTS)
    (folder / "conftest.py").write_text("def helper(): assert 'another file'\n")
    (folder / "docs").mkdir(exist_ok=True)
    (folder / "docs" / "driver.md").write_text("# The driver\n\nISSUE-MINE-1: it reorders launches.\n")
    return write(folder / "contracts" / f"{name}.yaml", contract)


def write(path: Path, contract: dict[str, Any]) -> Path:
    """Write one contract; JSON is YAML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contract, indent=1), encoding="utf-8")
    return path


def checked(path: Path) -> None:
    """What ``kparity contract check`` leaves, without its look at every device."""
    contract = files.read_all([path])[0]
    root = contract.root()
    assert root is not None
    ran = code.of(contract)
    results = nodes.run(root, nodes.references(contract), subprocess.DEVNULL)
    evidence.write(contract.evidence, evidence.of(contract, root, results, ["test"], {}, ["cpu"], ran))


def checked_by(paths: Sequence[Path]) -> Findings:
    """What ``kparity contract validate --run`` finds."""
    return validate(paths, ["cpu", "liar-honest"], run=True)


def problems(*paths: Path) -> list[str]:
    """Its lines."""
    return [str(problem) for problem in checked_by(paths).problems]


def commit(folder: Path) -> None:
    """Commit everything in the folder, in a repository of its own."""
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "state", "--allow-empty"], check=True)
