"""The pytest nodes that contracts refer to: whether they exist, and what they say when they run.

The pytest process loads this module as a plugin, whose hooks write what was collected and what became of it to
``$KPARITY_RECORD``: node ids and outcomes, whatever the project's own options make of pytest's text.
"""

from __future__ import annotations

import ast
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import msgspec
from msgspec import Struct

from kparity.contracts import Contract
from kparity.contracts.files import inside
from kparity.host import install
from kparity.host.text import printable

COLLECT_SECONDS = 300.0
SAID = 400
"""Characters that are kept of what a test says."""
HELD = "kparity_held"
"""Property of a test's report: how many assertions held, and the last of them with its values."""
USAGE_ERROR = 4
"""pytest's exit code where a node that it was given does not exist."""


class NoPytest(Exception):
    """pytest cannot be run here, or died: nothing can be said about any test."""


class Told(Struct):
    """What became of a node: the worst outcome of its phases, the sum of their seconds, and why it failed or was
    skipped; of one that passed what it measured, printed and asserted.
    """

    outcome: str = "passed"
    seconds: float = 0.0
    said: str = ""
    held: int = 0
    """Assertions of its own file, about anything that has a name, that held."""


class Record(Struct):
    """Ids of the collected nodes, what became of those that ran, and the files that cannot be collected with why."""

    collected: list[str] = []
    outcomes: dict[str, Told] = {}
    errors: dict[str, str] = {}


class Reference(Struct, frozen=True):
    """A place in a contract that names a test."""

    kind: str
    id: str
    node: str

    @property
    def where(self) -> str:
        """The path in the document."""
        key = "closing_test" if self.kind == "known_issues" else "test"
        return f"{self.kind}.{self.id}.{key}"


class Result(Reference, frozen=True):
    """What became of a reference: passed only where every one of its ``nodes`` passed, and there was one."""

    outcome: str
    seconds: float
    nodes: int
    said: str


def references(contract: Contract) -> list[Reference]:
    """Every test that a contract names, in the order of the document."""
    sections = contract.sections
    tests = [
        Reference(kind, entry.id, entry.test)
        for kind in ("falsification_tests", "proof_obligations", "harnesses")
        for entry in getattr(sections, kind)
    ]
    return tests + [Reference("known_issues", entry.id, entry.closing_test) for entry in sections.known_issues]


def file_of(node: str) -> str:
    """The file of a node id."""
    return node.partition("::")[0]


def named(reference: str, ids: Sequence[str]) -> list[str]:
    """The node ids that a reference names: itself, or every parameter of a function that is named without."""
    return [node for node in ids if node == reference or node.startswith((f"{reference}[", f"{reference}::"))]


def collect(root: Path, nodes: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Node ids of every file that ``nodes`` names, and the files that cannot be collected with what pytest said.

    Runs code of the project: pytest imports the tests. Raises NoPytest.
    """
    files = sorted({file_of(node) for node in nodes if inside(root, file_of(node))})
    record = _pytest(root, files, subprocess.DEVNULL, "--collect-only", seconds=COLLECT_SECONDS)
    return record.collected, record.errors


def run(root: Path, wanted: Sequence[Reference], log: IO[Any] | int) -> list[Result]:
    """Run the tests that references name, once each, in one pytest process; raises NoPytest.

    A reference that names nothing has the outcome ``missing``; ``incomplete`` is part passed, part skipped, and
    ``empty`` a closing test in which no assertion held: it proves nothing.
    """
    nodes = list(dict.fromkeys(each.node for each in wanted if inside(root, file_of(each.node))))
    told = ("-o", "enable_assertion_pass_hook=true")
    record = _pytest(root, nodes, log, *told)
    if not (record.collected or record.outcomes):
        # pytest runs nothing at all where one node does not exist: leave those out
        ids, _ = collect(root, nodes)
        record = _pytest(root, [node for node in nodes if named(node, ids)], log, *told)
    ids = list(dict.fromkeys([*record.collected, *record.outcomes]))
    lost = Told("failed", said="the test process died")
    return [_result(each, [record.outcomes.get(node, lost) for node in named(each.node, ids)]) for each in wanted]


def _result(reference: Reference, told: Sequence[Told]) -> Result:
    """One outcome of all nodes of a reference."""
    seen = {each.outcome for each in told}
    outcome = "failed" if "failed" in seen else "incomplete" if len(seen) > 1 else seen.pop() if seen else "missing"
    if outcome == "passed" and reference.kind == "known_issues" and not all(each.held for each in told):
        outcome = "empty"
    telling = "skipped" if outcome == "incomplete" else outcome
    said = next(
        (each.said for each in told if each.outcome == telling), "nothing was asserted" if told else "no such test"
    )
    seconds = round(math.fsum(each.seconds for each in told), 3)
    return Result(reference.kind, reference.id, reference.node, outcome, seconds, len(told), said)


def _pytest(
    root: Path, nodes: Sequence[str], log: IO[Any] | int, *options: str, seconds: float | None = None
) -> Record:
    """What the recorder wrote in a pytest process of its own, started in ``root``; of no nodes nothing."""
    if not nodes:
        return Record()
    if find_spec("pytest") is None:
        raise NoPytest(f"pytest is not installed; run {install.pip('pytest')}")
    # Without what pytest-xdist tells its workers: this run is no part of theirs.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST_")}
    with tempfile.TemporaryDirectory(prefix="kparity-") as folder:
        path = Path(folder) / "record.json"
        plugin = ("-p", __name__, "-p", "no:cacheprovider", "-q")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *plugin, *options, *nodes],
                cwd=root, stdout=log, stderr=log, check=False, timeout=seconds,
                env={**environment, "KPARITY_RECORD": str(path)},
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise NoPytest(f"pytest collected nothing within {error.timeout:g} s in {root}") from error
        if path.exists():
            return msgspec.json.decode(path.read_bytes(), type=Record)
        if done.returncode == USAGE_ERROR:
            return Record()
        raise NoPytest(f"pytest ended with {done.returncode} in {root} and collected nothing")


_record = Record()
_held: dict[str, tuple[int, str]] = {}
"""Node id → what HELD says, as far as the test has come."""


def pytest_configure(config: Any) -> None:
    """Have files of their own for compiled tests that tell of assertions: those compiled before may not."""
    from _pytest.assertion import rewrite

    if config.getini("enable_assertion_pass_hook"):
        rewrite.PYC_TAIL = f".told{getattr(rewrite, 'PYC_TAIL', '')}"


def pytest_collectreport(report: Any) -> None:
    """Keep the files that cannot be collected."""
    if report.failed:
        _record.errors[report.nodeid] = _why(report)


def pytest_collection_finish(session: Any) -> None:
    """Keep the ids of the collected nodes, and write them: nothing else may follow."""
    _record.collected = [item.nodeid for item in session.items]
    pytest_sessionfinish()


def pytest_assertion_pass(item: Any, orig: str, expl: str) -> None:
    """Count an assertion of the test's own file that holds, and keep what it compared: libraries assert, too."""
    named = any(isinstance(each, ast.Name) for each in ast.walk(ast.parse(orig.strip(), mode="eval")))
    if named and _squeezed(orig) in _source(item.path):
        _held[item.nodeid] = (_held.get(item.nodeid, (0, ""))[0] + 1, f"{orig}: {expl.partition(chr(10))[0]}")


@cache
def _source(path: Path) -> str:
    return _squeezed(path.read_text(encoding="utf-8"))


def pytest_runtest_makereport(item: Any, call: Any) -> None:
    """Put what was asserted into the report, which travels between the processes of pytest-xdist."""
    if call.when == "call" and item.nodeid in _held:
        item.user_properties.append((HELD, _held.pop(item.nodeid)))


def pytest_runtest_logreport(report: Any) -> None:
    """Keep what became of a phase of a node."""
    node = _record.outcomes.setdefault(report.nodeid, Told())
    node.seconds += report.duration
    if report.failed or hasattr(report, "wasxfail"):
        node.outcome, node.said = "failed", _why(report)
    elif report.skipped and node.outcome == "passed":
        node.outcome, node.said = "skipped", _why(report)
    elif report.when == "call" and node.outcome == "passed":
        node.said, node.held = _shown(report), dict(report.user_properties).get(HELD, (0,))[0]


def pytest_sessionfinish() -> None:
    """Write everything; of pytest-xdist's processes, the one that distributes the tests sees every report."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        Path(os.environ["KPARITY_RECORD"]).write_bytes(msgspec.json.encode(_record))


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _one_line(text: str) -> str:
    """The beginning of a text, in one line of characters that are shown."""
    return printable(_squeezed(text[: 10 * SAID]))[:SAID]


def _shown(report: Any) -> str:
    """What a test that passed recorded as its properties, printed, and asserted last."""
    properties = dict(report.user_properties)
    count, last = properties.pop(HELD, (0, ""))
    parts = [f"{name} = {value}" for name, value in properties.items()]
    printed = (report.capstdout + report.capstderr).strip()
    parts += [f"printed: {printed[-SAID // 2 :]}"] if printed else []
    parts += [f"{count} assertion{'s' if count > 1 else ''} held, the last: {last}"] if count else []
    return _one_line("; ".join(parts) or "nothing was recorded, printed or asserted")


def _why(report: Any) -> str:
    """Why a node failed or was skipped, in one line."""
    if isinstance(report.longrepr, tuple):
        return _one_line(str(report.longrepr[-1]))
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    if hasattr(report, "wasxfail"):
        text = f"expected to fail: {report.wasxfail}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _one_line(lines[0 if crash is not None else -1]) if lines else ""
