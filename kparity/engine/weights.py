"""A model's weights on a device: repacked, stacked where one GEMV reads several, uploaded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from kparity.device.adapter import Backend, Buffer
from kparity.model import Model, Ternary
from kparity.model.graph import LINEARS, NORMS
from kparity.ops.spec import Array

GROUPS = {"attn_qkv": ("attn_q", "attn_k", "attn_v"), "ffn_gate_up": ("ffn_gate", "ffn_up")}
"""Weights that read the same activations: in a fused graph one GEMV over their rows, one below the other."""
FUSED = ("attn_qkv", "attn_output", "ffn_gate_up", "ffn_down")
"""The GEMVs of a layer of a fused graph."""


def parts_of(name: str) -> tuple[str, ...]:
    """The weights of the file that a GEMV of the graph reads."""
    return GROUPS.get(name, (name,))


@dataclass(frozen=True)
class Linear:
    """A ternary weight on the device, or several of them one below the other."""

    words: Buffer
    wscale: Buffer
    kind: str
    n: int
    k: int


@dataclass(frozen=True)
class Part:
    """Rows ``row0`` … of a dense table that fit one binding of the device."""

    buffer: Buffer
    row0: int
    rows: int


@dataclass
class Weights:
    """Everything of a model that a backend holds."""

    linears: dict[tuple[int, str], Linear] = field(default_factory=dict)
    norms: dict[str, Buffer] = field(default_factory=dict)
    embedding: list[Part] = field(default_factory=list)
    head: list[Part] = field(default_factory=list)
    dtype: tuple[str, str] = ("f16", "f16")
    """Element types of the embedding and of the head."""


def _parts(backend: Backend, table: Array) -> list[Part]:
    """Upload a table in as many pieces as the device's largest binding asks for."""
    rows = max(1, min(len(table), backend.info.max_binding // max(1, table[:1].nbytes)))
    return [
        Part(backend.upload(table[row0 : row0 + rows]), row0, len(table[row0 : row0 + rows]))
        for row0 in range(0, len(table), rows)
    ]


@dataclass(frozen=True)
class _Stack:
    """Words u32 [n, Kp/16] of one weight or of several, with scales per ``tensor``, ``row`` or ``block256``."""

    words: Array
    wscale: Array
    kind: str
    n: int
    k: int


def _stacked(weights: Sequence[Ternary]) -> _Stack:
    """Weights of one width, one below the other: a scale per row, or per block where any of them has that."""
    if len(weights) == 1:
        only = weights[0]
        return _Stack(only.words, only.wscale, only.kind, only.n, only.k)
    blocks = weights[0].words.shape[1] // 16
    if all(weight.kind == "tensor" for weight in weights):
        kind, scales = "row", [np.repeat(weight.wscale, weight.n) for weight in weights]
    else:
        kind = "block256"
        scales = [np.broadcast_to(weight.wscale, (weight.n, blocks)) for weight in weights]
    words = np.concatenate([weight.words for weight in weights])
    rows = sum(weight.n for weight in weights)
    return _Stack(words, np.concatenate(scales), kind, rows, weights[0].k)


def _linear(model: Model, backend: Backend, layer: int, name: str) -> Linear:
    stack = _stacked([model.linear(layer, part) for part in parts_of(name)])
    words, wscale = backend.upload(stack.words), backend.upload(stack.wscale)
    return Linear(words, wscale, stack.kind, stack.n, stack.k)


def silent(note: str) -> None:
    """The tick of whoever does not want to know how far work is."""


def upload(
    model: Model, backend: Backend, fused: bool = False, tick: Callable[[str], None] = silent
) -> Weights:  # fmt: skip
    """Bring a model to a device: ternary weights are repacked one by one and dropped from host memory."""
    weights = Weights()
    for layer in range(model.hparams.n_layer):
        for name in FUSED if fused else LINEARS:
            weights.linears[layer, name] = _linear(model, backend, layer, name)
            tick(f"layer {layer + 1} of {model.hparams.n_layer}")
        for name in NORMS:
            key = f"blk.{layer}.{name}.weight"
            weights.norms[key] = backend.upload(model.vector(key))
    weights.norms["output_norm.weight"] = backend.upload(model.vector("output_norm.weight"))
    embedding, head = model.embedding(), model.head()
    weights.embedding = _parts(backend, embedding.array)
    weights.head = weights.embedding if head.tied else _parts(backend, head.array)
    weights.dtype = ("f16" if embedding.array.dtype == np.float16 else "f32",
                     "f16" if head.array.dtype == np.float16 else "f32")  # fmt: skip
    return weights
