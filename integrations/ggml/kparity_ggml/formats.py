"""Quantised weights: ggml's own quantiser makes the bytes, decoders written apart from it say what they mean.

The block layouts (the scale ``d`` is f16; low first): q8_0 d, 32 × i8 · q4_0 d, 16 bytes: element j in the low, j + 16
in the high half, − 8 · q6_K 128 low halves, 64 pairs of high bits, 16 × i8 scales, d · tq2_0 64 bytes, each run of
32 bytes has four elements 32 apart, d · tq1_0 runs of 32 and 16 bytes of five trits and 4 of four trits, d ·
q2_0 d, 16 bytes with four neighbours each, − 1.
"""

from __future__ import annotations

import numpy as np

from kparity.ops.spec import Array
from kparity_ggml.library import TYPES, opened

BLOCK = {"q8_0": (32, 34), "q4_0": (32, 18), "q6_K": (256, 210), "tq1_0": (256, 54), "tq2_0": (256, 66),
         "q2_0": (64, 18)}  # fmt: skip
"""Elements and bytes of a block."""
RUN = {"q8_0": 32, "q4_0": 32, "q2_0": 32, "q6_K": 256, "tq1_0": 256, "tq2_0": 256}
"""Activations that share a scale where ggml's processor code quantises them beside such weights."""
FLOATS = {"f32": np.float32, "f16": np.float16}


def row_bytes(kind: str, k: int) -> int:
    """Bytes of a row of k quantised elements."""
    count, nbytes = BLOCK[kind]
    return k // count * nbytes


def encode(kind: str, values: Array) -> Array:
    """Rows of ``kind`` as arguments hold them: f32, f16, or the bytes of ggml's quantiser as i8 [..., row bytes]."""
    values = np.ascontiguousarray(values, np.float32)
    if kind in FLOATS:
        return values.astype(FLOATS[kind])
    k, out = values.shape[-1], np.empty((*values.shape[:-1], row_bytes(kind, values.shape[-1])), np.int8)
    rows = values.size // k
    opened().ggml.ggml_quantize_chunk(TYPES[kind], values.ctypes.data, out.ctypes.data, 0, rows, k, None)
    return out


def decode(kind: str, data: Array) -> Array:
    """fp64 values of what ``encode`` gave."""
    if kind in FLOATS:
        return data.astype(np.float64)
    count, nbytes = BLOCK[kind]
    blocks = np.ascontiguousarray(data).view(np.uint8).reshape(-1, nbytes)
    values = _DECODERS[kind](blocks)
    return values.reshape(*data.shape[:-1], data.shape[-1] // nbytes * count)


def _half(pairs: Array) -> Array:
    return np.ascontiguousarray(pairs).view(np.float16).astype(np.float64)


def _q8_0(blocks: Array) -> Array:
    return _half(blocks[:, :2]) * blocks[:, 2:].view(np.int8)


def _q4_0(blocks: Array) -> Array:
    codes = blocks[:, 2:]
    return _half(blocks[:, :2]) * (np.hstack([codes & 15, codes >> 4]).astype(np.int64) - 8)


def _q6_k(blocks: Array) -> Array:
    at = np.arange(256)
    half, inside = at // 128, at % 128  # of 128 elements: 64 bytes of low bits, 32 of high ones
    quarter, lane = inside // 32, inside % 32
    low = blocks[:, 64 * half + 32 * (quarter % 2) + lane] >> (4 * (quarter // 2)).astype(np.uint8) & 15
    high = blocks[:, 128 + 32 * half + lane] >> (2 * quarter).astype(np.uint8) & 3
    codes = (low | high << 4).astype(np.int64) - 32
    return _half(blocks[:, 208:]) * blocks[:, 192:208].view(np.int8)[:, at // 16] * codes


def _tq2_0(blocks: Array) -> Array:
    at = np.arange(256)
    codes = blocks[:, 32 * (at // 128) + at % 32] >> (2 * (at % 128 // 32)).astype(np.uint8) & 3
    return _half(blocks[:, 64:]) * (codes.astype(np.int64) - 1)


def _tq1_0(blocks: Array) -> Array:
    parts = []
    for start, length, trits in ((0, 32, 5), (32, 16, 5), (48, 4, 4)):
        run = blocks[:, start : start + length].astype(np.int64)
        parts += [(run * 3**power % 256 * 3 >> 8) - 1 for power in range(trits)]
    return _half(blocks[:, 52:]) * np.hstack(parts)


def _q2_0(blocks: Array) -> Array:
    at = np.arange(64)
    codes = blocks[:, 2 + at // 4] >> (2 * (at % 4)).astype(np.uint8) & 3
    return _half(blocks[:, :2]) * (codes.astype(np.int64) - 1)


_DECODERS = {"q8_0": _q8_0, "q4_0": _q4_0, "q6_K": _q6_k, "tq1_0": _tq1_0, "tq2_0": _tq2_0, "q2_0": _q2_0}


def int8_deviation(x: Array, run: int) -> Array:
    """The largest |x − Q(x)| of activations in int8 with a scale per ``run``: half a step and the rounding of the scale
    to f16; 0 in runs that are whole multiples of a scale that f16 holds.
    """
    runs = x.reshape(*x.shape[:-1], -1, run).astype(np.float64)
    step = np.abs(runs).max(-1, keepdims=True) / 127
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = np.nan_to_num(runs / step)
    exact = (np.rint(whole) == whole).all(-1, keepdims=True) & (step.astype(np.float16) == step)
    worst = np.where(exact, 0.0, step / 2 * (1 + 2.0**-10) + 127 * step * 2.0**-11)
    return np.broadcast_to(worst, runs.shape).reshape(x.shape)


def int8_rounded(x: Array, run: int) -> Array:
    """Activations as ggml's processor code has them: int8 with a scale per run, f16 for runs of 32; f32."""
    runs = x.reshape(*x.shape[:-1], -1, run).astype(np.float32)
    step = np.abs(runs).max(-1, keepdims=True) / np.float32(127)
    codes = np.rint(np.divide(runs, step, out=np.zeros_like(runs), where=step > 0))
    return (codes * (step.astype(np.float16).astype(np.float32) if run == 32 else step)).reshape(x.shape)
