"""The log of a burn-in: a line of JSON a round, which is only ever added to, by one writer.

A row is one ``write`` and is on the disk (fsync) before its round counts; then the state takes the place of the old
one, whole. A process that is killed at any moment loses the round in flight: what of a row was written is cut off when
the log is opened again, and a row ahead of the state counts.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from kparity.burnin.record import Bucket, Row, Settled, State
from kparity.errors import WrongInput
from kparity.host import files

HOUR = 3600.0
REPLIES = ("exact", "prefix-only", "no-match")


def state_of(path: Path) -> State:
    """Where a burn-in stands; raises WrongInput."""
    what = "the state of a burn-in", "no state of a burn-in"
    return files.read_record(path, State, *what, "give --state another file", 1 << 16)


class Log:
    """A log that is open for writing. ``state`` is where it stands, ``repaired`` what was done to its end, ``recent``
    the rounds of the last hour with a reply of both sides, as (elapsed, bucket), ``floor`` the largest noise of rounds
    of one server against itself, None without such.

    Raises WrongInput for a file that is no log, or that another process writes.
    """

    def __init__(self, path: Path, state: Path, say: Callable[[str], None]) -> None:
        self.path, self.place = path, state
        self.recent = deque[tuple[float, Bucket]]()
        self.floor: float | None = None
        files.refuse_unwritable(path, state)
        try:
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        except OSError as error:
            raise WrongInput(f"{path} cannot be opened: {error.strerror}; name another file") from error
        try:
            if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):
                raise WrongInput(f"{path} is no regular file; a log is kept in one")
            self._lock()
            last, at = self._read(say)
            self.state = self._agreed(last)
            self.size = at
            _settle(path.parent)
        except BaseException:
            os.close(self.descriptor)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise WrongInput(f"{self.path} is being written by another burn-in; give --log another file") from error

    def _read(self, say: Callable[[str], None]) -> tuple[Settled | None, int]:
        """The last row and where it ends; a torn line behind it is cut off, and said."""
        decoder = msgspec.json.Decoder(Settled)
        last, at = None, 0
        with files.opened(self.path, "a log") as file:
            for number, line in enumerate(file, 1):
                begin = b'{"round":%d,"time":"' % number  # what does not begin so is somebody else's, and is not cut
                try:
                    row = decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    row = None
                if not line.endswith(b"\n") and line[: len(begin)] == begin[: len(line)]:
                    say(f"{self.path}, line {number}: {len(line)} bytes of a round that was not finished are cut off")
                    os.ftruncate(self.descriptor, at)
                    os.fsync(self.descriptor)
                    break
                if row is None or row.round != number:
                    raise WrongInput(
                        f"{self.path}, line {number}: this is not round {number} of a burn-in; repair the line, or "
                        "give --log another file"
                    )
                last, at = row, at + len(line)
                self._remember(row)
        return last, at

    def _agreed(self, last: Settled | None) -> State:
        """What the file of the state says, and what the log says of rounds: a log alone is enough to go on."""
        found = state_of(self.place) if self.place.exists() else State()
        if found.rounds > (last.round if last else 0):
            raise WrongInput(
                f"{self.place} knows {found.rounds} rounds and {self.path} has {last.round if last else 0}; give the "
                "log that belongs to it, or --state another file"
            )
        if last and last.round > found.rounds:
            found = msgspec.structs.replace(found, next_prompt=last.prompt + 1)
        return msgspec.structs.replace(found, rounds=last.round if last else 0, elapsed=last.elapsed if last else 0.0)

    def _remember(self, row: Row | Settled) -> None:
        if row.bucket in REPLIES and row.mode != "aa":
            self.recent.append((row.elapsed, row.bucket))
        if row.bucket in REPLIES and row.mode == "aa" and row.noise is not None:
            self.floor = max(row.noise, self.floor or 0.0)
        while self.recent and self.recent[0][0] < row.elapsed - HOUR:
            self.recent.popleft()

    def add(self, row: Row) -> None:
        """Put a round on the disk; raises WrongInput where there is no room, and then nothing of it is there."""
        line = msgspec.json.encode(row) + b"\n"
        try:
            written = os.write(self.descriptor, line)
            if written < len(line):
                raise OSError(28, "no room for a whole line")
            os.fsync(self.descriptor)
        except OSError as error:
            os.ftruncate(self.descriptor, self.size)
            raise WrongInput(
                f"{self.path} cannot be written: {error.strerror}; make room, and start again: {self.state.rounds} "
                "rounds are kept"
            ) from error
        self.size += len(line)
        self._remember(row)

    def keep(self, state: State) -> None:
        """Put the state on the disk, in place of the old one."""
        files.write(self.place, msgspec.json.encode(state) + b"\n")
        self.state = state

    def close(self) -> None:
        """Let another writer have it."""
        os.close(self.descriptor)


def _settle(folder: Path) -> None:
    """Put a new file's name on the disk too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
