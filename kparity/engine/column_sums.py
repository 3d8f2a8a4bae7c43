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

from kparity.device.adapter import launched
from kparity.engine.weights import Linear, parts_of
from kparity.ops.spec import Array, padded

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
    spans = 1 if act == "token" else padded(weight.k) // 256
    scale = np.ones(weight.wscale.shape, np.float32) if ascale is None else weight.wscale if wscale is None else wscale
    ascale = np.ones((rows, spans), np.float32) if ascale is None else ascale
    kernel = engine.kernels.get("tgemv", M=rows, N=weight.n, K=weight.k, wscale=weight.kind, ascale=act)
    return launched(engine.backend, kernel, [weight.words, scale, q, ascale, span_sums(q, spans)])[0].astype(np.float64)


def span_sums(q: Array, spans: int) -> Array:
    """Sums of the activations [rows, K] in each of the spans that have a scale: i32 [rows, spans]."""
    sums: Array = q.reshape(len(q), spans, -1).sum(axis=-1, dtype=np.int32)
    return sums


class ColumnSums:
    """The rows of an engine's model, read from its file, and the check by them, with other activations every time."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.rng = engine, np.random.default_rng()
        self.sure = 0
        """Tokens of the sequence that were fed before the last check that held."""
        self.rows = {
            (layer, name): sum(column_sums(engine.model.linear(layer, part).words) for part in parts_of(name))
            for layer, name in engine.weights.linears
        }

    def wrong(self) -> Iterator[str]:
        """The matrices whose products do not add up, in words."""
        for (layer, name), row in self.rows.items():
            weight = self.engine.weights.linears[layer, name]
            q = np.zeros((1, padded(weight.k)), np.int8)
            q[:, : weight.k] = self.rng.integers(1, 128, weight.k)  # no zero: any one weight that changes shows
            got, want = product(self.engine, weight, q).sum(), int(q[0].astype(np.int64) @ row)
            if got != want:
                yield f"{name} of layer {layer}: its products add up to {got:.0f}, those of its column sums to {want}"
