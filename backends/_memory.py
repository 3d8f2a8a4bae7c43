"""Host memory of the CPU backend: arrays on cache lines, and large ones side by side on huge pages.

A decode step reads all weights once. With pages of 4 KiB a core spends a third of that time on address translation, and
its prefetchers stop at every page's end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kparity.ops.spec import Array

CACHE_LINE = 64
LARGE = 1 << 17
"""Arrays of at least this many bytes share huge pages: the smallest matrices of BitNet b1.58 2B-4T do, 400 KiB."""
HUGE_PAGE = 2 << 20
CHUNK = 64 << 20


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any], alignment: int = CACHE_LINE) -> Array:
    """An array on an address that ``alignment`` divides, by default a cache line's, without defined content."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(nbytes + alignment, np.uint8)
    offset = -raw.ctypes.data % alignment
    return raw[offset : offset + nbytes].view(dtype).reshape(shape)


class Memory:
    """Arrays of one backend; a chunk of huge pages lives as long as an array in it.

    numpy asks the system for huge pages (``madvise``) for an allocation as large as a chunk; where the system has none,
    a chunk is ordinary memory. What is not written takes no memory.
    """

    def __init__(self) -> None:
        self.chunk = aligned_empty((0,), np.dtype(np.uint8))
        self.used = 0

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array on a cache line's boundary, without defined content."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if nbytes < LARGE:
            return aligned_empty(shape, dtype)
        if self.used + nbytes > self.chunk.nbytes:
            self.chunk, self.used = aligned_empty((max(CHUNK, nbytes),), np.dtype(np.uint8), HUGE_PAGE), 0
        start = self.used
        self.used += -(-nbytes // CACHE_LINE) * CACHE_LINE
        return self.chunk[start : start + nbytes].view(dtype).reshape(shape)
