"""The forward pass with taps: the launches that serve, and between them launches of their own, which bring what no
buffer holds into buffers that nothing else reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kparity.device.adapter import Buffer, Launch, Program
from kparity.engine.engine import Engine
from kparity.engine.graph import Given, Graph, Prepared
from kparity.ops.spec import Array

BEFORE = {"attn_sub_norm": "attention", "ffn_norm": "attn_residual", "ffn_sub_norm": "ffn_swiglu_inner"}
"""What a norm reads; the first of a layer reads the output of the layer before."""
HELD = {"attn_qkv": "qkv", "attn_output": "attn_out", "ffn_down": "ffn_out"}
"""What a product writes."""


@dataclass(frozen=True)
class Tap:
    """A value under the name of its slot: columns (first, end) of some buffers side by side, after ``launches``."""

    name: str
    parts: tuple[Buffer, ...]
    columns: tuple[int, int | None] = (0, None)
    launches: tuple[Launch, ...] = ()
    cached: bool = False
    """Whether its rows are positions of the cache."""


class Tapped(Graph):
    """A graph that notes after how many of its launches which value is there."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.done = 0
        self.taps: dict[int, list[Tap]] = defaultdict(list)
        super().__init__(*arguments, **options)

    def _tap(self, name: str, *parts: Buffer, **more: Any) -> None:
        self.taps[self.done].append(Tap(name, parts, **more))

    def _counted(self, launches: Iterator[Launch]) -> Iterator[Launch]:
        for launch in launches:
            self.done += 1
            yield launch

    def _forward(self) -> Iterator[Launch]:
        yield from self._counted(super()._forward())
        self._tap(f"{self.h.n_layer - 1}.output", self._pool["x"])

    def _output(self, x: Buffer) -> Iterator[Launch]:
        yield from self._counted(super()._output(x))
        self._tap("result_norm", self._pool["output_normed"])
        self._tap("logits", self.logits)

    def _norm_quant(
        self, pre: str, inputs: tuple[Buffer, ...], key: str, width: int, h: Buffer | None = None
    ) -> Prepared:
        layer, norm = key.split(".")[1:3]
        read, stream = inputs[0] if h is None else h, f"{int(layer) - 1}.output" if int(layer) else "embd"
        name = f"{layer}.{BEFORE[norm]}" if norm in BEFORE else stream
        if h is None:
            self._tap(name, read)
        given = yield from super()._norm_quant(pre, inputs, key, width, h)
        if h is not None:
            self._tap(name, read)
        if key in self.weights.norms:
            normed = self._buffer(f"tapped.{width}", (self.rows, width))
            self._tap(f"{layer}.{norm}", normed, launches=(self._norm(read, key, normed),))
        return given

    def _head_norms(
        self, layer: int, projections: tuple[Buffer, ...]
    ) -> Generator[Launch, None, tuple[Buffer, ...]]:  # fmt: skip
        found = yield from super()._head_norms(layer, projections)
        for name, before, after in zip(("attn_q_norm", "attn_k_norm"), projections, found, strict=False):
            if before is not after:
                self._tap(f"{layer}.{name}", after)
        return found

    def _products(
        self, layer: int, name: str, given: Given
    ) -> Generator[Launch, None, tuple[Buffer, ...]]:  # fmt: skip
        found = yield from super()._products(layer, name, given)
        if name in HELD:
            self._tap(f"{layer}.{HELD[name]}", *found)
            return found
        gate, up = (0, self.h.ffn), (self.h.ffn, None)
        self._tap(f"{layer}.ffn_gate", *found, columns=gate)
        self._tap(f"{layer}.ffn_up", *found, columns=up)
        ones, out = (self._buffer(f"tapped.{each}", found[0].shape) for each in ("ones", "act"))
        self.backend.write(ones, np.ones(ones.shape, np.float32))
        kernel = self.kernels.get("glu", M=self.rows, D=out.shape[1], act=self.h.act)  # act(gate) · 1
        self._tap(f"{layer}.ffn_silu_gate", out, columns=gate, launches=(kernel.bind(found[0], ones, out),))
        return found

    def _store(self, layer: int, projections: tuple[Buffer, ...]) -> Generator[Launch, None, Buffer]:
        q, h = (yield from super()._store(layer, projections)), self.h
        self._tap(f"{layer}.q_rope", q)
        k = projections[1] if len(projections) > 1 else projections[0]  # all heads are turned where they lie together
        turned = self._buffer("tapped.rope", k.shape)
        shape = (self.rows, k.shape[1] // h.head_dim, h.head_dim)
        kernel = self.kernels.get(
            "rope", M=self.rows, H=shape[1], D=h.head_dim, R=h.rope_dim, mode=h.rope_mode, theta=h.theta,
            scale=h.rope_scale,
        )  # fmt: skip
        launch = kernel.bind(self._as(k, *shape), self.pos, self.freq, self._as(turned, *shape))
        first = 0 if len(projections) > 1 else h.q_dim
        self._tap(f"{layer}.k_rope", turned, columns=(first, first + h.kv_dim), launches=(launch,))
        for name, part in zip(("k_cache", "v_cache"), self.cache[layer], strict=True):
            self._tap(f"{layer}.{name}", part, cached=True)
        return q


@dataclass(frozen=True)
class Hooks:
    """What is done along a pass. ``given`` may replace a value, after ``sink`` took what was computed: it is asked for
    rows (first, count) of a slot. ``before`` is shown every launch, each being a program of its own then.
    """

    wanted: Callable[[str], bool]
    sink: Callable[[str, Array], None]
    given: Callable[[str, int, int], Array | None] | None = None
    before: Callable[[Tapped, int], None] | None = None


def trace(engine: Engine, tokens: Sequence[int], hooks: Hooks, rows: int = 0) -> Array:
    """Feed tokens as ``Engine.score`` does, in chunks of ``rows``, and return the same logits [tokens, vocab]; what is
    wanted goes to the sink, chunk by chunk: a slot such as ``3.ffn_gate``, and f32 [rows, width] or, of the cache,
    [rows, heads, head_dim].
    """
    rows, kind = rows or engine.chunk, type("Traced", (Tapped, engine.graph_class), {})  # what serves, with taps
    shared = (engine.model.hparams, engine.kernels, engine.weights, engine.cache, engine.options)
    graph = kind(*shared, rows, every_row=True)
    segments, logits = list(_segments(graph, hooks)), []
    for at in range(0, len(tokens), rows):
        piece, first = list(tokens[at : at + rows]), engine.position
        engine._check(piece)
        engine._feed(graph, piece, rows)
        for done, program, tap in segments:
            if hooks.before is not None and done >= 0:
                hooks.before(graph, done)
            program.run()
            if tap is not None:
                there = slice(first, first + len(piece)) if tap.cached else slice(len(piece))
                if hooks.wanted(tap.name):
                    hooks.sink(tap.name, _values(graph, tap, there))
                found = None if hooks.given is None else hooks.given(tap.name, first, len(piece))
                if found is not None:
                    _replace(graph, tap, there, found)
        engine.position += len(piece)
        logits.append(engine.backend.download(graph.logits)[: len(piece)])
    return np.concatenate(logits)


def _segments(graph: Tapped, hooks: Hooks) -> Iterator[tuple[int, Program, Tap | None]]:
    """The launches of the graph in their order, cut where something is wanted; with the launch that one begins with,
    where each is one of its own.
    """
    pending: list[Launch] = []
    for done in range(len(graph.launches) + 1):
        for tap in graph.taps[done]:
            if hooks.wanted(tap.name) or (hooks.given is not None and not tap.launches):
                yield -1, graph.backend.record([*pending, *tap.launches]), tap
                pending = []
        if hooks.before is None:
            pending += graph.launches[done : done + 1]
        elif done < len(graph.launches):
            yield done, graph.backend.record(graph.launches[done : done + 1]), None
    yield -1, graph.backend.record(pending), None


def _values(graph: Tapped, tap: Tap, rows: slice) -> Array:
    values = np.concatenate([graph.backend.download(part)[rows] for part in tap.parts], axis=1)[:, slice(*tap.columns)]
    return np.ascontiguousarray(
        values.reshape(len(values), graph.h.n_kv, graph.h.head_dim) if tap.cached else values, np.float32
    )


def _replace(graph: Tapped, tap: Tap, rows: slice, values: Array) -> None:
    """Put other values where a tap found some."""
    parts = [graph.backend.download(part) for part in tap.parts]
    whole = np.concatenate([part[rows] for part in parts], axis=1)
    whole[:, slice(*tap.columns)] = values.reshape(len(values), -1)
    edges = np.cumsum([part.shape[1] for part in parts])[:-1]
    for buffer, part, columns in zip(tap.parts, parts, np.split(whole, edges, axis=1), strict=True):
        part[rows] = columns
        graph.backend.write(buffer, part)
