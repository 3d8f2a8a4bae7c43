"""The one packing of ternary weights that every backend reads, written for clarity; the fast one is native.

A row of K weights is padded to a multiple of 256 with code 1 (weight 0) and stored as u32 words of 16 codes, code = w
+ 1. Element e of a word is in byte e % 4 at bits 2·(e / 4), so ``(word >> 2*s) & 0x03030303`` gives elements 4s …
4s+3 as the four bytes of a dp4a operand, in order.
"""

from __future__ import annotations

import numpy as np

from kparity.errors import WrongInput
from kparity.spec import Array, padded


def pack(weights: Array) -> Array:
    """Pack i8 ternary weights [N, K] into u32 words [N, Kp/16]."""
    if weights.ndim != 2 or weights.dtype != np.int8:
        raise WrongInput(f"pack takes int8 [N, K], got {weights.dtype}{list(weights.shape)}")
    if weights.size and (weights.min() < -1 or weights.max() > 1):
        raise WrongInput("pack takes weights -1, 0 and +1 only")
    rows, k = weights.shape
    codes = np.ones((rows, padded(k)), np.uint32)
    codes[:, :k] = (weights + 1).astype(np.uint32)
    grouped = codes.reshape(rows, -1, 4, 4)  # [N, word, s, byte]
    shifts = np.arange(4, dtype=np.uint32)[:, None] * 2 + np.arange(4, dtype=np.uint32)[None, :] * 8
    words: Array = np.bitwise_or.reduce(np.bitwise_or.reduce(grouped << shifts, axis=3), axis=2).astype(np.uint32)
    return words


def unpack(words: Array, k: int) -> Array:
    """The inverse of ``pack``: u32 words [N, Kp/16] to i8 weights [N, K]."""
    shifts = np.arange(4, dtype=np.uint32)[:, None] * 2 + np.arange(4, dtype=np.uint32)[None, :] * 8
    codes = (words[:, :, None, None] >> shifts) & 3
    weights: Array = codes.reshape(words.shape[0], -1)[:, :k].astype(np.int8) - 1
    return weights
