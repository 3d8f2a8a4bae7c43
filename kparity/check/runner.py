"""A sweep: units of work (a case on a backend) in a worker process that is replaced when it dies."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kparity import ops
from kparity.check.core import blank_record
from kparity.check.record import FAIL, SKIPPED, Record
from kparity.check.select import Selected
from kparity.processes import Reporter, send

CASE_SECONDS = 60.0
"""Limit of one case on one backend, the opening of its device and the computation of truth included."""
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


@dataclass
class Unit:
    """One case on one backend, and how far it came."""

    backend: str
    selected: Selected
    seen: int = 0
    """Kinds of input that have a record."""

    @property
    def left(self) -> int:
        """Kinds of input without a record."""
        return len(self.selected.kinds) - self.seen

    def request(self) -> dict[str, Any]:
        """Plain values for the worker."""
        case = self.selected.case
        return {"backend": self.backend, "op": case.op, "params": dict(case.params), "kinds": self.selected.kinds}


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

    def __post_init__(self) -> None:
        self.units = [Unit(backend, each) for each in self.chosen for backend in self.backends]
        self.started = time.monotonic()
        self._pending = list(range(len(self.units)))
        self._deaths: dict[str, int] = {}
        self._why_skipped: dict[str, str] = {}
        self._why_stopped = ""

    def stop(self, reason: str) -> None:
        """Skip whatever has not run yet."""
        self._why_stopped = self._why_stopped or reason

    def records(self) -> Generator[Record, None, None]:
        """Every record as it comes; the worker is gone when the iteration ends, however it ends."""
        while self._pending and not self._why_stopped:
            yield from self._with_one_worker()
        for number in self._pending:
            unit = self.units[number]
            if unit.left:
                yield self._blank(unit, SKIPPED, self._why_skipped.get(unit.backend) or self._why_stopped)

    def _with_one_worker(self) -> Iterator[Record]:
        for number in [each for each in self._pending if self.units[each].backend in self._why_skipped]:
            self._pending.remove(number)
            yield self._blank(self.units[number], SKIPPED, self._why_skipped[self.units[number].backend])
        if not self._pending:
            return
        worker = Reporter("kparity.check.worker", ENVIRONMENT)
        try:
            units = [(number, self.units[number].request()) for number in self._pending]
            request = {"pipe": worker.pipe, "seed": self.seed, "units": units}
            send(worker.process.stdin, json.dumps(request).encode())
            yield from self._listen(worker)
        finally:
            worker.close()

    def _listen(self, worker: Reporter) -> Iterator[Record]:
        """Records until the worker is done, has died or is stopped."""
        current: Unit | None = None
        begun = time.monotonic()
        while not self._why_stopped:
            line = worker.line(self._patience(begun))
            if line is None:
                ended = worker.ended("this case")
                if ended or not self._out_of_time():
                    yield self._died(current, ended or f"no answer within {self.limits.case_seconds:g} s")
                return
            event = json.loads(line)
            if event["event"] == "done":
                return
            current = self.units[event["unit"]]
            if event["event"] == "begin":
                begun = time.monotonic()
            elif event["event"] == "unavailable":
                self._why_skipped.setdefault(current.backend, event["reason"])
                self._pending.remove(event["unit"])
                yield self._blank(current, SKIPPED, event["reason"])
            elif event["event"] == "record":
                yield self._noted(current, Record.from_dict(event["record"]))
            elif event["unit"] in self._pending:  # the end of a unit
                self._pending.remove(event["unit"])
            if self._out_of_time():
                return

    def _patience(self, begun: float) -> float:
        """Seconds to wait for the next event."""
        now = time.monotonic()
        left = begun + self.limits.case_seconds - now
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
        if record.outcome == FAIL and self.limits.fail_fast:
            self.stop("an earlier case failed")
        return record

    def _died(self, unit: Unit | None, reason: str) -> Record:
        """The FAIL of the unit in which the worker died."""
        if unit is None:
            unit = self.units[self._pending[0]]
        number = next(each for each in self._pending if self.units[each] is unit)
        self._pending.remove(number)
        self._deaths[unit.backend] = self._deaths.get(unit.backend, 0) + 1
        if self._deaths[unit.backend] >= DEATHS:
            self._why_skipped[unit.backend] = f"the worker died {DEATHS} times in cases of {unit.backend}"
        return self._noted(unit, self._blank(unit, FAIL, reason))

    def _blank(self, unit: Unit, outcome: str, reason: str) -> Record:
        """A record of what is left of a unit."""
        label, kind = self.devices.get(unit.backend, ("", ""))
        case = unit.selected.case
        blank = blank_record(unit.backend, ops.get(case.op), case, self.seed, label=label, device_kind=kind)
        at = unit.selected.kinds[unit.seen] if outcome == FAIL and unit.left else ""
        return replace(blank, outcome=outcome, reason=reason, kind=at, runs=max(unit.left, 1))
