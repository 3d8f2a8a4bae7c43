"""Where a fleet keeps its ledger and its receipts: a folder, or a place that fsspec knows (``s3://…``).

A receipt is there whole or not at all. In a folder a line of the ledger is on the disk (fsync) before the next task is
looked at, and what of a line was torn is cut off when the ledger is opened again; elsewhere, where nothing can be added
to a file, the ledger is put whole, at most every ``PUT_SECONDS`` and at the end.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from kparity.errors import WrongInput
from kparity.fleet.record import Line
from kparity.host import files, install

LEDGER, RECEIPTS, LOGS = "fleet.jsonl", "receipts", "logs"
PUT_SECONDS = 30.0
GROWN = 1.1
"""Where a log cannot be added to, it is put whole when it has so many times the size that it had."""


def lines(pieces: Iterable[bytes], name: str) -> Iterator[Line]:
    """The lines of a ledger, but for a torn one at its end; raises WrongInput for what is none."""
    decoder = msgspec.json.Decoder(Line)
    for number, piece in enumerate(pieces, 1):
        if not piece.endswith(b"\n"):
            return
        try:
            yield decoder.decode(piece)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WrongInput(
                f"{name}, line {number}, is no line of a fleet's ledger ({error}); repair it, or name another folder"
            ) from None


def ledgers(place: str) -> Iterator[tuple[str, Iterator[Line]]]:
    """The ledgers at a place and in the folders below it: name of the folder, and lines. Raises WrongInput where there
    is none, or one cannot be read.
    """
    if "://" in place:
        store = Remote(place)
        data = store.read(LEDGER)
        if data is None:
            raise WrongInput(f"{place} has no {LEDGER}; name what kparity fleet wrote with --out")
        yield "", lines(data.splitlines(keepends=True), f"{place}/{LEDGER}")
        return
    found, _ = files.below(place, LEDGER, "a folder of kparity fleet", deep=True)
    if not found:
        raise WrongInput(
            f"{place} has no {LEDGER}, nor has a folder below it; name what kparity fleet wrote with --out"
        )
    for path in found:
        with files.opened(path, "a ledger") as file:
            folder = path.parent.relative_to(place).as_posix()
            yield "" if folder == "." else folder, lines(file, str(path))


class Folder:
    """A folder, with one writer."""

    def __init__(self, place: str) -> None:
        self.path = Path(place)
        files.refuse_no_folder(self.path)
        files.refuse_no_folder(self.path / RECEIPTS)
        ledger = self.path / LEDGER
        files.refuse_unwritable(ledger)
        self.descriptor = os.open(ledger, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self.descriptor)
            raise WrongInput(
                f"{ledger} is being written by another kparity fleet; give --out another folder"
            ) from error
        self._cut()

    def _cut(self) -> None:
        size = os.fstat(self.descriptor).st_size
        with files.opened(self.path / LEDGER, "a ledger") as file:
            whole = sum(len(line) for line in file if line.endswith(b"\n"))
        if whole < size:
            os.ftruncate(self.descriptor, whole)

    def known(self) -> list[Line]:
        """What the ledger holds."""
        with files.opened(self.path / LEDGER, "a ledger") as file:
            return list(lines(file, str(self.path / LEDGER)))

    def receipt(self, name: str) -> bytes | None:
        """The bytes of a receipt; None where there is none."""
        path = self.path / RECEIPTS / name
        return files.read(path, "a receipt") if path.is_file() else None

    def keep(self, name: str, data: bytes) -> None:
        """Put a receipt there."""
        files.write(self.path / RECEIPTS / name, data)

    def log(self, name: str) -> Path:
        """Where the log of a burn-in is, or will be."""
        return self.path / LOGS / name

    def extend(self, name: str, data: bytes) -> None:
        """Add lines to a log; raises WrongInput where there is no room."""
        _append(self.log(name), data)

    def add(self, line: Line) -> None:
        """Add a line; raises WrongInput where there is no room."""
        data = msgspec.json.encode(line) + b"\n"
        try:
            if os.write(self.descriptor, data) < len(data):
                raise OSError(28, "no room for a whole line")
            os.fsync(self.descriptor)
        except OSError as error:
            self._cut()
            raise WrongInput(
                f"{self.path / LEDGER} cannot be written: {error.strerror}; make room, and --resume"
            ) from error

    def close(self) -> None:
        """Let another writer have it."""
        os.close(self.descriptor)


class Remote:
    """A place behind a URL that fsspec knows; one writer at a time, which nothing there can enforce."""

    def __init__(self, place: str) -> None:
        fsspec = install.library("fsspec", "fleet", f"a store at {place}")
        try:
            self.system, self.root = fsspec.core.url_to_fs(place)
        except (ImportError, ValueError) as error:
            raise WrongInput(f"{place} cannot be opened: {error}") from error
        self.place, self.ledger, self.put = place, self.read(LEDGER) or b"", 0.0
        self.folder: TemporaryDirectory[str] | None = None
        self.logs: dict[str, tuple[int, float]] = {}
        """Bytes that were put of each log, and when."""

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None where there is none; raises WrongInput where it cannot be told."""
        try:
            data: bytes = self.system.cat_file(f"{self.root}/{name}")
        except FileNotFoundError:
            return None
        except Exception as error:  # each kind of store has errors of its own
            raise WrongInput(f"{self.place}/{name} cannot be read: {error}") from error
        return data

    def known(self) -> list[Line]:
        """What the ledger holds."""
        return list(lines(self.ledger.splitlines(keepends=True), f"{self.place}/{LEDGER}"))

    def receipt(self, name: str) -> bytes | None:
        """The bytes of a receipt; None where there is none."""
        return self.read(f"{RECEIPTS}/{name}")

    def keep(self, name: str, data: bytes) -> None:
        """Put a receipt there."""
        self._write(f"{RECEIPTS}/{name}", data)

    def log(self, name: str) -> Path:
        """Where the log of a burn-in is, or will be: a copy on this machine."""
        self.folder = self.folder or TemporaryDirectory(prefix="kparity-")
        path = Path(self.folder.name, name)
        if name not in self.logs:
            data = self.read(f"{LOGS}/{name}")
            if data is not None:
                path.write_bytes(data)
            self.logs[name] = len(data or b""), 0.0
        return path

    def extend(self, name: str, data: bytes) -> None:
        """Add lines to a log, which are there when it has grown enough, or at the end."""
        path = self.log(name)
        _append(path, data)
        size, when = self.logs[name]
        if path.stat().st_size > GROWN * size and time.monotonic() - when > PUT_SECONDS:
            self._put(name)

    def _put(self, name: str) -> None:
        data = self.log(name).read_bytes()
        self._write(f"{LOGS}/{name}", data)
        self.logs[name] = len(data), time.monotonic()

    def add(self, line: Line) -> None:
        """Add a line, which is there after ``PUT_SECONDS`` at most and a line more, or at the end."""
        self.ledger += msgspec.json.encode(line) + b"\n"
        if time.monotonic() - self.put > PUT_SECONDS:
            self._write(LEDGER, self.ledger)
            self.put = time.monotonic()

    def _write(self, name: str, data: bytes) -> None:
        try:
            self.system.makedirs(f"{self.root}/{name}".rpartition("/")[0], exist_ok=True)
            self.system.pipe_file(f"{self.root}/{name}", data)
        except Exception as error:  # as above
            raise WrongInput(f"{self.place}/{name} cannot be written: {error}") from error

    def close(self) -> None:
        """Put logs and ledger there."""
        for name, (size, _) in self.logs.items():
            path = self.log(name)
            if path.exists() and path.stat().st_size != size:
                self._put(name)
        self._write(LEDGER, self.ledger)
        if self.folder:
            self.folder.cleanup()


def _append(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise WrongInput(f"{path} cannot be written: {error.strerror}; make room, and --resume") from error


def digest(path: Path, size: int) -> str:
    """The SHA-256 of the first bytes of a log; empty where it has fewer."""
    if not path.is_file():
        return ""
    digested, left = hashlib.sha256(), size
    with files.opened(path, "the log of a burn-in") as file:
        while left and (piece := file.read(min(left, 1 << 20))):
            digested.update(piece)
            left -= len(piece)
    return "" if left else digested.hexdigest()


Store = Folder | Remote


def opened(place: str) -> Any:
    """The store of a folder or a URL, open for writing."""
    return Remote(place) if "://" in place else Folder(place)
