"""Rates from counts, quantiles, sequential and resampling tests. The unit of a rate is the distinct trial, not its
repeats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from kparity.errors import WrongInput
from kparity.ops.spec import Array

RESAMPLES = 2000
"""Of a ratio."""


def _wilson(successes: int, n: int, confidence: float, quantile: float) -> tuple[float, float]:
    """The rates p with (p̂ − p)² = z²·p(1 − p)/n (Wilson, 1927); raises WrongInput for what is no rate."""
    if n < 1:
        raise WrongInput(f"a rate of {n} trials: nothing was run, so there is no rate")
    if not 0 <= successes <= n:
        raise WrongInput(f"{successes} successes of {n} trials cannot be")
    if not 0.5 <= confidence < 1:
        raise WrongInput(f"confidence is {confidence}, expected from 0.5 to below 1")
    z, rate = NormalDist().inv_cdf(quantile), successes / n
    centre = rate + z * z / (2 * n)
    spread = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else max(0.0, (centre - spread) / scale)
    return low, 1.0 if successes == n else min(1.0, (centre + spread) / scale)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided Wilson interval of a rate; raises WrongInput for no trials and for impossible counts."""
    return _wilson(successes, n, confidence, 0.5 + confidence / 2)


def lower_bound(successes: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Wilson lower bound of a rate: with no failures in n trials, n / (n + z²)."""
    return _wilson(successes, n, confidence, confidence)[0]


def upper_bound(successes: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Wilson upper bound of a rate: with no event in n trials, z² / (n + z²)."""
    return _wilson(successes, n, confidence, confidence)[1]


def distinct(outcomes: Iterable[tuple[str, bool]]) -> tuple[int, int]:
    """Successes and trials of (prompt, success) rounds, where a prompt is one trial however often it was repeated.

    A prompt counts as a success if every round of it was one: 30 prompts over 50,000 rounds are 30 trials.
    """
    every: dict[str, bool] = {}
    for prompt, success in outcomes:
        every[prompt] = every.get(prompt, True) and success
    return sum(every.values()), len(every)


def quantile(values: npt.ArrayLike, share: float) -> float:
    """The least observed value that is not below ``share`` of the way from the smallest to the largest: never between
    two values, so infinities have their place; NaN if a value is NaN. Raises WrongInput for no values.
    """
    found = np.asarray(values, np.float64).ravel()
    if not found.size:
        raise WrongInput("a quantile of no values: nothing was measured")
    return float(np.quantile(found, share, method="higher"))


def sprt(
    successes: int, n: int, p0: float, p1: float, alpha: float = 0.05, beta: float = 0.05
) -> Literal["accept", "reject", "go on"]:
    """Sequential test of a rate of at least p0 against one of at most p1 < p0 (Wald, 1945), asked after every trial.

    "accept" takes a rate of p1 for p0 with probability of about beta at most, "reject" takes p0 for p1 with about alpha
    at most. The trials are distinct and independent. Raises WrongInput for impossible counts and rates.
    """
    if not 0 <= successes <= n:
        raise WrongInput(f"{successes} successes of {n} trials cannot be")
    if not 0 < p1 < p0 < 1:
        raise WrongInput(f"rates {p0} against {p1}: the first must be the larger, both between 0 and 1")
    if not (alpha > 0 and beta > 0 and alpha + beta < 1):
        raise WrongInput(f"risks {alpha} and {beta}: both must be above 0 and their sum below 1")
    against = _against(successes, n, p0, p1)
    if against <= math.log(beta / (1 - alpha)):
        return "accept"
    return "reject" if against >= math.log((1 - beta) / alpha) else "go on"


def sprt_left(successes: int, n: int, p0: float, p1: float, alpha: float = 0.05, beta: float = 0.05) -> float:
    """Trials more after which ``sprt`` decides at the rate of these ``n``: 0 where it has, infinite where it never
    would.
    """
    if sprt(successes, n, p0, p1, alpha, beta) != "go on":
        return 0
    against = _against(successes, n, p0, p1)
    bound = math.log(beta / (1 - alpha) if against < 0 else (1 - beta) / alpha)
    return math.ceil(n * bound / against) - n if against else math.inf


def _against(successes: int, n: int, p0: float, p1: float) -> float:
    """How much likelier the trials are at a rate of p1 than at p0, as a logarithm."""
    return successes * math.log(p1 / p0) + (n - successes) * math.log((1 - p1) / (1 - p0))


def bootstrap_farther(a: npt.ArrayLike, b: npt.ArrayLike, seed: int = 0, resamples: int = 10_000) -> float:
    """Probability that the mean of distances a [n] exceeds that of b [n], from resampled positions (the same for both).

    Equal means count half, so two equal sides give 0.5. A side that is not finite is farther than one that is. Raises
    WrongInput if the lengths differ or there are no positions.
    """
    left, right = (np.asarray(one, np.float64).ravel() for one in (a, b))
    if left.size != right.size or not left.size:
        raise WrongInput(f"distances at {left.size} and {right.size} positions: the same positions are resampled")
    lost = [not np.isfinite(one).all() for one in (left, right)]
    if any(lost):
        return 0.5 + 0.5 * (lost[0] - lost[1])
    rng, farther, difference = np.random.default_rng(seed), 0.0, left - right
    for _ in range(resamples):
        mean = difference[rng.integers(difference.size, size=difference.size)].mean()
        farther += 1.0 if mean > 0 else 0.5 if mean == 0 else 0.0
    return farther / resamples


def medians(values: Array, resamples: int, rng: np.random.Generator) -> Array:
    """The medians of as many samples drawn from ``values``, with replacement."""
    step = max(1, (1 << 22) // values.size)  # of many samples only some draws are in memory together
    counts = [min(step, resamples - done) for done in range(0, resamples, step)]
    drawn = [np.median(values[rng.integers(0, values.size, (count, values.size))], axis=1) for count in counts]
    return np.concatenate(drawn)


def ratio(before: Sequence[float] | Array, after: Sequence[float] | Array, seed: int = 0) -> tuple[float, float, float]:
    """How many times faster ``after`` is: median(before) / median(after), with the 95 % interval by resampling both.

    Samples are seconds. Raises ValueError without samples, or where a median is not positive.
    """
    rng = np.random.default_rng(seed)
    values = [np.asarray(samples, np.float64) for samples in (before, after)]
    if any(each.size == 0 or not np.isfinite(each).all() or not np.median(each) > 0 for each in values):
        raise ValueError("a ratio needs samples, and medians above 0")
    drawn = [medians(each, RESAMPLES, rng) for each in values]
    low, high = np.percentile(drawn[0] / np.maximum(drawn[1], np.finfo(np.float64).tiny), [2.5, 97.5])
    return float(np.median(values[0]) / np.median(values[1])), float(low), float(high)
