"""Whether the receipt of a cutover may be believed: its gates are all of the contract's, and what it says follows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from kparity import contracts
from kparity.contracts import Contract, Threshold
from kparity.receipts.cutover import GATES, WORDS, Cutover, CutoverStatement, Gate, target, verdict_of
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.rules import identity, names, parity


def refused(
    statement: dict[str, Any], unheard: Sequence[str], require_allowed: bool, commit: str, max_age_days: float | None,
    now: datetime,
) -> Findings:  # fmt: skip
    """Every reason to refuse it. ``unheard`` are the codes of what was demanded and no cutover can show."""
    record, malformed = identity.form_of(statement, CutoverStatement)
    yield from malformed
    if record is None:
        return
    predicate = record.predicate
    yield from identity.fits_digest(statement)
    yield from identity.has_subjects(record)
    yield from identity.written(predicate, contracts.load(contracts.RECEIPT), now)
    yield from identity.revision(predicate)
    yield from names.shown(record)
    yield from parity.contract(predicate)
    if judge := parity.judge_of(predicate):
        yield from gates(predicate, judge)
    if require_allowed and predicate.decision != "ALLOWED":
        yield Finding("RCPT-PARITY-REQUIRED", "/predicate/decision", f"{predicate.decision}: not every gate is green")
    for code in unheard:
        yield Finding(code, "/predicate", "a cutover shows nothing of that; ask it of the receipts that it names")
    yield from identity.demanded(predicate, commit, max_age_days, now)


def gates(predicate: Cutover, judge: Contract) -> Findings:
    """Each gate stands once with the contract's target; a green one keeps it; the decision follows from all of them."""
    there = [gate.name for gate in predicate.gates]
    if missing := sorted({*GATES} - {*there}):
        yield Finding("RCPT-GATES-MISSING", "/predicate/gates", f"without {', '.join(missing)}")
    for at, gate in enumerate(predicate.gates):
        where = f"/predicate/gates/{at}"
        if gate.name not in GATES or there.index(gate.name) != at:
            yield Finding("RCPT-GATE", where, f"{gate.name} is none of the contract's, or stands twice")
            continue
        limit = judge.threshold(gate.name)
        if gate.target != target(limit):
            yield Finding("RCPT-GATE", where, f"{gate.name} was held against {gate.target}, not {target(limit)}")
        elif gate.state == "PASS" and not _keeps(limit, gate):
            yield Finding("RCPT-GATE", where, f"{gate.name} says PASS, and what it tells does not keep {gate.target}")
    if WORDS[verdict_of(predicate.gates)] != predicate.decision:
        why = f"{predicate.decision}, and its gates give {WORDS[verdict_of(predicate.gates)]}"
        yield Finding("RCPT-PARITY", "/predicate/decision", why)


def _keeps(limit: Threshold, gate: Gate) -> bool:
    """Whether the worse end of its interval, or the number itself where it has none, keeps the limit."""
    ends = [end for end in (gate.low, gate.high) if end is not None]
    told = ends or ([] if gate.current is None else [gate.current])
    numbers = [abs(each) if gate.name == "ppl_delta" else each for each in told]
    return bool(numbers) and limit.holds(min(numbers) if limit.sign in ("≥", ">") else max(numbers))
