"""A process that holds one thing to be measured and answers one call at a time: a driver that crashes or hangs costs
that thing and not the run, and nothing computes while another process is measured.

The parent names a factory (``module:Class``) and its options; the child makes the object and then calls its methods as
it is told, one JSON line per request on stdin and one per reply on a pipe of its own: libraries may print.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from kparity.probe.child import failure
from kparity.probe.runner import ending

CHILD = "import sys; sys.path = [p for p in sys.path if p]; from kparity.bench.worker import main; sys.exit(main())"
"""The child's program. Without the current folder on its path: in a checkout that would hide the installed package."""
READ_BYTES = 1 << 16
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
        self._rest = b""
        self._log = tempfile.TemporaryFile(prefix="kparity-bench-")  # noqa: SIM115 - closed by close()
        self._pipe, theirs = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, start_new_session=True, pass_fds=(theirs,),
            env={"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **os.environ},
        )  # fmt: skip
        os.close(theirs)
        self._send({"pipe": theirs, "factory": factory, "options": options})

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
        self._kill()
        if not self._log.closed:
            os.close(self._pipe)
            self._log.close()
        self.dead = self.dead or "the worker was closed"

    def _send(self, message: dict[str, Any]) -> None:
        """One line; a child that died is told by its missing reply."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def _reply(self, doing: str, seconds: float) -> Any:
        line = self._line(time.monotonic() + seconds)
        if line is None:
            self._kill()
            self.dead = self._death(doing, seconds)
            raise WorkerFailed("died", "KP-BENCH-DIED", self.dead)
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerFailed(*reply["error"])
        return reply["value"]

    def _line(self, deadline: float) -> bytes | None:
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._pipe], [], [], max(deadline - time.monotonic(), 0.0))
            data = os.read(self._pipe, READ_BYTES) if ready else b""
            if not data:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _death(self, doing: str, seconds: float) -> str:
        """How the worker ended, by itself or because it did not answer."""
        self._log.seek(0)
        if self._code is None:
            return f"no answer within {seconds:g} s, ended in {doing}"
        return ending(self._code, self._log.read(), doing)

    def _kill(self) -> None:
        """End the process group; ``_code`` is the exit code that it had by itself, or None."""
        if not hasattr(self, "_code"):
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)  # a pipe closes a moment before its process is over
            self._code = self.process.poll()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


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
