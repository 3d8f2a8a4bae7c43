"""The second reader of weights: rows of a matrix at a time, so that what is decoded stays in the processor's cache.

Ternary types are decoded by kparity/model/decode.py, ordinary ones here, scales are applied here: nothing of this is
what a candidate uploads by. Layouts of blocks: ggml-common.h of llama.cpp.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kparity.errors import BadModel
from kparity.model import decode
from kparity.model.gguf_file import GgufFile, TensorInfo
from kparity.ops.spec import Array

BLOCK = 256
PIECE = 1 << 19
"""Weights that are decoded at a time: 2 MiB in f32. Whole matrices took 20 times as long, all of it memory traffic."""
GROUP = 128
"""Weights of an I2_S group; a number of rows that it divides is a whole number of groups, whatever K is."""


@dataclass(frozen=True)
class Piece:
    """Rows ``row0`` … of a ternary matrix: ``values`` f32 [rows, k] of -1 to 2; ``scales`` f32 [rows, 1], or
    [rows, k / span] where spans of 256, 128 or 64 have scales of their own.
    """

    row0: int
    values: Array
    scales: Array

    @property
    def rows(self) -> slice:
        """Where its outputs stand."""
        return slice(self.row0, self.row0 + len(self.values))


def find(file: GgufFile, name: str, k: int, rows: int) -> TensorInfo:
    """A tensor [rows, k]; raises BadModel where it is missing or has another shape."""
    tensor = file.tensors.get(name)
    if tensor is None:
        raise BadModel(f"tensor {name} is missing")
    if (tensor.shape[0], tensor.rows) != (k, rows):
        raise BadModel(f"tensor {name} has the shape {list(tensor.shape)}, expected {rows} rows of {k}")
    return tensor


def _steps(k: int, rows: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each piece."""
    step = max(1, PIECE // k // GROUP) * GROUP
    return ((row0, min(step, rows - row0)) for row0 in range(0, rows, step))


def ternary(file: GgufFile, name: str, k: int, rows: int) -> Iterable[Piece]:
    """``<name>.weight`` times ``<name>.scale`` or ``<name>.weight_scale``, piece by piece; raises BadModel for what is
    no ternary weight.
    """
    tensor = find(file, f"{name}.weight", k, rows)
    if not tensor.type.ternary:
        raise BadModel(f"tensor {tensor.name} is {tensor.type.name}, expected a ternary type")
    beside = np.float32(1)
    for scale in (f"{name}.scale", f"{tensor.name}_scale"):
        beside *= np.float32(vector(file, scale, 1)[0] if scale in file.tensors else 1)
    if file.kept is None:
        return _pieces(file, tensor, beside)
    key = tensor.offset, float(beside)
    if key not in file.kept:
        file.kept[key] = list(_pieces(file, tensor, beside))
    return file.kept[key]


def _pieces(file: GgufFile, tensor: TensorInfo, beside: np.float32) -> Iterator[Piece]:
    for row0, count in _steps(tensor.shape[0], tensor.rows):
        weights, stored = _decoded(file, tensor, row0, count)
        scales = np.broadcast_to(stored.astype(np.float32).reshape(-1, stored.shape[-1]), (count, stored.shape[-1]))
        shared = scales[0, 0]
        if (scales == shared).all():
            scales = np.full((count, 1), shared)
        with np.errstate(over="ignore"):
            scales = scales * beside
        if not (np.isfinite(scales) & (scales >= 0)).all():
            raise BadModel(f"tensor {tensor.name}: a scale from row {row0} on is no finite number of at least 0")
        yield Piece(row0, weights.astype(np.float32), scales)


def matrix(file: GgufFile, name: str) -> tuple[Array, Array]:
    """All of ``<name>.weight``: f32 [rows, k] of -1 to 2, and its scales as ``Piece`` has them, f32 [rows, …]."""
    tensor = file.tensors[f"{name}.weight"]
    pieces = list(ternary(file, name, tensor.shape[0], tensor.rows))
    blocks = max(piece.scales.shape[1] for piece in pieces)
    scales = [np.broadcast_to(piece.scales, (len(piece.scales), blocks)) for piece in pieces]
    return np.concatenate([piece.values for piece in pieces]), np.concatenate(scales)


def _decoded(file: GgufFile, tensor: TensorInfo, row0: int, rows: int) -> tuple[Array, Array]:
    """Weights i8 [rows, k] and the scales that are stored with them, f16 [rows, k / block] or f32 [1]."""
    k = tensor.shape[0]
    if tensor.type.name == "I2_S":  # groups run over the whole tensor, and its one scale stands behind all of them
        ends = (row0 * k // 4, rows * k // 4), (tensor.rows * k // 4, 4)
        parts = [dataclasses.replace(tensor, offset=tensor.offset + at, n_bytes=count) for at, count in ends]
        return decode.decode_i2_s(np.concatenate([*map(file.data, parts)]), rows, k)
    if tensor.type.plus_two:
        return decode.decode_q2_0(file.data(tensor.cut(row0, rows)), rows, k, tensor.type.block)
    decoders = {"TQ1_0": decode.decode_tq1_0, "TQ2_0": decode.decode_tq2_0, "PTQ1_0": decode.decode_ptq1_0}
    decoder = decoders[tensor.type.name]
    return decoder(tensor.name, file.data(tensor.cut(row0, rows)), rows, k, row0)


def _bf16(data: Array) -> Array:
    return np.asarray((data.view("<u2").astype(np.uint32) << 16).view(np.float32))


def _q8_0(data: Array) -> Array:
    """Blocks of an f16 scale and 32 i8."""
    blocks = data.reshape(-1, 34)
    return np.asarray(blocks[:, :2].copy().view("<f2").astype(np.float32) * blocks[:, 2:].view(np.int8))


def _q6_k(data: Array) -> Array:
    """Blocks of 256: u8 ql[128], u8 qh[64], i8 scales[16], f16 d. Of each half of 128, element 32·j + l has its low
    four bits in ql[32·(j % 2) + l] >> 4·(j / 2) and the high two in qh[l] >> 2·j, less 32; a scale counts for 16.
    """
    blocks = data.reshape(-1, 210)
    low = blocks[:, :128].reshape(-1, 2, 1, 2, 32) >> np.array([0, 4], np.uint8).reshape(2, 1, 1) & 15
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(4, 1) & 3
    codes = (low.reshape(-1, 2, 4, 32) | high << 4).astype(np.int8) - np.int8(32)
    d = blocks[:, 208:].copy().view("<f2").astype(np.float32)
    scales = d * blocks[:, 192:208].view(np.int8)  # exact: 11 and 8 bits
    return np.asarray(scales[:, :, None] * codes.reshape(-1, 16, 16))


DENSE: Mapping[str, Callable[[Array], Array]] = {
    "F32": lambda data: data.view("<f4"),
    "F16": lambda data: data.view("<f2").astype(np.float32),
    "BF16": _bf16,
    "Q8_0": _q8_0,
    "Q6_K": _q6_k,
}
"""Decoders of ordinary types: bytes to f32, which holds all of them exactly but for one rounding of a Q6_K weight."""


def _dense(file: GgufFile, tensor: TensorInfo, row0: int, rows: int) -> Array:
    if tensor.type.ternary and not tensor.type.flat:
        values, scales = _decoded(file, tensor, row0, rows)
        with np.errstate(all="ignore"):
            found = values.astype(np.float32) * np.repeat(scales.astype(np.float32), tensor.type.block, axis=1)
        return np.asarray(found)
    if tensor.type.name not in DENSE:
        raise BadModel(f"tensor {tensor.name} is {tensor.type.name}, expected one of {', '.join(DENSE)}")
    with np.errstate(all="ignore"):  # a damaged scale gives infinities; the gates see them
        found = DENSE[tensor.type.name](file.data(tensor.cut(row0, rows)))
    return np.asarray(found, np.float32).reshape(rows, tensor.shape[0])


def vector(file: GgufFile, name: str, k: int) -> Array:
    """The weights of a norm, f32 [k]; raises BadModel where one is not finite."""
    values: Array = _dense(file, find(file, name, k, 1), 0, 1)[0]
    if not np.isfinite(values).all():
        raise BadModel(f"tensor {name}: {values[~np.isfinite(values)][0]} is no finite number")
    return values


def picked(file: GgufFile, tensor: TensorInfo, rows: Array) -> Array:
    """Chosen rows of an embedding, f32 [len(rows), k]."""
    return np.concatenate([_dense(file, tensor, int(row), 1) for row in rows])


def pieces(file: GgufFile, tensor: TensorInfo, start: int = 0, stop: int = 0) -> Iterator[tuple[slice, Array]]:
    """Rows of a table, all of them or those from ``start`` to ``stop``, some at a time, f32 [rows, k]."""
    for row0, count in _steps(tensor.shape[0], (stop or tensor.rows) - start):
        yield slice(start + row0, start + row0 + count), _dense(file, tensor, start + row0, count)


def head_of(file: GgufFile) -> TensorInfo:
    """The LM head, which is the embedding where there is no other; it is there."""
    return file.tensors["output.weight" if "output.weight" in file.tensors else "token_embd.weight"]
