"""A ternary GEMV in Triton, a program for each output; without a GPU under Triton's own interpreter."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read where triton is imported
import triton
import triton.language as tl

WORDS = 16
"""Of a block: 256 weights."""


@triton.jit
def _output(w, q, qsum, ascale, wscale, y, rows, words, BLOCK: tl.constexpr):
    m, n = tl.program_id(0), tl.program_id(1)
    at = tl.arange(0, BLOCK)
    e = tl.arange(0, 16)  # element e of a word: byte e % 4, bits 2·(e / 4)
    total = -tl.load(qsum + m)  # codes are one too large
    for first in range(0, words, BLOCK):
        word = tl.load(w + n * words + first + at)
        code = (word[:, None] >> (8 * (e % 4) + 2 * (e // 4))[None, :]) & 3
        x = tl.load(q + m * words * 16 + (first + at)[:, None] * 16 + e[None, :])
        total += tl.sum(tl.sum(code.to(tl.int32) * x.to(tl.int32), axis=1), axis=0)
    tl.store(y + m * rows + n, total.to(tl.float32) * (tl.load(ascale + m) * tl.load(wscale)))


def gemv(w, wscale, q, ascale, qsum, M, N, case):
    """f32 [M, N] of weights u32 [N, K/16], activations i8 [M, K], their sums, a scale of the tensor and each token."""
    if (case["wscale"], case["ascale"], case["out"]) != ("tensor", "token", "f32"):
        raise NotImplementedError("one scale for the tensor and one for each token, and f32")
    if M * N > 100 and os.environ.get("TRITON_INTERPRET") == "1":
        raise NotImplementedError("its interpreter takes milliseconds for each output")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    given = [torch.from_numpy(each).to(device) for each in (w.view("i4"), q, qsum, ascale, wscale)]
    y = torch.empty((M, N), device=device)
    _output[(M, N)](*given, y, N, w.shape[1], BLOCK=WORDS)
    return y
