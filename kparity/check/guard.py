"""Buffers between sentinels, and the patterns that outputs hold before a kernel runs."""

from __future__ import annotations

import math

import numpy as np

from kparity.device.adapter import Backend
from kparity.ops.spec import DTYPES, Arg, Array

GUARD = 512
"""Bytes of sentinel before and after an output; a multiple of the offsets at which devices divide a buffer."""
SENTINEL = 0xA5
POISONS = (0xFF, 0x7F)
"""Every byte of an output before the first and the second run: NaN and −1, then NaN and a large integer."""


def filled(shape: tuple[int, ...], dtype: str, byte: int) -> Array:
    """An array whose every byte is ``byte``."""
    count = math.prod(shape)
    return np.full(count * DTYPES[dtype].itemsize, byte, np.uint8).view(DTYPES[dtype]).reshape(shape)


class Guarded:
    """An output between sentinels: inside one allocation where the backend divides a buffer, else between allocations
    of their own, which lie nearby at best.
    """

    def __init__(self, backend: Backend, arg: Arg) -> None:
        self.backend, pad, count = backend, GUARD // DTYPES[arg.dtype].itemsize, math.prod(arg.shape)
        whole = backend.empty((count + 2 * pad,), arg.dtype)
        inside = backend.view(whole, pad, arg.shape)
        if inside is None:
            self.buffer = backend.empty(arg.shape, arg.dtype)
            self.parts = [backend.empty((pad,), arg.dtype) for _ in range(2)]
            self.outside = [slice(None)]
        else:
            self.buffer, self.parts = inside, [whole]
            self.outside = [slice(None, pad), slice(pad + count, None)]
        for part in self.parts:
            backend.write(part, filled(part.shape, part.dtype, SENTINEL))

    def changes(self) -> int:
        """Bytes of the sentinels that were overwritten."""
        arrays = [self.backend.download(part) for part in self.parts]
        fences = [np.ascontiguousarray(array[cut]).view(np.uint8) for array in arrays for cut in self.outside]
        return sum(int(np.count_nonzero(fence != SENTINEL)) for fence in fences)
