"""A pytest plugin that writes what was collected and what became of it to ``$KPARITY_RECORD``.

Loaded with ``-p kparity.contracts.recorder`` in a pytest process that a contract command starts: node ids and
outcomes, whatever the project's own options make of pytest's text.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec


class Told(msgspec.Struct):
    """What became of a node: the worst outcome of its phases, the sum of their seconds, and why."""

    outcome: str = "passed"
    seconds: float = 0.0
    said: str = ""


class Record(msgspec.Struct):
    """Ids of the collected nodes, what became of those that ran, and the files that cannot be collected with why."""

    collected: list[str] = []
    outcomes: dict[str, Told] = {}
    errors: dict[str, str] = {}


_record = Record()


def pytest_collectreport(report: Any) -> None:
    """Keep the files that cannot be collected."""
    if report.failed:
        _record.errors[report.nodeid] = _last_line(report)


def pytest_collection_finish(session: Any) -> None:
    """Keep the ids of the collected nodes, and write them: nothing else may follow."""
    _record.collected = [item.nodeid for item in session.items]
    pytest_sessionfinish()


def pytest_runtest_logreport(report: Any) -> None:
    """Keep what became of a phase of a node."""
    node = _record.outcomes.setdefault(report.nodeid, Told())
    node.seconds += report.duration
    if report.failed or hasattr(report, "wasxfail"):
        node.outcome, node.said = "failed", _last_line(report)
    elif report.skipped and node.outcome == "passed":
        node.outcome, node.said = "skipped", _last_line(report)


def pytest_sessionfinish() -> None:
    """Write everything; of pytest-xdist's processes, the one that distributes the tests sees every report."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        Path(os.environ["KPARITY_RECORD"]).write_bytes(msgspec.json.encode(_record))


def _last_line(report: Any) -> str:
    """Why a node failed or was skipped, in one line."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[-1])[:300]
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    if hasattr(report, "wasxfail"):
        text = f"expected to fail: {report.wasxfail}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0 if crash is not None else -1][:300] if lines else ""
