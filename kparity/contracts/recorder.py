"""A pytest plugin that writes what was collected and what became of it to ``$KPARITY_RECORD``.

Loaded with ``-p kparity.contracts.recorder`` in a pytest process that a contract command starts: node ids and
outcomes, whatever the project's own options make of pytest's text.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_found: dict[str, Any] = {"collected": [], "outcomes": {}, "errors": []}


def pytest_collectreport(report: Any) -> None:
    """Keep the files that cannot be collected."""
    if report.failed:
        _found["errors"].append({"node": report.nodeid, "said": _last_line(report)})


def pytest_collection_finish(session: Any) -> None:
    """Keep the ids of the collected nodes, and write them: nothing else may follow."""
    _found["collected"] = [item.nodeid for item in session.items]
    _write()


def pytest_runtest_logreport(report: Any) -> None:
    """Keep the worst outcome of a node's phases, and the sum of their times."""
    entry = _found["outcomes"].setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0, "said": ""})
    entry["seconds"] += report.duration
    if report.failed or hasattr(report, "wasxfail"):
        entry.update(outcome="failed", said=_last_line(report))
    elif report.skipped and entry["outcome"] == "passed":
        entry.update(outcome="skipped", said=_last_line(report))


def pytest_sessionfinish() -> None:
    """Write everything."""
    _write()


def _write() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # the process that distributes the tests sees every report, and writes
        return
    Path(os.environ["KPARITY_RECORD"]).write_text(json.dumps(_found), encoding="utf-8")


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
