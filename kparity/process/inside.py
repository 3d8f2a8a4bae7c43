"""The child's side: requests come on standard input, answers go on a pipe of its own, because libraries print."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any, TypeVar

import msgspec

from kparity.process.messages import Stage, Tick

T = TypeVar("T")
TICK_SECONDS = 0.1
"""Ticks are no closer than this: they tell that work goes on, not how much of it."""
PR_SET_PDEATHSIG = 1
begun = False
"""Whether this process is a child."""


class Link:
    """The pipe to the parent, and the requests from it."""

    def __init__(self, pipe: int) -> None:
        os.set_inheritable(pipe, False)  # a compiler that outlives this process must not keep it open
        self._pipe, self._encoder = pipe, msgspec.json.Encoder()
        self.started = self._last = time.perf_counter()

    def send(self, *messages: msgspec.Struct) -> None:
        """Messages, at once, if there are any. What is no number in them arrives as null."""
        if not messages:
            return
        data = memoryview(b"".join(self._encoder.encode(each) + b"\n" for each in messages))
        while data:
            data = data[os.write(self._pipe, data) :]
        self._last = time.perf_counter()

    def stage(self, name: str) -> None:
        """Begin a part of the work."""
        self.send(Stage(name, self.elapsed_ms()))

    def tick(self, note: str = "") -> None:
        """Say that work goes on; costs next to nothing where something was said a moment ago."""
        if time.perf_counter() - self._last > TICK_SECONDS:
            self.send(Tick(note))

    def elapsed_ms(self) -> float:
        """Milliseconds since the child began to work."""
        return (time.perf_counter() - self.started) * 1e3

    def request(self, kind: type[T]) -> T:
        """The next request; raises EOFError where the parent sends no more."""
        line = sys.stdin.buffer.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the parent sends no more requests")
        return msgspec.json.decode(line, type=kind)

    def asked(self) -> bool:
        """Whether a request has come already."""
        stdin = sys.stdin.buffer
        assert isinstance(stdin, io.BufferedReader)  # which may have read it already
        os.set_blocking(stdin.fileno(), False)
        try:
            return bool(stdin.peek(1))
        finally:
            os.set_blocking(stdin.fileno(), True)

    def requests(self, kind: type[T]) -> Iterator[T]:
        """Requests until the parent closes the pipe."""
        with suppress(EOFError):
            while True:
                yield self.request(kind)


def end_with(parent: int) -> None:
    """Be killed when the parent ends, where the system can do that; end at once where it has."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def begin(module: str, pipe: int, parent: int) -> Any:
    """The program of a child: ``main(link)`` of a module; its result is the exit code."""
    global begun
    begun = True
    end_with(parent)
    return import_module(module).main(Link(pipe))
