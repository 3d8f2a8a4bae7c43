"""How everything here is timed, and when a time counts.

* Samples of all series are taken in turn, in an order that rotates, so that drift hits them alike (``interleave``).
* A cold series walks through more distinct data than the caches hold (``machine.cold_bytes``).
* A sample has the device's own clock beside the wall's, and is refused where it runs ahead of the wall.
* What was timed is verified: outputs are poisoned, timed once more, and held against truth (``Timed.check``).
* A time below the roofline floor is an error, not a record (``figures``).
* The median has a bootstrap interval; every raw sample is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from kparity import contracts
from kparity.device.adapter import DeviceInfo, Program
from kparity.numerics.statistics import medians
from kparity.ops.spec import Array
from kparity.receipts.record import Row
from kparity.receipts.rules.samples import ahead, wide

WAKE_S, RESTED_S = 8e-3, 1e-3
"""How long processors work before a sample, and after what pause they do."""
MANY = 256
"""Launches in one sample at most."""


class Living(Protocol):
    """What takes turns with others as long as it is alive."""

    @property
    def alive(self) -> bool: ...


T = TypeVar("T", bound=Living)


class Sample(NamedTuple):
    """Seconds of one run: by the device's clock (the wall's where the API has none), and by the wall around it."""

    device_s: float
    wall_s: float


class Timed:
    """Something that is timed again and again: its row holds the samples, and what went wrong.

    ``flops`` are the operations that one launch must do; 0 where they say nothing.
    """

    def __init__(self, row: Row, flops: int = 0) -> None:
        self.row, self.flops, self._worked = row, flops, float("-inf")

    @property
    def alive(self) -> bool:
        """Whether it can be sampled."""
        return not (self.row.errors or self.row.unsupported)

    def run(self) -> Sample:
        """One run."""
        raise NotImplementedError

    def check(self) -> str | None:
        """Poison the outputs, run once more, compare: None, or what was wrong."""
        return None

    def sample(self) -> Sample:
        """A run; where the processors have rested, untimed ones come first. For some milliseconds after a pause they
        are slow, and whoever is measured in turn with others always has rested.
        """
        began = time.perf_counter()
        while began - self._worked > RESTED_S and time.perf_counter() - began < WAKE_S:
            self.run()
        sample = self.run()
        self._worked = time.perf_counter()
        return sample

    def free(self) -> None:
        """Give back what it holds outside of Python's memory."""


def row_of(info: DeviceInfo, op: str, nbytes: int, *, cold: bool = True, **more: Any) -> Row:
    """A row without samples. ``nbytes`` are those that one launch must move; ``cold`` is whether the data cannot be in
    a cache, so that the roofline floor holds; ``more`` are other fields, the name among them.
    """
    return Row(backend=info.backend, device=info.plain, op=op, bytes=nbytes, cold=cold, **more)


def bootstrap(samples: Sequence[float] | Array, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """The median and the 95 % interval of the median, by resampling; raises ValueError without samples."""
    values = np.asarray(samples, np.float64)
    if values.size == 0:
        raise ValueError("no samples")
    low, high = np.percentile(medians(values, resamples, np.random.default_rng(seed)), [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


def converged(seconds: Sequence[float]) -> bool:
    """Whether the interval of the median is as narrow as wanted; not without samples."""
    if not seconds:
        return False
    middle, low, high = bootstrap(seconds, 200)
    return not wide(middle, low, high, len(seconds))


def in_turn(
    table: Sequence[T], take: Callable[[T, int], None], narrow: Callable[[T], bool],
    *, least: int, hurried: int, most: int, seconds: float,
) -> int:  # fmt: skip
    """Take every one that is alive once a round, which ``take`` is told, until all are narrow (after ``least`` rounds),
    the seconds are used up (after ``hurried``), or ``most`` rounds are; how many there were.

    Round r begins with number r, so that none is always the one that follows another.
    """
    started = time.perf_counter()
    for rounds in range(most):
        living = [each for each in table if each.alive]
        at = rounds % max(len(living), 1)
        for each in (*living[at:], *living[:at]):
            take(each, rounds)
        living = [each for each in living if each.alive]
        late = rounds + 1 >= hurried and time.perf_counter() - started > seconds
        if not living or late or (rounds + 1 >= least and all(map(narrow, living))):
            return rounds + 1
    return most


@contextmanager
def noted(errors: list[str]) -> Iterator[None]:
    """An exception becomes one of the errors: what goes wrong with one must not take the others along."""
    try:
        yield
    except Exception as error:
        errors.append(f"{type(error).__name__}: {error}")


def interleave(
    table: Sequence[Timed], *, warm: int = 2, least: int = 12, most: int = 200, seconds: float = 3.0
) -> None:
    """Sample all in turn until every interval is narrow, or ``most`` rounds or ``seconds`` are used up; in the end each
    is checked. One that raises is left out from then on, with the reason in its row's errors.
    """

    def take(timed: Timed, rounds: int) -> None:
        with noted(timed.row.errors):
            sample = timed.sample()
            if rounds >= warm:
                timed.row.device_s.append(sample.device_s)
                timed.row.samples_s.append(sample.wall_s)

    in_turn(
        table, take, lambda timed: converged(timed.row.seconds), least=warm + least, hurried=warm + min(least, 3),
        most=warm + most, seconds=seconds,
    )  # fmt: skip
    for timed in table:
        if timed.alive:
            with noted(timed.row.errors):
                wrong = timed.check()
                timed.row.errors += [wrong] if wrong else []


def timed(program: Program) -> Sample:
    """One replay, by both clocks."""
    began = time.perf_counter()
    device = program.run_timed()
    return Sample(device, time.perf_counter() - began)


def figures(row: Row, pairs: Sequence[Sample], floor: float | None = None, slack: bool = True) -> None:
    """Note in a row what follows from its samples: the median with its interval, how wide that is where it is too wide,
    the rate, and why the samples cannot be right. Raises ValueError without samples.

    ``pairs`` are the same runs by the device's clock and by the wall's. ``floor`` is the seconds that memory needs for
    a unit; ``slack`` where a benchmark told it and not the device, which leaves room below it. The limits are those of
    receipt-v1: floor_share, clock_rate, clock_resolution_s.
    """
    middle, low, high = bootstrap(row.seconds)
    limits = contracts.load(contracts.RECEIPT)
    row.floor_s = floor
    if middle > 0:
        row.unit_s, row.low_s, row.high_s, row.gb_per_s = middle, low, high, row.bytes / middle * 1e-9 or None
    else:
        row.errors.append(f"the clock tells {middle} s")
    if floor and not (limits.threshold("floor_share").holds(middle / floor) if slack else middle >= floor):
        row.errors.append(f"faster than the roofline floor: {middle * 1e6:.2f} < {floor * 1e6:.2f} µs")
    if early := ahead([each.device_s for each in pairs], [each.wall_s for each in pairs], limits):
        row.errors.append(f"the device's clock is ahead of the wall's in {early} samples")
    if middle > 0:
        row.limit = wide(middle, low, high, len(row.seconds))


def judge(timed: Timed, ceiling: float = 0.0, slack: bool = True) -> Row:
    """The row with all that follows from its samples, and every reason why it does not count; to be called once.

    ``ceiling`` is bytes per second that the memory can move at most, ``slack`` as in ``figures``.
    """
    row = timed.row
    if row.unsupported:
        return row
    if not row.device_s:
        row.errors = row.errors or ["nothing ran"]
        return row
    row.verified = not row.errors
    pairs = [Sample(*pair) for pair in zip(row.device_s, row.samples_s, strict=True)]
    figures(row, pairs, row.bytes / ceiling if ceiling and row.cold and row.bytes else None, slack)
    row.gflop_per_s = timed.flops / row.unit_s * 1e-9 or None if row.unit_s else None
    return row


def state_of(cold: bool, copies: int) -> str:
    """``cold``; ``hot`` for the same buffers again and again; ``rotated`` for several that a cache may hold all."""
    return "cold" if cold else "rotated" if copies > 1 else "hot"
