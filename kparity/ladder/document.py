"""A climb as JUnit XML and for GitHub; the JSON is the record (``kparity schema ladder``)."""

from __future__ import annotations

from kparity.host import ci
from kparity.ladder.record import FAIL, PASS, Document, Rung


def _told(rung: Rung) -> str:
    return "; ".join(filter(None, (rung.reason, rung.cause)))


def as_junit(found: Document) -> str:
    """JUnit XML: a test for each rung; what was not run, or says nothing, is a skipped one."""
    name = f"kparity ladder {found.request.reference} {found.request.candidate}"
    tests = [
        ci.Test(
            "ladder", rung.name, rung.seconds, failure=(_told(rung) or FAIL) if rung.verdict == FAIL else "",
            type=next((each.threshold for each in rung.measures if each.outcome == FAIL), rung.name),
            details="\n".join(each.text for each in rung.measures),
            skipped="" if rung.verdict in (FAIL, PASS) else _told(rung) or rung.verdict,
        )
        for rung in found.rungs
    ]  # fmt: skip
    return ci.junit(name, found.seconds, {name: tests})


def to_github(found: Document) -> None:
    """An error for the rung that failed, or for one that says nothing; a table of all of them."""
    title = f"kparity ladder: {found.request.candidate} against {found.request.reference}"
    said: list[tuple[ci.Level, str, str]] = [
        ("error", title, f"{rung.name} {rung.verdict}: {_told(rung)}")
        for rung in found.rungs
        if rung.verdict not in (PASS, "not run")
    ]
    ci.github(title, said, ("rung", "verdict", "why"), [(each.name, each.verdict, _told(each)) for each in found.rungs])
