"""What the doctor found, as a table for people."""

from __future__ import annotations

from kparity.cli.table import STYLES, Table, say
from kparity.doctor.record import Change, Report


def print_doctor(report: Report, fix: str) -> None:
    """Item, verdict and evidence; then what a corrected copy has otherwise, and whether it was written."""
    table = Table("item", "verdict", "evidence")
    for each in report.findings:
        table.add(each.item, each.verdict, each.evidence)
    say(f"{report.path}: {report.bytes:,} bytes, sha256 {report.sha256}")
    say("")
    table.print()
    say("")
    for change in report.fixes:
        say(f"to correct: {told(change)}")
    if report.written:
        say(f"{report.written} is written, with {len(report.fixes)} keys corrected; kparity model doctor reads it")
    elif fix:
        say(f"{fix} is not written: there is no key to correct")
    counts = {
        verdict: sum(each.verdict == verdict for each in report.findings) for verdict in ("ok", "wrong", "doubtful")
    }
    style = STYLES["FAIL" if report.wrong else "PASS"]
    say(*[(", ".join(f"{count} {verdict}" for verdict, count in counts.items()), style)])


def told(change: Change) -> str:
    """A change for people."""
    if change.action == "set":
        return f"{change.key} = {change.value!r}"
    if change.action == "rename":
        return f"{change.key} becomes {change.value}"
    return f"{change.key} goes" if change.action == "drop" else f"{change.key} stands there once"
