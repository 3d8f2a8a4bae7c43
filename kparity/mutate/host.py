"""Wrong engines of which the kernels are right about something else: what the file says is read wrongly, or not at all.

Such a defect is the same on every backend, so that no backend can show another one's; the reference reads the file by
itself.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator

import numpy as np

from kparity.device.adapter import Backend, Buffer, Launch
from kparity.engine import Engine
from kparity.engine.graph import FusedGraph
from kparity.kernels.rope import frequencies
from kparity.model import Hparams, Model
from kparity.mutate.makers import add, graph, misread, stacked, wrong
from kparity.ops.spec import Array

Projections = tuple[Buffer, ...]
"""q, k and v."""

add("host-theta-default", "The RoPE base of the file is not read; 10,000 stands in.",
    misread(lambda h: {"theta": 10000.0}), "b158")  # fmt: skip
add("host-theta-off", "The RoPE base is off by one per cent.", misread(lambda h: {"theta": h.theta * 1.01}), "b158")
add("host-eps-constant", "Every model gets the eps of the first one.", misread(lambda h: {"eps": 1e-5}), "eps")
add("host-eps-off", "eps is off by one per cent.", misread(lambda h: {"eps": h.eps * 1.01}), "eps")
add("host-activation", "The activation of another architecture: SiLU for relu².",
    misread(lambda h: {"act": "silu", "clamp": 0}), "b158")  # fmt: skip
add("host-clamp", "relu² without its clamp to the range of f16.", misread(lambda h: {"clamp": 0}), "peaks")
add("host-rope-scale", "The linear factor of RoPE is not read.", misread(lambda h: {"rope_scale": 1.0}), "stretched")
add("host-factors-unread", "The table rope_freqs is not read: frequencies of a shorter context.",
    misread(lambda h: {"rope_factors": ()}), "llama3")  # fmt: skip
add("host-factors-multiply", "Frequencies are multiplied by the table rope_freqs, not divided.",
    misread(lambda h: {"rope_factors": tuple(1 / each for each in h.rope_factors)}), "llama3")  # fmt: skip
add("host-factors-reversed", "The table rope_freqs is read from its end: the slow pairs turn as before.",
    misread(lambda h: {"rope_factors": h.rope_factors[::-1]}), "llama3")  # fmt: skip
add("host-rope-dim", "Half of each head is rotated instead of all of it.",
    misread(lambda h: {"rope_dim": h.head_dim // 2}), "b158")  # fmt: skip
add("host-context", "A quarter of the file's context: the cache ends where the model does not.",
    misread(lambda h: {"context": h.context // 4}), "b158")  # fmt: skip
add("host-rope-mode", "Pairs side by side instead of split halves.",
    misread(lambda h: {"rope_mode": "interleaved"}), "b158")  # fmt: skip


@wrong(stacked, "b158")
def host_heads_dealt(h: Hparams, words: Array, scales: Array) -> None:
    """Key heads are dealt out to query heads one by one, not by groups."""
    dealt = np.argsort(np.arange(h.n_head).reshape(-1, h.n_kv).T.ravel())
    for rows in (words, scales):  # query head h reads key head h % G instead of h / (H / G)
        q = rows[: h.q_dim]
        rows[: h.q_dim] = q.reshape(h.n_head, h.head_dim, -1)[dealt].reshape(q.shape)


@wrong(model="scales")
def host_scale_forgotten(model: Model, backend: Backend) -> Engine:
    """The tensor .scale beside a weight is not applied."""
    model._separate_scale = lambda name: 1.0  # type: ignore[method-assign]
    return Engine(model, backend)


@wrong(model="scales")
def host_scale_inverted(model: Model, backend: Backend) -> Engine:
    """The tensor .scale divides where it should multiply."""
    read = model._separate_scale
    model._separate_scale = lambda name: 1.0 / read(name)  # type: ignore[method-assign]
    return Engine(model, backend)


@wrong(graph, "b158")
class HostRopeTable(FusedGraph):
    """Frequencies for another number of rotating elements than the kernels are built for."""

    def _forward(self) -> Iterator[Launch]:
        table = frequencies(self.h.theta, 2 * self.h.rope_dim, self.h.rope_scale)
        self.freq = self.backend.upload(np.ascontiguousarray(table[: self.h.rope_dim // 2]))
        yield from super()._forward()


@wrong(graph, "qwen3")
class HostHeadNormsLeftOut(FusedGraph):
    """The heads of q and k are not normed, as in the models that have no such norms."""

    def _head_norms(self, layer: int, projections: Projections) -> Generator[Launch, None, Projections]:
        yield from ()
        return projections


@wrong(graph, "qwen3")
class HostHeadNormsExchanged(FusedGraph):
    """The heads of q are normed by the weight of k's norm, and the reverse."""

    def _norm(self, x: Buffer, key: str, out: Buffer) -> Launch:
        other = {"attn_q_norm": "attn_k_norm", "attn_k_norm": "attn_q_norm"}
        return super()._norm(x, re.sub("attn_._norm", lambda found: other[found[0]], key), out)


@wrong(graph, "qwen3")
class HostHeadNormsOfRows(FusedGraph):
    """One norm over all heads of q, and one over those of k."""

    def _head_norms(self, layer: int, projections: Projections) -> Generator[Launch, None, Projections]:
        found = list(projections)
        for at, name in enumerate(("attn_q_norm", "attn_k_norm")):
            x, weight = found[at], self.backend.download(self.weights.norms[f"blk.{layer}.{name}.weight"])
            found[at] = self._buffer(f"{name}.out", x.shape)
            kernel = self.kernels.get("rmsnorm", M=x.shape[0], D=x.shape[1], eps=self.h.eps)
            yield kernel.bind(x, self.backend.upload(np.tile(weight, x.shape[1] // len(weight))), found[at])
        return tuple(found)


@wrong(graph, "qwen3")
class HostHeadNormsAfterRope(FusedGraph):
    """The heads of q and k are normed when they have turned, and k is stored anew."""

    def _head_norms(self, layer: int, projections: Projections) -> Generator[Launch, None, Projections]:
        yield from ()
        return projections

    def _store(self, layer: int, projections: Projections) -> Generator[Launch, None, Buffer]:
        q = yield from super()._store(layer, projections)
        turned = (q, self._buffer("k_turned", projections[1].shape), projections[2])
        q, *both = yield from super()._head_norms(layer, turned)
        h = self.h
        store = self.kernels.get("kv_store", M=self.rows, L=self.options.context, D=h.kv_dim, dtype=self.options.kv)
        yield store.bind(*both, self.pos, *self.cache[layer])
        return q
