"""The fields of a GGUF header, read forward: every one is checked against the file's end and against what a model has.

The header is read, not mapped: a file that is shortened meanwhile is an error here, and no SIGBUS.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NoReturn

import numpy as np

from kparity.errors import BadModel

BOOL, STRING, ARRAY = 7, 8, 9
SCALARS: Mapping[int, str] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
PIECE = 1 << 20
"""Bytes that are read at a time, at least."""
MAX_HEADER, MAX_STRINGS = 1 << 27, 1 << 21
"""Bytes of a header, and strings of all its arrays: several times what a vocabulary of half a million tokens takes."""


class StringArray(Sequence[str]):
    """Strings of an array, found but not yet decoded: a vocabulary is large and rarely read."""

    def __init__(self, header: Cursor, key: str, starts: Sequence[int]) -> None:
        self._header, self._key, self._starts = header, key, starts

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[str]:
        raw, length_at, at = self._header.raw, struct.Struct("<Q").unpack_from, 0
        try:
            for at in self._starts:  # a vocabulary has hundreds of thousands
                yield str(raw[at + 8 : at + 8 + length_at(raw, at)[0]], "utf-8")
        except UnicodeDecodeError:
            self._decode(at)  # which says where

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._decode(start) for start in self._starts[index]]
        return self._decode(self._starts[index])

    def _decode(self, start: int) -> str:
        raw = self._header.raw
        (length,) = struct.unpack_from("<Q", raw, start)
        try:
            return raw[start + 8 : start + 8 + length].decode("utf-8")
        except UnicodeDecodeError:
            raise BadModel(f"key {self._key}: the string at byte {start + 8} is not UTF-8") from None


class Cursor:
    """Where a header has been read to. ``raw`` are the bytes that were fetched so far; it grows as they are needed."""

    def __init__(self, file: BinaryIO) -> None:
        self.raw, self.at, self._file = b"", 0, file
        self.end = os.fstat(file.fileno()).st_size
        self._strings = 0

    def need(self, count: int, what: str) -> None:
        """Have the next ``count`` bytes at hand; raises BadModel where they are not there, or too many."""
        last = self.at + count
        if last > self.end:
            self._cut(f"{what} needs {count} bytes", self.end)
        if last > MAX_HEADER:
            raise BadModel(f"{what} ends at byte {last}, and a header has at most {MAX_HEADER} bytes")
        if last > len(self.raw):
            more = max(last, 2 * len(self.raw), PIECE) - len(self.raw)  # twice as many, so that it is copied seldom
            self.raw += os.pread(self._file.fileno(), more, len(self.raw))
            if last > len(self.raw):
                self._cut(f"{what} needs {count} bytes", len(self.raw))

    def _cut(self, need: str, end: int) -> NoReturn:
        why = f"{need} at byte {self.at}, but the file ends at byte {end}"
        raise BadModel(f"{why}: it is cut off or damaged, fetch it again")

    def scalar(self, code: str, what: str) -> Any:
        """A number; ``code`` as in ``struct``."""
        size = struct.calcsize("<" + code)
        self.need(size, what)
        (value,) = struct.unpack_from("<" + code, self.raw, self.at)
        self.at += size
        return value

    def text(self, what: str, limit: int | None = None) -> str:
        """A string of at most ``limit`` bytes."""
        length = self.scalar("Q", f"the length of {what}")
        if limit is not None and length > limit:
            raise BadModel(f"{what} at byte {self.at} has {length} bytes, more than {limit}")
        self.need(length, what)
        value = self.raw[self.at : self.at + length]
        self.at += length
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise BadModel(f"{what} at byte {self.at - length} is not UTF-8") from None

    def value(self, key: str) -> Any:
        """The value of a key, with its type in front."""
        kind = self.scalar("I", f"the type of key {key}")
        if kind == STRING:
            return self.text(f"the value of key {key}")
        if kind == ARRAY:
            return self._array(key)
        if kind not in SCALARS:
            raise BadModel(f"key {key} has value type {kind}, which GGUF does not define")
        value = self.scalar(SCALARS[kind], f"the value of key {key}")
        return bool(value) if kind == BOOL else value

    def _array(self, key: str) -> Any:
        kind = self.scalar("I", f"the element type of key {key}")
        count = self.scalar("Q", f"the length of key {key}")
        if kind == STRING:
            return self._string_array(key, count)
        if kind not in SCALARS:
            raise BadModel(f"key {key} is an array of type {kind}, which is not supported")
        dtype = np.dtype("<" + SCALARS[kind])
        self.need(count * dtype.itemsize, f"key {key} with {count} elements")
        values = np.frombuffer(self.raw, dtype, count, self.at)
        self.at += values.nbytes
        return values != 0 if kind == BOOL else values.copy()

    def _string_array(self, key: str, count: int) -> StringArray:
        self.need(count * 8, f"key {key} with {count} strings")
        self._strings += count
        if self._strings > MAX_STRINGS:
            raise BadModel(f"key {key} has {count} strings, and all arrays together have at most {MAX_STRINGS}")
        starts, length_at = [], struct.Struct("<Q").unpack_from
        for index in range(count):
            start = self.at
            if start + 8 > len(self.raw):
                self.need(8, f"string {index} of {count} of key {key}")
            size = 8 + length_at(self.raw, start)[0]
            if start + size > len(self.raw):
                self.need(size, f"string {index} of {count} of key {key}")
            starts.append(start)
            self.at = start + size
        return StringArray(self, key, starts)
