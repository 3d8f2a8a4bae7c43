"""A ternary GEMV that knows nothing of kparity: plain numpy."""

from __future__ import annotations

import numpy as np


def gemv(w, wscale, q, ascale, case):
    """f32 [M, N] of weights u32 [N, K/16], activations i8 [M, K], scales of the tensor [1] and of the tokens [M, 1]."""
    if (case["wscale"], case["ascale"], case["out"]) != ("tensor", "token", "f32"):
        raise NotImplementedError("one scale for the tensor and one for each token, and f32")
    codes = w.view(np.uint8).reshape(len(w), -1, 4)  # element e of a word: byte e % 4, bits 2·(e / 4)
    weights = np.concatenate([(codes >> shift) & 3 for shift in (0, 2, 4, 6)], axis=-1).reshape(len(w), -1)
    sums = q.astype(np.int32) @ (weights.astype(np.int32) - 1).T
    return sums.astype(np.float32) * (ascale * wscale)
