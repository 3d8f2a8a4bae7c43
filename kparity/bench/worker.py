"""A process that holds one thing to be measured and answers one call at a time: a driver that crashes or hangs costs
that thing and not the run, and nothing computes while another process is measured.

The parent names a factory (``module:Class``) and its options; the child makes the object and then calls its methods as
it is told, one JSON line per request on stdin and one per reply on a pipe of its own: libraries may print.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from kparity.probe.child import failure
from kparity.processes import Reporter

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""One thread for the BLAS of numpy; those of OpenMP are left to what is measured (llama.cpp, torch)."""
LOOK_S, LOOKS = 0.02, 3
"""How often a worker's processor time is looked at, and how often it must be found unchanged (it is kept in 10 ms)."""
REST_S = 3.0
"""What threads may spin after a call: those of llama.cpp's OpenMP were seen to for more than a second."""
CLOSE_SECONDS = 10.0
"""What a child may take to close its device before it is ended."""


class WorkerFailed(Exception):
    """A call that failed: ``status`` is ``unavailable``, ``rejected`` or ``died``; ``code`` is stable."""

    def __init__(self, status: str, code: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.code, self.reason = status, code, reason


class Worker:
    """The parent's side. ``name`` is for messages; ``options`` are plain values for the factory."""

    def __init__(self, name: str, factory: str, options: dict[str, Any]) -> None:
        self.name, self.dead = name, ""
        self._child = Reporter("kparity.bench.worker", ENVIRONMENT)
        self.process = self._child.process
        self._send({"pipe": self._child.pipe, "factory": factory, "options": options})

    def call(self, method: str, seconds: float, **arguments: Any) -> Any:
        """Call a method and wait for what it returns (plain values); raises WorkerFailed.

        A worker that does not answer within ``seconds``, or that has died, is gone: every later call fails, too.
        """
        if self.dead:
            raise WorkerFailed("died", "KP-BENCH-DIED", self.dead)
        self._send({"call": method, "arguments": arguments})
        return self._reply(method, seconds)

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
        """Let the child close its device and end it, and everything that it started."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            if not self.dead:
                self.process.wait(CLOSE_SECONDS)
        self._child.close()
        self.dead = self.dead or "the worker was closed"

    def _send(self, message: dict[str, Any]) -> None:
        """One line; a child that died is told by its missing reply."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def _reply(self, doing: str, seconds: float) -> Any:
        line = self._child.line(seconds)
        if line is None:
            self.dead = self._child.ended(doing) or f"no answer within {seconds:g} s, ended in {doing}"
            self._child.close()
            raise WorkerFailed("died", "KP-BENCH-DIED", self.dead)
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerFailed(*reply["error"])
        return reply["value"]


def serve(request: dict[str, Any], calls: IO[str], out: IO[str]) -> None:
    """The child's side: make the object, answer every call, close it when the parent closes the pipe."""
    module, _, name = request["factory"].partition(":")
    made: list[Any] = []

    def make() -> None:
        made.append(getattr(import_module(module), name)(**request["options"]))

    _answer(out, make)
    for line in calls:
        call = json.loads(line)
        if made:
            _answer(out, partial(_called, made[0], call))
    if made:
        made[0].close()


def _called(made: Any, call: dict[str, Any]) -> Any:
    return getattr(made, call["call"])(**call["arguments"])


def _answer(out: IO[str], function: Callable[[], Any]) -> None:
    """One reply: the value, or status, code and reason of the exception."""
    try:
        reply = json.dumps({"value": function()}, allow_nan=False)
    except Exception as error:  # whatever a device does wrong is told
        reply = json.dumps({"error": failure(error)})
    out.write(reply + "\n")
    out.flush()


def main() -> int:
    """Read the first line and serve."""
    request = json.loads(sys.stdin.readline())
    os.set_inheritable(request["pipe"], False)  # a compiler that outlives this process must not keep it open
    with os.fdopen(request["pipe"], "w", encoding="utf-8") as out:
        serve(request, sys.stdin, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
