"""Wrong host code: what the file says is read wrongly, or not at all, and the kernels are right about something else.

Such a defect is the same on every backend, so that no backend can show another one's; the reference reads the file by
itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from kparity.device.adapter import Backend, Launch
from kparity.engine import Engine
from kparity.engine.graph import FusedGraph
from kparity.engine.weights import Linear
from kparity.kernels.rope import frequencies
from kparity.model import Hparams, Model
from kparity.mutate.graphs import with_graph
from kparity.ops.spec import Array

Make = Callable[[Model, Backend], Engine]


def misread(change: Callable[[Hparams], dict[str, Any]]) -> Make:
    """An engine whose hyper-parameters are not the file's."""

    def make(model: Model, backend: Backend) -> Engine:
        model.hparams = dataclasses.replace(model.hparams, **change(model.hparams))
        return Engine(model, backend)

    return make


def scale_forgotten(model: Model, backend: Backend) -> Engine:
    """The tensor ``.scale`` beside a weight is not looked for."""
    model._separate_scale = lambda name: 1.0  # type: ignore[method-assign]
    return Engine(model, backend)


def scale_inverted(model: Model, backend: Backend) -> Engine:
    """The tensor ``.scale`` beside a weight divides it, as one converter's does."""
    read = model._separate_scale
    model._separate_scale = lambda name: 1.0 / read(name)  # type: ignore[method-assign]
    return Engine(model, backend)


class TableOfOtherHeads(FusedGraph):
    """Right constants, and the frequencies of heads of which twice as much rotates."""

    def _forward(self) -> Iterator[Launch]:
        table = frequencies(self.h.theta, 2 * self.h.rope_dim, self.h.rope_scale)
        self.freq = self.backend.upload(np.ascontiguousarray(table[: self.h.rope_dim // 2]))
        yield from super()._forward()


def heads_dealt(model: Model, backend: Backend) -> Engine:
    """Query head h reads key head h % G instead of h / (H / G): the rows of q lie as if heads were dealt out."""
    engine, h = Engine(model, backend), model.hparams
    order = np.concatenate([np.arange(kv, h.n_head, h.n_kv) for kv in range(h.n_kv)])
    back = np.argsort(order)
    for layer in range(h.n_layer):
        old = engine.weights.linears[layer, "attn_qkv"]

        def dealt(rows: Array) -> Array:
            heads = rows[: h.q_dim].reshape(h.n_head, h.head_dim, -1)
            return np.concatenate([heads[back].reshape(rows[: h.q_dim].shape), rows[h.q_dim :]])

        words = backend.upload(np.ascontiguousarray(dealt(backend.download(old.words))))
        scales = backend.upload(np.ascontiguousarray(dealt(backend.download(old.wscale))))
        engine.weights.linears[layer, "attn_qkv"] = Linear(words, scales, old.kind, old.n, old.k)
    return engine


WRONG: tuple[tuple[str, str, Make, str], ...] = (
    ("host-theta-default", "The RoPE base of the file is not read; 10,000 stands in.",
     misread(lambda h: {"theta": 10000.0}), "b158"),
    ("host-theta-off", "The RoPE base is off by one per cent.", misread(lambda h: {"theta": h.theta * 1.01}), "b158"),
    ("host-eps-constant", "Every model gets the eps of the first one.", misread(lambda h: {"eps": 1e-5}), "eps"),
    ("host-eps-off", "eps is off by one per cent.", misread(lambda h: {"eps": h.eps * 1.01}), "eps"),
    ("host-activation", "The activation of another architecture: SiLU for relu².",
     misread(lambda h: {"act": "silu", "clamp": 0}), "b158"),
    ("host-clamp", "relu² without its clamp to the range of f16.", misread(lambda h: {"clamp": 0}), "peaks"),
    ("host-heads-dealt", "Key heads are dealt out to query heads one by one, not by groups.", heads_dealt, "b158"),
    ("host-scale-forgotten", "The tensor .scale beside a weight is not applied.", scale_forgotten, "scales"),
    ("host-scale-inverted", "The tensor .scale divides where it should multiply.", scale_inverted, "scales"),
    ("host-rope-scale", "The linear factor of RoPE is not read.", misread(lambda h: {"rope_scale": 1.0}), "stretched"),
    ("host-rope-dim", "Half of each head is rotated instead of all of it.",
     misread(lambda h: {"rope_dim": h.head_dim // 2}), "b158"),
    ("host-rope-table", "Frequencies for another number of rotating elements than the kernels are built for.",
     with_graph(TableOfOtherHeads), "b158"),
    ("host-context", "A quarter of the file's context: the cache ends where the model does not.",
     misread(lambda h: {"context": h.context // 4}), "b158"),
    ("host-rope-mode", "Pairs side by side instead of split halves.",
     misread(lambda h: {"rope_mode": "interleaved"}), "b158"),
)  # fmt: skip
"""Name, defect, engine and the model on which it matters."""
