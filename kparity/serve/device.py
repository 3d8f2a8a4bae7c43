"""The process that holds the device: one thread computes, the sequences that are under way take turns on it.

Every sequence has a cache of its own (``Engine.beside``). A new one is used once a known walk on it gave the bits of
the first one. What ends is told after a known step was right, so that no answer is complete that a device in doubt
has written. Whatever goes wrong ends this process: the parent starts one with the next backend.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

from kparity.device.adapter import Backend
from kparity.engine import Engine
from kparity.engine.canary import TOKEN, Canary, Tripped
from kparity.errors import DeviceFault, KparityError, Refused
from kparity.model import load_model
from kparity.model.gguf_file import HELD
from kparity.probe.dispatcher import Selection, first_accepted
from kparity.probe.dispatcher import Serving as How
from kparity.process import Done, Failed, Link, failure
from kparity.serve.messages import Ask, Checked, Line, Nothing, Opening, Serving, Stop, Verdict, Wrote
from kparity.serve.sequence import Running

FLUSH_SECONDS, QUIET_SECONDS = 0.01, 1.0
"""Tokens that come faster are told together: a message for each would take as long as a step of a small model. And
those at which nobody looks before the end.
"""


class Device:
    """Sequences on the engine of a backend; ``parallel`` of them side by side at most."""

    def __init__(self, engine: Engine, link: Link, parallel: int) -> None:
        self.engine, self.link, self.parallel, self.checks = engine, link, parallel, 0
        self.free, self.running, self.waiting = [engine], list[Running](), deque[Ask]()
        self.engines = 1

    def loop(self, inbox: SimpleQueue[Ask | Stop | None]) -> None:
        """Until the parent closes the pipe."""
        while True:
            busy = bool(self.running or self.waiting)
            seconds = self.engine.canary.seconds if self.engine.canary else 0.0
            try:
                if not (busy and inbox.empty()):  # all that was asked is heard before any of it is done
                    asked = inbox.get(not busy, None if busy or not seconds else seconds)
                    if asked is None:
                        return
                    self._heed(asked)
                    continue
            except Empty:
                self.link.send(*self._checked())
            self._begin()
            self._turns(inbox)
            self._tell()

    def _turns(self, inbox: SimpleQueue[Ask | Stop | None]) -> None:
        """A piece of a prompt or a token of each in turn, until there is something to tell or to hear."""
        clock, heard, running = time.monotonic, inbox.empty, self.running
        until = clock() + FLUSH_SECONDS
        if any(not each.told_at and not each.ask.quiet for each in running):
            until = 0.0  # the first token is told at once
        over = not running
        while not over:
            for each in running:
                over |= next(each.work, self) is self
            over |= clock() >= until or not heard()

    def _heed(self, asked: Ask | Stop) -> None:
        if isinstance(asked, Ask):
            self.waiting.append(asked)
            return
        self.waiting = deque(each for each in self.waiting if each.id != asked.id)  # of which nobody can want more
        for each in [each for each in self.running if each.ask.id == asked.id]:
            if asked.wanted:
                each.work.close()
                each.end = "stop"
            else:
                self._leave(each)

    def _leave(self, each: Running) -> None:
        each.work.close()
        self.running.remove(each)
        self.free.append(each.engine)

    def _begin(self) -> None:
        while self.waiting and (self.free or self.engines < self.parallel):
            engine = self.free.pop() if self.free else self._another()
            if engine is None:
                return
            self.running.append(Running(self.waiting.popleft(), engine))

    def _another(self) -> Engine | None:
        """One more cache; None, from then on, where the device has no room for it."""
        try:
            other = self.engine.beside()
        except (DeviceFault, MemoryError) as error:
            self.parallel = self.engines
            self.link.send(Line(f"no room for another cache ({error}); {self.engines} sequences are served at once"))
            return None
        self._walked(other)
        self.engines += 1
        return other

    def _walked(self, other: Engine) -> None:
        """Raise Tripped where the canary's walk on another cache gives other bits than on the first one."""
        canary, other.canary = self.engine.canary, None
        if canary is not None:
            for _ in range(canary.rows):
                logits = other.step(TOKEN)
            if not np.array_equal(logits.view(np.uint32), canary.first[0].view(np.uint32)):
                canary.fail("a known step on another cache gave other logits")
            other.canary = canary

    def _checked(self) -> list[Checked | Wrote]:
        """That a known step was right, where something ran since the last one; raises Tripped."""
        canary = self.engine.canary
        if canary is None or not canary.runs:
            return []
        canary.check()
        self.checks += 1
        return [Checked(self.checks)]

    def _tell(self) -> None:
        """What is over, once a known step was right; and the rest, not too often."""
        news = self._checked() if any(each.end for each in self.running) else []
        now = time.monotonic()
        for each in list(self.running):
            late = now - each.told_at >= (QUIET_SECONDS if each.ask.quiet else FLUSH_SECONDS)
            if each.end or (late and (each.tokens or each.prompt)):
                each.told_at = now if each.tokens or each.told_at else 0.0
                news.append(Wrote(each.ask.id, tuple(each.tokens), tuple(each.told), tuple(each.prompt), each.end))
                each.tokens, each.told, each.prompt = [], [], []
            if each.end:
                self._leave(each)
        self.link.send(*news)


def opened(opening: Opening, link: Link) -> Selection:
    """The first backend that is accepted; raises Refused."""
    from kparity.receipts.probe import receipt
    from kparity.receipts.statement import write

    request = opening.request
    if request.model is not None:
        HELD[load_model(request.model).path] = tuple(opening.identity)
    model = load_model(request.model)

    def tick(note: str) -> None:
        if note in opening.order:
            link.stage(note)
        else:
            link.tick(note[:300])

    selected = first_accepted(
        opening.order, request, model, cached=opening.cached, forced=opening.forced, tick=tick,
        serving=How(opening.beyond_proof, opening.canary, opening.canary_seconds),
        log=lambda text: link.send(Line(text)),
    )  # fmt: skip
    selected.engine.tick = link.tick
    if opening.receipt:
        found = receipt(selected.rows, opening.request, opening.order, selected.name, opening.command, opening.begun)
        write(Path(opening.receipt), found)
    return selected


def announced(selected: Selection) -> Serving:
    """What is told of the backend that serves."""
    engine = selected.engine
    proved = selected.rows[-1].proved
    proved = -1 if proved is None else proved
    room = engine.context if engine.proved is None else engine.proved + 1
    verdicts = [Verdict(row.backend, row.status, row.code, row.reason) for row in selected.rows]
    every = engine.canary.every if engine.canary else 0
    return Serving(selected.name, selected.backend.info.label, proved, room, every, verdicts)


def trusting(canary: Canary | None) -> None:
    """The parent says what a trip means for its answers."""
    if canary is not None:
        canary.scope, canary.trip = "what was not answered yet is in doubt", lambda why: None


def read(link: Link, inbox: SimpleQueue[Ask | Stop | None]) -> None:
    """Requests, as they come, so that the parent never waits for the device."""
    for asked in link.requests(Ask | Stop):  # type: ignore[arg-type]
        inbox.put(asked)
    inbox.put(None)


def main(link: Link) -> int:
    """Open, serve until the parent closes the pipe, and say what ended it."""
    backend: Backend | None = None
    try:
        opening = link.request(Opening)
        selected = opened(opening, link)
        backend = selected.backend
        trusting(selected.engine.canary)
        link.send(announced(selected))
        inbox = SimpleQueue[Ask | Stop | None]()
        threading.Thread(target=read, args=(link, inbox), daemon=True).start()
        Device(selected.engine, link, opening.parallel).loop(inbox)
        link.send(Done())
        selected.close()
    except Tripped as trip:
        link.send(Failed("rejected", "KP-CANARY", str(trip)[:4000]))
    except Exception as error:
        if backend is None and isinstance(error, KparityError):
            link.send(Nothing(str(error), 3 if isinstance(error, Refused) else 2))
        else:
            link.send(failure(error))
    return 0
