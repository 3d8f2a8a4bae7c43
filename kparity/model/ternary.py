"""Ternary tensors of a file as the packed words and scales that every backend reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kparity.errors import BadModel
from kparity.model import decode
from kparity.model.gguf_file import I2_S, TQ1_0, TQ2_0, GgufFile, TensorInfo
from kparity.ops.spec import Array

ScaleKind = Literal["tensor", "row", "block256"]


@dataclass(frozen=True)
class Ternary:
    """A linear layer's weights: w[row, column] = (code − 1) · scale.

    ``words`` u32 [n, Kp/16] (kparity/ops/packing.py); ``wscale`` f32 [1] where ``kind`` is ``tensor``, [n] where it is
    ``row`` (several weights, one below the other), [n, Kp/256] where it is ``block256``.
    """

    words: Array
    wscale: Array
    kind: ScaleKind
    n: int
    k: int


def load_ternary(file: GgufFile, tensor: TensorInfo, scale: float) -> Ternary:
    """Repack one tensor natively; ``scale`` is that of the separate scale tensor, 1 where there is none.

    The tensor's pages are dropped afterwards, so that a model that is repacked tensor by tensor is not in memory twice.
    """
    import kparity._native as native

    k, n = tensor.shape[0], tensor.rows
    file.advise(tensor, "WILLNEED")
    data = file.data(tensor)
    try:
        if tensor.type is I2_S:
            words = native.repack_i2_s(data[: n * k // 4], n, k)
            stored, used = data[n * k // 4 :][:4].copy().view("<f4"), np.ones(1, np.bool_)
        else:
            repack = native.repack_tq2_0 if tensor.type is TQ2_0 else native.repack_tq1_0
            words, half, used, bad = repack(data, n, k)
            if bad >= 0:
                raise _not_ternary(tensor, data, k, bad)
            stored = half.view("<f2")
    finally:
        file.advise(tensor, "DONTNEED")
    wscale, kind = combine_scales(tensor.name, stored, used, scale)
    return Ternary(words, wscale, kind, n, k)


def combine_scales(name: str, stored: Array, used: Array, scale: float) -> tuple[Array, ScaleKind]:
    """One f32 scale [1] where all blocks with a weight other than 0 share it, else one per block [N, Kp/256].

    Encoders give a block of zeros the scale 0 or the tensor's scale; both mean the same, so such blocks have no say.
    """
    scales = np.asarray(stored, np.float32)
    if not np.isfinite(scales).all() or scales.min() < 0:
        where = int(np.argmax(~(np.isfinite(scales) & (scales >= 0))))
        raise BadModel(
            f"tensor {name}: scale {scales.flat[where]} of block {where} is not a finite number of at least 0"
        )
    voices = scales[used]
    shared = voices.flat[0] if voices.size else scales.flat[0]
    kind: ScaleKind = "tensor" if (voices == shared).all() else "block256"
    with np.errstate(over="ignore"):
        chosen = (scales if kind == "block256" else np.array([shared], np.float32)) * np.float32(scale)
    if not np.isfinite(chosen).all():
        raise BadModel(f"tensor {name}: its scale times the separate scale {scale:g} is beyond f32")
    return np.ascontiguousarray(chosen), kind


def _not_ternary(tensor: TensorInfo, data: Any, k: int, bad: int) -> BadModel:
    """The error for block ``bad``; the second decoder finds the exact place within its row."""
    row = bad // (k // 256)
    row_bytes = k // 256 * (66 if tensor.type is TQ2_0 else 54)
    one_row = data[row * row_bytes : (row + 1) * row_bytes]
    decoder = decode.decode_tq1_0 if tensor.type is TQ1_0 else decode.decode_tq2_0
    try:
        decoder(tensor.name, one_row, 1, k, row)
    except BadModel as error:
        return error
    return BadModel(f"tensor {tensor.name}: block {bad % (k // 256)} of row {row} is not ternary")
