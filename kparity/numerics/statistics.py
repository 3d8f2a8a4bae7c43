"""Rates from counts: how sure a number of successes makes us. The unit is the distinct trial, not its repeats."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist

from kparity.errors import WrongInput


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
