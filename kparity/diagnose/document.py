"""A diagnosis as JSON (``kparity schema diagnosis``) and for GitHub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, field

import kparity
from kparity.diagnose.repeats import Repeat
from kparity.engines.base import Facts
from kparity.gates.verdict import Verdict
from kparity.host import ci
from kparity.ladder import record
from kparity.ladder.record import FAIL, INCONCLUSIVE, PASS, Diagnosis, Part, Settings


class Document(Part):
    """Of two engines: the rung that failed, and what was found. Or, of one, its repeats."""

    form: Literal["kparity-diagnosis-v1"] = field(name="schema")
    kparity: str
    verdict: Verdict
    """FAIL: a defect was found; PASS: there is none; INCONCLUSIVE: they differ, and nothing that is known fits."""
    exit_code: Annotated[int, Meta(ge=0, le=3)]
    request: Settings
    reference: Facts | None
    candidate: Facts | None
    reason: str
    """What failed."""
    position: int
    """The first bad one; -1 where there is none."""
    diagnosis: Diagnosis | None
    repeats: list[Repeat]
    seconds: float


def _made(verdict: Verdict, settings: Settings, **more: object) -> Document:
    rest = {
        "reference": None,
        "candidate": None,
        "reason": "",
        "position": -1,
        "diagnosis": None,
        "repeats": [],
        **more,
    }
    code = {PASS: 0, FAIL: 1}.get(verdict, 3)
    return Document(form="kparity-diagnosis-v1", kparity=kparity.__version__, verdict=verdict, exit_code=code,
                    request=settings, **rest)  # type: ignore[arg-type]  # fmt: skip


def of_climb(climbed: record.Document) -> Document:
    """What a climb and its diagnosis say together."""
    told = climbed.diagnosis
    failed = next((each for each in climbed.rungs if each.verdict in (FAIL, INCONCLUSIVE)), None)
    found = told is not None and any(each.defect for each in told.findings)
    verdict = climbed.verdict if climbed.verdict != FAIL or found else INCONCLUSIVE
    reason = f"{failed.name}: {failed.reason}" if failed else ""
    return _made(verdict, climbed.request, reference=climbed.reference, candidate=climbed.candidate, reason=reason,
                 position=climbed.divergence_token, diagnosis=told, seconds=climbed.seconds)  # fmt: skip


def of_repeats(settings: Settings, facts: Facts | None, found: Sequence[Repeat], seconds: float) -> Document:
    """What the deterministic mode says."""
    worst = min((each for each in found if each.first >= 0), key=lambda each: each.first, default=None)
    reason = f"{worst.run}: {worst.text}" if worst else ""
    return _made(FAIL if worst else PASS, settings, candidate=facts, reason=reason, repeats=list(found),
                 position=worst.first if worst else -1, seconds=seconds)  # fmt: skip


def to_github(found: Document) -> None:
    """An error for the best finding, or for what differs; a table of all findings."""
    title = f"kparity diagnose: {found.request.candidate}"
    findings = found.diagnosis.findings if found.diagnosis else []
    best = next((f"{each.cause} ({each.confidence:.0%}); fix: {each.fix}" for each in findings if each.defect), "")
    said: list[tuple[ci.Level, str, str]] = [("error", title, best or found.reason)] if found.exit_code else []
    ci.github(title, said, ("pattern", "cause", "evidence", "confidence"),
              [(each.pattern, each.cause, each.evidence, f"{each.confidence:.0%}") for each in findings])  # fmt: skip
