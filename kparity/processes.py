"""Child processes: each in a process group of its own, so that it is ended with everything that it started."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

READ_BYTES = 1 << 16
EXIT_SECONDS = 10.0
"""What a process may take to end once it has closed its pipe: interpreters and drivers clean up."""


def start(
    module: str, log: IO[bytes], environment: Mapping[str, str], pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Run ``main`` of a module in an interpreter of its own; what it and its libraries print goes to ``log``.

    Without the current folder on its path: in a checkout that would hide the installed package.
    """
    program = f"import sys; sys.path = [p for p in sys.path if p]; from {module} import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, pass_fds=pass_fds, env=environment,
    )  # fmt: skip


def send(pipe: IO[bytes] | None, data: bytes) -> None:
    """Hand a child its whole request; one that died at once is told by its exit code."""
    assert pipe is not None
    try:
        pipe.write(data)
        pipe.close()
    except BrokenPipeError:
        pass


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ending(code: int, log: bytes, where: str) -> str:
    """How a process ended by itself, and the last line that it or its libraries wrote."""
    lines = log.decode("utf-8", "replace").splitlines()
    said = next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")
    quoted = f": {said}" if said else ""
    if code >= 0:
        return f"the worker exited with {code} in {where}{quoted}"
    name = signal.Signals(-code).name
    killed = "killed by the system, out of memory most likely" if -code == signal.SIGKILL else "crashed"
    return f"{killed} ({name}) in {where}{quoted}"


class Reporter:
    """A child that reports line by line on a pipe of its own, because libraries print.

    ``process`` is the child, and ``pipe`` the number by which its first request names the pipe. ``environment`` are
    variables that it has unless the parent has others.
    """

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        self._lines: list[bytes] = []
        self._rest = b""
        self._over = False
        self._log = tempfile.TemporaryFile(prefix="kparity-")  # noqa: SIM115 - closed by close()
        self._ours, self.pipe = os.pipe()
        self.process = start(module, self._log, {**environment, **os.environ}, (self.pipe,))
        os.close(self.pipe)

    def line(self, seconds: float) -> bytes | None:
        """The next line without its end; None after ``seconds`` without one, or when the child has closed its pipe."""
        deadline = time.monotonic() + seconds
        while not self._lines:
            ready, _, _ = select.select([self._ours], [], [], max(deadline - time.monotonic(), 0.0))
            if not ready:
                return None
            data = os.read(self._ours, READ_BYTES)
            if not data:
                self._over = True
                return None
            *self._lines, self._rest = (self._rest + data).split(b"\n")
        return self._lines.pop(0)

    def ended(self, where: str) -> str:
        """How the child ended by itself, and the last line that it or its libraries wrote; empty while it works."""
        if self._over:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(EXIT_SECONDS)
        code = self.process.poll()
        if code is None:
            return f"the worker closed its pipe in {where} and did not end" if self._over else ""
        self._log.seek(0)
        return ending(code, self._log.read(), where)

    def close(self) -> None:
        """End the child, and forget what it said; does nothing the second time."""
        if self._log.closed:
            return
        kill(self.process)
        os.close(self._ours)
        self._log.close()
