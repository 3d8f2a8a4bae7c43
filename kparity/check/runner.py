"""A sweep: units of work (a case on a backend) in a worker process that is replaced when it dies."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kparity import ops
from kparity.check import dump
from kparity.check.core import blank_record, judged
from kparity.check.own_trial import AnyOwn
from kparity.check.record import FAIL, PASS, SKIPPED, UNSUPPORTED, Record
from kparity.check.select import Selected
from kparity.check.worker import Checked, Ended, Missing, OfUnit, Said, SweepRequest, Unit
from kparity.process import Child, Done, Family, Garbled

CASE_SECONDS = 60.0
"""What a worker may be silent: one kind of input of one case, or the opening of a device and the compilation of a case.
"""
DEATHS = 3
"""Deaths of the worker in cases of one backend, after which the rest of that backend is skipped."""
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Cases are small: more threads would wait for each other longer than they compute."""


@dataclass(frozen=True)
class Limits:
    """When a sweep stops waiting."""

    case_seconds: float = CASE_SECONDS
    max_seconds: float | None = None
    fail_fast: bool = False
    index: int = 0
    """Of the device within each backend."""
    options: tuple[str, ...] = ()
    """Switches of a backend's ``open``, for the backends that have them."""
    own: AnyOwn | None = None
    """The kernel in the place of the op's."""

    @property
    def words(self) -> tuple[str, ...]:
        """``Record.words``."""
        return (*(self.own.words if self.own else ()), *(f"--{name}" for name in self.options))


@dataclass
class Sweep:
    """Runs units case by case, so that the truth of a case is computed once for all backends.

    Iterate over ``records``; ``stop`` ends the worker, and every unit that has not run becomes a SKIPPED record.
    """

    backends: Sequence[str]
    chosen: Sequence[Selected]
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    devices: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Backend → label and kind of its device, as the records told."""
    dump: str = ""
    """The folder that takes what failed; empty for none."""

    def __post_init__(self) -> None:
        self.units = [
            Unit(backend, each) for each in self.chosen for backend in self.backends if each.backend in ("", backend)
        ]
        self.started = time.monotonic()
        self._pending = dict(enumerate(self.units))
        self._deaths: Counter[str] = Counter()
        self._why_skipped: dict[str, str] = {}
        self._why_stopped = ""

    def stop(self, reason: str) -> None:
        """Skip whatever has not run yet."""
        self._why_stopped = self._why_stopped or reason

    def records(self) -> Generator[Record, None, None]:
        """Every record as it comes; the worker is gone when the iteration ends, however it ends."""
        with Family() as family:
            while self._pending and not self._why_stopped:
                yield from self._with_one_worker(family)
        for unit in self._pending.values():
            if unit.left:
                yield self._blank(unit, SKIPPED, self._why_skipped.get(unit.backend) or self._why_stopped)

    def _with_one_worker(self, family: Family) -> Iterator[Record]:
        for number, unit in list(self._pending.items()):
            if unit.backend in self._why_skipped:
                del self._pending[number]
                yield self._blank(unit, SKIPPED, self._why_skipped[unit.backend])
        if not self._pending:
            return
        worker: Child[Said] = Child(family, "kparity.check.worker", Said, environment=ENVIRONMENT)
        try:
            given = self.limits
            request = SweepRequest(
                self.seed, self._pending, given.index, self.dump, given.options, given.own, given.words
            )
            worker.send(request)
            yield from self._listen(worker)
        finally:
            worker.close()

    def _listen(self, worker: Child[Said]) -> Iterator[Record]:
        """Records until the worker is done, has died, says what is no message, or is stopped."""
        current, heard = -1, time.monotonic()
        while not self._why_stopped:
            try:
                message = worker.receive(self._patience(heard))
                if isinstance(message, Done):
                    return
                if message is not None:
                    current, heard = message.unit, time.monotonic()
                    yield from self._heard(message)
            except Garbled as problem:
                yield from self._died(current, f"the worker said what is no message: {problem}")
                return
            if message is None:
                ended = worker.ended("this case")
                if ended or not self._out_of_time():
                    yield from self._died(current, ended or f"no answer within {self.limits.case_seconds:g} s")
                return
            if self._out_of_time():
                return

    def _heard(self, message: OfUnit) -> Iterator[Record]:
        """One message; raises Garbled for one of a unit that is done or was not asked for, and for a false record."""
        unit = self._pending.get(message.unit)
        if unit is None:
            raise Garbled(f"unit {message.unit} is none that was asked for")
        if isinstance(message, Missing):
            self._why_skipped.setdefault(unit.backend, message.reason)
            del self._pending[message.unit]
            yield self._blank(unit, SKIPPED, message.reason)
        elif isinstance(message, Checked):
            try:
                record = Record.from_dict(message.record)
            except ValueError as problem:
                raise Garbled(str(problem)) from problem
            yield self._noted(unit, self._judged(unit, record))
        elif isinstance(message, Ended):
            if unit.left:
                raise Garbled(f"the end of {unit.selected.case.id} with {unit.left} kinds of input left")
            del self._pending[message.unit]

    def _judged(self, unit: Unit, record: Record) -> Record:
        """A record with the verdict of the parent: the worker's numbers, and the contract's limits."""
        case, kinds = unit.selected.case, unit.selected.kinds[unit.seen :]
        about = (record.backend, record.op, record.case, record.seed)
        if (
            about != (unit.backend, case.op, case.id, self.seed)
            or record.kind not in ("", *kinds[:1])
            or (not 0 < record.runs <= len(kinds))
        ):
            raise Garbled(f"a record of {record.backend} {record.label}, where {unit.backend} {case.id} was due")
        outputs = [(arg.name, arg.dtype, math.prod(arg.shape)) for arg in ops.get(case.op).outputs_of(case)]
        if record.outputs and [(each.name, each.dtype, each.count) for each in record.outputs] != outputs:
            raise Garbled(f"other outputs of {record.label} than it has")
        if record.outcome == PASS or record.outputs:
            record = judged(replace(record, outcome=PASS, reason="", failed=()))
        elif record.outcome != UNSUPPORTED:
            record = replace(record, outcome=FAIL)
        if record.flaw:
            raise Garbled(record.flaw)
        return replace(record, words=self.limits.words)

    def _patience(self, heard: float) -> float:
        """Seconds to wait for the next message."""
        now = time.monotonic()
        left = heard + self.limits.case_seconds - now
        if self.limits.max_seconds is not None:
            left = min(left, self.started + self.limits.max_seconds - now)
        return max(left, 0.0)

    def _out_of_time(self) -> bool:
        most = self.limits.max_seconds
        if most is not None and time.monotonic() - self.started >= most:
            self.stop(f"the limit of {most:g} s was reached")
        return bool(self._why_stopped)

    def _noted(self, unit: Unit, record: Record) -> Record:
        unit.seen += record.runs
        if record.device:
            self.devices[unit.backend] = (record.device, record.device_kind)
        if record.outcome == FAIL and self.dump:
            dump.complete(Path(self.dump), record, unit.selected.replay, self.limits.own)
        if record.outcome == FAIL and self.limits.fail_fast:
            self.stop("an earlier case failed")
        return record

    def _died(self, number: int, reason: str) -> Iterator[Record]:
        """The FAIL of the unit in which the worker died, or of the next one; of none behind the last."""
        if not self._pending:
            return
        unit = self._pending.pop(number if number in self._pending else next(iter(self._pending)))
        self._deaths[unit.backend] += 1
        if self._deaths[unit.backend] >= DEATHS:
            self._why_skipped[unit.backend] = f"the worker died {DEATHS} times in cases of {unit.backend}"
        yield self._noted(unit, self._blank(unit, FAIL, reason))

    def _blank(self, unit: Unit, outcome: str, reason: str) -> Record:
        """A record of what is left of a unit."""
        label, kind = self.devices.get(unit.backend, ("", ""))
        case = unit.selected.case
        blank = blank_record(unit.backend, ops.get(case.op), case, self.seed, label=label, device_kind=kind)
        at = unit.selected.kinds[unit.seen] if outcome == FAIL and unit.left else ""
        left = max(unit.left, 1)
        return replace(blank, outcome=outcome, reason=reason, kind=at, runs=left, words=self.limits.words)
