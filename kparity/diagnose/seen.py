"""What a diagnosis knows of two engines, and what it measures of them when a pattern asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kparity.diagnose.advice import advised
from kparity.ladder import masks
from kparity.ladder.climb import Climb
from kparity.ladder.decode import DIVERGED
from kparity.ladder.limits import Judge
from kparity.ladder.record import FAIL, Finding, Rung
from kparity.ladder.stream import Seat, compared
from kparity.ladder.ways import BATCH, BESIDE, DECODE, FIRST, ONE, SECOND, STEPS, TURN, Scenario, last_rows
from kparity.numerics.logits import Rows
from kparity.ops.spec import Array

BEHIND, LONGEST = 4, 320
"""Tokens behind the first bad position; tokens at most."""
ALL, FITTED, HELD_OUT = slice(None), slice(0, None, 2), slice(1, None, 2)
"""Bad positions: those that a value is fitted on, and those that tell whether it holds."""


class Explaining(Judge):
    """What an explanation is held against: no verdict hangs on it, and a floor of few positions serves too."""

    @property
    def short(self) -> str:
        """Never."""
        return ""


@dataclass(frozen=True)
class Way:
    """A way of feeding the same tokens: what it gives from the position ``begin`` on, beside the reference."""

    fed: Scenario
    begin: int
    logits: Array
    """[tokens - begin, vocab]."""
    rows: Rows
    bad: Array
    """Whether a position is beyond its limits."""

    @property
    def name(self) -> str:
        """For people."""
        return self.fed.means

    @property
    def first(self) -> int:
        """The first bad position; -1 where there is none."""
        return self.begin + int(self.bad.argmax()) if self.bad.any() else -1


@dataclass(frozen=True)
class Explained:
    """Mean squared error of the bad positions against the reference and against something else, whether the latter is
    noise at every position, and what share is left at the typical one.
    """

    MOST, LITTLE, NOTHING = 0.5, 0.1, 0.01
    """Shares that may be left: where it is noise, where it is more, and where the difference itself could be noise."""
    before: float
    after: float
    noise: bool
    typical: float = 0.0

    @property
    def share(self) -> float:
        """What is left of the difference, altogether or at the typical position; 1 where nothing was explained."""
        known = 0 < self.before < np.inf and np.isfinite(self.after)
        return max(self.after / self.before, self.typical) if known else 1.0

    @property
    def confidence(self) -> float:
        """The share that is explained, less where more than noise is left; 0 where it says nothing."""
        if self.share > (self.MOST if self.noise else self.LITTLE):
            return 0.0
        return min(0.99, 1 - self.share) * (1.0 if self.noise else 0.5)

    @property
    def text(self) -> str:
        """For people."""
        left = "noise" if self.noise else "more than noise"
        return f"MSE {self.before:.3g} without it, {self.after:.3g} with it, which is {left}"


class Seen:
    """A climb that ended at ``rung``. ``ids`` are the tokens of all that is measured, the first ``split`` of them the
    prompt where one is fed; ``ruled_out`` gets the patterns of defects that were simulated and explain nothing.
    """

    def __init__(self, climb: Climb, rung: Rung) -> None:
        self.climb, self.rung, self.model = climb, rung, climb.settings.model
        self.judge: Judge = Explaining(climb.judge.same, {}, climb.judge.floor)
        self.reference, self.candidate = climb.pair
        at = next((each.position for each in climb.positions if each.verdict == FAIL), 0)
        self.ids = climb.ids[0][: min(LONGEST, max(masks.TOKENS, at + 1 + BEHIND))] if climb.ids else []
        self.ruled_out = set[str]()
        self.split = max(1, 2 * len(self.ids) // 3)
        bad = next((at for at, each in enumerate(climb.decoded) if DIVERGED in each.steps), -1)
        if bad >= 0 and rung.name == "decode":
            told, prompt = climb.decoded[bad], climb.starts[bad]
            self.ids = [*prompt, *told.reference[: told.steps.index(DIVERGED) + 1]][-LONGEST:]
            self.split = min(len(prompt), len(self.ids) - 1)

    def finding(self, pattern: str, cause: str, evidence: str, confidence: float, **more: Any) -> Finding:
        """A finding about the side that is to be explained, with the advice of its pattern."""
        more.setdefault("side", self.candidate.side)
        return advised(self.climb.settings, pattern, cause, evidence, confidence, **more)

    @property
    def whole(self) -> bool:
        """Whether both sides give whole logits of tokens, without which there is nothing to look at."""
        return bool(self.ids) and self.reference.whole and self.candidate.whole

    def turned(self) -> None:
        """The other side is to be explained from now on."""
        self.reference, self.candidate = self.candidate, self.reference
        for name in ("truth", "ways"):
            self.__dict__.pop(name, None)

    @cached_property
    def truth(self) -> Array:
        """Of the reference, [tokens, vocab]."""
        return self.reference.fed(self.ids)

    @cached_property
    def ways(self) -> list[Way]:
        """What the candidate gives for the same tokens, fed in every way that it has."""
        scenarios = [BATCH]
        if not self.candidate.facts.answers:
            scenarios += [STEPS, *((TURN, ONE, DECODE, SECOND) if len(self.ids) > FIRST else ())]
            scenarios += [BESIDE] if self.candidate.facts.sequences > 1 else []
        return [self.way(each, self.run(each)) for each in scenarios]

    def run(self, scenario: Scenario, seat: Seat | None = None) -> Array:
        """Logits of the tokens, or of the last of them, fed to the candidate in one of the ways."""
        return last_rows(seat or self.candidate, scenario.calls(self.ids, self.split))

    def way(self, scenario: Scenario, logits: Array) -> Way:
        """A way, measured."""
        begin = len(self.ids) - len(logits)
        rows = compared(self.truth[begin:], logits).rows
        return Way(scenario, begin, logits, rows, self.bad(rows, begin))

    def bad(self, rows: Rows, begin: int = 0, judge: Judge | None = None) -> Array:
        """Which positions are beyond their limits, the first of them being ``begin``."""
        return np.array([each == FAIL for each in (judge or self.judge).verdicts(rows, begin)])

    @property
    def subject(self) -> Way:
        """The first way in which the candidate is wrong; the first of all where it is wrong in none."""
        return next((each for each in self.ways if each.bad.any()), self.ways[0])

    @property
    def beyond(self) -> bool:
        """Whether there is more than noise to explain: a bad position, or a measure of all of them that failed."""
        return bool(self.subject.bad.any()) or any(each.outcome == FAIL for each in self.rung.measures)

    def explained(
        self, changed: Array, at: int = 0, judge: Callable[[], Judge] | None = None, truth: Array | None = None,
        whole: bool = True, part: slice = ALL,
    ) -> Explained:  # fmt: skip
        """How well other logits, those of the positions from ``at`` on, stand for what the candidate gives there: at
        all of them, or at the bad ones alone; how much is left is that of a ``part`` of the bad ones, if there are
        some. What limits admit before says nothing by being admitted behind.
        """
        way, truth = self.subject, self.truth if truth is None else truth
        begin, end = max(at, way.begin), at + len(changed)
        theirs = way.logits[begin - way.begin : end - way.begin]
        truth, changed, bad = truth[begin:end], changed[begin - at :], way.bad[begin - way.begin : end - way.begin]
        bad = bad if bad.any() else np.ones(len(bad), np.bool_)
        places = np.flatnonzero(bad)
        some = places[part] if len(places[part]) else places
        with np.errstate(all="ignore"):
            each = [np.square(logits[some] - theirs[some]).mean(axis=1) for logits in (truth, changed)]
            before, after = (float(errors.mean()) for errors in each)
            typical = float(np.median(each[1] / each[0]))
        if not self.beyond or not after <= Explained.MOST * before:
            return Explained(before, max(before, after), False)
        judged = judge and judge()
        apart = [self.bad(compared(logits, theirs).rows, begin or 1, judged) for logits in (truth, changed)]
        told = apart[0].any() or after <= Explained.NOTHING * before
        return Explained(before, after, bool(told and not apart[1][slice(None) if whole else bad].any()), typical)

    @contextmanager
    def fresh(self) -> Iterator[Seat]:
        """The candidate, opened once more: nothing was fed to it yet."""
        seat = self.candidate.again()
        try:
            yield seat
        finally:
            self.candidate.seconds += seat.seconds
            seat.engine.close()
