"""What a gate sees of a backend: the engine under test, its reference, and how far logits lie apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kparity.contracts import Contract
from kparity.gates.reference import Deep, Reference
from kparity.gates.table import GATES, GateSpec, named, of_depth
from kparity.gates.verdict import Gate, Measure
from kparity.gates.walk import Walk
from kparity.numerics import compare
from kparity.ops.spec import Array

if TYPE_CHECKING:
    from kparity.engine import Engine


@dataclass
class Candidate:
    """A candidate engine with its reference, and what it gave before: a gate need not run the same tokens again."""

    engine: Engine
    reference: Reference
    """It may come late: what runs before it does not ask for it."""
    contract: Contract
    steps: Array | None = None
    """Logits f32 [positions, vocab], step by step, of the gate ``positions``; of BOS alone before it."""
    best: list[int] | None = None
    """The ids that the device found largest in the same steps."""
    prompts: dict[int, tuple[Array, Array]] = field(default_factory=dict)
    """Length of a prompt → logits f32 [vocab] behind it and one step later, of the gate ``prefill``."""
    repeat: int = 1
    """Rounds of the gate ``reset``, at least."""
    walk: Walk | None = None
    """The rounds that have run."""
    ahead: dict[str, Gate] = field(default_factory=dict)
    """Gates that ran while the reference was computed."""
    soak: float = 0.0
    """Seconds of the gate ``soak``."""

    def walked(self) -> Walk:
        """The rounds over the reference's tokens; none has run where the device did not begin with them."""
        if self.walk is None or self.walk.tokens != self.reference.tokens:
            self.walk = Walk(self.engine, self.reference.tokens)
        return self.walk

    def rounds(self, walk: Walk) -> int:
        """How often a walk is repeated: as often as the rows of logits take that the contract asks for, and ``repeat``
        at least.
        """
        return max(self.repeat, walk.rounds_for(self.contract.threshold("reset_compared").value))

    def judged(self, name: str, values: Mapping[str, float], failure: Callable[[Measure], tuple[str, str]]) -> Gate:
        """A gate from its measures; ``failure`` gives code and reason for the first that the contract does not take."""
        measures = [Measure.of(self.contract, each, values[each]) for each in named(name).thresholds]
        bad = next((measure for measure in measures if not measure.holds), None)
        return Gate(name, "PASS", measures) if bad is None else Gate(name, "FAIL", measures, *failure(bad))


def non_finite(logits: Array) -> str:
    """How many logits are NaN or infinite, in words; empty where none is."""
    nan, inf = int(np.isnan(logits).sum()), int(np.isinf(logits).sum())
    return f"{nan} NaN and {inf} infinite of {logits.size} logits" if nan or inf else ""


@dataclass(frozen=True)
class Distance:
    """How far rows of logits are from what they should be; NaN where a row is not finite.

    ``cosine`` is the smallest, at row ``low``, and ``median`` the median one; ``factor`` is |median ρ - 1| over the
    rows (a factor shows in every row, noise does not); ``norm`` is the largest |ρ - 1|, at row ``high``.
    """

    cosine: float
    low: int
    median: float
    factor: float
    norm: float
    high: int

    @classmethod
    def between(cls, logits: Array, wanted: Array) -> Distance:
        """Compare [rows, vocab] with [rows, vocab]."""
        cosines = np.array([compare.cosine(a, b) for a, b in zip(logits, wanted, strict=True)])
        ratios = np.array([compare.norm_ratio(a, b) for a, b in zip(logits, wanted, strict=True)])
        low = int(np.argmin(np.where(np.isnan(cosines), -np.inf, cosines)))
        off = np.abs(ratios - 1)
        high = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
        factor = float(abs(np.median(ratios) - 1))
        return cls(float(cosines[low]), low, float(np.median(cosines)), factor, float(off[high]), high)

    def values(self, gate: str, candidate: Candidate, deep: Deep | None = None) -> dict[str, float]:
        """The measures that every gate has which compares logits: cosine, noise and norm; the noise is that of the
        walked positions, unless the rows are ``deep`` ones.
        """
        noise = (1 - self.median) / noise_floor(deep or candidate.reference, candidate.contract)
        return {f"{gate}_cosine": self.cosine, f"{gate}_noise": noise, f"{gate}_norm": self.norm}

    def reason(self, bad: Measure, versus: str, rows: Sequence[str], over: str = "", end: str = "") -> str:
        """Why one of them does not hold; ``rows`` say where each row was."""
        kind, limit = bad.threshold.rpartition("_")[2], f"{bad.limit:g}"
        if kind == "cosine":
            return f"cosine {versus} = {self.cosine:.6f} (< {limit}) {rows[self.low]}"
        if kind == "norm":
            return f"norm ratio {versus} is off by {self.norm:.6f} (> {limit}) {rows[self.high]}"
        return (
            f"median of 1 - cosine {versus}{over} = {1 - self.median:.3g}: {bad.value:.1f} times the noise of the "
            f"reference itself (> {limit}){end}"
        )


def noise_floor(reference: Reference | Deep, contract: Contract) -> float:
    """Median of 1 - cosine between the reference and its rounded twin, and never below the contract's least floor."""
    least = contract.threshold("noise_least").value
    return max(1 - Distance.between(reference.rounded, reference.logits).median, least)


def run(candidate: Candidate, depth: str, stage: Callable[[str], None] = lambda name: None) -> Iterator[Gate]:
    """The gates of a depth that compute, one by one; ``stage`` is told each name before. Stops after a failure."""
    for spec in of_depth(depth):
        if not spec.thresholds:  # the parent judges the device itself
            continue
        stage(spec.name)
        verdict = candidate.ahead.pop(spec.name, None) or _timed(candidate, spec)
        yield verdict
        if verdict.verdict == "FAIL":
            return


def begin(
    candidate: Candidate, walk: Walk, over: Callable[[], bool], stage: Callable[[str], None] = lambda name: None
) -> None:  # fmt: skip
    """Until ``over`` all that needs no reference: whole gates (``stage`` ahead), whose one thread leaves the reference
    its core, then the walk and its rounds but for the last (``stage`` walk).
    """
    candidate.walk = walk
    stage("ahead")
    for spec in GATES:
        if spec.alone and not over():
            candidate.ahead[spec.name] = _timed(candidate, spec)
    stage("walk")
    while not over() and walk.rounds < candidate.rounds(walk) - 1:
        walk.round()


def _timed(candidate: Candidate, spec: GateSpec) -> Gate:
    started = time.perf_counter()
    verdict = spec.load()(candidate)
    verdict.elapsed_ms = (time.perf_counter() - started) * 1e3
    return verdict
