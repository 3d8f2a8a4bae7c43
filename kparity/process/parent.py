"""The parent's side of one child: messages of known types, within their size, and how it ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec

from kparity.host.text import printable
from kparity.process.family import Family

M = TypeVar("M")
READ_BYTES = 1 << 16
LINE_BYTES = 1 << 22
"""Largest message."""
LOG_BYTES = 1 << 14
"""What is read of the end of a child's log, for its last line."""
EXIT_SECONDS = 10.0
"""What a process may take to end once it has closed its pipe: interpreters and drivers clean up."""
LOOK_SECONDS = 0.25
"""How often a child that is silent is looked after: one that has ended may have left its pipe with others."""
PROGRAM = (
    "import sys; sys.path = [p for p in sys.path if p]; "  # in a checkout, '' would hide the installed package
    "from kparity.process.inside import begin; sys.exit(begin(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))"
)


class Garbled(Exception):
    """A child said something that is no message of its kind, or none that ends."""


class Child(Generic[M]):
    """A process that runs ``main(link)`` of a module and says messages of ``kind``, a type or a union of types.

    ``environment`` are variables that it has unless the parent has others; ``pass_fds`` are files that it inherits.
    What it or its libraries print goes to ``log``.
    """

    def __init__(
        self, family: Family, module: str, kind: Any, *, environment: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self._lines: list[bytes] = []
        self._rest, self._searched, self._over = bytearray(), 0, False
        self._decoder: msgspec.json.Decoder[M] = msgspec.json.Decoder(kind)
        self.started = self.heard = time.monotonic()
        """When it was started, and when anything was heard of it last, by the parent's clock."""
        descriptor, log = -1, family.folder / f"{module.rpartition('.')[2]}-{os.urandom(4).hex()}.log"
        self.log, (self._ours, theirs) = log, os.pipe()
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, module, str(theirs), str(os.getpid())],
                stdin=subprocess.PIPE, stdout=descriptor, stderr=descriptor, start_new_session=True,
                pass_fds=(theirs, *pass_fds), env=family.environment(environment or {}),
            )  # fmt: skip
        except BaseException:
            os.close(self._ours)
            raise
        finally:
            os.close(theirs)
            if descriptor >= 0:
                os.close(descriptor)

    def fileno(self) -> int:
        """The parent's end of the pipe."""
        return self._ours

    def send(self, request: Any) -> None:
        """One request; a child that died is told by how it ended."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(msgspec.json.encode(request) + b"\n")
            self.process.stdin.flush()

    def receive(self, seconds: float) -> M | None:
        """The next message; None after ``seconds`` without one, or when there will be no other (``over``).

        Raises Garbled for a line that is no message, and for one that does not end within LINE_BYTES.
        """
        deadline = time.monotonic() + seconds
        while not self._lines and not self._over:
            left = deadline - time.monotonic()
            if wait([self], max(0.0, min(left, LOOK_SECONDS))):
                self.read()
            if left <= 0:
                break
        return self._decoded(self._lines.pop(0)) if self._lines else None

    def pending(self) -> bool:
        """Whether a message is there already."""
        return bool(self._lines)

    @property
    def over(self) -> bool:
        """Whether nothing more will come: the child closed its pipe or ended, and all that it said was received."""
        return self._over and not self._lines

    def read(self) -> None:
        """Take in what the child has written, up to READ_BYTES; to be called when there is something, or the end."""
        data = os.read(self._ours, READ_BYTES) if select_readable([self._ours], 0.0) else b""
        self._over = not data  # also where its process has ended, and others hold the pipe
        self._rest += data
        while (end := self._rest.find(b"\n", self._searched)) >= 0:
            self._lines.append(bytes(self._rest[:end]))
            del self._rest[: end + 1]
            self._searched = 0
        self._searched = len(self._rest)
        if self._searched > LINE_BYTES:
            self._rest.clear()
            self._over = True
            raise Garbled(f"a message of more than {LINE_BYTES >> 20} MiB")

    def _decoded(self, line: bytes) -> M:
        try:
            if len(line) > LINE_BYTES:
                raise Garbled(f"a message of more than {LINE_BYTES >> 20} MiB")
            message = self._decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
            shown = printable(line[:80].decode("utf-8", "replace"))
            raise Garbled(f"{shown!r} is no message ({problem})") from None
        self.heard = time.monotonic()
        return message

    def ended(self, where: str) -> str:
        """How the child ended by itself, and the last line that it or its libraries wrote; empty while it works."""
        if self._over:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(EXIT_SECONDS)
        code = self.process.poll()
        if code is None:
            return f"the worker closed its pipe in {where} and did not end" if self._over else ""
        if code >= 0:
            return f"the worker exited with {code} in {where}{self.quoted()}"
        killed = "killed by the system, out of memory most likely" if -code == signal.SIGKILL else "crashed"
        return f"{killed} ({signal_name(code)}) in {where}{self.quoted()}"

    def quoted(self) -> str:
        """A colon and the last words; empty where there are none."""
        return f": {words}" if (words := self.last_words()) else ""

    def last_words(self) -> str:
        """The last line that the child or its libraries wrote, at most 200 characters."""
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
            return next((printable(line.strip())[:200] for line in reversed(lines) if line.strip()), "")
        return ""

    def kill(self) -> None:
        """End the process and its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """End the child with its group and forget what it said; does nothing the second time."""
        if self._ours < 0:
            return
        self.kill()
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        os.close(self._ours)
        self._ours, self._over = -1, True
        self._lines.clear()


def signal_name(code: int) -> str:
    """The name of the signal behind a negative exit code."""
    try:
        return signal.Signals(-code).name
    except ValueError:  # real-time signals have numbers only
        return f"signal {-code}"


def select_readable(descriptors: Iterable[int], seconds: float) -> list[int]:
    """Those of some descriptors that can be read, or are at their end, after ``seconds`` at most."""
    poll = select.poll()  # select() refuses descriptors above 1023
    for each in descriptors:
        poll.register(each, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(seconds * 1e3)]


def wait(children: Sequence[Child[Any]], seconds: float) -> list[Child[Any]]:
    """The children that have something to be read, or have ended, after ``seconds`` at most."""
    ready = select_readable([child.fileno() for child in children], seconds)
    return [child for child in children if child.fileno() in ready or child.process.poll() is not None]
