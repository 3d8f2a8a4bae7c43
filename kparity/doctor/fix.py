"""A copy of a file with corrected keys: its header written anew, its tensors byte for byte."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from kparity.doctor.record import Change
from kparity.host import files
from kparity.model.gguf_file import MAX_NAME, GgufFile
from kparity.model.gguf_header import BOOL, SCALARS, STRING, Cursor

U32, F32 = 4, 6
PIECE = 1 << 22
"""Bytes that are copied at a time."""


def corrected(path: Path, changes: Sequence[Change]) -> Iterator[bytes]:
    """The bytes of the copy. What a change does not name keeps its bytes and its place; new keys come last."""
    todo = {each.key: each for each in changes}
    with closing(GgufFile.open(path, "table")) as file:
        cursor = Cursor(file.stream)
        cursor.need(24, "the header")
        cursor.at = 24
        kept, seen = list[bytes](), set[str]()
        for index in range(len(file.keys) + len(file.twice)):
            start = cursor.at
            key = cursor.text(f"the name of key {index}", MAX_NAME)
            kind = struct.unpack_from("<I", _peek(cursor, 4))[0]
            cursor.value(key)
            raw = cursor.raw[start : cursor.at]
            kept += _kept(key, kind, raw, todo.get(key), key in seen)
            seen.add(key)
        kept += [_key(each.key, each) for each in changes if each.action == "set" and each.key not in seen]
        table = cursor.at
        for _ in file.listed:
            cursor.text("the name of a tensor", MAX_NAME)
            rank = cursor.scalar("I", "a rank")
            cursor.need(8 * rank + 12, "a line of the table")
            cursor.at += 8 * rank + 12
        head = struct.pack("<4sIQQ", b"GGUF", file.version, len(file.listed), len(kept))
        head += b"".join(kept) + cursor.raw[table : cursor.at]
        yield head + bytes(-len(head) % file.alignment)
        yield from _data(file)


def _peek(cursor: Cursor, count: int) -> bytes:
    cursor.need(count, "the type of a key")
    return cursor.raw[cursor.at : cursor.at + count]


def _kept(key: str, kind: int, raw: bytes, change: Change | None, again: bool) -> list[bytes]:
    """A key as the copy has it; nothing where it is dropped, or stands there again."""
    if again or (change and change.action == "drop"):
        return []
    if change is None or change.action == "once":
        return [raw]
    if change.action == "rename":
        return [_text(str(change.value)) + raw[8 + len(key.encode()) :]]
    return [_key(key, change, kind)]


def _key(key: str, change: Change, kind: int = -1) -> bytes:
    """A key with a new value, of the type that it had where that can hold it."""
    value = change.value
    if isinstance(value, str):
        return _text(key) + struct.pack("<I", STRING) + _text(value)
    if isinstance(value, bool):
        return _text(key) + struct.pack("<IB", BOOL, value)
    usual = F32 if isinstance(value, float) else U32
    kind = kind if kind in SCALARS and kind != BOOL else usual
    return _text(key) + struct.pack("<I" + SCALARS[kind], kind, value)


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _data(file: GgufFile) -> Iterator[bytes]:
    """Everything behind the header."""
    with files.opened(file.path, "a GGUF file") as stream:
        stream.seek(file.base)
        while piece := stream.read(PIECE):
            yield piece
    file.unchanged()
