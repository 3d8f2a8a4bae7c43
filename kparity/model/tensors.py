"""Tensors of a file in the form that backends take: ternary ones as packed words and scales, others as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kparity.errors import BadModel
from kparity.host.processors import processors
from kparity.model import decode
from kparity.model.census import widest
from kparity.model.gguf_file import GgufFile, TensorInfo
from kparity.model.types import F16, F32, I2_S
from kparity.ops.packing import unpack
from kparity.ops.spec import DTYPES, Array

ScaleKind = Literal["tensor", "row", "block256", "block128", "block64"]


@dataclass(frozen=True)
class Ternary:
    """A linear layer's weights: w[row, column] = (code − 1) · scale.

    ``words`` u32 [n, Kp/16] (kparity/ops/packing.py); ``wscale`` f32 [1] where ``kind`` is ``tensor``, [n] where it is
    ``row`` (several weights, one below the other), [n, Kp/256] where it is ``block256``, and so for 128 and 64.
    """

    words: Array
    wscale: Array
    kind: ScaleKind
    n: int
    k: int


SPANS: dict[int, ScaleKind] = {0: "tensor", 256: "block256", 128: "block128", 64: "block64"}
"""Weights that share a scale → what kernels call it."""
NATIVE = {
    "TQ1_0": "repack_tq1_0", "TQ2_0": "repack_tq2_0", "Q2_0": "repack_q2_0", "Q2_0_128": "repack_q2_0_128",
    "PQ2_0": "repack_q2_0_128", "PTQ1_0": "repack_ptq1_0",
}  # fmt: skip
"""The native repacking of each type that has a scale for every block."""
PLUS_TWO = 65_536
"""Largest K of a type that can hold +2: accumulators of 2·128·K are exact in f32 too."""


def load_ternary(file: GgufFile, tensor: TensorInfo, scale: float) -> Ternary:
    """Repack one tensor natively; ``scale`` is that of the separate scale tensor, 1 where there is none."""
    import kparity._native as native

    k, n = tensor.shape[0], tensor.rows
    data = file.data(tensor)
    if tensor.type is I2_S:
        words = native.repack_i2_s(data[: n * k // 4], n, k, processors())
        stored, used = data[n * k // 4 :][:4].copy().view("<f4"), np.ones(1, np.bool_)
    else:
        if tensor.type.plus_two and k > PLUS_TWO:
            raise BadModel(f"tensor {tensor.name}: K is {k}; with weights of +2 sums are exact up to {PLUS_TWO}")
        words, half, used, bad = getattr(native, NATIVE[tensor.type.name])(data, n, k, processors())
        if bad >= 0:
            raise _not_ternary(tensor, data, k, bad)
        stored = half.view("<f2")
    wscale, kind = combine_scales(tensor.name, stored, used, scale, tensor.type.block)
    return Ternary(words, wscale, kind, n, k)


def combine_scales(name: str, stored: Array, used: Array, scale: float, block: int = 256) -> tuple[Array, ScaleKind]:
    """One f32 scale [1] where all blocks with a weight other than 0 share it, else [N, Kp/span] for the largest span of
    256, 128 or 64 weights within which none differ.

    Encoders give a block of zeros the scale 0 or the tensor's scale; both mean the same, so such blocks have no say.
    Raises BadModel where a scale is no finite number of at least 0.
    """
    scales = np.asarray(stored, np.float32)
    if not np.isfinite(scales).all() or scales.min() < 0:
        where = int(np.argmax(~(np.isfinite(scales) & (scales >= 0))))
        raise BadModel(
            f"tensor {name}: scale {scales.flat[where]} of block {where} is not a finite number of at least 0"
        )
    span, shared = widest(scales, used, block)
    kind = SPANS[span]
    with np.errstate(over="ignore"):
        chosen = shared * np.float32(scale)
    if not np.isfinite(chosen).all():
        raise BadModel(f"tensor {name}: its scale times the separate scale {scale:g} is beyond f32")
    return np.ascontiguousarray(chosen), kind


def _not_ternary(tensor: TensorInfo, data: Any, k: int, bad: int) -> BadModel:
    """The error for block ``bad``; the second decoder finds the exact place within its row."""
    blocks = k // tensor.type.block
    row, row_bytes = bad // blocks, blocks * tensor.type.block_bytes
    one_row = data[row * row_bytes : (row + 1) * row_bytes]
    decoders = {"TQ1_0": decode.decode_tq1_0, "TQ2_0": decode.decode_tq2_0, "PTQ1_0": decode.decode_ptq1_0}
    try:
        decoders[tensor.type.name](tensor.name, one_row, 1, k, row)
    except BadModel as error:
        return error
    return BadModel(f"tensor {tensor.name}: block {bad % blocks} of row {row} is not ternary")


_CHUNK = 1 << 22
"""Elements that are converted at a time: the dequantisers of ``gguf`` need several times the memory of their result."""


@dataclass(frozen=True)
class Dense:
    """A matrix [rows, K] of a file, which is read where it is asked for: F16 and F32 as they are stored, f32 for BF16,
    Q8_0 and Q6_K, f16 for a ternary type, whose weights times their scale it holds exactly. ``tied`` where the head and
    the embedding are one tensor.
    """

    file: GgufFile
    tensor: TensorInfo
    tied: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and K."""
        return self.tensor.rows, self.tensor.shape[0]

    @property
    def dtype(self) -> str:
        """``f16`` or ``f32``."""
        return "f16" if self.tensor.type is F16 or self.tensor.type.ternary else "f32"

    @property
    def array(self) -> Array:
        """All of it [rows, K], read at every call."""
        out: Array = np.empty(self.shape, DTYPES[self.dtype])
        self.read(0, out)
        return out

    def read(self, row0: int, out: Array) -> None:
        """Rows ``row0`` … into an array [rows, K] of this type, C-contiguous; BadModel where the file is another by
        now.
        """
        if self.tensor.type is F16 or self.tensor.type is F32:
            self.file.read(self.tensor.cut(row0, len(out)), out)
            return
        step = max(1, _CHUNK // self.shape[1])
        for start in range(0, len(out), step):
            part = out[start : start + step]
            widen = _widen if self.tensor.type.ternary else _dequantise
            part[...] = widen(self.file, self.tensor.cut(row0 + start, len(part)))


def load_vector(file: GgufFile, tensor: TensorInfo) -> Array:
    """f32 [K]: a norm's weights, whatever they contain."""
    return np.asarray(Dense(file, tensor).array.reshape(-1), np.float32)


def _widen(file: GgufFile, tensor: TensorInfo) -> Array:
    """Ternary weights times their scales, f16 [rows, K]; raises BadModel where +2 times one is beyond f16."""
    import kparity._native as native

    k, rows, data = tensor.shape[0], tensor.rows, file.data(tensor)
    words, half, _, bad = getattr(native, NATIVE[tensor.type.name])(data, rows, k, processors())
    if bad >= 0:
        raise _not_ternary(tensor, data, k, bad)
    scales = half.view("<f2").reshape(rows, -1, 1).astype(np.float32)
    with np.errstate(all="ignore"):  # a damaged scale gives infinities; the gates see them
        values: Array = (unpack(words, k).reshape(rows, scales.shape[1], -1) * scales).astype(np.float16)
    large = np.isfinite(scales) & (2 * scales > np.finfo(np.float16).max)
    if large.any() and (np.isinf(values) & large).any():
        raise BadModel(f"tensor {tensor.name}: a weight of +2 times its scale is beyond f16")
    return values.reshape(rows, k)


def _dequantise(file: GgufFile, tensor: TensorInfo) -> Array:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    data = file.data(tensor).reshape(tensor.rows, -1)
    with np.errstate(all="ignore"):  # a damaged scale gives infinities; the gates see them
        values: Array = dequantize(data, GGMLQuantizationType(tensor.type.id))
    return values
