"""A mutator that knows where the numbers of a GGUF header stand: it bends lengths, counts, types and offsets."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from contextlib import suppress

WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""GGUF value type to bytes; 8 is a string, 9 an array."""
STRING, ARRAY = 8, 9
Field = tuple[int, int]
"""Offset and bytes of a little-endian number."""


class _Walk:
    """Reads a well-formed header and notes its numbers; struct.error ends it where a file is not well formed."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.fields = data, 4, [(0, 4)]

    def number(self, width: int) -> int:
        (value,) = struct.unpack_from({1: "<B", 2: "<H", 4: "<I", 8: "<Q"}[width], self.data, self.at)
        self.fields.append((self.at, width))
        self.at += width
        return int(value)

    def text(self) -> None:
        length = self.number(8)
        self.at += length

    def value(self, kind: int) -> None:
        if kind == STRING:
            self.text()
        elif kind == ARRAY:
            element, count = self.number(4), self.number(8)
            if element in WIDTHS:
                self.at += WIDTHS[element] * count
            else:
                for _ in range(count):
                    self.text()
        else:
            self.number(WIDTHS[kind])

    def header(self) -> None:
        self.number(4)
        tensors, keys = self.number(8), self.number(8)
        for _ in range(keys):
            self.text()
            self.value(self.number(4))
        for _ in range(tensors):
            self.text()
            for _ in range(self.number(4)):
                self.number(8)
            self.number(4)
            self.number(8)


def fields(data: bytes) -> list[Field]:
    """The numbers of a header, as far as it can be followed."""
    walk = _Walk(data)
    with suppress(struct.error, KeyError, OverflowError):
        walk.header()
    return [field for field in walk.fields if field[0] + field[1] <= len(data)]


def mutator(plain: Callable[[bytes, int], bytes]) -> Callable[[bytes, int, int], bytes]:
    """A mutator for libFuzzer: mostly a few numbers bent, now and then whatever ``plain`` does, or a cut end."""

    def mutate(data: bytes, limit: int, seed: int) -> bytes:
        draw = random.Random(seed)
        found = fields(data) if len(data) > 24 else []
        if not found or draw.random() < 0.15:
            return plain(data, limit)
        if draw.random() < 0.05:
            return data[: draw.randrange(len(data))]
        changed = bytearray(data)
        for at, width in draw.sample(found, min(len(found), draw.choice((1, 1, 1, 2, 4)))):
            old = int.from_bytes(data[at : at + width], "little")
            top = (1 << 8 * width) - 1
            near = (old + 1, old - 1, old * 2, old // 2, old ^ 1 << draw.randrange(8 * width))
            value = draw.choice((0, 1, 2, 31, 32, 255, top, top >> 1, (top >> 1) + 1, draw.randrange(top + 1), *near))
            changed[at : at + width] = (value & top).to_bytes(width, "little")
        return bytes(changed[:limit])

    return mutate
