"""Buffers between sentinels, and the patterns that outputs hold before a kernel runs."""

from __future__ import annotations

import math

import numpy as np

from kparity.adapter import Backend, Buffer
from kparity.spec import DTYPES, Arg, Array

GUARD = 256
"""Bytes of sentinel before and after a buffer; a multiple of every alignment that kernels ask for."""
SENTINEL = 0xA5
POISONS = (0xFF, 0x7F)
"""Every byte of an output before the first and the second run: NaN and −1, then NaN and a large integer."""


def filled(shape: tuple[int, ...], dtype: str, byte: int) -> Array:
    """An array whose every byte is ``byte``."""
    count = math.prod(shape)
    return np.full(count * DTYPES[dtype].itemsize, byte, np.uint8).view(DTYPES[dtype]).reshape(shape)


class Guarded:
    """A buffer with sentinels: inside one allocation where a handle can be sliced (numpy, native, torch), else in
    allocations before and after it, which an allocator places nearby at best.
    """

    def __init__(self, backend: Backend, arg: Arg) -> None:
        self.backend, pad, count = backend, GUARD // DTYPES[arg.dtype].itemsize, math.prod(arg.shape)
        if backend.dialect in ("numpy", "native", "torch"):
            whole = backend.empty((count + 2 * pad,), arg.dtype).handle
            self.buffer = Buffer(whole[pad : pad + count].reshape(arg.shape), arg.dtype, arg.shape)
            self.fences = [Buffer(part, arg.dtype, (pad,)) for part in (whole[:pad], whole[pad + count :])]
        else:
            before = backend.empty((pad,), arg.dtype)
            self.buffer = backend.empty(arg.shape, arg.dtype)
            self.fences = [before, backend.empty((pad,), arg.dtype)]
        for fence in self.fences:
            backend.write(fence, filled((pad,), arg.dtype, SENTINEL))

    def changes(self) -> int:
        """Bytes of the sentinels that were overwritten."""
        return sum(
            int(np.count_nonzero(np.ascontiguousarray(self.backend.download(fence)).view(np.uint8) != SENTINEL))
            for fence in self.fences
        )
