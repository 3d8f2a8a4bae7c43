"""A diagnosis: what is wrong with the candidate of a climb that failed, best first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from kparity.diagnose.advice import advised
from kparity.diagnose.patterns import ALWAYS, WHOLE, spread, unmasked
from kparity.diagnose.seen import Seen
from kparity.diagnose.simulate import simulated
from kparity.errors import WrongInput
from kparity.ladder.climb import Climb
from kparity.ladder.record import FAIL, Diagnosis, Finding, Rung
from kparity.ladder.stream import EngineFailed

CERTAIN, LIKELY = 0.9, 0.5
"""Confidence from which nothing has to be simulated, and from which nothing vaguer has to be said."""
VOID = ("P7-random", "reset")
"""What is measured of an engine that does not repeat itself says nothing else."""
WHERE = ("batch", "steps", "turn", "prefill", "neighbours", "mask", "P5-jump")
"""Patterns that say where to look, and leave open what is wrong there."""


def diagnosed(climb: Climb, rung: Rung) -> Diagnosis:
    """Findings about a rung that failed, and what was tried."""
    found = Diagnosis(rung=rung.name)
    if rung.failed or len(climb.seats) < 2:
        if rung.failed:
            told = f"the {rung.side} cannot do what it is asked, or dies"
            found.findings.append(advised(climb.settings, "failed", told, rung.reason, 0.95, side=rung.side))
        return found
    seen = Seen(climb, rung)
    _try(found, seen, ALWAYS)
    if rung.verdict == FAIL and seen.whole and rung.name not in ("preflight", "tokens"):
        _try(found, seen, WHOLE)
        best = max((each.confidence for each in found.findings if each.pattern not in WHERE), default=0.0)
        if best < CERTAIN:
            _try(found, seen, {"simulated defects": lambda seen: simulated(seen, found.notes)})
            found.findings = unmasked(seen, found.findings)
        if not any(each.confidence >= LIKELY for each in found.findings):
            _try(found, seen, {"spread": spread, "small errors": lambda seen: _small(seen, found.notes)})
    found.findings.sort(key=lambda each: -each.confidence)
    return found


def _small(seen: Seen, notes: list[str]) -> list[Finding]:
    """No finding, and a note where there is no position to look at."""
    if not seen.subject.bad.any():
        notes.append("no position is beyond its limit, all together are: a small error everywhere")
    return []


def _try(found: Diagnosis, seen: Seen, patterns: Mapping[str, Callable[[Seen], Iterable[Finding]]]) -> None:
    """Patterns by name, until one says that nothing else can be measured."""
    for name, pattern in patterns.items():
        if any(each.pattern in VOID and each.confidence >= CERTAIN for each in found.findings):
            return
        found.tried.append(name)
        try:
            found.findings += pattern(seen)
        except (EngineFailed, WrongInput) as problem:
            found.notes.append(f"{name}: {problem}")
