"""A step whose logits are known, again and again while an engine serves: the device that was right is right still."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from kparity.device.adapter import Buffer
from kparity.errors import Refused
from kparity.ops.spec import Array

if TYPE_CHECKING:
    from kparity.engine.engine import Engine

EVERY, AT_END = 256, 100
"""Runs from one to the next, and after how many runs an answer ends with one."""
SHARE = 0.01
"""Of the time of these runs that it may take by default: where it takes more, it comes more rarely."""
TIMED = 5
"""Times that a step and a canary are timed, for the median of each."""
TOKEN = 0
"""What is fed: any token, as long as it is always the same."""
KEYS = 8
"""Positions before the step: known keys and values, which are put into the cache meanwhile."""


class Tripped(Refused):
    """The known step gave other bits: what was computed since the last good one is in doubt.

    ``sure`` are the tokens of the sequence that were fed before that one.
    """

    def __init__(self, message: str, sure: int) -> None:
        super().__init__(message)
        self.sure = sure


class Canary:
    """Runs the recorded step at position ``KEYS`` on known keys, and compares its logits with the first ones, bit by
    bit. What the cache held there is put back. To be made on an engine that was proved and holds no token.

    ``every`` counts runs (steps, chunks) between two; 0 chooses EVERY, or more where that would take more than SHARE
    of the time. ``seconds`` is the longest time between two of them while it serves, 0 without such a limit. ``trip``
    is told why.
    """

    def __init__(
        self, engine: Engine, every: int = 0, seconds: float = 0.0, trip: Callable[[str], None] = lambda why: None
    ) -> None:  # fmt: skip
        backend, width = engine.backend, engine.model.hparams.kv_dim
        self.engine, self.seconds, self.trip = engine, seconds, trip
        self.rows = min(KEYS, engine.context - 1) + 1
        shape = (self.rows, width)
        self.regions: list[tuple[Buffer, Buffer, Buffer]] = []
        for buffer in (each for pair in engine.cache for each in pair):
            view = backend.view(buffer, 0, shape)
            part = buffer if view is None else view  # a handle that cannot be divided is kept whole
            self.regions.append((part, backend.empty(part.shape, part.dtype), backend.empty(part.shape, part.dtype)))
        for at in range(self.rows):
            self._step(at)
        for part, known, _ in self.regions:
            backend.copy(part, known)
        self.first = self._step(self.rows - 1)
        self.sure, self.runs, self.last = 0, 0, time.monotonic()
        self.scope = ""
        """What is in doubt after a trip, where it is not the sequence of this engine alone."""
        self.checks = 0
        """How often the known step was compared while it serves, the time that it differed included."""
        self.every = every or self._rarely_enough()

    def _rarely_enough(self) -> int:
        spent: list[tuple[float, float]] = []
        for _ in range(TIMED):  # in turn: a device that was idle, or shared, is slow for both
            started = time.perf_counter()
            self._step(self.rows - 1)
            between = time.perf_counter()
            self._measured()
            spent.append((between - started, time.perf_counter() - between))
        step, whole = (float(np.median(each)) for each in zip(*spent, strict=True))
        return max(EVERY, round(whole / max(step, 1e-9) / SHARE))

    def _step(self, position: int) -> Array:
        engine = self.engine
        recorded, kept = engine.recorded(1), engine.position
        engine.position = position
        engine._feed(recorded.graph, [TOKEN], 1)
        engine.position = kept
        recorded.program.run()
        logits: Array = engine.backend.download(recorded.graph.logits)
        return logits

    def _measured(self) -> Array:
        """The logits of the known step; the cache holds afterwards what it held before."""
        copy = self.engine.backend.copy
        for part, known, kept in self.regions:
            copy(part, kept)
            copy(known, part)
        logits = self._step(self.rows - 1)
        for part, _, kept in self.regions:
            copy(kept, part)
        return logits

    def before_run(self) -> None:
        """Called before every run of the engine; raises Tripped."""
        self.sure = min(self.sure, self.engine.position)
        late = self.seconds and time.monotonic() - self.last >= self.seconds
        if self.runs and (self.runs >= self.every or late):
            self.check()
        self.runs += 1

    def at_end(self) -> None:
        """Called at the end of an answer; raises Tripped."""
        if self.runs >= min(AT_END, self.every):
            self.check()

    def check(self) -> None:
        """Compare now; raises Tripped."""
        logits = self._measured()
        self.checks += 1
        wrong = int((logits.view(np.uint32) != self.first.view(np.uint32)).sum())
        if wrong:
            of = f"{wrong} of {logits.size} logits of a known step"
            self.fail(f"{of} differ from its first ones, after {self.runs} more runs")
        self.sure, self.runs, self.last = self.engine.position, 0, time.monotonic()

    def fail(self, what: str) -> NoReturn:
        """Something is wrong with the device: raise Tripped."""
        why = f"{what}; {self.scope or f'output is in doubt from position {self.sure} of the sequence on'}"
        self.trip(why)
        raise Tripped(f"{self.engine.backend.name}: {why}", self.sure)
