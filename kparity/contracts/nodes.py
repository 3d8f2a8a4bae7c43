"""The pytest nodes that contracts refer to: whether they exist, and what they say when they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from kparity.contracts.files import ContractFile

COLLECT_SECONDS = 300.0
EMPTY: Mapping[str, Any] = {"collected": [], "outcomes": {}, "errors": []}
"""The record of a run of nothing."""
USAGE_ERROR = 4
"""pytest's exit code where a node that it was given does not exist."""


class NoPytest(Exception):
    """pytest cannot be run here, or died: nothing can be said about any test."""


@dataclass(frozen=True)
class Reference:
    """A place in a contract that names a test."""

    kind: str
    id: str
    node: str

    @property
    def where(self) -> str:
        """The path in the document."""
        key = "closing_test" if self.kind == "known_issues" else "test"
        return f"{self.kind}.{self.id}.{key}"


@dataclass(frozen=True)
class Outcome:
    """What became of a reference: passed only where every node that it names passed, and there was one."""

    outcome: str
    seconds: float
    nodes: int
    said: str


def references(contract: ContractFile) -> list[Reference]:
    """Every test that a contract names, in the order of the document."""
    document = contract.document
    found = [
        Reference(kind, entry["id"], entry["test"])
        for kind in ("falsification_tests", "proof_obligations", "harnesses")
        for entry in document.get(kind, [])
    ]
    return found + [
        Reference("known_issues", entry["id"], entry["closing_test"]) for entry in document.get("known_issues", [])
    ]


def file_of(node: str) -> str:
    """The file of a node id."""
    return node.partition("::")[0]


def named(reference: str, ids: Sequence[str]) -> list[str]:
    """The node ids that a reference names: itself, or every parameter of a function that is named without."""
    return [node for node in ids if node == reference or node.startswith((f"{reference}[", f"{reference}::"))]


def collect(root: Path, nodes: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Node ids of every file that ``nodes`` names, and the files that cannot be collected with what pytest said.

    Raises NoPytest.
    """
    files = sorted({file_of(node) for node in nodes if (root / file_of(node)).is_file()})
    if not files:
        return [], {}
    found = _pytest(root, ["--collect-only", "-q", *files], subprocess.DEVNULL, COLLECT_SECONDS)
    return found["collected"], {entry["node"]: entry["said"] for entry in found["errors"]}


def run(root: Path, nodes: Sequence[str], log: IO[Any] | int) -> dict[str, Outcome]:
    """Run the tests that references name, once each, in one pytest process; raises NoPytest.

    A reference that names nothing has the outcome ``missing``; ``incomplete`` is part passed, part skipped.
    """
    wanted = list(dict.fromkeys(node for node in nodes if (root / file_of(node)).is_file()))
    found = _pytest(root, ["-q", *wanted], log, None) if wanted else EMPTY
    if wanted and not (found["collected"] or found["outcomes"]):
        # pytest runs nothing at all where one node does not exist: leave those out
        ids, _ = collect(root, nodes)
        wanted = [node for node in wanted if named(node, ids)]
        found = _pytest(root, ["-q", *wanted], log, None) if wanted else EMPTY
    outcomes = found["outcomes"]
    ids = list(dict.fromkeys([*found["collected"], *outcomes]))
    return {node: _together([outcomes.get(each) for each in named(node, ids)]) for node in dict.fromkeys(nodes)}


def _together(found: Sequence[dict[str, Any] | None]) -> Outcome:
    """One outcome of all nodes of a reference; a node that left no word has failed."""
    entries = [entry or {"outcome": "failed", "seconds": 0.0, "said": "the test process died"} for entry in found]
    if not entries:
        return Outcome("missing", 0.0, 0, "no such test")
    seen = {entry["outcome"] for entry in entries}
    outcome = "failed" if "failed" in seen else "incomplete" if len(seen) > 1 else seen.pop()
    telling = "failed" if outcome == "failed" else "skipped"
    said = next((entry["said"] for entry in entries if entry["outcome"] == telling), "")
    return Outcome(outcome, sum(entry["seconds"] for entry in entries), len(entries), said)


def _outside() -> dict[str, str]:
    """The environment without what pytest-xdist tells its workers: a run of its own is no part of theirs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST_")}


def _pytest(root: Path, arguments: Sequence[str], log: IO[Any] | int, seconds: float | None) -> Mapping[str, Any]:
    """What the recorder wrote in a pytest process of its own, started in ``root``."""
    if find_spec("pytest") is None:
        raise NoPytest("pytest is not installed; pip install pytest")
    with tempfile.TemporaryDirectory(prefix="kparity-") as folder:
        record = Path(folder) / "record.json"
        plugin = ("-p", "kparity.contracts.recorder", "-p", "no:cacheprovider")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *plugin, *arguments],
                cwd=root, stdout=log, stderr=log, check=False, timeout=seconds,
                env={**_outside(), "KPARITY_RECORD": str(record)},
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise NoPytest(f"pytest collected nothing within {error.timeout:g} s in {root}") from error
        if not record.exists() and done.returncode == USAGE_ERROR:
            return EMPTY
        if not record.exists():
            raise NoPytest(f"pytest ended with {done.returncode} in {root} and collected nothing")
        found: Mapping[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        return found
