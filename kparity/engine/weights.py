"""A model's weights on a device: repacked, stacked where one GEMV reads several, uploaded once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np

from kparity.device.adapter import Backend, Buffer
from kparity.model import Model, Ternary
from kparity.model.graph import norms_of
from kparity.model.tensors import SPANS, Dense
from kparity.ops.spec import DTYPES, Array

GROUPS = {"attn_qkv": ("attn_q", "attn_k", "attn_v"), "ffn_gate_up": ("ffn_gate", "ffn_up")}
"""Weights that read the same activations: in a fused graph one GEMV over their rows, one below the other."""
READERS = {
    "attn_norm": "attn_qkv", "attn_sub_norm": "attn_output", "ffn_norm": "ffn_gate_up", "ffn_sub_norm": "ffn_down"
}  # fmt: skip
"""What reads the activations of a place, whether the model has the norm of that name there or not."""
FUSED = tuple(READERS.values())
"""The GEMVs of a layer of a fused graph."""


def parts_of(name: str) -> tuple[str, ...]:
    """The weights of the file that a GEMV of the graph reads."""
    return GROUPS.get(name, (name,))


def gemvs(arch: str, fused: bool, dense: Collection[str] = ()) -> tuple[str, ...]:
    """The GEMVs of a layer, some of whose weights are ``dense`` ones. Weights that read the same activations are one
    GEMV, where what follows takes their outputs side by side: norms of the heads of q and k, a gate without a norm
    behind it, and what prepares activations for a dense weight do not.
    """
    norms = norms_of(arch)
    apart = {
        "attn_qkv": "attn_q_norm" in norms or not {*parts_of("attn_qkv")}.isdisjoint(dense),
        "ffn_gate_up": "ffn_sub_norm" not in norms or not {"ffn_gate", "ffn_up", "ffn_down"}.isdisjoint(dense),
    }
    names = (parts_of(name) if not fused or apart.get(name, False) else (name,) for name in FUSED)
    return tuple(chain.from_iterable(names))


@dataclass(frozen=True)
class Linear:
    """A ternary weight on the device, or several of them one below the other."""

    words: Buffer
    wscale: Buffer
    kind: str
    n: int
    k: int


@dataclass(frozen=True)
class DenseLinear:
    """A weight of an ordinary type on the device, f16 or f32 [n, k], in parts where it is large."""

    parts: list[Part]
    dtype: str
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
    dense: dict[tuple[int, str], DenseLinear] = field(default_factory=dict)
    norms: dict[str, Buffer] = field(default_factory=dict)
    embedding: list[Part] = field(default_factory=list)
    head: list[Part] = field(default_factory=list)
    dtype: tuple[str, str] = ("f16", "f16")
    """Element types of the embedding and of the head."""

    def gemvs(self, layer: int, name: str) -> tuple[str, ...]:
        """What one GEMV of the fused graph is here: itself, or one of each of its weights."""
        return (name,) if (layer, name) in self.linears else parts_of(name)

    def kinds(self, layer: int, name: str) -> tuple[bool, bool]:
        """Whether a ternary weight, and whether a dense one, is among those that read the same activations."""
        parts = self.gemvs(layer, name)
        return any((layer, part) in self.linears for part in parts), any((layer, part) in self.dense for part in parts)


def _table(backend: Backend, table: Dense) -> list[Part]:
    """A table in as many pieces as the device's largest binding asks for."""
    rows, k = table.shape
    step = max(1, min(rows, backend.info.max_binding // (k * DTYPES[table.dtype].itemsize)))
    return [
        Part(backend.fill((count, k), table.dtype, partial(table.read, row0)), row0, count)
        for row0 in range(0, rows, step)
        for count in [min(step, rows - row0)]
    ]


def _linear(backend: Backend, weights: Sequence[Ternary]) -> Linear:
    """Weights of one width, one below the other: a scale per row, or the smallest spans that any of them has."""
    first, rows = weights[0], sum(weight.n for weight in weights)
    shape = rows, first.words.shape[1]
    words = backend.fill(shape, "u32", lambda out: np.concatenate([weight.words for weight in weights], out=out))
    kind, scales = stacked_scales(weights)
    return Linear(words, backend.upload(scales), kind, rows, first.k)


def stacked_scales(weights: Sequence[Ternary]) -> tuple[str, Array]:
    """Kind and f32 scales of weights that stand one below the other."""
    if len(weights) == 1:
        return weights[0].kind, weights[0].wscale
    if all(weight.kind == "tensor" for weight in weights):
        return "row", np.concatenate([np.broadcast_to(weight.wscale, weight.n) for weight in weights])
    kp, spans = weights[0].words.shape[1] * 16, max(weight.wscale.shape[-1] for weight in weights)
    scales = [np.repeat(weight.wscale, spans // weight.wscale.shape[-1], axis=-1) for weight in weights]
    stacked = [np.broadcast_to(each, (weight.n, spans)) for each, weight in zip(scales, weights, strict=True)]
    return SPANS[kp // spans], np.concatenate(stacked)


def silent(note: str) -> None:
    """The tick of whoever does not want to know how far work is."""


def upload(
    model: Model, backend: Backend, fused: bool = False, tick: Callable[[str], None] = silent
) -> Weights:  # fmt: skip
    """Bring a model to a device: ternary weights are repacked one by one and dropped from host memory."""
    weights = Weights()
    embedding, head = model.embedding(), model.head()
    weights.dtype = embedding.dtype, head.dtype
    weights.embedding = _table(backend, embedding)  # first: it may be in memory twice
    weights.head = weights.embedding if head.tied else _table(backend, head)
    for layer in range(model.hparams.n_layer):
        dense = [name for at, name in model.mixed if at == layer]
        for name in gemvs(model.hparams.arch, fused, dense):
            if name in dense:
                table = model.dense(layer, name)
                weights.dense[layer, name] = DenseLinear(_table(backend, table), table.dtype, *table.shape)
                continue
            parts = [model.linear(layer, part) for part in parts_of(name)]
            weights.linears[layer, name] = _linear(backend, parts)
            tick(f"layer {layer + 1} of {model.hparams.n_layer}")
        for name in norms_of(model.hparams.arch):
            key = f"blk.{layer}.{name}.weight"
            weights.norms[key] = backend.upload(model.vector(key))
    weights.norms["output_norm.weight"] = backend.upload(model.vector("output_norm.weight"))
    return weights
