"""Column sums: a check of every ternary matrix on the device that is exact, cheap, and has no threshold.

One more row stands for a matrix, the sum of all its rows; whatever the activations, its product with them is the sum of
the products of the others (Huang and Abraham, Algorithm-Based Fault Tolerance for Matrix Operations, 1984). Sums of
ternary × int8 products are integers that f32 holds, so the two are equal or a weight, or its product, is wrong. The row
is no ternary one: the host has it, by the file, and multiplies it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from kparity.device.adapter import Buffer, launched
from kparity.engine.weights import Linear, parts_of
from kparity.ops.spec import Array, act_spans, padded

if TYPE_CHECKING:
    from kparity.engine.engine import Engine

_ROWS = 64
"""Rows whose codes, at most 2, a byte can add up."""


def column_sums(words: Array) -> Array:
    """The sum of the rows of packed ternary weights u32 [N, Kp/16]: i64 [Kp]."""
    total = np.zeros((words.shape[1], 4, 4), np.int64)  # as ops/packing.py has them: word, shift, byte
    for at in range(0, len(words), _ROWS):
        for shift in range(4):
            fours = (words[at : at + _ROWS] >> np.uint32(2 * shift)) & np.uint32(0x03030303)
            total[:, shift] += fours.sum(axis=0, dtype=np.uint32).astype("<u4").view(np.uint8).reshape(-1, 4)
    return total.reshape(-1) - len(words)


def product(
    engine: Engine, weight: Linear, q: Array, wscale: Array | None = None, ascale: Array | None = None
) -> Array:
    """The kernel that serves, on resident weights and activations int8 [rows, Kp]: fp64 [rows, N].

    ``wscale`` None takes the weight's own scales; without ``ascale`` all scales are 1, and the products are integers.
    """
    act, rows = engine.options.act, len(q)
    spans = act_spans(act, weight.k)
    scale = np.ones(weight.wscale.shape, np.float32) if ascale is None else weight.wscale if wscale is None else wscale
    ascale = np.ones((rows, spans), np.float32) if ascale is None else ascale
    kernel = engine.kernels.get("tgemv", M=rows, N=weight.n, K=weight.k, wscale=weight.kind, ascale=act)
    return launched(engine.backend, kernel, [weight.words, scale, q, ascale, span_sums(q, spans)])[0].astype(np.float64)


def span_sums(q: Array, spans: int) -> Array:
    """Sums of the activations [rows, K] in each of the spans that have a scale: i32 [rows, spans]."""
    sums: Array = q.reshape(len(q), spans, -1).sum(axis=-1, dtype=np.int32)
    return sums


class ColumnSums:
    """The rows of an engine's model, read from its file, and the check by them, with other activations every time: one
    recorded program of every matrix by the kernel that serves, on the weights that serve.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.rng = engine, np.random.default_rng()
        self.sure = 0
        """Tokens of the sequence that were fed before the last check that held."""
        self.rows = {
            (layer, name): sum(column_sums(engine.model.linear(layer, part).words) for part in parts_of(name))
            for layer, name in engine.weights.linears
        }
        self.given: dict[int, tuple[Buffer, Buffer, Buffer]] = {}
        """Width → activations, their scales, which are 1, and their sums: matrices of one width read the same."""
        self.products: dict[tuple[int, str], Buffer] = {}
        backend, launches, ones = engine.backend, [], dict[tuple[int, ...], Buffer]()
        for key, weight in engine.weights.linears.items():
            if weight.k not in self.given:
                self.given[weight.k] = tuple(map(backend.upload, self._drawn(weight.k)))  # type: ignore[assignment]
            if (shape := weight.wscale.shape) not in ones:
                ones[shape] = backend.upload(np.ones(shape, np.float32))
            self.products[key] = backend.upload(np.full((1, weight.n), np.nan, np.float32))  # fails until it is written
            kernel = engine.kernels.get(
                "tgemv", M=1, N=weight.n, K=weight.k, wscale=weight.kind, ascale=engine.options.act
            )
            launches.append(kernel.bind(weight.words, ones[shape], *self.given[weight.k], self.products[key]))
        self.program = backend.record(launches)

    def _drawn(self, k: int) -> tuple[Array, Array, Array]:
        """Activations int8 [1, Kp], none of them 0, so that any one weight that changes shows; scales of 1; sums."""
        q = np.zeros((1, padded(k)), np.int8)
        q[:, :k] = self.rng.integers(1, 128, k)
        spans = act_spans(self.engine.options.act, k)
        return q, np.ones((1, spans), np.float32), span_sums(q, spans)

    def wrong(self) -> Iterator[str]:
        """The matrices whose products do not add up, in words."""
        backend, drawn = self.engine.backend, {}
        for k, buffers in self.given.items():
            drawn[k], _, sums = self._drawn(k)
            backend.write(buffers[0], drawn[k])
            backend.write(buffers[2], sums)
        self.program.run()
        for (layer, name), row in self.rows.items():
            q = drawn[self.engine.weights.linears[layer, name].k][0]
            got = backend.download(self.products[layer, name]).sum(dtype=np.float64)
            want = int(q.astype(np.int64) @ row)
            if got != want:
                yield f"{name} of layer {layer}: its products add up to {got:.0f}, those of its column sums to {want}"
