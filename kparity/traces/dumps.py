"""Tensors on disk: safetensors files, written row by row and read where they lie, and ``.npy`` files of others."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import msgspec
import numpy as np

from kparity.errors import WrongInput
from kparity.host import files
from kparity.ops.spec import Array

AT_ONCE = 4 << 20
"""Elements that are read of a tensor at a time."""
LARGEST_HEADER = 100 << 20
"""Of a safetensors file, as its library has it."""
ELEMENTS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class Place:
    """Where a tensor [rows, width] lies in a file."""

    path: Path
    offset: int
    dtype: str
    shape: tuple[int, int]

    def read(self, first: int, count: int) -> Array:
        """Some rows; raises WrongInput where the file has become shorter."""
        dtype, (_, width) = np.dtype(ELEMENTS.get(self.dtype, self.dtype)), self.shape
        with files.opened(self.path, "the tensor of a trace") as file:
            file.seek(self.offset + first * width * dtype.itemsize)
            data = file.read(count * width * dtype.itemsize)
        if len(data) != count * width * dtype.itemsize:
            raise WrongInput(f"{self.path} is shorter than its header says; record the trace again")
        found = np.frombuffer(data, dtype).reshape(count, width)
        return (found.astype(np.uint32) << 16).view(np.float32) if self.dtype == "BF16" else found


@dataclass(frozen=True)
class Rows:
    """A tensor on disk, [rows, width], of places side by side; nothing of it is in memory. ``check`` is the SHA-256
    that its bytes must have, where it is known.
    """

    places: tuple[Place, ...]
    check: str = ""

    def __len__(self) -> int:
        return self.places[0].shape[0]

    @property
    def width(self) -> int:
        """Elements of a row."""
        return sum(place.shape[1] for place in self.places)

    def read(self, first: int = 0, count: int | None = None) -> Array:
        """Some rows, or all; f32, or f64 where they are kept so."""
        parts = [place.read(first, len(self) - first if count is None else count) for place in self.places]
        found = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        return found if found.dtype == np.float64 else found.astype(np.float32, copy=False)

    def at(self, rows: Sequence[int]) -> Array:
        """Those rows, which go up."""
        first, count = rows[0], len(rows)
        if rows[-1] - first == count - 1:
            return self.read(first, count)
        return np.concatenate([self.read(row, 1) for row in rows])

    def pieces(self) -> Iterator[Array]:
        """All rows, some at a time."""
        step = max(1, AT_ONCE // self.width)
        for at in range(0, len(self), step):
            yield self.read(at, min(step, len(self) - at))

    def verify(self) -> None:
        """Raise WrongInput where the bytes are not those that were written."""
        digest = hashlib.sha256()
        for piece in self.pieces() if self.check else ():
            digest.update(piece.tobytes())
        if self.check and digest.hexdigest() != self.check:
            raise WrongInput(f"{self.places[0].path} is not what was captured; capture the trace again")


@contextmanager
def appended(path: Path) -> Iterator[BinaryIO]:
    """A file of a trace, to be written at its end; raises WrongInput for a full disk, and what else ends a write."""
    try:
        with path.open("ab") as file:
            yield file
    except OSError as error:
        raise WrongInput(f"{path} cannot be written: {error.strerror}; name a folder with room for it") from error


class Kept:
    """A safetensors file with one f32 tensor [rows, width], written row by row."""

    def __init__(self, path: Path, name: str, rows: int, width: int) -> None:
        self.path, self.digest, self.left = path, hashlib.sha256(), rows
        header = {name: {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, 4 * rows * width]}}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with appended(path) as file:
            file.write(len(text).to_bytes(8, "little") + text)

    def append(self, rows: Array) -> None:
        """The next rows, f32."""
        data = np.ascontiguousarray(rows, "<f4").tobytes()
        self.digest.update(data)
        self.left -= len(rows)
        with appended(self.path) as file:
            file.write(data)


def npy(path: Path) -> Iterator[tuple[str, Rows]]:
    """An array of ``numpy.save`` under the name of its file."""
    with files.opened(path, "a dump") as file:
        try:
            reader = NPY[np.lib.format.read_magic(file)]
            shape, by_columns, dtype = reader(file)
        except (ValueError, LookupError, EOFError, SyntaxError, RecursionError, MemoryError, TokenError) as error:
            raise WrongInput(f"{path} is no array that can be read: {error}") from None
        if dtype.kind != "f" or by_columns:
            raise WrongInput(f"{path} holds {dtype}{' by columns' if by_columns else ''}; give floating-point rows")
        yield path.stem, _placed(path, file, file.tell(), dtype.str, shape, str(path))


NPY = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Versions of the format."""


class Told(msgspec.Struct, frozen=True):
    """Of a tensor in the header of a safetensors file."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def safetensors(path: Path) -> Iterator[tuple[str, Rows]]:
    """The tensors of a safetensors file."""
    with files.opened(path, "a safetensors file") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(size) if size <= LARGEST_HEADER else b""
        if not size or len(header) != size:
            raise WrongInput(f"{path} is no safetensors file: its header would have {size} bytes")
        table = files.parse_json(header, str(path), "a safetensors header")
        try:
            told = msgspec.convert({k: v for k, v in table.items() if k != "__metadata__"}, dict[str, Told])
        except (msgspec.ValidationError, AttributeError) as error:
            raise WrongInput(f"{path} is no safetensors file: {error}") from None
        for name, each in told.items():
            what, (first, end) = f"{path}: {name!r}", each.data_offsets
            if each.dtype not in ELEMENTS:
                raise WrongInput(f"{what} is {each.dtype}, expected one of {', '.join(ELEMENTS)}")
            if first < 0 or end - first != math.prod(each.shape) * np.dtype(ELEMENTS[each.dtype]).itemsize:
                raise WrongInput(f"{what} does not lie in its file: bytes {first} to {end} for {each.shape}")
            yield name, _placed(path, file, 8 + size + first, each.dtype, each.shape, what)


def _placed(path: Path, file: BinaryIO, offset: int, dtype: str, shape: Sequence[int], what: str) -> Rows:
    """[rows, width] of a tensor; a batch of one is taken off, a vector is one row."""
    sizes = shape[1:] if len(shape) == 3 and shape[0] == 1 else (1, *shape) if len(shape) == 1 else shape
    if len(sizes) != 2 or min(sizes) < 1:
        raise WrongInput(f"{what} has the shape {list(shape)}; give [tokens, width]")
    end = offset + math.prod(sizes) * np.dtype(ELEMENTS.get(dtype, dtype)).itemsize
    if end > os.fstat(file.fileno()).st_size:
        raise WrongInput(f"{what} does not lie in its file, which ends before byte {end}")
    return Rows((Place(path, offset, dtype, (sizes[0], sizes[1])),))


READERS: dict[str, Callable[[Path], Iterator[tuple[str, Rows]]]] = {".npy": npy, ".safetensors": safetensors}
