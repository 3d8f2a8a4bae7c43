"""Types of tensors: how they are stored, and which of the several that share an id a tensor has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from kparity.errors import BadModel

I2_S_GROUP = 128
"""Weights of an I2_S group; groups run over the whole tensor, so its number of weights is a multiple of this."""
I2_S_TAIL = 32
"""Bytes after the codes of an I2_S tensor: one f32 scale and padding."""
Codes = Literal["", "bits", "base3"]
"""How a ternary type stores its weights: two bits each, or five base-3 digits a byte; nothing for another type."""


@dataclass(frozen=True)
class TensorType:
    """Storage of one tensor type: ``block`` elements of a row take ``block_bytes`` bytes.

    ``scale_at`` is where the f16 scale of a block stands, -1 without one. ``why`` says why nothing here reads it.
    """

    id: int
    name: str
    block: int
    block_bytes: int
    codes: Codes = ""
    scale_at: int = -1
    why: str = ""
    flat: bool = False
    """I2_S alone: blocks run over the whole tensor, and one f32 scale stands behind them."""

    @property
    def ternary(self) -> bool:
        """Whether its weights are codes of -1, 0 and 1."""
        return bool(self.codes)

    @property
    def plus_two(self) -> bool:
        """Whether code 3 is a weight of it, +2."""
        return self.codes == "bits" and self.scale_at == 0

    def size(self, shape: tuple[int, ...]) -> int | None:
        """Bytes of a tensor of this type, ``shape`` in file order, the row length K first; None where it is no whole
        number of blocks, or the size of a block is not known.
        """
        elements = math.prod(shape)
        if self.flat:
            return None if elements % self.block else elements // 4 + I2_S_TAIL
        return None if not self.block or shape[0] % self.block else elements // self.block * self.block_bytes

    def n_bytes(self, tensor: str, shape: tuple[int, ...]) -> int:
        """The same; raises BadModel where it is None."""
        found = self.size(shape)
        if found is not None:
            return found
        if self.flat:
            elements = math.prod(shape)
            raise BadModel(f"tensor {tensor}: I2_S has groups of {I2_S_GROUP} weights, {elements} is no multiple")
        raise BadModel(
            f"tensor {tensor}: {self.name} has blocks of {self.block} in a row, K = {shape[0]} is no multiple"
        )


F32 = TensorType(0, "F32", 1, 4)
F16 = TensorType(1, "F16", 1, 2)
Q8_0 = TensorType(8, "Q8_0", 32, 34, scale_at=0)
Q6_K = TensorType(14, "Q6_K", 256, 210, scale_at=208)
BF16 = TensorType(30, "BF16", 1, 2)
TQ1_0 = TensorType(34, "TQ1_0", 256, 54, "base3", 52)
TQ2_0 = TensorType(35, "TQ2_0", 256, 66, "bits", 64)
I2_S = TensorType(36, "I2_S", I2_S_GROUP, 32, "bits", flat=True)
Q2_0 = TensorType(42, "Q2_0", 64, 18, "bits", 0)
Q2_0_128 = TensorType(42, "Q2_0_128", 128, 34, "bits", 0)
PQ2_0 = TensorType(142, "PQ2_0", 128, 34, "bits", 0)
PTQ1_0 = TensorType(143, "PTQ1_0", 128, 28, "base3", 26)

READABLE = (F32, F16, Q8_0, Q6_K, BF16, TQ1_0, TQ2_0, I2_S, Q2_0, Q2_0_128, PQ2_0, PTQ1_0)
"""Ids and block sizes: ggml.h (``enum ggml_type``) and ggml-common.h of llama.cpp; I2_S: ggml.h of bitnet.cpp; the last
three are those of a fork.
"""

_TILES = (
    "its tile sizes are a build option of the program that wrote it and are not in the file; convert to I2_S or TQ2_0"
)
_RETIRED = "retired in mainline files; convert the original model again"
_SHARED: Mapping[int, tuple[TensorType, ...]] = {
    36: (I2_S, TensorType(36, "IQ4_NL_4_4", 32, 18, why=_RETIRED)),
    37: (
        TensorType(37, "I8_S of bitnet.cpp", 1, 1, why="retired in mainline files, and no ternary type"),
        TensorType(37, "IQ4_NL_4_8", 32, 18, why=_RETIRED),
    ),
    38: (
        TensorType(38, "TL1 of bitnet.cpp", 0, 0, why=_TILES),
        TensorType(38, "IQ4_NL_8_8", 32, 18, why=_RETIRED),
    ),
    39: (
        TensorType(39, "TL2 in bitnet.cpp files and MXFP4 in mainline files", 0, 0,
                   why=f"TL2: {_TILES}; MXFP4 is not ternary"),
        TensorType(39, "MXFP4", 32, 17, why="it is not ternary"),
    ),
    42: (Q2_0, Q2_0_128, TensorType(42, "an F8 of another project", 128, 129, why="no layout of it is published")),
    142: (PQ2_0,),
    143: (PTQ1_0,),
}  # fmt: skip
"""Ids with several claimants, and those that mainline does not have; the likeliest first. A block of 0: its size is not
known.
"""


@cache
def claimants(type_id: int) -> tuple[TensorType, ...]:
    """Every type that is known under an id; none for an id that nobody has."""
    if type_id in _SHARED:
        return _SHARED[type_id]
    ours = tuple(each for each in READABLE if each.id == type_id)
    if ours:
        return ours
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    found = [each for each in GGMLQuantizationType if each.value == type_id]  # mainline's names and sizes
    sizes = [(each, *GGML_QUANT_SIZES[each]) for each in found]
    return tuple(TensorType(type_id, each.name, block, size, why="no ternary type") for each, block, size in sizes)


def fitting(shape: tuple[int, ...], type_id: int, room: int, alignment: int) -> list[TensorType]:
    """Of the claimants of an id, those of which a tensor takes ``room`` bytes, up to the padding behind it."""
    sizes = {each: each.size(shape) for each in claimants(type_id)}
    return [each for each, size in sizes.items() if size is not None and size <= room < size + alignment]


def tensor_type(
    tensor: str, shape: tuple[int, ...], type_id: int, room: int, alignment: int, last: bool = False
) -> TensorType:
    """The type of a tensor that has ``room`` bytes to the next one, or to the file's end where it is the ``last``; its
    size decides where several types claim the id. Raises BadModel, with the reason, where it cannot be read.
    """
    known = claimants(type_id)
    found = list(known) if len(known) == 1 else fitting(shape, type_id, room, alignment)
    readable = [each for each in known if each in READABLE]
    if not found and readable:
        sizes = [each.n_bytes(tensor, shape) for each in readable]
        if not last:  # else the file may be cut off, or go on
            raise BadModel(f"tensor {tensor}: {sizes_told(shape, known, room)}: fetch or convert the file again")
        found = [each for each, size in zip(readable, sizes, strict=True) if size <= room] or readable
    found = found or [each for each in known if not each.block] or list(known)
    if found and found[0] in READABLE:
        return found[0]
    names = ", ".join(each.name for each in READABLE)
    raise BadModel(f"tensor {tensor}: {reason(type_id, found)} (readable: {names})")


def reason(type_id: int, found: Sequence[TensorType]) -> str:
    """Why a tensor of an id cannot be read, whose type is the first of ``found``."""
    if not found:
        return f"type {type_id} cannot be read"
    if type_id in _SHARED:
        return f"type {type_id} is {found[0].name}" + (f": {found[0].why}" if found[0].why else "")
    return f"type {type_id} ({found[0].name}) cannot be read"


def sizes_told(shape: tuple[int, ...], known: Sequence[TensorType], room: int) -> str:
    """That a tensor's size is that of no claimant of its id, with the size that each would have."""
    sizes = {each: each.size(shape) for each in known}
    parts = [f"{each.name} ({f'blocks of {each.block}' if size is None else f'{size} bytes'})"
             for each, size in sizes.items()]  # fmt: skip
    return f"type {known[0].id} is {' or '.join(parts)}, and there are {room} bytes to the next tensor"
