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


def evidence(successes: float, n: int, rate: float) -> float:
    """The logarithm of the evidence that n trials of values from 0 to 1 have not the mean ``rate``: how much likelier
    they are under all rates alike than under this one (Robbins, 1970). Under it, the evidence exceeds log(1/α) at any
    time, however often somebody looks, with a probability of at most α (Ville's inequality).

    ``successes`` is the sum of the values. Raises WrongInput for impossible counts and rates.
    """
    if not 0 <= successes <= n or not 0 < rate < 1:
        raise WrongInput(f"{successes} of {n} trials, and a rate of {rate}: they cannot be")
    failures = n - successes
    mixed = math.lgamma(successes + 1) + math.lgamma(failures + 1) - math.lgamma(n + 2)
    return mixed - successes * math.log(rate) - failures * math.log1p(-rate)


def confidence_sequence(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The rates against which there is too little ``evidence``: an interval that holds the true one at every time at
    once, with this confidence, so that it may be looked at after every trial. Without a trial, everything.
    """
    if n == 0:
        return 0.0, 1.0
    limit, best, ends = -math.log1p(-confidence), successes / n, [0.0, 1.0]
    for side in (0, 1):
        inside, outside = best, float(side)
        if inside == outside:
            continue
        for _ in range(60):
            middle = (inside + outside) / 2
            if 0 < middle < 1 and evidence(successes, n, middle) < limit:
                inside = middle
            else:
                outside = middle
        ends[side] = outside
    return ends[0], ends[1]


def sequence_left(successes: float, n: int, limit: float, below: bool = False) -> float:
    """Trials more after which ``confidence_sequence`` lies wholly on the good side of a limit, above it or ``below``,
    if the rate stays as it is: 0 where it does, infinite where it never would.
    """
    rate = successes / n if n else 1.0 - below

    def decided(trials: int) -> bool:
        ends = confidence_sequence(rate * trials, trials)
        return ends[1] < limit if below else ends[0] >= limit

    most = 1 << 30
    if n and decided(n):
        return 0
    if not decided(most):
        return math.inf
    low, high = n, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high - n


def quantile_sequence(values: npt.ArrayLike, share: float, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of a quantile that hold at every time at once: the values of which so many lie below that there is
    ``evidence`` against ``share``. Infinite where there are too few values for a bound.
    """
    found = np.sort(np.asarray(values, np.float64).ravel())
    n, limit = found.size, -math.log1p(-confidence)

    def far(count: int) -> bool:
        return evidence(count, n, share) >= limit

    middle = int(n * share)
    low = middle  # the most values below which still says that the quantile is above
    while low >= 0 and not far(low):
        low -= 1
    high = middle
    while high <= n and not far(high):
        high += 1
    return (float(found[low]) if low >= 0 else -math.inf), (float(found[high - 1]) if high <= n else math.inf)


def mann_whitney(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[float, float]:
    """How often a value of b is above one of a, equal ones counted half (0.5: neither), and the two-sided p-value of
    that by the normal approximation with ties (Mann and Whitney, 1947). Raises WrongInput for no values.
    """
    left, right = (np.asarray(one, np.float64).ravel() for one in (a, b))
    n, m = left.size, right.size
    if not n or not m:
        raise WrongInput("a comparison of no values: nothing was measured")
    _, place, counts = np.unique(np.concatenate([left, right]), return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    above = float(ranks[place[n:]].sum() - m * (m + 1) / 2)
    total = n + m
    ties = float((counts.astype(np.float64) ** 3 - counts).sum())
    variance = n * m / 12 * (total + 1 - ties / (total * max(total - 1, 1)))
    if not variance > 0:
        return above / (n * m), 1.0
    z = max(abs(above - n * m / 2) - 0.5, 0.0) / math.sqrt(variance)
    return above / (n * m), math.erfc(z / math.sqrt(2))


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
