"""Wrong engines: defects of the code around the kernels, each as it was seen or could be, on any backend.

A defect is a subclass of the engine or of its graph, or a change of the opened backend, of the uploaded weights or of
what was read from the file; the kernels are right. What is decorated with ``wrong`` is named as the mutant is
(``CacheNotReset``, ``head_read_as_bf16``), and its docstring is the defect.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from kparity.device.adapter import Backend, Buffer, Launch
from kparity.engine import Engine
from kparity.engine.graph import FusedGraph, Prepared
from kparity.kernels.rope import frequencies
from kparity.model import Hparams, Model
from kparity.mutate.makers import add, corrupt, graph, head, stacked, without, writes, wrong
from kparity.ops.spec import Array

LATE = 64
"""Positions after which a ring buffer that is too short begins again."""
LAYER = 3
"""The layer in which single defects are: neither the first nor the last."""


def rows_of(h: Hparams) -> tuple[slice, slice, slice]:
    """Rows of q, k and v in the stacked weight."""
    k = h.n_kv * h.head_dim
    return slice(0, h.q_dim), slice(h.q_dim, h.q_dim + k), slice(h.q_dim + k, h.q_dim + 2 * k)


@wrong()
class CacheNotReset(Engine):
    """A reset leaves the cache and its length: garbage from the second request on."""

    def reset(self) -> None:
        """Keep every token."""


add("position-off-by-one", "Positions begin at 1: slot 0 of the cache is read and was never written.",
    writes("pos", lambda engine, pos: np.where(pos < 0, pos, pos + 1)))  # fmt: skip


@wrong()
class ChunkRestarts(Engine):
    """Every chunk of a prompt begins at position 0: wrong from the second chunk on."""

    def _run(self, tokens: list[int], rows: int, *options: Any, **named: Any) -> Any:
        start = self.position
        if rows > 1:
            self.position = 0
        graph = super()._run(tokens, rows, *options, **named)
        self.position = start + len(tokens)
        return graph


add("chunk-starts-aligned", "A chunk begins at a multiple of its length: right until a second turn starts inside one.",
    writes("pos", lambda engine, pos: pos if len(pos) == 1 else np.where(pos < 0, pos, pos - pos[0] % len(pos))),
)  # fmt: skip


@wrong()
class SecondTurnRestarts(Engine):
    """A prompt on a filled cache begins at position 0 and overwrites it."""

    def prefill(self, tokens: Sequence[int], eager: bool = False) -> Array:
        """Begin anew, whatever is in the cache."""
        self.reset()
        return super().prefill(tokens, eager)


@wrong()
class MicroBatchAlone(Engine):
    """A chunk is started before the cache rows of the chunk before are visible: it reads zeros there."""

    def _run(self, tokens: list[int], rows: int, *options: Any, **named: Any) -> Any:
        start, kept = self.position, []
        if rows > 1 and start:
            for buffer in (buffer for pair in self.cache for buffer in pair):
                kept.append((buffer, self.backend.download(buffer)))
                self.backend.write(buffer, np.zeros_like(kept[-1][1]))
        graph = super()._run(tokens, rows, *options, **named)
        for buffer, before in kept:  # they are there again when the chunk is done
            now = self.backend.download(buffer)
            now[:start] = before[:start]
            self.backend.write(buffer, now)
        return graph


add("ring-too-short", f"Positions wrap at {LATE}: a cache that is shorter than the context says.",
    writes("pos", lambda engine, pos: np.where(pos < 0, pos, pos % LATE)))  # fmt: skip
add("ring-of-300", "Positions wrap at 300, further than any text of the probe reaches.",
    writes("pos", lambda engine, pos: np.where(pos < 0, pos, pos % 300)))  # fmt: skip
add("mask-ends-late", "Every position from 448 on is taken for that one: the last part of the keys is never seen.",
    writes("pos", lambda engine, pos: np.minimum(pos, 448)))  # fmt: skip


@wrong()
class RecordedLate(Engine):
    """From position 200 on the recording runs on another token; launches one by one do not."""

    def _run(self, tokens: list[int], rows: int, every_row: bool, eager: bool = False, head: bool = True) -> Any:
        late = self.position >= 200 and not eager
        return super()._run([0, *tokens[1:]] if late else tokens, rows, every_row, eager, head)


add("padding-stored", "The padding of a chunk carries the position of its last token: its keys overwrite that token's.",
    writes("pos", lambda engine, pos: np.where(pos < 0, pos.max(), pos)))  # fmt: skip


@wrong()
def stale_token(model: Model, backend: Backend) -> Engine:
    """One write of a token in three is lost: the step runs on the token before."""
    count = itertools.count(1)
    return writes("ids", lambda engine, ids: None if len(ids) == 1 and next(count) % 3 == 0 else ids)(model, backend)


add("last-row-off-by-one", "After a prefill the logits are those of the row before the last.",
    writes("last", lambda engine, last: np.maximum(last - 1, 0)))  # fmt: skip
add("embedding-off-by-one", "Token ids are shifted by one: a vocabulary with another first id.",
    writes("ids", lambda engine, ids: (ids + 1) % engine.model.hparams.vocab))  # fmt: skip


@wrong()
class LogitsOneStepLate(Engine):
    """Two read-back buffers, and the other one is read: the logits of the step before."""

    _before: Array | None = None

    def row_of(self, graph: Any) -> Array:
        now = super().row_of(graph)
        before, self._before = self._before, now
        return now if before is None else before


@wrong()
class IdOneStepLate(Engine):
    """The id is read without waiting for the device: right logits, the token before."""

    _before = 0

    def best_of(self, graph: Any) -> int:
        before, self._before = self._before, super().best_of(graph)
        return before


add("graph-lost-a-launch", "The recorded graph lacks the last norm_quant; the same launches one by one are complete.",
    without("norm_quant"))  # fmt: skip
add("graph-lost-the-store",
    "The recorded graph lacks the last rope_store: one layer reads keys that were never written.",
    without("rope_store", "rope_attention"))  # fmt: skip
add("never-launched", "The attention of the last layer is never started: its output is whatever was there.",
    without("attention", "rope_attention", eager=True))  # fmt: skip


@wrong()
def false_gpu(model: Model, backend: Backend) -> Engine:
    """A software device behind an API that calls it a GPU: GPU promises at CPU speed."""
    backend.info = msgspec.structs.replace(backend.info, kind="gpu", device="llvmpipe (LLVM 15.0.6, 256 bits)")
    return Engine(model, backend)


@wrong(graph)
class WrongActivation(FusedGraph):
    """relu² for SiLU: an architecture taken for its sibling."""

    def _norm_quant(self, pre: str, *inputs: Any, **named: Any) -> Prepared:
        return super()._norm_quant({"silu": "relu2", "relu2": "silu"}.get(pre, pre), *inputs, **named)


@wrong(graph)
class NoSubNorm(FusedGraph):
    """The norm before attn_output is left out, as in the models that have none."""

    def _norm_quant(self, pre: str, inputs: tuple[Buffer, ...], key: str, *sizes: Any, **named: Any) -> Prepared:
        if key.endswith("attn_sub_norm.weight"):
            return self._given(key, inputs[0])
        return super()._norm_quant(pre, inputs, key, *sizes, **named)


@wrong(graph)
class ResidualDropped(FusedGraph):
    """In one layer the stream around attention is not added back."""

    def _norm_quant(self, pre: str, inputs: tuple[Buffer, ...], key: str, *sizes: Any, **named: Any) -> Prepared:
        if key == f"blk.{LAYER}.ffn_norm.weight":
            inputs = (self.backend.upload(np.zeros(inputs[0].shape, np.float32)), *inputs[1:])
        return super()._norm_quant(pre, inputs, key, *sizes, **named)


@wrong(graph)
class CacheOfAnotherLayer(FusedGraph):
    """One layer attends to the cache of the layer before."""

    def _attend_cache(self, layer: int, q: Buffer) -> Launch:
        return super()._attend_cache(layer - 1 if layer == LAYER else layer, q)


@wrong(graph)
class RopeThetaDefault(FusedGraph):
    """The RoPE base of another model, because the file's key was not read."""

    def _forward(self) -> Iterator[Launch]:
        self.freq = self.backend.upload(frequencies(500000.0, self.h.rope_dim, self.h.rope_scale))
        yield from super()._forward()


@wrong(graph)
class ChunkOfAnotherTheta(RopeThetaDefault):
    """Prefill and step disagree about the RoPE base."""

    def _forward(self) -> Iterator[Launch]:
        yield from super()._forward() if self.rows > 1 else FusedGraph._forward(self)


@wrong(stacked)
def qk_scales_swapped(h: Hparams, words: Array, scales: Array) -> None:
    """The scales of q and k are exchanged where their rows are stacked."""
    q, k, _ = rows_of(h)
    scales[q], scales[k] = scales[k][0], scales[q][0]


@wrong(stacked)
def softmax_scale_twice(h: Hparams, words: Array, scales: Array) -> None:
    """1/√d is folded into q's weights and applied again by attention."""
    scales[rows_of(h)[0]] *= h.head_dim**-0.5


@wrong(stacked)
def value_heads_exchanged(h: Hparams, words: Array, scales: Array) -> None:
    """The heads of v are stacked in reverse: the GQA map reads another head."""
    v = rows_of(h)[2]
    words[v] = words[v].reshape(h.n_kv, h.head_dim, -1)[::-1].reshape(words[v].shape)


@wrong()
def layers_swapped(model: Model, backend: Backend) -> Engine:
    """Two layers change places: names sorted as text, not as numbers."""
    engine, first, second = Engine(model, backend), LAYER - 1, LAYER
    linears, norms = engine.weights.linears, engine.weights.norms
    for name in ("attn_qkv", "attn_output", "ffn_gate_up", "ffn_down"):
        linears[first, name], linears[second, name] = linears[second, name], linears[first, name]
    for name in ("attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm"):
        a, b = (f"blk.{layer}.{name}.weight" for layer in (first, second))
        norms[a], norms[b] = norms[b], norms[a]
    return engine


@wrong(head)
def head_rows_swapped(engine: Engine, table: Array) -> Array:
    """Two rows of the head change places: an added token shifted one of two tables."""
    frequent = int(engine.model.tokenizer.encode(" the", bos=False)[0])
    other = (frequent + 700) % len(table)
    table[[frequent, other]] = table[[other, frequent]]
    return table


@wrong(head)
def head_read_as_bf16(engine: Engine, table: Array) -> Array:
    """The f16 weights of the head are read as bf16."""
    bits = np.asarray(table, np.float16).view(np.uint16).astype(np.uint32) << 16
    with np.errstate(over="ignore"):  # bf16 has a range that f16 has not: infinities and zeros
        infinite: Array = bits.view(np.float32).astype(table.dtype)
    return infinite


@wrong(stacked)
def f16_overflow(h: Hparams, words: Array, scales: Array) -> None:
    """A value scale that is not undone before the f16 cache: infinities where 65504 is exceeded."""
    scales[rows_of(h)[2]] = 1e8


def cut(array: Array) -> None:
    """The last 2 KB of a ternary matrix are weights of zero."""
    array.reshape(-1)[-512:] = 0x55555555


def flip(array: Array) -> None:
    """Four weights of four words change their signs or come to be."""
    array.reshape(-1)[1000:1004] ^= np.uint32(0x02000200)


def bend(array: Array) -> None:
    """One weight a thousandth too large."""
    array[7] *= np.float32(1.001)


add("upload-cut-short", "The last 2 KB of the last matrix never arrive.",
    corrupt(lambda weights: [*weights.linears.values()][-1].words, cut))  # fmt: skip
add("words-flipped", "Some bits of a matrix do not stay as they were written.",
    corrupt(lambda weights: weights.linears[LAYER, "ffn_gate_up"].words, flip))  # fmt: skip
add("embedding-row-lost", "A row of the embedding that no text of the probe uses is another's.",
    corrupt(lambda weights: weights.embedding[-1].buffer, lambda table: table.__setitem__(-1, table[-2])))  # fmt: skip
add("norm-bent", "One weight of a norm is off by a thousandth.",
    corrupt(lambda weights: weights.norms[f"blk.{LAYER}.ffn_norm.weight"], bend))  # fmt: skip
