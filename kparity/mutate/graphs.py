"""Wrong graphs and wrongly uploaded weights: the second half of ``kparity.mutate.engine``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from kparity.device.adapter import Backend, Buffer, Launch
from kparity.engine import Engine
from kparity.engine.graph import FusedGraph, Prepared
from kparity.engine.weights import Linear, Part
from kparity.kernels.rope import frequencies
from kparity.model import Model
from kparity.ops.spec import Array

Make = Callable[[Model, Backend], Engine]
WRONG_LAYER = 3
"""The layer in which single defects are: neither the first nor the last."""


def with_graph(graph: type[FusedGraph]) -> Make:
    """An engine whose programs are recorded from another graph."""

    def make(model: Model, backend: Backend) -> Engine:
        engine = Engine(model, backend)
        engine.graph_class = graph
        return engine

    return make


def with_weights(change: Callable[[Engine], None]) -> Make:
    """An engine whose weights are changed after they were uploaded."""

    def make(model: Model, backend: Backend) -> Engine:
        engine = Engine(model, backend)
        change(engine)
        return engine

    return make


class WrongActivation(FusedGraph):
    """relu² for SiLU, and the other way round."""

    def _norm_quant(
        self, pre: str, inputs: tuple[Buffer, ...], key: str, width: int, h: Buffer | None = None
    ) -> Prepared:
        return super()._norm_quant({"silu": "relu2", "relu2": "silu"}.get(pre, pre), inputs, key, width, h)


class NoSubNorm(FusedGraph):
    """The norm before ``attn_output`` is left out: what attention gives is quantised as it is."""

    def _norm_quant(
        self, pre: str, inputs: tuple[Buffer, ...], key: str, width: int, h: Buffer | None = None
    ) -> Prepared:
        if key.endswith("attn_sub_norm.weight"):
            return self._quantise(inputs[0])
        return super()._norm_quant(pre, inputs, key, width, h)


class ResidualDropped(FusedGraph):
    """In one layer what went around attention is not added to what came out of it."""

    def _norm_quant(
        self, pre: str, inputs: tuple[Buffer, ...], key: str, width: int, h: Buffer | None = None
    ) -> Prepared:
        if key == f"blk.{WRONG_LAYER}.ffn_norm.weight":
            inputs = (self.backend.upload(np.zeros(inputs[0].shape, np.float32)), *inputs[1:])
        return super()._norm_quant(pre, inputs, key, width, h)


class CacheOfTheLayerBefore(FusedGraph):
    """One layer reads the cache of the layer before it."""

    def _attend_cache(self, layer: int, q: Buffer) -> Launch:
        return super()._attend_cache(layer - 1 if layer == WRONG_LAYER else layer, q)


class WrongTheta(FusedGraph):
    """RoPE with the base of another model: the key was not read, and a default stands in."""

    def _forward(self) -> Iterator[Launch]:
        self.freq = self.backend.upload(frequencies(500000.0, self.h.rope_dim, self.h.rope_scale))
        yield from super()._forward()


class WrongThetaInChunk(WrongTheta):
    """The same in the program of a chunk alone."""

    def _forward(self) -> Iterator[Launch]:
        yield from super()._forward() if self.rows > 1 else FusedGraph._forward(self)


def _stacked(engine: Engine, layer: int) -> Linear:
    return engine.weights.linears[layer, "attn_qkv"]


def _rows(engine: Engine) -> tuple[slice, slice, slice]:
    """Rows of q, k and v in the stacked weight."""
    h = engine.model.hparams
    q, k = h.n_head * h.head_dim, h.n_kv * h.head_dim
    return slice(0, q), slice(q, q + k), slice(q + k, q + 2 * k)


def _rescaled(engine: Engine, change: Callable[[Array], Array]) -> None:
    """Change the scales of q|k|v of every layer; they are one per row."""
    for layer in range(engine.model.hparams.n_layer):
        old = _stacked(engine, layer)
        scale = engine.backend.upload(np.ascontiguousarray(change(engine.backend.download(old.wscale)), np.float32))
        engine.weights.linears[layer, "attn_qkv"] = Linear(old.words, scale, old.kind, old.n, old.k)


def swap_query_and_key_scales(engine: Engine) -> None:
    """q gets the scale of k, and k that of q."""
    q, k, _ = _rows(engine)

    def change(scale: Array) -> Array:
        scale[q], scale[k] = scale[k][0], scale[q][0]
        return scale

    _rescaled(engine, change)


def fold_softmax_scale(engine: Engine) -> None:
    """1/√d is folded into the weights of q, and attention applies it again."""
    q = _rows(engine)[0]

    def change(scale: Array) -> Array:
        scale[q] *= engine.model.hparams.head_dim**-0.5
        return scale

    _rescaled(engine, change)


def exchange_value_heads(engine: Engine) -> None:
    """The rows of v are stacked with its heads in reverse: every query head reads the values of another head."""
    h, v = engine.model.hparams, _rows(engine)[2]
    for layer in range(h.n_layer):
        old = _stacked(engine, layer)
        words = engine.backend.download(old.words)
        words[v] = words[v].reshape(h.n_kv, h.head_dim, -1)[::-1].reshape(words[v].shape)
        engine.weights.linears[layer, "attn_qkv"] = Linear(
            engine.backend.upload(words), old.wscale, old.kind, old.n, old.k
        )


def swap_layers(engine: Engine) -> None:
    """Two layers change places: sorted by name, blk.10 comes before blk.2."""
    first, second = WRONG_LAYER - 1, WRONG_LAYER
    weights = engine.weights
    for name in ("attn_qkv", "attn_output", "ffn_gate_up", "ffn_down"):
        linears = weights.linears
        linears[first, name], linears[second, name] = linears[second, name], linears[first, name]
    for name in ("attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm"):
        a, b = (f"blk.{layer}.{name}.weight" for layer in (first, second))
        weights.norms[a], weights.norms[b] = weights.norms[b], weights.norms[a]


def _new_head(engine: Engine, change: Callable[[Array], Array]) -> None:
    parts = engine.weights.head
    table = np.concatenate([engine.backend.download(part.buffer) for part in parts])
    changed = np.ascontiguousarray(change(table))
    engine.weights.head = [
        Part(engine.backend.upload(changed[part.row0 : part.row0 + part.rows]), part.row0, part.rows) for part in parts
    ]


def swap_vocabulary_rows(engine: Engine) -> None:
    """Two rows of the head change places: an added token was inserted in one table and appended in the other."""

    def change(table: Array) -> Array:
        frequent = int(engine.model.tokenizer.encode(" the", bos=False)[0])
        other = (frequent + 700) % len(table)
        table[[frequent, other]] = table[[other, frequent]]
        return table

    _new_head(engine, change)


def read_head_as_bfloat(engine: Engine) -> None:
    """The 16 bits of the head's f16 weights are taken for bf16, whose range f16 does not have: infinities and zeros."""

    def change(table: Array) -> Array:
        bits = np.asarray(table, np.float16).view(np.uint16).astype(np.uint32) << 16
        with np.errstate(over="ignore"):
            wrong: Array = bits.view(np.float32).astype(table.dtype)
        return wrong

    _new_head(engine, change)


def overflow_values(engine: Engine) -> None:
    """The scale of v is applied as its inverse squared: values beyond 65504 become infinite in the f16 cache."""
    v = _rows(engine)[2]

    def change(scale: Array) -> Array:
        scale[v] = 1e8
        return scale

    _rescaled(engine, change)


WRONG: tuple[tuple[str, str, Any], ...] = (
    ("wrong-activation", "relu² for SiLU: an architecture taken for its sibling.", with_graph(WrongActivation)),
    ("no-sub-norm", "The norm before attn_output is left out, as in the models that have none.", with_graph(NoSubNorm)),
    ("residual-dropped", "In one layer the stream around attention is not added back.", with_graph(ResidualDropped)),
    (
        "cache-of-another-layer",
        "One layer attends to the cache of the layer before.",
        with_graph(CacheOfTheLayerBefore),
    ),
    ("chunk-of-another-theta", "Prefill and step disagree about the RoPE base.", with_graph(WrongThetaInChunk)),
    (
        "rope-theta-default",
        "The RoPE base of another model, because the file's key was not read.",
        with_graph(WrongTheta),
    ),
    (
        "qk-scales-swapped",
        "The scales of q and k are exchanged where their rows are stacked.",
        with_weights(swap_query_and_key_scales),
    ),
    (
        "softmax-scale-twice",
        "1/√d is folded into q's weights and applied again by attention.",
        with_weights(fold_softmax_scale),
    ),
    (
        "value-heads-exchanged",
        "The heads of v are stacked in reverse: the GQA map reads another head.",
        with_weights(exchange_value_heads),
    ),
    ("layers-swapped", "Two layers change places: names sorted as text, not as numbers.", with_weights(swap_layers)),
    (
        "head-rows-swapped",
        "Two rows of the head change places: an added token shifted one of two tables.",
        with_weights(swap_vocabulary_rows),
    ),
    ("head-read-as-bf16", "The f16 weights of the head are read as bf16.", with_weights(read_head_as_bfloat)),
    (
        "f16-overflow",
        "A value scale that is not undone before the f16 cache: infinities where 65504 is exceeded.",
        with_weights(overflow_values),
    ),
)
"""Name, defect and engine."""
