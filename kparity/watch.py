"""A kernel in production beside its reference: a sample of the real calls is judged in the background, and the first
one that is wrong hands every later call to the fallback.

    gemv = kparity.guard(fast_gemv, op="tgemv", case=case, fallback=slow_gemv)
    y = gemv(w, wscale, q, ascale, qsum)

A call that is not sampled costs a counter. Inputs are copied before the call and outputs behind it, both to the host;
a thread judges them one by one and rests in between, so that it takes no more than its budget of one processor: what
comes meanwhile than fits the queue is dropped, and counted. The bounds are those of ``kparity.testing.assert_parity``.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np

from kparity import contracts
from kparity.errors import DeviceFault, WrongInput
from kparity.host.text import escaped
from kparity.testing import assert_parity

BOUNDS = ("op", "n", "ulp", "exact")
"""What says how near is near enough: one of the keywords of ``assert_parity``."""
CODE = "KP-GUARD"
Check = Callable[..., None]
"""Takes the output and the arguments of a call; raises AssertionError where they do not go together."""


@dataclass
class Counts:
    """What has happened so far. Every call is sampled or not; every sample is dropped, waits, or was judged."""

    calls: int = 0
    sampled: int = 0
    dropped: int = 0
    """Samples that came while the queue was full."""
    judged: int = 0
    wrong: int = 0
    seconds: float = 0.0
    """Of the thread that judges, at work."""


@dataclass(frozen=True)
class Sample:
    """A call: which one it was, its arguments and what it gave, on the host."""

    number: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    got: Any


class Guard:
    """``fn``, watched; see ``guard``."""

    def __init__(
        self, fn: Callable[..., Any], reference: Callable[..., Any] | None, sample: float, budget: float,
        every: Check | None, fallback: Callable[..., Any] | None, name: str, waiting: int, bound: dict[str, Any],
    ) -> None:  # fmt: skip
        self.fn, self.reference, self.every, self.fallback = fn, reference, every, fallback
        self.name = name or getattr(fn, "__name__", type(fn).__name__)
        self.tripped = ""
        """Why ``fn`` computes no more; empty as long as it does."""
        self._sample, self._budget, self._bound = sample, budget, bound
        self._counts, self._numbers, self._last = Counts(), count(), -1
        self._rng, self._next, self._waiting = np.random.default_rng(), 0, waiting
        self._begin()

    def _begin(self) -> None:
        """Begin to judge, in this process: a thread does not survive a fork."""
        self._process, self._lock, self._hurry = os.getpid(), threading.Lock(), threading.Event()
        self._samples: queue.Queue[Sample] = queue.Queue(self._waiting)
        threading.Thread(target=self._judge, name=f"guard of {self.name}", daemon=True).start()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What ``fn`` gives for these arguments, or ``fallback`` once it was seen to be wrong."""
        self._last = number = next(self._numbers)
        if self.tripped:
            return self._instead(args, kwargs)
        if number < self._next and self.every is None:
            return self.fn(*args, **kwargs)
        return self._watched(number, args, kwargs)

    def counts(self) -> Counts:
        """What has happened so far, a copy."""
        with self._lock:
            return replace(self._counts, calls=self._last + 1)

    def metrics(self) -> str:
        """The counts in the text format of Prometheus."""
        now, label = self.counts(), escaped(self.name)
        rows = [
            ("calls_total", "counter", "Calls of the kernel.", now.calls),
            ("sampled_total", "counter", "Calls that were kept to be judged.", now.sampled),
            ("dropped_total", "counter", "Samples that came while the queue was full.", now.dropped),
            ("judged_total", "counter", "Samples held against the reference.", now.judged),
            ("wrong_total", "counter", "Calls that were wrong.", now.wrong),
            ("judging_seconds_total", "counter", "Time of the thread that judges, at work.", round(now.seconds, 6)),
            ("tripped", "gauge", "1 where the fallback computes.", int(bool(self.tripped))),
        ]
        lines = [
            f"# HELP kparity_guard_{name} {help}\n# TYPE kparity_guard_{name} {kind}\n"
            f'kparity_guard_{name}{{kernel="{label}"}} {value}\n'
            for name, kind, help, value in rows
        ]
        return "".join(lines)

    def drain(self) -> None:
        """Wait until every sample so far was judged, without rests."""
        self._hurry.set()
        self._samples.join()
        self._hurry.clear()

    def _watched(self, number: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A call that is sampled, or looked at as every one is."""
        kept = (on_host(args), on_host(kwargs)) if self._chosen(number) else None
        got = self.fn(*args, **kwargs)
        try:
            if self.every:
                self.every(got, *args, **kwargs)
        except AssertionError as wrong:
            self._trip(number, str(wrong))
            return self._instead(args, kwargs)
        if kept:
            try:
                self._samples.put_nowait(Sample(number, *kept, on_host(got)))
            except queue.Full:  # whoever filled it since this call was chosen
                with self._lock:
                    self._counts.dropped += 1
        return got

    def _instead(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the fallback gives; raises DeviceFault where there is none."""
        if self.fallback is None:
            raise DeviceFault(f"{self.name} computes no more: {self.tripped}", CODE)
        return self.fallback(*args, **kwargs)

    def _chosen(self, number: int) -> bool:
        """Whether this call is sampled: gaps are geometric, so that each call is as likely as any other."""
        if os.getpid() != self._process:
            self._begin()
        with self._lock:
            if number < self._next:
                return False
            self._next = number + int(self._rng.geometric(self._sample))
            self._counts.sampled += 1
            if self._samples.full():
                self._counts.dropped += 1
                return False
            return True

    def _judge(self) -> None:
        """The thread: a sample, then as much rest as leaves it its budget."""
        while True:
            sample = self._samples.get()
            started = time.perf_counter()
            try:
                self._hold(sample)
            except AssertionError as wrong:
                self._trip(sample.number, str(wrong).strip())
            except Exception as problem:  # what cannot be judged is not right
                self._trip(sample.number, f"cannot be judged: {type(problem).__name__}: {problem}")
            spent = time.perf_counter() - started
            with self._lock:
                self._counts.judged += 1
                self._counts.seconds += spent
            self._samples.task_done()
            self._hurry.wait(spent * (1 / self._budget - 1))

    def _hold(self, sample: Sample) -> None:
        """A sample against its truth; raises AssertionError."""
        bound = dict(self._bound)
        if callable(magnitude := bound.get("magnitude")):
            bound["magnitude"] = magnitude(*sample.args, **sample.kwargs)
        if "op" in bound:
            bound["inputs"] = sample.args
        truth = self.reference(*sample.args, **sample.kwargs) if self.reference else None
        assert_parity(sample.got, truth, label=f"call {sample.number} of {self.name}", **bound)

    def _trip(self, number: int, reason: str) -> None:
        """Count a wrong call; the first one is told, and is the last of ``fn``."""
        with self._lock:
            self._counts.wrong += 1
            if self.tripped:
                return
            self.tripped = f"call {number}: {reason}"
        then = "falling back" if self.fallback else "refusing"
        first = self.tripped.splitlines()
        line = contracts.load(contracts.PROBE).tripped(self.name, CODE, " ".join(first[:3]), then)
        print(line, file=sys.stderr, flush=True)


def guard(
    fn: Callable[..., Any], *, reference: Callable[..., Any] | None = None, sample: float = 0.01, budget: float = 0.05,
    every: Check | None = None, fallback: Callable[..., Any] | None = None, name: str = "", waiting: int = 8,
    **bound: Any,
) -> Guard:  # fmt: skip
    """A callable like ``fn`` that judges a share ``sample`` of its calls (the first one always) in the background, in
    at most ``budget`` of one processor's time. Behind a wrong one, which stderr is told of, every call is one of
    ``fallback`` or, without it, raises DeviceFault.

    ``reference`` takes the same arguments, as numpy arrays on the host, and gives truth in fp64, or integers.
    ``bound`` is what ``assert_parity`` takes: ``exact=True``, ``ulp=``, ``n=`` with ``magnitude=`` (a function of the
    arguments), or ``op=`` with ``case=``, whose own truth makes a reference needless. ``every`` looks at every call at
    once, before its output is given away (``column_sum``). At most ``waiting`` samples are kept.

    Raises WrongInput for a share or a budget outside (0, 1], and where no bound or no truth is given.
    """
    for what, value in (("sample", sample), ("budget", budget)):
        if not (0 < value <= 1):
            raise WrongInput(f"guard: {what} is {value}, expected more than 0 and at most 1")
    if len([key for key in BOUNDS if key in bound]) != 1:
        raise WrongInput(f"guard: give one of {', '.join(f'{key}=' for key in BOUNDS)} for the bound of a result")
    if reference is None and "op" not in bound:
        raise WrongInput("guard: reference= is missing; only op= brings a truth of its own")
    if waiting < 1:
        raise WrongInput(f"guard: waiting is {waiting}, expected at least 1")
    return Guard(fn, reference, sample, budget, every, fallback, name, waiting, bound)


def column_sum(weights: Any, activations: int = 0) -> Check:
    """For ``every``, where y = x·Wᵀ is of integers: the elements of a row of y [M, N] add up to the product of x [M, K]
    with the sum of the rows of W [N, K], exactly (Huang and Abraham, 1984). ``activations`` is the place of x among
    the arguments. It costs K + N additions a row, beside K·N of the product.
    """
    matrix = np.asarray(on_host(weights))
    if matrix.dtype.kind not in "iu" or matrix.ndim != 2:
        raise WrongInput(f"column_sum: weights are {matrix.dtype}{list(matrix.shape)}, expected integers [N, K]")
    sums = matrix.sum(axis=0, dtype=np.int64)

    def check(got: Any, *args: Any, **_: Any) -> None:
        rows = np.atleast_2d(np.asarray(on_host(got, copy=False)))
        x = np.atleast_2d(np.asarray(on_host(args[activations], copy=False)))
        found, wanted = rows.sum(axis=-1, dtype=np.int64), x.astype(np.int64) @ sums
        if rows.dtype.kind not in "iu" or (found != wanted).any():
            raise AssertionError(f"y adds up to {found.tolist()}, by the column sums it is {wanted.tolist()}")

    return check


def on_host(value: Any, copy: bool = True) -> Any:
    """Arrays and tensors as numpy arrays, also inside of sequences and mappings; anything else as it is."""
    if isinstance(value, np.ndarray):
        return value.copy() if copy else value
    if isinstance(value, Mapping):
        return {key: on_host(each, copy) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        found = [on_host(each, copy) for each in value]
        return found if isinstance(value, list) else tuple(found)
    if hasattr(value, "detach"):  # torch
        return np.array(value.detach().cpu().numpy(), copy=copy or None)
    if hasattr(value, "__cuda_array_interface__") and hasattr(value, "get"):  # cupy
        return value.get()
    return value
