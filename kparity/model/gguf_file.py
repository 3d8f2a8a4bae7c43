"""A reader of GGUF files (versions 2 and 3, little-endian) that trusts nothing.

Layout (docs/gguf.md of ggml): magic "GGUF", u32 version, u64 tensor count, u64 key count; then the keys: string name,
u32 value type, value; then the tensors: string name, u32 rank, u64 sizes (row length first), u32 type, u64 offset;
then, aligned to ``general.alignment`` (32), the data that those offsets count from. A string is a u64 length and UTF-8
bytes; an array is a u32 element type, a u64 length and the elements.

Every count is checked against the bytes that are left before anything is allocated for it, and every complaint is a
BadModel of one sentence. Bytes are read, not mapped: a file that another process shortens or writes meanwhile is an
error, and no SIGBUS.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from kparity.errors import BadModel, WrongInput
from kparity.host import files
from kparity.host.text import printable
from kparity.model import digest, foreign
from kparity.model.gguf_header import Cursor
from kparity.model.types import TensorType, tensor_type

Bytes = npt.NDArray[np.uint8]

MAGIC = b"GGUF"
MAX_NAME = 65535
"""Longest key (docs/gguf.md); tensor names are held to the same limit."""
MAX_RANK = 4
MAX_KEYS = MAX_TENSORS = 1 << 16
"""Models have some dozens of keys and some thousands of tensors."""
MAX_TAIL = 1 << 20
"""Bytes behind the last tensor."""
SPARSE, LEAST_STORED = 1 << 26, 8
"""A file from this size on of which the disk holds less than an eighth is one that was not written to its end."""
ALIGNMENT, MAX_ALIGNMENT = 32, 1 << 20

HELD: dict[Path, tuple[int, ...]] = {}
"""Identities of the files that ``model.held`` holds."""

_MIN_KEY = 8 + 4 + 1  # bytes of the shortest key: an empty name and a u8
_MIN_TENSOR = 8 + 4 + 8 + 4 + 8  # bytes of the shortest tensor entry


@dataclass(frozen=True)
class Listed:
    """A line of the table of tensors as it stands there: ``offset`` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the table: ``shape`` in file order (row length K first), ``offset`` from the start of the file."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    offset: int
    n_bytes: int

    @property
    def rows(self) -> int:
        """Rows of K elements."""
        return math.prod(self.shape[1:])

    @property
    def end(self) -> int:
        """Offset of the first byte behind the tensor."""
        return self.offset + self.n_bytes

    def cut(self, row0: int, rows: int) -> TensorInfo:
        """Some rows of a tensor whose type has whole blocks in a row."""
        row_bytes = self.n_bytes // self.rows
        return replace(
            self, shape=(self.shape[0], rows), offset=self.offset + row0 * row_bytes, n_bytes=rows * row_bytes
        )


@dataclass
class GgufFile:
    """An open file: its keys and its tensor table."""

    path: Path
    stream: BinaryIO
    n_bytes: int
    identity: tuple[int, ...]
    """As ``digest.identity`` tells it."""
    version: int = 0
    keys: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)
    """Keys that stand there again, where that was let pass."""
    listed: list[Listed] = field(default_factory=list)
    """The table of tensors as it stands in the file."""
    base: int = 0
    """Where the data begins."""
    alignment: int = ALIGNMENT
    kept: dict[Any, list[Any]] | None = None
    """What was decoded, for passes that come again and again; None where each decodes anew."""

    @classmethod
    def open(cls, path: str | Path | None, upto: Literal["keys", "table", "tensors"] = "tensors") -> GgufFile:
        """Open a file (``None``: the embedded model's) and read its header, or its keys alone, or these and the table
        of tensors without a judgement of either; BadModel where anything in it is wrong.
        """
        path = embedded() if path is None else Path(path)
        try:
            stream = files.opened(path, "a GGUF file")
        except WrongInput as error:
            raise BadModel(str(error)) from None
        status = os.fstat(stream.fileno())
        file = cls(path, stream, status.st_size, digest.identity(status))
        try:
            with file.naming():
                if not status.st_size:
                    raise BadModel("the file is empty")
                cursor = Cursor(stream)
                count = file._read_keys(cursor, lenient=upto == "table")
                if upto != "keys":
                    file._read_table(cursor, count)
                if upto == "tensors":
                    file._place(status)
                if HELD.get(path, file.identity) != file.identity:
                    raise BadModel(digest.CHANGED)
        except BaseException:
            stream.close()
            raise
        return file

    def data(self, tensor: TensorInfo) -> Bytes:
        """The bytes of a tensor, u8 [n_bytes], read-only; BadModel where the file is another by now."""
        found = np.empty(tensor.n_bytes, np.uint8)
        self.read(tensor, found)
        found.flags.writeable = False
        return found

    def read(self, tensor: TensorInfo, out: npt.NDArray[Any]) -> None:
        """The bytes of a tensor into a C-contiguous array of as many; BadModel where the file is another by now."""
        left, at = out.reshape(-1).view(np.uint8).data, tensor.offset
        while left and (count := os.preadv(self.stream.fileno(), [left], at)):
            left, at = left[count:], at + count
        self.unchanged()
        if left:
            self.fail(digest.CHANGED)

    def close(self) -> None:
        """Nothing can be read any more; what was read stays."""
        self.stream.close()

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Complaints from below name the file."""
        try:
            yield
        except BadModel as error:
            self.fail(str(error))

    def fail(self, message: str) -> NoReturn:
        """Raise BadModel about this file, whose names may be of any length."""
        text = message if len(message) <= 400 else f"{message[:200]} … {message[-200:]}"
        raise BadModel(f"{self.path}: {printable(text)}") from None

    def unchanged(self) -> None:
        """Raise BadModel where the file has changed since it was opened: whatever was read of it is then void."""
        try:
            status = self.path.stat()
        except OSError:  # removed: what is open is what it was
            status = os.fstat(self.stream.fileno())
        if digest.identity(status) != self.identity:
            self.fail(digest.CHANGED)

    def _read_keys(self, cursor: Cursor, lenient: bool) -> int:
        """The number of tensors that follow."""
        n_tensors, n_keys = self._read_start(cursor)
        for index in range(n_keys):
            key = cursor.text(f"the name of key {index}", MAX_NAME)
            if key in self.keys and not lenient:
                raise BadModel(f"key {key} is there twice")
            self.twice += [key] if key in self.keys else []
            self.keys.setdefault(key, cursor.value(key))
        return n_tensors

    def _read_table(self, cursor: Cursor, n_tensors: int) -> None:
        """The lines of the table, whatever they say, and where the data begins."""
        for index in range(n_tensors):
            name = cursor.text(f"the name of tensor {index}", MAX_NAME)
            rank = cursor.scalar("I", f"the rank of tensor {name}")
            if not 1 <= rank <= MAX_RANK:
                raise BadModel(f"tensor {name} has {rank} dimensions, expected 1 to {MAX_RANK}")
            shape = tuple(cursor.scalar("Q", f"the shape of tensor {name}") for _ in range(rank))
            type_id, offset = cursor.scalar("I", f"tensor {name}"), cursor.scalar("Q", f"tensor {name}")
            self.listed.append(Listed(name, shape, type_id, offset))
        self.alignment = self._alignment()
        self.base = -(-cursor.at // self.alignment) * self.alignment
        cursor.raw = cursor.raw[: cursor.at]  # strings of arrays are decoded from it later

    def _place(self, status: os.stat_result) -> None:
        """The tensors of the table, each with its type and its bytes; raises BadModel for one that cannot be so."""
        for each, room, last in self.rooms():
            if each.name in self.tensors:
                raise BadModel(f"tensor {each.name} is there twice")
            self.tensors[each.name] = _placed(each, self.base, self.alignment, room, last)
        self._refuse_extent(status)
        for before, after in pairwise(sorted(self.tensors.values(), key=lambda tensor: tensor.offset)):
            if before.end > after.offset:
                raise BadModel(f"tensors {before.name} and {after.name} overlap at byte {after.offset}")

    def rooms(self) -> Iterator[tuple[Listed, int, bool]]:
        """Every line of the table, with the bytes to the next tensor, or to the file's end behind the last one."""
        offsets = sorted({each.offset for each in self.listed})
        ends = dict(zip(offsets, [*offsets[1:], self.n_bytes - self.base], strict=False))
        yield from ((each, ends[each.offset] - each.offset, each.offset == offsets[-1]) for each in self.listed)

    def _refuse_extent(self, status: os.stat_result) -> None:
        """Raise BadModel where the file is not as long as its tensors say, or was never written to its end."""
        last = max(self.tensors.values(), key=lambda tensor: tensor.end, default=None)
        size, end = self.n_bytes, last.end if last else 0
        if last and end > size:
            raise BadModel(
                f"the file has {size} bytes, and tensor {last.name} {list(last.shape)} ends at byte {end}, beyond the "
                f"file's end: it is cut off or damaged, fetch it again"
            )
        if last and size - end > MAX_TAIL:
            raise BadModel(
                f"the file has {size} bytes, and its tensors end at byte {end}: what follows is no part of a model, "
                f"fetch it again"
            )
        refuse_unfinished(status)

    def _read_start(self, cursor: Cursor) -> tuple[int, int]:
        start = os.pread(self.stream.fileno(), foreign.SEEN, 0)
        if not start.startswith(MAGIC):
            raise BadModel(foreign.described(start))
        cursor.need(24, "the header")
        cursor.at = 4
        self.version = cursor.scalar("I", "the version")
        if self.version not in (2, 3):
            swapped = int.from_bytes(self.version.to_bytes(4, "little"), "big")
            kind = "a big-endian file" if swapped in (1, 2, 3) else f"GGUF version {self.version}"
            raise BadModel(f"{kind} is not supported, little-endian versions 2 and 3 are")
        n_tensors, n_keys = cursor.scalar("Q", "the tensor count"), cursor.scalar("Q", "the key count")
        if n_tensors * _MIN_TENSOR + n_keys * _MIN_KEY > cursor.end - cursor.at:
            raise BadModel(f"{n_keys} keys and {n_tensors} tensors do not fit into a file of {cursor.end} bytes")
        if n_keys > MAX_KEYS or n_tensors > MAX_TENSORS:
            raise BadModel(f"{n_keys} keys and {n_tensors} tensors: a model has at most {MAX_KEYS} of each")
        return n_tensors, n_keys

    def _alignment(self) -> int:
        alignment = self.keys.get("general.alignment", ALIGNMENT)
        good = isinstance(alignment, int) and 0 < alignment <= MAX_ALIGNMENT and alignment & (alignment - 1) == 0
        if not good or isinstance(alignment, bool):
            raise BadModel(f"general.alignment is {alignment}, expected a power of two up to {MAX_ALIGNMENT}")
        return int(alignment)


def keys_of(path: str | Path | None) -> dict[str, Any]:
    """The keys of a file (``None``: the embedded model's), whatever types of tensors it has; raises BadModel."""
    with closing(GgufFile.open(path, "keys")) as file:
        return file.keys


def refuse_unfinished(status: os.stat_result) -> None:
    """Raise BadModel for a large file of which the disk holds next to nothing."""
    size, stored = status.st_size, getattr(status, "st_blocks", 0) * 512  # 0 where a file system does not tell
    if size >= SPARSE and 0 < stored < size // LEAST_STORED:
        raise BadModel(f"of its {size} bytes the disk holds {stored}: it was not written to its end, fetch it again")


def _placed(listed: Listed, base: int, alignment: int, room: int, last: bool) -> TensorInfo:
    name, shape, offset = listed.name, listed.shape, listed.offset
    if 0 in shape:
        raise BadModel(f"tensor {name} has the shape {list(shape)}: a dimension is zero")
    stored = tensor_type(name, shape, listed.type_id, room, alignment, last)
    n_bytes = stored.n_bytes(name, shape)
    if offset % alignment:
        raise BadModel(f"tensor {name} starts at {offset}, which is no multiple of the alignment {alignment}")
    return TensorInfo(name, stored, shape, base + offset, n_bytes)


def embedded() -> Path:
    """The file of the model that is part of the package."""
    return Path(str(resources.files("kparity") / "data" / "embedded.gguf"))
