"""What is measured end to end: prompts of several lengths, and single steps at several depths, on one sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from kparity.gates.reference import first_token
from kparity.model import Model
from kparity.model.graph import LINEARS, linear_shapes
from kparity.ops.spec import padded

BLOCK = 8
"""Steps of one engine before it is the next one's turn."""


@dataclass(frozen=True)
class Point:
    """``pp128``: a prompt of 128 tokens on an empty cache. ``tg@512``: a block of steps behind 512 tokens."""

    phase: Literal["prefill", "decode"]
    length: int

    @property
    def name(self) -> str:
        """As tables and receipts call it."""
        return f"pp{self.length}" if self.phase == "prefill" else f"tg@{self.length}"

    @property
    def prefix(self) -> int:
        """Tokens of the sequence that are in the cache when the timed output stands."""
        return self.length + (BLOCK if self.phase == "decode" else 0)

    @property
    def tokens(self) -> int:
        """Tokens of one sample."""
        return self.length if self.phase == "prefill" else 1


def points(prompts: tuple[int, ...], depths: tuple[int, ...]) -> list[Point]:
    """Prompts and then depths, each from the shortest to the longest."""
    prefills = [Point("prefill", length) for length in sorted(set(prompts))]
    return [*prefills, *(Point("decode", depth) for depth in sorted(set(depths)))]


def sequence(model: Model, seed: int, length: int) -> list[int]:
    """The tokens of every run: the first token of the model, and then seeded random ids."""
    drawn = np.random.default_rng([seed, 11]).integers(0, model.hparams.vocab, max(length - 1, 0))
    return [first_token(model), *(int(token) for token in drawn)]


def weight_bytes(model: Model) -> int:
    """Bytes of all weights that one pass reads, whatever its launches are: every one but the embedding, once."""
    h = model.hparams
    shapes = linear_shapes(h)
    ternary = h.n_layer * sum(shapes[name][1] * padded(shapes[name][0]) // 4 for name in LINEARS)
    norms = 4 * (h.n_layer * (2 * h.width + h.q_dim + h.ffn) + h.width)
    return ternary + norms + int(model.head().array.nbytes)


def bytes_per_token(model: Model, point: Point, kv: str) -> int:
    """Bytes that must move for a token of a point: a lower bound.

    A step reads all weights, its row of the embedding, and the cache up to its position. A prompt reads the weights
    once for all of its tokens, and writes its rows of the cache.
    """
    h, embedding = model.hparams, model.embedding().array
    per_position = 2 * h.n_layer * h.kv_dim * (2 if kv == "f16" else 4)
    row = int(embedding[:1].nbytes)
    if point.phase == "prefill":
        return weight_bytes(model) // point.length + row + per_position
    return weight_bytes(model) + row + per_position * (point.length + 1)
