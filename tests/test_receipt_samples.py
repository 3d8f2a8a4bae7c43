"""What a verifier says of raw samples: no clock is refused, no bootstrap of the bench; a clock that stands is."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kparity import contracts
from kparity.bench.timing import bootstrap
from kparity.numerics.statistics import ratio
from kparity.receipts.rules.samples import at_least, below_median, interval_fault, irregularities

LIMITS = contracts.load("receipt-v1")


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
    noise=st.sampled_from([1e-5, 1e-3, 0.05, 0.5]),
    ties=st.booleans(),
)
def test_the_bootstrap_of_the_bench_is_accepted(count: int, seed: int, noise: float, ties: bool) -> None:
    samples = 1e-3 * (1 + noise * np.random.default_rng(seed).gamma(2.0, 1.0, count))
    samples = np.round(samples, 5) if ties else samples
    _, low, high = bootstrap(samples, seed=seed)
    assert interval_fault(list(samples), low, high, LIMITS) == ""


@pytest.mark.parametrize("count", [6, 11, 40, 201])
def test_a_narrower_and_a_far_wider_interval_is_refused(count: int) -> None:
    samples = list(1e-3 * (1 + 0.1 * np.random.default_rng(count).gamma(2.0, 1.0, count)))
    middle, low, high = bootstrap(samples)
    shrunk = (middle - (middle - low) * 0.2, middle + (high - middle) * 0.2)
    assert "narrow" in interval_fault(samples, *shrunk, LIMITS)
    assert "exchanged" in interval_fault(samples, high, low, LIMITS)
    assert "wide" in interval_fault(samples, min(samples) / 2, max(samples) * 2, LIMITS)


@pytest.mark.parametrize(("low", "high", "said"), [
    (1.0, 1.0, ""), (6.0, 1.0, "wide"), (1.0, 6.0, "wide"), (0.2, 1.0, "narrow"), (1.0, 0.2, "narrow"),
])  # fmt: skip
def test_either_end_of_an_interval_is_that_of_the_bootstrap(low: float, high: float, said: str) -> None:
    """Ends that are moved, as shares of their distance from the median."""
    samples = list(1e-3 * (1 + 0.5 * np.random.default_rng(5).gamma(2.0, 1.0, 40)))
    middle, *ends = bootstrap(samples)
    first, last = middle - (middle - ends[0]) * low, middle + (ends[1] - middle) * high
    found = interval_fault(samples, first, last, LIMITS)
    assert said in found and bool(found) is bool(said)


@pytest.mark.parametrize("count", [10, 40, 200])
def test_a_ratio_by_another_seed_is_accepted(count: int) -> None:
    for trial in range(20):
        rng = np.random.default_rng(trial)
        sides = [1 + 0.05 * rng.gamma(2.0, 1.0, count) for _ in range(2)]
        (_, low, high), (_, *other) = ratio(*sides), ratio(*sides, seed=trial + 1)
        off = max(abs(low - other[0]), abs(high - other[1])) / (high - low)
        assert LIMITS.threshold("ratio_interval").holds(off), f"{off:.3f} of the width"


def test_the_distribution_of_the_median_is_that_of_many_resamples() -> None:
    rng = np.random.default_rng(3)
    for count in (7, 12):
        samples = rng.gamma(2.0, 1.0, count)
        medians = np.median(samples[rng.integers(0, count, (40_000, count))], axis=1)
        for bound in np.quantile(samples, [0.2, 0.5, 0.7]):
            least, most = below_median(list(samples), bound)
            assert least - 0.01 <= np.mean(medians <= bound) <= most + 0.01
    assert at_least(4, 0.5, 0) == 1 and at_least(4, 0.0, 1) == 0 and at_least(4, 1.0, 4) == 1
    assert at_least(2, 0.5, 1) == pytest.approx(0.75)


def clocked(count: int) -> list[float]:
    """Differences of this machine's clock around a little work."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        sum(range(2000))
        found.append(time.perf_counter() - began)
    return found


def test_a_clock_is_not_refused() -> None:
    for count in (1, 2, 4, 5, 50, 500):
        assert list(irregularities([("/x", clocked(count))], LIMITS)) == []
        rounded = [round(each, 9) for each in clocked(count)]
        assert list(irregularities([("/x", rounded)], LIMITS)) == []


REGULAR = {"within": [0.012345678] * 8, "different": [0.012345678, 0.012445678] * 10}


@pytest.mark.parametrize("said", REGULAR)
def test_a_regular_list_is_refused(said: str) -> None:
    found = list(irregularities([("/x", REGULAR[said])], LIMITS))
    assert [finding.code for finding in found] == ["RCPT-SAMPLES"] and said in found[0].why


def test_a_list_that_stands_twice_is_replayed() -> None:
    samples = clocked(20)
    found = list(irregularities([("/a", samples), ("/b", clocked(20)), ("/c", list(samples))], LIMITS))
    assert [(finding.code, finding.where) for finding in found] == [("RCPT-REPLAYED", "/c")]
