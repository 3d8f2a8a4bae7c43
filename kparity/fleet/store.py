"""Where a fleet keeps its ledger and its receipts: a folder, or a place that fsspec knows (``s3://…``).

A receipt is there whole or not at all. In a folder a line of the ledger is on the disk (fsync) before the next task is
looked at, and what of a line was torn is cut off when the ledger is opened again; elsewhere, where nothing can be added
to a file, the ledger is put whole, at most every ``PUT_SECONDS`` and at the end.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from kparity.errors import WrongInput
from kparity.fleet.record import Line
from kparity.host import files, install

LEDGER, RECEIPTS = "fleet.jsonl", "receipts"
PUT_SECONDS = 30.0


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
        """Put the ledger there."""
        self._write(LEDGER, self.ledger)


Store = Folder | Remote


def opened(place: str) -> Any:
    """The store of a folder or a URL, open for writing."""
    return Remote(place) if "://" in place else Folder(place)
