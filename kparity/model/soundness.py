"""Values that no backend can compute with: scales, rows and norms that are NaN, infinite, negative, zero or huge.

The bytes are read, not mapped, a piece at a time that stays in the processor's cache: this costs a parent neither its
memory nor, where the file is shortened meanwhile, its life.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from kparity.errors import BadModel
from kparity.host import files
from kparity.model import digest, graph
from kparity.model.gguf_file import GgufFile, TensorInfo
from kparity.model.types import I2_S_TAIL
from kparity.ops.spec import Array

if TYPE_CHECKING:
    from kparity.model.model import Model

PIECE = 1 << 20
"""Bytes that are looked at at a time."""
_EXPONENT = {"F16": ("<u2", 0x7C00, 0x7400), "BF16": ("<u2", 0x7F80, 0x4680), "F32": ("<u4", 0x7F800000, 0x46800000)}
"""Type of a float's bits, its exponent's (where all of these are set it is NaN or infinite), and the bits of HUGE."""
HUGE = 2.0**14
"""No weight, norm or scale of a trained model comes near: a value from here on is damage, or a scale that was applied
twice, though numbers go on to be finite for a while.
"""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a tensor. ``fatal``: no backend can be judged on such a model."""

    tensor: str
    reason: str
    fatal: bool


@dataclass
class _Seen:
    """What a tensor has: how many values are bad, the row of the first one, and whether any is not zero."""

    bad: int = 0
    row: int = 0
    filled: bool = False
    huge: int = -1
    """The row of the first value that is finite and too large, -1 where none is."""


def faults(model: Model) -> list[Fault]:
    """Of every tensor of a model, as ``found_in`` says."""
    return found_in(model.file, model.file.tensors.values())


def found_in(file: GgufFile, tensors: Iterable[TensorInfo]) -> list[Fault]:
    """Of every tensor, in its order. Raises BadModel where the file is not the one that was opened."""
    found, empty, ternary = list[Fault](), list[str](), 0
    needed = (graph.EMBEDDING, graph.HEAD, graph.OUTPUT_NORM)
    with files.opened(file.path, "a GGUF file") as stream:
        if digest.identity(os.fstat(stream.fileno())) != file.identity:
            file.fail(digest.CHANGED)
        for tensor in tensors:
            seen, scales = _seen(stream, tensor), tensor.type.name not in _EXPONENT
            ternary += tensor.type.ternary
            if seen.bad:
                values = "scales" if scales or tensor.name.endswith("scale") else "values"
                wrong = "NaN, infinite or negative" if tensor.type.ternary else "NaN or infinite"
                found.append(Fault(tensor.name, f"{seen.bad} {values} {wrong}, the first in row {seen.row}", True))
            elif not seen.filled:
                empty += [tensor.name] if tensor.type.ternary else []
                found.append(Fault(tensor.name, f"all {'scales' if scales else 'values'} zero", tensor.name in needed))
            elif seen.huge >= 0:
                found.append(Fault(tensor.name, f"a value of {HUGE:g} or more, the first in row {seen.huge}", False))
    if empty and len(empty) == ternary:
        found.append(Fault(empty[0], "as those of every ternary tensor, its scales are all zero", True))
    return found


def refuse(model: Model) -> None:
    """Raise BadModel, naming the first tensor, where no backend could be judged on a model."""
    for fault in faults(model):
        if fault.fatal:
            raise BadModel(
                f"{model.path}: tensor {fault.tensor}: {fault.reason}: the file is damaged or was converted wrongly, "
                f"and no backend can compute with it; fetch or convert it again (kparity model inspect shows all)"
            )


def _seen(stream: BinaryIO, tensor: TensorInfo) -> _Seen:
    """One tensor, rows at a time; of an I2_S tensor the one scale behind its codes."""
    seen = _Seen()
    for row0, data in _pieces(stream, tensor):
        rows = 1 if tensor.type.name == "I2_S" else len(data) * tensor.rows // tensor.n_bytes
        bad, huge, filled = _judged(tensor, data)
        seen.filled = seen.filled or filled
        if bad is not None:
            seen.row = seen.row if seen.bad else row0 + int(np.argmax(bad)) * rows // bad.size
            seen.bad += int(np.count_nonzero(bad))
        if huge is not None and seen.huge < 0:
            seen.huge = row0 + int(np.argmax(huge)) * rows // huge.size
    return seen


def _pieces(stream: BinaryIO, tensor: TensorInfo) -> Iterator[tuple[int, Array]]:
    """The first row of each piece, and its bytes, u8."""
    offset, rows, row_bytes = tensor.offset, tensor.rows, tensor.n_bytes // tensor.rows
    if tensor.type.name == "I2_S":
        offset, rows, row_bytes = tensor.end - I2_S_TAIL, 1, 4
    step = max(1, PIECE // row_bytes)
    buffer = np.empty(min(step, rows) * row_bytes, np.uint8)
    stream.seek(offset)
    for row0 in range(0, rows, step):
        piece = buffer[: min(step, rows - row0) * row_bytes]
        if stream.readinto(piece) != piece.size:  # type: ignore[attr-defined]
            raise BadModel(f"{stream.name}: {digest.CHANGED}")
        yield row0, piece


def _judged(tensor: TensorInfo, data: Array) -> tuple[Array | None, Array | None, bool]:
    """Which values of a piece are bad, and which too large, None where none is; whether one of them is not zero."""
    name = tensor.type.name
    if name in _EXPONENT:
        dtype, exponent, huge = _EXPONENT[name]
        bits = data.view(dtype)
        sizes = bits & (2 ** (8 * bits.itemsize - 1) - 1)  # without the sign: the largest one is the largest number
        largest = int(sizes.max())
        return (
            (sizes >= exponent if largest >= exponent else None),
            (sizes >= huge if largest >= huge else None),
            largest > 0,
        )
    at, size = (tensor.type.scale_at, tensor.type.block_bytes) if tensor.type.scale_at >= 0 else (0, 4)
    width, dtype = (4, "<f4") if name == "I2_S" else (2, "<f2")
    scales = data.reshape(-1, size)[:, at : at + width].copy().view(dtype)
    with np.errstate(invalid="ignore"):
        bad, large = ~np.isfinite(scales) | ((scales < 0) & tensor.type.ternary), np.abs(scales) >= HUGE
    return (bad if bad.any() else None), (large if large.any() else None), bool(scales.any())
