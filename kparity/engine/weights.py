"""A model's weights on a device: repacked, stacked where one GEMV reads several, uploaded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from kparity.device.adapter import Backend, Buffer
from kparity.model import Model, Ternary
from kparity.model.graph import LINEARS, NORMS
from kparity.model.tensors import Dense, ScaleKind
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


def _table(backend: Backend, table: Dense) -> tuple[list[Part], str]:
    """The parts of an embedding or a head, and the type of its elements."""
    return _parts(backend, table.array), "f16" if table.array.dtype == np.float16 else "f32"


def _stacked(weights: Sequence[Ternary]) -> Ternary:
    """Weights of one width, one below the other: a scale per row, or per block where any of them has that."""
    if len(weights) == 1:
        return weights[0]
    rows, blocks = sum(weight.n for weight in weights), weights[0].words.shape[1] // 16
    by_row = all(weight.kind == "tensor" for weight in weights)
    scales = np.concatenate([np.broadcast_to(weight.wscale, (weight.n, 1 if by_row else blocks)) for weight in weights])
    words = np.concatenate([weight.words for weight in weights])
    kind: ScaleKind = "row" if by_row else "block256"
    return Ternary(words, scales.reshape(-1) if by_row else scales, kind, rows, weights[0].k)


def silent(note: str) -> None:
    """The tick of whoever does not want to know how far work is."""


def upload(
    model: Model, backend: Backend, fused: bool = False, tick: Callable[[str], None] = silent
) -> Weights:  # fmt: skip
    """Bring a model to a device: ternary weights are repacked one by one and dropped from host memory."""
    weights = Weights()
    weights.embedding, first = _table(backend, model.embedding())  # first: it is in memory twice
    weights.head, last = (weights.embedding, first) if model.tied else _table(backend, model.head())
    weights.dtype = (first, last)
    for layer in range(model.hparams.n_layer):
        for name in FUSED if fused else LINEARS:
            stack = _stacked([model.linear(layer, part) for part in parts_of(name)])
            words, wscale = backend.upload(stack.words), backend.upload(stack.wscale)
            weights.linears[layer, name] = Linear(words, wscale, stack.kind, stack.n, stack.k)
            tick(f"layer {layer + 1} of {model.hparams.n_layer}")
        for name in NORMS:
            key = f"blk.{layer}.{name}.weight"
            weights.norms[key] = backend.upload(model.vector(key))
    weights.norms["output_norm.weight"] = backend.upload(model.vector("output_norm.weight"))
    return weights
