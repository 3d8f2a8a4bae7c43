"""The one packing of ternary weights that every backend reads, written for clarity; the fast one is native.

A row of K weights is padded to a multiple of 256 with code 1 (weight 0) and stored as u32 words of 16 codes, code = w
+ 1. Element e of a word is in byte e % 4 at bits 2·(e / 4), so ``(word >> 2*s) & 0x03030303`` gives elements 4s …
4s+3 as the four bytes of a dp4a operand, in order.
"""

from __future__ import annotations

import numpy as np

from kparity.errors import WrongInput
from kparity.ops.spec import Array, padded


def pack(weights: Array) -> Array:
    """Pack i8 weights [N, K] of -1, 0, +1 and +2 (which Q2_0 can hold) into u32 words [N, Kp/16]."""
    if weights.ndim != 2 or weights.dtype != np.int8:
        raise WrongInput(f"pack takes int8 [N, K], got {weights.dtype}{list(weights.shape)}")
    if weights.size and (weights.min() < -1 or weights.max() > 2):
        raise WrongInput("pack takes weights -1, 0, +1 and +2 only")
    rows, k = weights.shape
    codes = np.ones((rows, padded(k)), np.uint8)
    codes[:, :k] = weights + 1
    fours = codes.view("<u4").reshape(rows, -1, 4)  # [N, word, s]: elements 4s … 4s+3 as the bytes of one integer
    words: Array = np.zeros(fours.shape[:2], np.uint32)
    for s in range(4):
        words |= fours[:, :, s] << np.uint32(2 * s)
    return words


def unpack(words: Array, k: int) -> Array:
    """The inverse of ``pack``: u32 words [N, Kp/16] to i8 weights [N, K]."""
    fours = np.empty((*words.shape, 4), "<u4")  # [N, word, s]
    for s in range(4):
        fours[:, :, s] = (words >> np.uint32(2 * s)) & np.uint32(0x03030303)
    codes = fours.view(np.uint8).reshape(len(words), -1)
    weights: Array = codes[:, :k].view(np.int8) - np.int8(1)
    return weights
