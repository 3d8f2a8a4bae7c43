"""What a receipt is of: form, digest, subjects, times, commit."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any, TypeVar

import msgspec

from kparity.contracts import Contract
from kparity.receipts.cutover import CutoverStatement
from kparity.receipts.document import canonical, digest
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.record import Head, Predicate, Statement

S = TypeVar("S", Statement, CutoverStatement)


def form(statement: dict[str, Any]) -> tuple[Statement | None, list[Finding]]:
    """A statement as a typed record, or None and where it departs from the form (``kparity.receipts.record``)."""
    return form_of(statement, Statement)


def form_of(statement: dict[str, Any], kind: type[S]) -> tuple[S | None, list[Finding]]:
    """The same of one of the kinds of statements."""
    try:
        canonical(statement)
        record = msgspec.convert(statement, kind)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:  # a lone surrogate is a ValueError
        why, _, place = str(error).partition(" - at ")
        parts = re.findall(r"[^.\[\]`$]+|\.{3}", place.rpartition(" in ")[2])
        return None, [Finding("RCPT-SCHEMA", "".join(f"/{part}" for part in parts), why)]
    gaps = [Finding("RCPT-SCHEMA", f"/predicate{where}", why) for where, why in record.predicate.gaps()]
    return (None if gaps else record), gaps


def fits_digest(statement: dict[str, Any]) -> Findings:
    """The digest is that of the content."""
    own, told = digest(statement), str(statement["predicate"]["sha256"])
    if own != told:
        yield Finding("RCPT-DIGEST", "/predicate/sha256", f"it says {told[:12]}…, the content gives {own[:12]}…")


def has_subjects(statement: Statement | CutoverStatement) -> Findings:
    """The subjects are those of the predicate (the model and every kernel), each with the digest that it tells."""
    wanted = sorted(statement.predicate.subjects())
    there = sorted((each.name, each.digest.sha256) for each in statement.subject)
    if wanted != there:
        odd = sorted({name for name, _ in set(wanted) ^ set(there)}) or ["one of them stands twice"]
        yield Finding("RCPT-SUBJECT", "/subject", f"not those of the predicate: {', '.join(odd)}")


def moment(text: str) -> datetime | None:
    """A time of a receipt; None for one that no calendar has."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)
    except ValueError:
        return None


def written(predicate: Head, contract: Contract, now: datetime) -> Findings:
    """It began before it ended, and ended before now."""
    began, ended = moment(predicate.begun), moment(predicate.ended)
    if began is None or ended is None:
        at = "begun" if began is None else "ended"
        yield Finding("RCPT-TIME", f"/predicate/{at}", f"{getattr(predicate, at)} is no date")
        return
    if not contract.threshold("written_after_s").holds(began.timestamp()):
        yield Finding("RCPT-TIME", "/predicate/begun", f"begun at {predicate.begun}, before there were such receipts")
    if ended < began:
        yield Finding("RCPT-TIME", "/predicate/ended", f"ended at {predicate.ended}, before {predicate.begun}")
    ahead = (ended - now).total_seconds()
    if not contract.threshold("clock_skew_s").holds(ahead):
        yield Finding("RCPT-TIME", "/predicate/ended", f"ended {ahead:.0f} s in the future")


def times(predicate: Predicate, contract: Contract, now: datetime) -> Findings:
    """The same, and it lasted at least as long as its samples."""
    yield from written(predicate, contract, now)
    began, ended = moment(predicate.begun), moment(predicate.ended)
    if began is None or ended is None:
        return
    sampled = sum(sum(row.samples_s) + (0 if row.op else sum(row.device_s)) for _, row, _ in predicate.rows())
    sampled += sum(sum(run.bandwidth.samples_s) for run in predicate.runs if run.bandwidth)
    sampled += sum(1e-9 * (run.step_ns or 0) for run in predicate.runs)
    lasted = (ended - began).total_seconds()
    if ended >= began and sampled > lasted + 2e-3:  # times are told to the millisecond
        yield Finding("RCPT-DURATION", "/predicate/ended", f"lasted {lasted:.3f} s, its samples take {sampled:.3f} s")


def revision(predicate: Head) -> Findings:
    """The commit, the flag and the list of changed files do not contradict each other."""
    harness = predicate.harness
    unknown, names = harness.commit == "unknown", harness.changed
    if (
        harness.dirty is not (None if unknown else bool(names))
        or len({*names}) < len(names)
        or not {*harness.commit} - {"0"}
    ):
        why = f"commit {harness.commit[:12]}, dirty {harness.dirty}, {len(harness.changed)} changed files"
        yield Finding("RCPT-COMMIT", "/predicate/harness/dirty", f"contradicts itself: {why}")


def demanded(predicate: Head, commit: str, max_age_days: float | None, now: datetime) -> Findings:
    """It is of a commit (or how it begins) without changes, and not too old."""
    harness, ended = predicate.harness, moment(predicate.ended)
    if commit and not (harness.commit.startswith(commit.lower()) and harness.dirty is False):
        state = {True: " with changes", None: ", whose changes are unknown"}.get(harness.dirty, "")
        why = f"of {harness.commit[:12]}{state}, asked for {commit}"
        yield Finding("RCPT-COMMIT", "/predicate/harness/commit", why)
    if max_age_days is not None and ended is not None:
        days = (now - ended).total_seconds() / 86400
        if days > max_age_days:
            why = f"{days:.1f} days old, at most {max_age_days:g} are allowed"
            yield Finding("RCPT-AGE", "/predicate/ended", why)
