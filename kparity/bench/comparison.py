"""Two benchmark documents against each other: ratios with intervals from the raw samples, and a verdict for each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kparity.bench.comparison_read import FACTS, Document, Measured
from kparity.errors import WrongInput
from kparity.ops.spec import Array

RESAMPLES = 2000
LEAST = 5
"""Samples below which the interval of a median says nothing."""
FASTER, SLOWER, SAME = "faster", "slower", "no difference"
TOO_FEW, INVALID = "too few samples", "invalid"
DECIDED = (FASTER, SLOWER, SAME)
ADVICE = {
    "device": "devices", "driver": "drivers", "model": "models", "threads": "numbers of threads",
}  # fmt: skip


def ratio(before: Sequence[float] | Array, after: Sequence[float] | Array, seed: int = 0) -> tuple[float, float, float]:
    """How many times faster ``after`` is: median(before) / median(after), with the 95 % interval by resampling both.

    Samples are seconds. Raises ValueError without samples, or where a median is not positive.
    """
    drawn = []
    rng = np.random.default_rng(seed)
    medians = []
    for samples in (before, after):
        values = np.asarray(samples, np.float64)
        if values.size == 0 or not np.isfinite(values).all() or not np.median(values) > 0:
            raise ValueError("a ratio needs samples, and medians above 0")
        medians.append(float(np.median(values)))
        drawn.append(np.median(values[rng.integers(0, values.size, (RESAMPLES, values.size))], axis=1))
    low, high = np.percentile(drawn[0] / np.maximum(drawn[1], np.finfo(np.float64).tiny), [2.5, 97.5])
    return medians[0] / medians[1], float(low), float(high)


@dataclass(frozen=True)
class Row:
    """One measurement that both documents hold; ``ratio`` is B's speed over A's, null where there is no verdict."""

    name: str
    verdict: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    a_median_s: float | None = None
    b_median_s: float | None = None
    a_samples: int = 0
    b_samples: int = 0
    reason: str = ""


@dataclass(frozen=True)
class SpeedComparison:
    """All rows, what only one side has, and the facts in which the sides differ (only those that were allowed)."""

    rows: list[Row]
    only_a: list[str]
    only_b: list[str]
    differs: dict[str, list[str]]

    def exit_code(self, fail_below: float | None) -> int:
        """1 where an interval lies below ``fail_below``, or B's number does not count; 3 where nothing was decided."""
        if fail_below is not None:
            below = any(row.high is not None and row.high < fail_below for row in self.rows)
            if below or any(row.verdict == INVALID and row.reason.startswith("B") for row in self.rows):
                return 1
        return 0 if any(row.verdict in DECIDED for row in self.rows) else 3


def compare(a: Document, b: Document, across: Collection[str] = ()) -> SpeedComparison:
    """Every measurement of the same name in both.

    Raises WrongInput where a pair differs in a fact (``FACTS``) that ``across`` does not name.
    """
    left, right = ({each.name: each for each in document.measured} for document in (a, b))
    common = [name for name in left if name in right]
    differs: dict[str, list[str]] = {}
    for name in common:
        for fact, (one, other) in _differences(left[name], right[name]).items():
            if fact not in across:
                raise WrongInput(
                    f"{name} was measured on different {ADVICE[fact]}: {one or 'unknown'} in {a.path}, "
                    f"{other or 'unknown'} in {b.path}; give --across {fact} to compare them nevertheless"
                )
            differs[fact] = [one, other]
    rows = [_row(left[name], right[name]) for name in common]
    only_a, only_b = [name for name in left if name not in right], [name for name in right if name not in left]
    return SpeedComparison(rows, only_a, only_b, differs)


def _differences(one: Measured, other: Measured) -> dict[str, tuple[str, str]]:
    pairs = {fact: (one.facts.get(fact, ""), other.facts.get(fact, "")) for fact in FACTS}
    return {fact: pair for fact, pair in pairs.items() if pair[0] != pair[1]}


def _row(one: Measured, other: Measured) -> Row:
    """The verdict of one pair."""
    a, b = len(one.samples_s), len(other.samples_s)
    for side, measured in (("A", one), ("B", other)):
        if measured.fault:
            return Row(one.name, INVALID, a_samples=a, b_samples=b, reason=f"{side}: {measured.fault}")
    if min(a, b) < LEAST:
        return Row(one.name, TOO_FEW, a_samples=a, b_samples=b, reason=f"an interval needs {LEAST} samples a side")
    middle, low, high = ratio(one.samples_s, other.samples_s)
    verdict = FASTER if low > 1 else SLOWER if high < 1 else SAME
    medians = [float(np.median(each.samples_s)) for each in (one, other)]
    return Row(one.name, verdict, middle, low, high, medians[0], medians[1], a, b)


def as_json(a: Document, b: Document, found: SpeedComparison, fail_below: float | None) -> dict[str, Any]:
    """Plain values; times in seconds."""
    return {
        "schema": "kparity-bench-compare-v1", "a": _origin(a), "b": _origin(b), "differs": found.differs,
        "rows": [dict(vars(row)) for row in found.rows], "only_a": found.only_a, "only_b": found.only_b,
        "fail_below": fail_below, "exit_code": found.exit_code(fail_below),
    }  # fmt: skip


def _origin(document: Document) -> Mapping[str, Any]:
    return {"path": str(document.path), "kind": document.kind, "commit": document.commit, "dirty": document.dirty}
