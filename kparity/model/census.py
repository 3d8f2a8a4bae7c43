"""What ternary tensors hold, weight by weight: how often each code stands there, rows of zeros, and spans of scales."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from kparity.model import decode
from kparity.model.gguf_file import GgufFile, TensorInfo
from kparity.model.types import I2_S, TensorType
from kparity.ops.spec import Array

PIECE = 1 << 22
"""Bytes that are decoded at a time."""
SPANS = (256, 128, 64)


@dataclass
class Seen:
    """A ternary tensor: how often each code stands in it [4], rows without a weight, and how many weights share a
    scale, 0 where all do.
    """

    codes: Array = field(default_factory=lambda: np.zeros(4, np.int64))
    zero_rows: int = 0
    span: int = 0


@cache
def digits(kind: TensorType) -> Array:
    """How many of each code [256, 4] a byte of codes stands for, with all its digits."""
    values = np.arange(256)
    if kind.codes == "bits":
        found = np.stack([values >> shift & 3 for shift in (0, 2, 4, 6)])
    else:
        found = np.stack([(values * 3**n % 256) * 3 >> 8 for n in range(5)])
    return np.stack([(found == code).sum(axis=0) for code in range(4)], axis=1)


def seen(file: GgufFile, tensor: TensorInfo) -> Seen:
    """Look at every weight of a ternary tensor."""
    if tensor.type is I2_S:
        return _seen_i2_s(file, tensor)
    found, scales, voices = Seen(), list[Array](), list[Array]()
    kind, k = tensor.type, tensor.shape[0]
    size, blocks = kind.block_bytes, k // kind.block
    step = max(1, PIECE // (size * blocks))
    for row0 in range(0, tensor.rows, step):
        rows = min(step, tensor.rows - row0)
        data = file.data(tensor.cut(row0, rows)).reshape(rows, blocks, size)
        codes = data[:, :, 2:] if kind.scale_at == 0 else data[:, :, : kind.scale_at]
        found.codes += np.bincount(codes.reshape(-1), minlength=256) @ digits(kind)
        silent = codes == (0x55 if kind.codes == "bits" else 128)
        if kind.codes == "base3":  # the bytes of qh have four digits, and stand behind the others
            tail = codes[:, :, -(kind.block // 64) :]
            found.codes -= _fifth(tail)
            silent[:, :, -(kind.block // 64) :] = tail == 127
        found.zero_rows += int(silent.all(axis=(1, 2)).sum())
        voices.append(~silent.all(axis=2))
        scales.append(data[:, :, kind.scale_at : kind.scale_at + 2].copy().view("<u2")[:, :, 0])
    found.span, _ = widest(np.concatenate(scales), np.concatenate(voices), kind.block)
    return found


def widest(scales: Array, voices: Array, block: int) -> tuple[int, Array]:
    """How many weights share a scale, 0 where all do, and the scales [1] or [rows, Kp/span]; ``scales`` and ``voices``
    [rows, blocks]: a block without a voice has no weight but 0, and no say.
    """
    said = scales[voices]
    shared = said[:1] if said.size else scales.reshape(-1)[:1]
    if (said == shared).all():
        return 0, shared
    missing = ((0, 0), (0, -scales.shape[1] % (SPANS[0] // block)))  # rows are padded
    scales, voices = (np.pad(each, missing).reshape(len(scales), -1, 1) for each in (scales, voices))
    for span in (each for each in SPANS if each >= block):
        grouped, voiced = (each.reshape(len(each), -1, span // block) for each in (scales, voices))
        first = np.take_along_axis(grouped, voiced.argmax(axis=2)[:, :, None], 2)
        if not ((grouped != first) & voiced).any():
            break
    return span, np.ascontiguousarray(first[:, :, 0])


def _fifth(tail: Array) -> Array:
    """How often each code is the fifth digit of bytes that have four."""
    code = (tail.astype(np.int64) * 81 % 256) * 3 >> 8
    return np.bincount(code.reshape(-1), minlength=4)[:4]


def _seen_i2_s(file: GgufFile, tensor: TensorInfo) -> Seen:
    """Its codes run high bits first over the whole tensor, and 3 is no code of its packers."""
    found, k = Seen(), tensor.shape[0]
    codes = file.data(tensor)[: tensor.rows * k // 4]
    found.codes += np.bincount(codes, minlength=256) @ digits(tensor.type)
    step = max(1, PIECE // k // 128) * 128
    for row0 in range(0, tensor.rows, step):
        rows = min(step, tensor.rows - row0)
        part = codes[row0 * k // 4 : (row0 + rows) * k // 4]
        weights, _ = decode.decode_i2_s(np.concatenate([part, np.zeros(4, np.uint8)]), rows, k)
        found.zero_rows += int((~weights.any(axis=1)).sum())
    return found
