"""A process that holds one thing to be measured or compared and answers one call at a time: a driver that crashes or
hangs costs that thing and not the run, and nothing computes while another process is measured.

The parent names a factory (``module:Class``) and its options; the child makes the object and then calls its methods as
it is told. What a method returns are plain values, or an array, which goes through memory that both have open. A method
may also give arrays by name while it works, to a ``sink``: each waits until the parent has taken it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from kparity.process import Child, Failed, Family, Garbled, Link, failure
from kparity.process.messages import Message

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""One thread for the BLAS of numpy; those of OpenMP are left to what is measured (llama.cpp, torch)."""
LOOK_S, LOOKS = 0.02, 3
"""How often a worker's processor time is looked at, and how often it must be found unchanged (it is kept in 10 ms)."""
REST_S = 3.0
"""What threads may spin after a call: those of llama.cpp's OpenMP were seen to for more than a second."""
CLOSE_SECONDS = 10.0
"""What a child may take to close its device before it is ended."""


class Made(msgspec.Struct, frozen=True):
    """Make the object that is to be measured: ``factory`` is ``module:Class``."""

    factory: str
    options: dict[str, Any]
    descriptor: int
    """The file that takes arrays."""


class Call(msgspec.Struct, frozen=True):
    """Call one of its methods."""

    method: str
    arguments: dict[str, Any]
    sink: bool = False
    """Whether the method is to be given one."""


class Taken(msgspec.Struct, frozen=True):
    """The parent has taken an array out of the memory."""


class Reply(Message, frozen=True, tag="reply"):
    """What the method returned, as plain values; or the shape of an array of f32, which is in the file."""

    value: Any
    shape: list[int] | None = None
    more: bool = False
    """An array for the sink, of which ``value`` is the name; the method goes on."""


class WorkerFailed(Exception):
    """A call that failed: ``status`` is ``unavailable``, ``rejected`` or ``died``; ``code`` is stable."""

    def __init__(self, status: str, code: str, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.status, self.code, self.reason, self.remedy = status, code, reason, remedy


class Worker:
    """The parent's side. ``name`` is for messages; ``options`` are plain values for the factory."""

    def __init__(self, name: str, factory: str, options: dict[str, Any]) -> None:
        self.name, self.dead = name, ""
        self._family = Family()
        try:
            self._arrays = _memory(self._family.folder / "arrays")
            self._child: Child[Reply | Failed] = Child(
                self._family, "kparity.process.worker", Reply | Failed, environment=ENVIRONMENT, pass_fds=[self._arrays]
            )
        except BaseException:
            self._family.close()
            raise
        self.process = self._child.process
        self._child.send(Made(factory, options, self._arrays))

    def call(
        self, method: str, seconds: float, sink: Callable[[str, Any], None] | None = None, **arguments: Any
    ) -> Any:
        """Call a method and wait for what it returns, plain values or an array; raises WorkerFailed. ``sink`` is given
        what the method gives to its own; the worker is gone where that raises.

        A worker that does not answer within ``seconds``, or that has died, is gone: every later call fails, too.
        """
        if self.dead:
            raise WorkerFailed("died", "KP-WORKER-DIED", self.dead)
        self._child.send(Call(method, arguments, sink is not None))
        while isinstance(value := self._reply(method, seconds), Given):
            try:
                if sink is None:
                    raise self._gone(f"the worker gave an array in {method} that nobody asked for")
                sink(*value)
            except BaseException:
                self.close()
                raise
            self._child.send(Taken())
        return value

    def opened(self, seconds: float) -> None:
        """Wait until the object is made; raises WorkerFailed with what prevented it."""
        self._reply("open", seconds)

    def rest(self) -> None:
        """Wait until the worker's threads spend no processor time, for ``REST_S`` at most: some spin after a call, in
        case another follows, and would take a processor from whoever is measured next.
        """
        until, before, same = time.monotonic() + REST_S, -1, 0
        while same < LOOKS and time.monotonic() < until and not self.dead:
            spent = self._processor_ticks()
            same, before = (same + 1 if spent == before else 0), spent
            time.sleep(LOOK_S)

    def _processor_ticks(self) -> int:
        """User and system time of the worker's threads in the system's ticks; 0 where the system does not tell."""
        try:
            text = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return 0
        fields = text.rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def close(self) -> None:
        """Let the child close its device and end it, and everything that it started; where somebody wants to be gone
        (Ctrl-C, SIGTERM), there is no time for the former.
        """
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            if not self.dead and not isinstance(sys.exc_info()[1], (KeyboardInterrupt, GeneratorExit, SystemExit)):
                self.process.wait(CLOSE_SECONDS)
        self._child.close()
        self._family.close()
        with suppress(OSError):  # closed before
            os.close(self._arrays)
        self.dead = self.dead or "the worker was closed"

    def _reply(self, doing: str, seconds: float) -> Any:
        try:
            reply = self._child.receive(seconds)
            ended = "" if reply is not None else self._child.ended(doing)
        except Garbled as problem:
            reply, ended = None, f"the worker said what is no message in {doing}: {problem}"
        if reply is None:
            raise self._gone(ended or f"no answer within {seconds:g} s, ended in {doing}")
        if isinstance(reply, Failed):
            raise WorkerFailed(reply.status, reply.code, reply.reason, reply.remedy)
        value = reply.value if reply.shape is None else self._array(reply.shape)
        return Given(str(reply.value), value) if reply.more else value

    def _gone(self, why: str) -> WorkerFailed:
        """End the child; what every later call is told."""
        self.dead = why
        self._child.close()
        return WorkerFailed("died", "KP-WORKER-DIED", why)

    def _array(self, shape: list[int]) -> Any:
        """A copy of what the child wrote: it will write the next one over it."""
        held = os.fstat(self._arrays).st_size
        if any(not 0 <= size <= held for size in shape) or 4 * math.prod(shape) > held:
            raise self._gone(f"the worker gave an array of shape {shape[:9]} that is not there whole")
        values = np.empty(shape, np.float32)
        os.preadv(self._arrays, [values.reshape(-1).view(np.uint8).data], 0)
        return values


class Given(NamedTuple):
    """What a method gave to its sink."""

    name: str
    values: Any


def _memory(path: Path) -> int:
    """A file that no other process can find, in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("kparity-arrays")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)


def main(link: Link) -> int:
    """The child's side: make the object, answer every call, close it when the parent closes the pipe."""
    request = link.request(Made)
    module, _, name = request.factory.partition(":")
    try:
        made = getattr(import_module(module), name)(**request.options)
    except Exception as error:  # whatever a device does wrong is told
        link.send(failure(error))
        return 0
    link.send(Reply(None))
    for call in link.requests(Call):
        link.send(_answer(made, call, link, request.descriptor))
    made.close()
    return 0


def _answer(made: Any, call: Call, link: Link, arrays: int) -> Reply | Failed:
    def sink(name: str, values: Any) -> None:
        link.send(_reply(values, arrays, name))
        link.request(Taken)

    try:
        return _reply(getattr(made, call.method)(**call.arguments, **({"sink": sink} if call.sink else {})), arrays)
    except Exception as error:
        return failure(error)


def _reply(value: Any, arrays: int, given: str = "") -> Reply:
    if isinstance(value, np.ndarray):
        os.pwritev(arrays, [np.ascontiguousarray(value, np.float32).reshape(-1).view(np.uint8).data], 0)
        return Reply(given, list(value.shape), bool(given))
    return Reply(msgspec.Raw(json.dumps(value, allow_nan=False).encode()))
