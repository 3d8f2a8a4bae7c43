"""Rates: Wilson's intervals against known numbers, and what counts as a trial."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kparity.errors import WrongInput
from kparity.numerics.statistics import distinct, lower_bound, upper_bound, wilson_interval


@pytest.mark.parametrize(("n", "bound"), [(100, 0.974), (300, 0.991), (1000, 0.9973), (3000, 0.9991)])
def test_lower_bound_without_a_failure(n: int, bound: float) -> None:
    assert round(lower_bound(n, n), len(str(bound)) - 2) == bound
    assert lower_bound(n, n) == pytest.approx(n / (n + 1.6448536269514722**2))


def test_interval_of_a_textbook_example() -> None:
    """81 of 263: 0.2553 to 0.3662 (Newcombe, Statistics in Medicine 17, 1998, table I)."""
    low, high = wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@given(st.integers(1, 10**6), st.floats(0.5, 0.9999), st.data())
def test_bounds_are_ordered_and_mirror_each_other(n: int, confidence: float, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    low, high = wilson_interval(successes, n, confidence)
    assert 0 <= low <= successes / n + 1e-12 and successes / n - 1e-12 <= high <= 1
    assert upper_bound(successes, n, confidence) == pytest.approx(1 - lower_bound(n - successes, n, confidence))
    # each end of the interval satisfies the equation that defines it
    z = wilson_z(confidence)
    for end in (low, high):
        if 0 < end < 1:
            assert (successes / n - end) ** 2 == pytest.approx(z * z * end * (1 - end) / n, rel=1e-6, abs=1e-12)


def wilson_z(confidence: float) -> float:
    """The normal quantile by bisection of the error function, apart from the library's."""
    low, high = 0.0, 10.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle / math.sqrt(2)) < confidence else (low, middle)
    return low


@pytest.mark.parametrize("counts", [(0, 0), (-1, 5), (6, 5), (1, 2, 0.0), (1, 2, 1.0), (1, 2, math.nan)])
def test_what_is_no_rate_is_refused(counts: tuple) -> None:
    for function in (wilson_interval, lower_bound, upper_bound):
        with pytest.raises(WrongInput):
            function(*counts)


def test_repeats_of_a_prompt_are_one_trial() -> None:
    rounds = [(f"prompt {at % 30}", True) for at in range(50_000)]
    assert distinct(rounds) == (30, 30)
    assert lower_bound(*distinct(rounds)) < 0.92 < 0.9999 < lower_bound(50_000, 50_000)
    assert distinct([*rounds, ("prompt 7", False)]) == (29, 30)
    assert distinct([]) == (0, 0)
