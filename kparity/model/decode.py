"""The second decoder of ternary tensors: numpy, from the file's bytes to int8 weights, as the formats are written down.

The first one (csrc/repack.cpp) goes from the same bytes to packed words and shares nothing with this one; the exactness
gate multiplies with what this one says.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kparity.errors import BadModel
from kparity.ops.spec import Array

Bytes = npt.NDArray[np.uint8]

_POW3 = np.array([1, 3, 9, 27, 81], np.uint8)


def decode_tq2_0(name: str, data: Bytes, rows: int, k: int, row0: int = 0) -> tuple[Array, Array]:
    """TQ2_0 (ggml-quants.c, dequantize_row_tq2_0): weights i8 [rows, k] and d f16 [rows, k/256].

    Block: u8 qs[64], f16 d. Element i: byte (i / 128)·32 + i % 32, bits 2·((i % 128) / 32), value − 1. ``row0`` is the
    tensor's row at which ``data`` starts, for messages.
    """
    blocks = data.reshape(rows, k // 256, 66)
    halves = blocks[:, :, :64].reshape(rows, k // 256, 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 1, 4, 1)
    codes = ((halves >> shifts) & 3).reshape(rows, k)
    if codes.max() > 2:
        row, column = divmod(int(np.argmax(codes > 2)), k)
        raise BadModel(f"tensor {name}: code 3 at row {row0 + row}, column {column} is not a ternary weight")
    return codes.astype(np.int8) - 1, _half(blocks[:, :, 64:66])


def decode_tq1_0(name: str, data: Bytes, rows: int, k: int, row0: int = 0) -> tuple[Array, Array]:
    """TQ1_0 (ggml-quants.c, dequantize_row_tq1_0): weights i8 [rows, k] and d f16 [rows, k/256].

    Block: u8 qs[48], u8 qh[4], f16 d. Digit n of a byte b is ((b·3ⁿ mod 256)·3) / 256: five digits for 32 bytes, five
    for the next 16, four for qh; digit by digit, byte by byte within a digit.
    """
    blocks = data.reshape(rows, k // 256, 54)
    parts = []
    for start, stop, digits in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        powers = _POW3[:digits].reshape(1, 1, digits, 1)
        q = blocks[:, :, None, start:stop] * powers  # u8: the product is taken modulo 256
        parts.append(((q.astype(np.uint16) * 3) >> 8).reshape(rows, k // 256, -1))
    codes = np.concatenate(parts, axis=2).reshape(rows, k)
    _require_base3(name, blocks, row0, 48, 52)
    return codes.astype(np.int8) - 1, _half(blocks[:, :, 52:54])


def _require_base3(name: str, blocks: Bytes, row0: int, qh: int, end: int) -> None:
    """Encoders write ceil(v·256 / 243) for a five-digit number v; qh, from that byte to ``end``, holds four digits, so
    its v is a multiple of 3.
    """
    v = np.arange(243)
    written = np.zeros((2, 256), np.bool_)
    written[0, (v * 256 + 242) // 243] = True
    written[1, (v[::3] * 256 + 242) // 243] = True
    good = np.concatenate([written[0][blocks[:, :, :qh]], written[1][blocks[:, :, qh:end]]], axis=2)
    if not good.all():
        row, block, byte = (int(i) for i in np.unravel_index(int(np.argmin(good)), good.shape))
        value = int(blocks[row, block, byte])
        where = f"row {row0 + row}, block {block}, offset {byte}"
        raise BadModel(f"tensor {name}: byte {value} at {where} holds no ternary digits")


def decode_q2_0(data: Bytes, rows: int, k: int, block: int = 64) -> tuple[Array, Array]:
    """Q2_0, its older form and PQ2_0: weights i8 [rows, k], +2 among them, and d f16 [rows, k/block].

    Block: f16 d, u8 qs[block/4]. Element j: byte j / 4, bits 2·(j % 4), value − 1.
    """
    blocks = data.reshape(rows, k // block, 2 + block // 4)
    codes = blocks[:, :, 2:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    return codes.reshape(rows, k).astype(np.int8) - 1, _half(blocks[:, :, :2])


def decode_ptq1_0(name: str, data: Bytes, rows: int, k: int, row0: int = 0) -> tuple[Array, Array]:
    """PTQ1_0: weights i8 [rows, k] and d f16 [rows, k/128].

    Block: u8 qs[24], u8 qh[2], f16 d: digits as of TQ1_0, five for 16 bytes, five for the next 8, four for qh.
    """
    blocks, parts = data.reshape(rows, k // 128, 28), []
    for start, stop, digits in ((0, 16, 5), (16, 24, 5), (24, 26, 4)):
        q = blocks[:, :, None, start:stop] * _POW3[:digits].reshape(1, 1, digits, 1)  # u8: modulo 256
        parts.append(((q.astype(np.uint16) * 3) >> 8).reshape(rows, k // 128, -1))
    _require_base3(name, blocks, row0, 24, 26)
    return np.concatenate(parts, axis=2).reshape(rows, k).astype(np.int8) - 1, _half(blocks[:, :, 26:28])


def decode_i2_s(data: Bytes, rows: int, k: int) -> tuple[Array, Array]:
    """I2_S (bitnet.cpp): weights i8 [rows, k] and the scale f32 [1].

    Groups of 128 weights in 32 bytes, over the whole tensor: element i is in byte i % 32, bits 6 − 2·((i % 128) / 32).
    Codes 0, 1, 2 are −1, 0, +1 and 3 is 0. Behind the codes: one f32 scale.
    """
    n = rows * k
    groups = data[: n // 4].reshape(n // 128, 1, 32)
    codes = (groups >> np.array([6, 4, 2, 0], np.uint8).reshape(1, 4, 1)) & 3
    weights = np.array([-1, 0, 1, 0], np.int8)[codes.reshape(rows, k)]
    return weights, data[n // 4 : n // 4 + 4].copy().view("<f4")


def _half(pairs: Bytes) -> Array:
    return np.ascontiguousarray(pairs).view("<f2")[:, :, 0]
