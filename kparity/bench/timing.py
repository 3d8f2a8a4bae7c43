"""How everything here is timed, and when a time counts.

* Samples of all series are taken in turn, in an order that rotates, so that drift hits them alike (``interleave``).
* A cold series walks through more distinct data than the caches hold (``machine.cold_bytes``).
* A sample has the device's own clock beside the wall's, and is refused where it runs ahead of the wall.
* What was timed is verified: outputs are poisoned, timed once more, and held against truth (``Series.check``).
* A time below the roofline floor is an error, not a record (``judge_times``).
* The median has a bootstrap interval; every raw sample is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from kparity import contracts
from kparity.device.adapter import Program
from kparity.ops.spec import Array
from kparity.receipts.rules.samples import ahead

T = TypeVar("T")
GOAL = 0.02
"""Half-width of the median's interval, as a share of the median, at which sampling stops."""
WAKE_S, RESTED_S = 8e-3, 1e-3
"""How long processors work before a sample, and after what pause they do."""
MANY = 256
"""Launches in one sample at most."""


@dataclass(frozen=True)
class Sample:
    """Seconds of one run: by the device's clock (the wall's where the API has none), and by the wall around it."""

    device_s: float
    wall_s: float


@dataclass
class Series:
    """Something that is timed again and again."""

    name: str
    sample: Callable[[], Sample]
    launches: int = 1
    """Kernels, or passes, in a sample: times are given for one of them."""
    nbytes: int = 0
    """Bytes that one launch must move."""
    cold: bool = True
    """Whether the data cannot be in a cache, so that the roofline floor holds."""
    check: Callable[[], str | None] = lambda: None
    """Poison, run once more, compare: None, or what was wrong."""
    about: dict[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    fault: str = ""
    flops: int = 0
    """Operations that one launch must do; 0 where they say nothing."""
    launched: Callable[[], dict[str, Any]] = dict
    """What the backend counted in the samples, for the row; nothing of a series that is no kernel's."""

    def seconds(self) -> Array:
        """Device seconds of one launch, sample by sample."""
        return np.array([each.device_s for each in self.samples]) / self.launches


def bootstrap(samples: Sequence[float] | Array, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """The median and the 95 % interval of the median, by resampling; raises ValueError without samples."""
    values = np.asarray(samples, np.float64)
    if values.size == 0:
        raise ValueError("no samples")
    drawn = np.random.default_rng(seed).integers(0, values.size, (resamples, values.size))
    low, high = np.percentile(np.median(values[drawn], axis=1), [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


def settled(seconds: Sequence[float] | Array) -> bool:
    """Whether the interval of the median is as narrow as wanted; not without samples."""
    if len(seconds) == 0:
        return False
    middle, low, high = bootstrap(seconds, 200)
    return bool(high - low <= 2 * GOAL * middle)


def in_turn(
    table: Sequence[T],
    take: Callable[[T, int], None],
    alive: Callable[[T], bool],
    narrow: Callable[[T], bool],
    *,
    least: int,
    hurried: int,
    most: int,
    seconds: float,
) -> int:
    """Take every one that is alive once a round, which ``take`` is told, until all are narrow (after ``least`` rounds),
    the seconds are used up (after ``hurried``), or ``most`` rounds are; how many there were.

    Round r begins with number r, so that none is always the one that follows another.
    """
    started = time.perf_counter()
    for rounds in range(most):
        living = [each for each in table if alive(each)]
        at = rounds % max(len(living), 1)
        for each in (*living[at:], *living[:at]):
            take(each, rounds)
        living = [each for each in living if alive(each)]
        late = rounds + 1 >= hurried and time.perf_counter() - started > seconds
        if not living or late or (rounds + 1 >= least and all(map(narrow, living))):
            return rounds + 1
    return most


def interleave(
    table: Sequence[Series], *, warm: int = 2, least: int = 12, most: int = 200, seconds: float = 3.0
) -> None:
    """Sample all series in turn until every interval is narrow, or ``most`` rounds or ``seconds`` are used up.

    A series that raises is left out from then on, with the reason in ``fault``; the others go on. In the end each is
    checked.
    """
    in_turn(
        table, lambda series, rounds: _take(series, keep=rounds >= warm), lambda series: not series.fault,
        lambda series: settled(series.seconds()), least=warm + least, hurried=warm + min(least, 3), most=warm + most,
        seconds=seconds,
    )  # fmt: skip
    for series in table:
        if not series.fault:
            try:
                series.fault = series.check() or ""
            except Exception as error:
                series.fault = f"{type(error).__name__}: {error}"


def _take(series: Series, keep: bool) -> None:
    """One sample of a series."""
    try:
        found = series.sample()
    except Exception as error:
        series.fault = f"{type(error).__name__}: {error}"
        return
    if keep:
        series.samples.append(found)


class WarmUp:
    """Untimed work before a sample where processors have rested: for some milliseconds after that they are slow, and
    whoever is measured in turn with others always has rested.
    """

    def __init__(self) -> None:
        self.worked = float("-inf")

    def sample(self, work: Callable[[], object], timed: Callable[[], Sample]) -> Sample:
        """What ``timed`` gives, after as much of ``work`` as WAKE_S holds, but for work that ended a moment ago."""
        began = time.perf_counter()
        while began - self.worked > RESTED_S and time.perf_counter() - began < WAKE_S:
            work()
        found = timed()
        self.worked = time.perf_counter()
        return found


def timed(program: Program) -> Sample:
    """One replay, by both clocks."""
    began = time.perf_counter()
    device = program.run_timed()
    return Sample(device, time.perf_counter() - began)


def below_floor(seconds: float, floor: float) -> bool:
    """Whether a time is farther below the floor of a ceiling that was measured than receipt-v1 allows (floor_share)."""
    return not contracts.load(contracts.RECEIPT).threshold("floor_share").holds(seconds / floor)


def clock_errors(device_s: Sequence[float], wall_s: Sequence[float]) -> list[str]:
    """What is wrong with seconds by a device's clock and by the wall around the same runs, by receipt-v1 (clock_rate,
    clock_resolution_s); raises ValueError for lists of different lengths.
    """
    early = ahead(device_s, wall_s, contracts.load(contracts.RECEIPT))
    return [f"the device's clock is ahead of the wall's in {early} samples"] if early else []


def judge_times(series: Series, ceiling: float, measured: bool = True) -> dict[str, Any]:
    """The row of a series: median, interval, rate, floor, raw samples, and every reason why it does not count.

    ``ceiling`` is bytes per second that the memory can move at most; ``measured`` where a benchmark told and not the
    device, which leaves room above it.
    """
    row: dict[str, Any] = {"name": series.name, **series.about, "launches_per_sample": series.launches,
                           "bytes": series.nbytes, "cold": series.cold, "errors": []}  # fmt: skip
    if series.fault:
        row["errors"].append(series.fault)
    row["verified"] = not series.fault
    if not series.samples:
        row["errors"] = row["errors"] or ["nothing ran"]
        return {**row, "verified": False}
    middle, low, high = bootstrap(series.seconds())
    row.update(us=middle * 1e6, us_low=low * 1e6, us_high=high * 1e6)
    if middle > 0:
        row["gb_per_s"] = series.nbytes / middle * 1e-9
        if series.flops:
            row["gflop_per_s"] = series.flops / middle * 1e-9
    else:
        row["errors"].append(f"the clock tells {middle} s")
    row["wall_us"] = float(np.median([each.wall_s for each in series.samples])) / series.launches * 1e6
    row["samples_device_s"] = [each.device_s for each in series.samples]
    row["samples_wall_s"] = [each.wall_s for each in series.samples]
    if ceiling > 0 and series.nbytes:
        floor = series.nbytes / ceiling
        row["floor_us"] = floor * 1e6
        if series.cold and (below_floor(middle, floor) if measured else middle < floor):
            row["errors"].append(f"faster than the roofline floor: {middle * 1e6:.2f} < {row['floor_us']:.2f} µs")
    row["errors"] += clock_errors(row["samples_device_s"], row["samples_wall_s"])
    if high - low > 2 * GOAL * middle:
        row["limit"] = f"±{50 * (high - low) / middle:.1f} % after {len(series.samples)} samples"
    return row


def state_of(cold: bool, copies: int) -> str:
    """``cold``; ``hot`` for the same buffers again and again; ``rotated`` for several that a cache may hold all."""
    return "cold" if cold else "rotated" if copies > 1 else "hot"


def turns(copies: int, nbytes: int) -> int:
    """How often one sample walks through a rotation: 32 launches hide what two events cost, within 8 GiB."""
    return max(1, min(-(-32 // copies), (8 << 30) // (copies * nbytes)))
