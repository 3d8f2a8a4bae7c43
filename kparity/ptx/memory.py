"""Memory of the interpreted device: allocations, the windows that a launch sees of them, and what is wrong with access.

Addresses of global memory are those of the host's arrays. A launch may touch its arguments and the variables of its
module, each within its own bounds, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ALIGNMENT = 256
"""Of an allocation, as the CUDA runtime grants it."""
WORDS = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}
"""Bytes of an access → a dtype that moves them in one piece."""


class Fault(RuntimeError):
    """What a kernel did that it must not: where, which thread, to which memory."""


class Root:
    """One allocation; ``written`` tells of each byte whether anybody wrote it (0xFF), where that is watched."""

    def __init__(self, size: int, watched: bool = False) -> None:
        raw = np.empty(size + ALIGNMENT + 16, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        padded = max(-(-size // 16), 1) * 16  # whole words of every size
        self.bytes = raw[start : start + padded]
        self.base, self.size = int(self.bytes.ctypes.data), size
        self.written = np.zeros(padded, np.uint8) if watched else None
        self._typed: dict[str, Array] = {}

    def typed(self, dtype: str) -> Array:
        """All of it as elements of a dtype."""
        if dtype not in self._typed:
            self._typed[dtype] = self.bytes.view(dtype)
        return self._typed[dtype]

    def mark(self, start: int, size: int, value: int = 0xFF) -> None:
        """Bytes have been written (0xFF), or their content is not to be relied on (0)."""
        if self.written is not None:
            self.written[start : start + size] = value

    def mark_words(self, at: Array, size: int) -> None:
        """Words, by their place in units of ``size``, have been written."""
        if self.written is not None:
            word = WORDS[size]
            self.written.view(word)[at] = np.full(size, 0xFF, np.uint8).view(word)[0]

    def unwritten(self, at: Array, size: int) -> Array | None:
        """Which of these words have a byte that nobody wrote; None where that is not watched, or there is none."""
        if self.written is None:
            return None
        part = min(size, 8)
        words, ones = self.written.view(WORDS[part]), np.full(part, 0xFF, np.uint8).view(WORDS[part])[0]
        bad = words.take(at * (size // part)) != ones
        for more in range(1, size // part):
            bad |= words.take(at * (size // part) + more) != ones
        return bad if bad.any() else None


@dataclass(frozen=True)
class Span:
    """A part of an allocation under a name: an argument or a variable."""

    name: str
    root: Root
    start: int
    size: int

    @property
    def address(self) -> int:
        """Of its first byte."""
        return self.root.base + self.start
