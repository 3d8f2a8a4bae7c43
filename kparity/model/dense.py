"""Ordinary (not ternary) tensors of a file: embeddings, the LM head, norm weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kparity.errors import BadModel
from kparity.model.gguf_file import BF16, F16, F32, GgufFile, TensorInfo
from kparity.ops.spec import Array

_CHUNK = 1 << 22
"""Elements that are converted at a time: the dequantisers of ``gguf`` need several times the memory of their result."""


@dataclass(frozen=True)
class Dense:
    """A matrix [rows, K], f16 or f32, C-contiguous; ``tied`` where the head and the embedding are one tensor."""

    array: Array
    name: str
    stored: str
    tied: bool


def load_matrix(file: GgufFile, tensor: TensorInfo) -> Array:
    """[rows, K]: a read-only view of the mapped file for F16 and F32, an f32 copy for BF16, Q8_0 and Q6_K."""
    k, rows = tensor.shape[0], tensor.rows
    data = file.data(tensor)
    if tensor.type is F16 or tensor.type is F32:
        return data.view("<f2" if tensor.type is F16 else "<f4").reshape(rows, k)
    if tensor.type.ternary:
        raise BadModel(f"tensor {tensor.name} is {tensor.type.name}: a ternary embedding or head is not supported")
    result = np.empty((rows, k), np.float32)
    by_row = data.reshape(rows, -1)
    step = max(1, _CHUNK // k)
    for start in range(0, rows, step):
        result[start : start + step] = _dequantise(tensor, by_row[start : start + step])
    file.advise(tensor, "DONTNEED")
    return result


def load_vector(file: GgufFile, tensor: TensorInfo) -> Array:
    """f32 [K]: a norm's weights, whatever they contain."""
    return np.ascontiguousarray(load_matrix(file, tensor).reshape(-1), dtype=np.float32)


def _dequantise(tensor: TensorInfo, rows: Array) -> Array:
    if tensor.type is BF16:
        return (rows.view("<u2").astype(np.uint32) << 16).view(np.float32)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    with np.errstate(all="ignore"):  # a damaged scale gives infinities; the gates see them
        values: Array = dequantize(np.ascontiguousarray(rows), GGMLQuantizationType(tensor.type.id))
    return values
