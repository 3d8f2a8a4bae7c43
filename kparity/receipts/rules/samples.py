"""What raw samples look like, and what intervals they can give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from kparity import contracts
from kparity.contracts import Contract
from kparity.receipts.findings import Finding, Findings

MANY = 64
"""Samples of which different values are asked for: a clock that counts in tens of nanoseconds gives a short launch a
hundred values at most, however often it is timed.
"""


def at_least(n: int, p: float, r: int) -> float:
    """P(X ≥ r) of a binomial X of n trials with probability p."""
    if r <= 0 or p >= 1:
        return 1.0
    if p <= 0:
        return 0.0
    log = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
        for k in range(r, n + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, log)))


def below_median(samples: Sequence[float], bound: float) -> tuple[float, float]:
    """Limits of the bootstrap's P(median of a resample ≤ bound).

    A resample of n has its r-th smallest value ≤ bound exactly where at least r of its n draws are: a binomial with the
    share of samples ≤ bound. For an even n the median lies between two of these, which gives the two limits.
    """
    n = len(samples)
    share = sum(value <= bound for value in samples) / n
    return at_least(n, share, n // 2 + 1), at_least(n, share, (n + 1) // 2)


def interval_fault(samples: Sequence[float], low: float, high: float, contract: Contract) -> str:
    """Why ``low`` … ``high`` is no 95 % bootstrap interval of the median; empty where it can be one.

    Held against the bootstrap's exact distribution, so that neither its seed nor its number of resamples matters.
    """
    if not low <= high:
        return f"from {low!r} to {high!r}: the ends are exchanged"
    slack = contract.threshold("recomputed").value
    least, most = (contract.threshold(f"interval_tail_{end}") for end in ("least", "most"))
    under, upto = below_median(samples, low * (1 - slack))[0], below_median(samples, low * (1 + slack))[1]
    over, from_ = 1 - below_median(samples, high * (1 + slack))[1], 1 - below_median(samples, high * (1 - slack))[0]
    if not (most.holds(under) and most.holds(over)):
        return f"the interval is too narrow: resamples fall outside of it with {max(under, over):.3f} on one side"
    if not (least.holds(upto) and least.holds(from_)):
        return f"the interval is too wide: resamples reach its end with {min(upto, from_):.5f} only"
    return ""


def wide(middle: float, low: float, high: float, count: int) -> str:
    """How wide the interval of a median is, of so many samples, where it is wider than ``interval_half``; else empty:
    where sampling stops.
    """
    half = (high - low) / middle / 2
    limit = contracts.load(contracts.RECEIPT).threshold("interval_half")
    return "" if limit.holds(half) else f"±{100 * half:.1f} % after {count} samples"


def regular(where: str, samples: Sequence[float], contract: Contract) -> Findings:
    """Samples of a clock that stands still, or counts too coarsely for what it times."""
    if not contract.threshold("samples_judged").holds(len(samples)):
        return
    spread, first = max(samples) - min(samples), samples[:MANY]
    distinct = len(set(first)) / len(first)
    if not contract.threshold("samples_spread").holds(spread / median(samples)):
        yield Finding("RCPT-SAMPLES", where, f"{len(samples)} samples within {spread:.3g} s")
    elif not contract.threshold("samples_distinct").holds(distinct):
        yield Finding("RCPT-SAMPLES", where, f"{len(first)} samples, {distinct * len(first):.0f} different ones")


def ahead(device_s: Sequence[float], wall_s: Sequence[float], contract: Contract) -> int:
    """Samples that took longer by the device's clock than by the wall's around them, which cannot be.

    Both are seconds of the same runs, in order; a time that is not finite counts. Raises ValueError for lists of
    different lengths.
    """
    rate, slack = contract.threshold("clock_rate").value, contract.threshold("clock_resolution_s")
    return sum(not slack.holds(device - rate * wall) for device, wall in zip(device_s, wall_s, strict=True))


class Seen:
    """Lists of samples and whose they were first. A list that was scaled, nudged by an ulp or put into another order is
    the same list.
    """

    def __init__(self, contract: Contract) -> None:
        self.judged, self.near = contract.threshold("samples_judged"), contract.threshold("samples_near").value
        self._lists: dict[tuple[int, int], list[tuple[Any, str]]] = {}

    def of(self, samples: Sequence[float], owner: str) -> str:
        """Who had these samples first: ``owner`` itself where nobody did, or where they are too few to tell."""
        if not self.judged.holds(len(samples)):
            return owner
        shape = np.sort(np.asarray(samples))
        shape /= shape[len(shape) // 2]
        cell = int(shape[-1] / self.near / 1e3)
        for key in ((len(shape), cell + each) for each in (-1, 0, 1)):
            for other, first in self._lists.get(key, ()):
                if np.allclose(shape, other, rtol=self.near, atol=0):
                    return first
        self._lists.setdefault((len(shape), cell), []).append((shape, owner))
        return owner


def irregularities(found: Sequence[tuple[str, Sequence[float]]], contract: Contract) -> Findings:
    """Lists of samples that no clock gives, and lists that stand twice in one receipt."""
    seen = Seen(contract)
    for where, samples in found:
        yield from regular(where, samples, contract)
        if (first := seen.of(samples, where)) != where:
            yield Finding("RCPT-REPLAYED", where, f"the same samples as {first}")
