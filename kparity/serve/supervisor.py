"""The parent's side: which backend serves, the sequences that wait and run, and what happens when a backend fails.

All of it runs in the event loop; what may block (starting and ending a process) runs in threads.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count

import msgspec

from kparity.contracts import PROBE, load
from kparity.errors import KparityError, Refused, WrongInput
from kparity.process import Child, Done, Failed, Family, Garbled, Stage
from kparity.process.worker import ENVIRONMENT
from kparity.serve.jobs import Again, Job, Lost, News
from kparity.serve.messages import Ask, Checked, Line, Nothing, Opening, Said, Serving, Stop, Verdict, Wrote
from kparity.serve.metrics import Metrics
from kparity.serve.problem import Problem

LOOK_SECONDS = 0.25
"""How often it is looked whether the device's process still says something."""
CLOSE_SECONDS = 10.0
"""What that process may take to close its device."""


class Supervisor:
    """Serves with the first backend of ``opening``, then with the next. ``queue`` requests may wait; a backend that is
    silent for ``silent`` seconds while it works is ended; ``ended`` is called when none is left.
    """

    def __init__(
        self, opening: Opening, queue: int, silent: float, log: Callable[[str], None], ended: Callable[[], None]
    ) -> None:  # fmt: skip
        self.opening, self.queue, self.silent, self.log, self.ended = opening, queue, silent, log, ended
        self.metrics = Metrics()
        self.serving: Serving | None = None
        self.since = self.checked_at = 0.0
        self.positions = 0
        """That the last backend which served had room for."""
        self.checks = 0
        self.verdicts: list[Verdict] = []
        """Of every backend that was tried and does not serve, or not any more."""
        self.refused: KparityError | None = None
        self.waiting, self.active = deque[Job](), dict[int, Job]()
        self._ids, self._batches = count(), count()
        self._pipe: asyncio.WriteTransport | None = None
        self._opens, self._closing, self._busy_since = "", False, 0.0
        self._over: asyncio.Future[Failed | Nothing] | None = None
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[Serving] | None = None

    @property
    def room(self) -> int:
        """Positions that may be fed."""
        return self.serving.room if self.serving else 0

    @property
    def untried(self) -> list[str]:
        """Backends that come after the one that serves."""
        order = self.opening.order
        return order[order.index(self.serving.backend) + 1 :] if self.serving else []

    async def start(self) -> Serving:
        """Wait for the first verdict; raises what the dispatcher raises."""
        self._first = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep())
        return await self._first

    async def close(self) -> None:
        """End the device's process, gracefully where it can."""
        self._closing = True
        if self._over and not self._over.done():
            self._over.set_result(Failed("rejected", "", "closed"))
        if self._task:
            await self._task

    def submit(self, asks: Sequence[Ask], shown: bool = False) -> list[Job]:
        """Queue the sequences of a request; raises Problem (429) where too many requests wait."""
        if self.refused:
            raise Problem(503, "no backend is left to serve", kind="unavailable")
        batch = next(self._batches)
        ahead = len({job.batch for job in self.waiting})
        if ahead >= self.queue:
            seconds = self.metrics.wait(ahead, self.opening.parallel)
            raise Problem(429, f"{ahead} requests wait already; try again in {seconds} s", kind="rate_limit_exceeded",
                          headers={"Retry-After": str(seconds)})  # fmt: skip
        inbox: asyncio.Queue[tuple[Job, News]] = asyncio.Queue()
        jobs = [
            Job(msgspec.structs.replace(ask, id=next(self._ids)), at, inbox, batch=batch) for at, ask in enumerate(asks)
        ]
        self.waiting.extend(jobs)
        self._dispatch()
        return jobs

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for them any more; does nothing for those that are over."""
        for job in jobs:
            if job in self.waiting:
                self.waiting.remove(job)
            elif self.active.pop(job.ask.id, None):
                self.metrics.cancelled += 1
                self._send(Stop(job.ask.id, False))
        self._dispatch()

    def enough(self, job: Job) -> None:
        """No more tokens are wanted; the end comes as usual."""
        if job.ask.id in self.active:
            self._send(Stop(job.ask.id, True))

    def _send(self, request: Opening | Ask | Stop) -> None:
        if self._pipe and not self._pipe.is_closing():
            self._pipe.write(msgspec.json.encode(request) + b"\n")

    def _dispatch(self) -> None:
        while self.serving and self.waiting and len(self.active) < self.opening.parallel:
            job = self.waiting.popleft()
            job.ask = msgspec.structs.replace(job.ask, room=min(job.ask.room, self.room))
            if len(job.ask.tokens) > job.ask.room:
                job.put(Lost(f"{self.serving.backend} serves {self.room} positions"))
                continue
            if not self.active:
                self._busy_since = time.monotonic()
            self.active[job.ask.id] = job
            self.metrics.prompt_tokens += len(job.ask.tokens)
            self._send(job.ask)

    async def _keep(self) -> None:
        """One backend after the other."""
        rest = self.opening.order
        try:
            while not self.refused:
                failed = await self._with(rest)
                if self._closing:
                    return
                rest = self._lost(failed, rest)
        except Exception as error:
            self._refuse(error if isinstance(error, KparityError) else KparityError(f"{type(error).__name__}: {error}"))

    async def _with(self, order: list[str]) -> Failed | Nothing:
        """Serve with the first of some backends that is accepted, until it fails; why it does not any more."""
        loop = asyncio.get_running_loop()
        family = await asyncio.to_thread(Family)
        self._over, self._opens = loop.create_future(), ""
        try:
            child: Child[Said] = await asyncio.to_thread(
                lambda: Child(family, "kparity.serve.device", Said, environment=ENVIRONMENT)
            )
            loop.add_reader(child.fileno(), self._read, child)
            self._pipe, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, child.process.stdin)
            self._send(msgspec.structs.replace(self.opening, order=order))
            while not self._over.done():
                await asyncio.wait([self._over], timeout=LOOK_SECONDS)
                self._look(child)
            failed = self._over.result()
            loop.remove_reader(child.fileno())
            if not self._pipe.is_closing():  # by itself, where the process has ended
                self._pipe.abort()
            await asyncio.to_thread(self._end, child, family)
            return failed
        finally:
            family.close()

    def _end(self, child: Child[Said], family: Family) -> None:
        """A process that is told to close its device may take its time; another is ended, with all that it started."""
        if self._closing:
            with suppress(Exception):
                child.process.wait(CLOSE_SECONDS)
        child.close()
        family.close()

    def _look(self, child: Child[Said]) -> None:
        """End what has been silent for too long while it opened its device or worked."""
        assert self._over is not None
        if self._over.done() or not (self.active or (self._opens and not self.serving)):
            return
        if time.monotonic() - max(child.heard, self._busy_since) > self.silent:
            self._over.set_result(Failed("rejected", "KP-WORKER-DIED", f"silent for {self.silent:g} s while it served"))

    def _read(self, child: Child[Said]) -> None:
        """Whatever the device's process has said."""
        assert self._over is not None
        try:
            while not self._over.done() and (said := child.receive(0)) is not None:
                self._heard(said)
        except Garbled as problem:
            self._over.set_result(Failed("rejected", "KP-WORKER-DIED", f"no message: {problem}"))
        if child.over and not self._over.done():
            asyncio.get_running_loop().remove_reader(child.fileno())
            why = child.ended("serving") or "its process closed its pipe"
            self._over.set_result(Failed("rejected", "KP-WORKER-DIED", why))

    def _heard(self, said: Said) -> None:
        assert self._over is not None
        if isinstance(said, Wrote):
            self._wrote(said)
        elif isinstance(said, Checked):
            self.metrics.checks += said.times - self.checks
            self.checks, self.checked_at = said.times, time.time()
        elif isinstance(said, Line):
            self.log(said.text)
        elif isinstance(said, Stage):
            self._opens = said.stage
        elif isinstance(said, Serving):
            self._serves(said)
        elif isinstance(said, (Failed, Nothing)):
            self._over.set_result(said)
        elif isinstance(said, Done):
            self._over.set_result(Failed("rejected", "KP-WORKER-DIED", "it ended by itself"))

    def _serves(self, said: Serving) -> None:
        self.serving, self.since, self.checks = said, time.time(), 0
        self.opening = msgspec.structs.replace(self.opening, receipt="")  # which tells what the start found
        self.positions = self.room
        self.verdicts += [each for each in said.verdicts if each.backend != said.backend]
        if self._first and not self._first.done():
            self._first.set_result(said)
        self._dispatch()

    def _wrote(self, said: Wrote) -> None:
        job = self.active.get(said.id)
        if job is None:
            return
        if said.end:
            del self.active[said.id]
        self.metrics.completion_tokens += len(said.tokens)
        job.put(said)
        self._dispatch()

    def _lost(self, failed: Failed | Nothing, rest: list[str]) -> list[str]:
        """Say what happened, and what comes next; the backends that are left."""
        if isinstance(failed, Nothing):
            self._refuse(Refused(failed.reason) if failed.status == Refused.exit_code else WrongInput(failed.reason))
            return []
        name = self.serving.backend if self.serving else self._opens
        if not name:
            self._refuse(Refused(f"the process that probes ended: {failed.reason}"))
            return []
        left, forced = rest[rest.index(name) + 1 :], self.opening.forced
        then = f"refusing, {forced}" if forced else "attempting fallback" if left else "no backend left"
        self.log(load(PROBE).tripped(name, failed.code, failed.reason, then))
        self.verdicts.append(Verdict(name, "tripped", failed.code, failed.reason))
        self.metrics.trips[name, failed.code] += 1
        self.serving = None
        self._restart(f"{name} failed while it served ([{failed.code}] {failed.reason})")
        if forced or not left:
            self._refuse(Refused(f"no backend is left after {name}; nothing was downgraded" if forced else
                                 f"no backend of {','.join(self.opening.order)} is left"))  # fmt: skip
        return left

    def _restart(self, why: str) -> None:
        """What nobody has seen a part of begins anew; the rest is over."""
        again = list(self.active.values())
        self.active.clear()
        for job in again:
            job.put(Lost(f"{why}; what was told of this answer is in doubt") if job.shown else Again())
        self.waiting.extendleft(job for job in reversed(again) if not job.shown)

    def _refuse(self, error: KparityError) -> None:
        """Nothing serves any more."""
        self.refused, self.serving = error, None
        for job in [*self.active.values(), *self.waiting]:
            job.put(Lost("no backend is left to serve"))
        self.active.clear()
        self.waiting.clear()
        if self._first and not self._first.done():
            self._first.set_exception(error)
        else:
            self.ended()
