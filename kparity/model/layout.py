"""Tensor types of GGUF files that can be read, and why the others cannot.

Ids and block sizes: ggml.h (``enum ggml_type``) and ggml-common.h of llama.cpp; I2_S: ggml.h of bitnet.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kparity.errors import BadModel

I2_S_GROUP = 128
"""Weights of an I2_S group; groups run over the whole tensor, so its number of weights is a multiple of this."""
I2_S_TAIL = 32
"""Bytes after the codes of an I2_S tensor: one f32 scale and padding."""


@dataclass(frozen=True)
class TensorType:
    """Storage of one tensor type: ``block`` elements of a row take ``block_bytes`` bytes."""

    id: int
    name: str
    block: int
    block_bytes: int
    ternary: bool = False

    def n_bytes(self, tensor: str, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of this type; ``shape`` in file order, the row length K first."""
        elements = 1
        for size in shape:
            elements *= size
        if self.name == "I2_S":
            if elements % I2_S_GROUP:
                raise BadModel(f"tensor {tensor}: I2_S has groups of {I2_S_GROUP} weights, {elements} is no multiple")
            return elements // 4 + I2_S_TAIL
        if shape[0] % self.block:
            raise BadModel(
                f"tensor {tensor}: {self.name} has blocks of {self.block} in a row, K = {shape[0]} is no multiple"
            )
        return elements // self.block * self.block_bytes


F32 = TensorType(0, "F32", 1, 4)
F16 = TensorType(1, "F16", 1, 2)
Q8_0 = TensorType(8, "Q8_0", 32, 34)
Q6_K = TensorType(14, "Q6_K", 256, 210)
BF16 = TensorType(30, "BF16", 1, 2)
TQ1_0 = TensorType(34, "TQ1_0", 256, 54, ternary=True)
TQ2_0 = TensorType(35, "TQ2_0", 256, 66, ternary=True)
I2_S = TensorType(36, "I2_S", I2_S_GROUP, 32, ternary=True)

TYPES: Mapping[int, TensorType] = {t.id: t for t in (F32, F16, Q8_0, Q6_K, BF16, TQ1_0, TQ2_0, I2_S)}

_TILES = (
    "its tile sizes are a build option of the program that wrote it and are not in the file; convert to I2_S or TQ2_0"
)
_REFUSED: Mapping[int, str] = {
    37: "type 37 is I8_S of bitnet.cpp (retired in mainline files)",
    38: f"type 38 is TL1 of bitnet.cpp: {_TILES}",
    39: f"type 39 is TL2 in bitnet.cpp files and MXFP4 in mainline files; TL2: {_TILES}; MXFP4 is not ternary",
}


def tensor_type(tensor: str, type_id: int) -> TensorType:
    """The type of a tensor; BadModel, with the reason, where it cannot be read."""
    known = TYPES.get(type_id)
    if known is not None:
        return known
    reason = _REFUSED.get(type_id) or f"type {type_id}{_mainline_name(type_id)} cannot be read"
    readable = ", ".join(t.name for t in TYPES.values())
    raise BadModel(f"tensor {tensor}: {reason} (readable: {readable})")


def _mainline_name(type_id: int) -> str:
    """The mainline name of a type, for messages."""
    from gguf import GGMLQuantizationType

    try:
        return f" ({GGMLQuantizationType(type_id).name})"
    except ValueError:
        return ""
