"""A ternary GEMV in Numba: machine code of a loop over rows, without checks of bounds."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit
def _rows(w, q, qsum, y, ascale, wscale):
    for m in range(q.shape[0]):
        for n in range(w.shape[0]):
            total = -qsum[m, 0]  # codes are one too large
            for at in range(w.shape[1]):
                word = w[n, at]
                for e in range(16):  # element e of a word: byte e % 4, bits 2·(e / 4)
                    code = np.int32((word >> np.uint32(8 * (e % 4) + 2 * (e // 4))) & np.uint32(3))
                    total += code * np.int32(q[m, 16 * at + e])
            y[m, n] = np.float32(total) * (ascale[m, 0] * wscale[0])


def gemv(w, wscale, q, ascale, qsum, y, case):
    """Fill y f32 [M, N] from weights u32 [N, K/16], activations i8 [M, K], their sums and a scale of each token."""
    if (case["wscale"], case["ascale"], case["out"]) != ("tensor", "token", "f32"):
        raise NotImplementedError("one scale for the tensor and one for each token, and f32")
    _rows(w, q, qsum, y, ascale, wscale)
