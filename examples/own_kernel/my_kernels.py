"""Somebody's own kernels in f32 numpy, each right and once subtly wrong. A GPU kernel is tested in the same way."""

from __future__ import annotations

import numpy as np


def ternary_gemv(words: np.ndarray, q: np.ndarray, subtract: int = 1) -> np.ndarray:
    """Accumulators i32 [M, N] of weights u32 [N, K/16] (2-bit codes, weight + 1) and activations i8 [M, K].

    Codes are used as they lie, 0 to 2, so that Σq must be subtracted once for every row of weights.
    """
    codes = words.view(np.uint8).reshape(len(words), -1, 4)  # element e of a word: byte e % 4, bits 2·(e / 4)
    unpacked = np.concatenate([(codes >> shift) & 3 for shift in (0, 2, 4, 6)], axis=-1).reshape(len(words), -1)
    sums = q.astype(np.int32) @ unpacked.astype(np.int32).T
    return sums - subtract * q.sum(axis=-1, dtype=np.int32, keepdims=True)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float = 1e-5, centred: bool = False) -> np.ndarray:
    """RMSNorm of f32 rows [M, D]; ``centred`` is LayerNorm by mistake: random inputs hardly show the difference."""
    if centred:
        x = x - x.mean(axis=-1, keepdims=True)
    mean_square = (x * x).mean(axis=-1, keepdims=True)
    return (x / np.sqrt(mean_square + np.float32(eps)) * weight).astype(np.float32)


def matvec(a: np.ndarray, x: np.ndarray, lost: int = 0) -> np.ndarray:
    """f32 a @ x in tiles of 64 columns; ``lost`` columns at the end are forgotten, as a tail loop would."""
    stop = a.shape[1] - lost
    total = np.zeros(len(a), np.float32)
    for at in range(0, stop, 64):
        total += a[:, at : min(at + 64, stop)] @ x[at : min(at + 64, stop)]
    return total
