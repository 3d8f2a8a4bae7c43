"""A cache that is filled in bulk, with keys and values that a seed gives, so that late positions need no walk to them;
and the positions at which a kernel or a cache can end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kparity.ops.spec import DTYPES, Array
from kparity.plain import Cache, Span

FIRST = 128
"""The first power of two behind the positions that the gate ``positions`` walks to."""
SHIFT, PARTS = 7, 64
"""Rows between what two layers have of the same codes, and how many such parts differ."""
PROMPT, LAST = 9, 32
"""Tokens of a prompt across a power of two, whose chunk is padded, and of the one that fills the context."""


def powers(context: int) -> list[int]:
    """The powers of two within a context, from FIRST on."""
    return [1 << bit for bit in range(FIRST.bit_length() - 1, context.bit_length()) if 1 << bit < context]


def edges(context: int) -> list[int]:
    """Positions on both sides of every power of two and of the middle between two, and the last two of the context: at
    one of them every tile, part or ring ends whose length divides them.
    """
    middles = [each * 3 // 2 for each in (FIRST // 2, *powers(context))]
    ends = [*powers(context), *middles, context - 1]
    return sorted({at for end in ends for at in (end - 1, end) if 0 <= at < context})


def spans(tokens: Sequence[int], context: int, seed: int) -> list[Span]:
    """What the gate ``depth`` feeds: steps on both sides of every power of two and of the middle between two, anywhere
    between, and at the end; prompts across each power of two, which begin in turn some positions before it and at the
    last one, and one that fills the context. The latest come first: no later one reads what one of them stores.
    """
    rng, inside = np.random.default_rng([seed, context]), powers(context)
    steps = {max(context - 2, 0), context - 1}
    for each in inside:
        middle = each * 3 // 2
        anywhere = int(rng.integers(each, min(2 * each, context)))
        steps |= {each - 1, each, anywhere, *([middle - 1, middle] if middle < context else [])}
    before = [PROMPT // 2, 1] * len(inside)
    across = [each - some for each, some in zip(inside, before, strict=False) if each + PROMPT < context]
    places = [(at, 1) for at in steps] + [(start, PROMPT) for start in across]
    places += [(context - LAST, LAST)] if inside else []
    places.sort(key=lambda each: (-each[0], each[1]))
    fed = np.resize(np.asarray([*tokens[1:], *tokens[:1]]), sum(length for _, length in places))
    ends = np.cumsum([length for _, length in places])
    return [
        Span(start, [int(token) for token in fed[end - length : end]])
        for (start, length), end in zip(places, ends, strict=True)
    ]


@dataclass
class Filled:
    """Keys and values of ``count`` positions for every layer: whole numbers times a power of two, the same bits in f16
    and f32, of about the size that the layer's own have.
    """

    seed: int
    count: int
    exponents: list[tuple[int, int]] = field(default_factory=list)
    """Of each layer's keys and values."""
    _codes: Array | None = None

    def like(self, layer: int, keys: Array, values: Array) -> Cache:
        """For a layer, from its own, [positions, kv_heads, head_dim]; to be called layer by layer."""
        self.exponents.append((_exponent(keys), _exponent(values)))
        first, second = self.layer(layer, keys[0].size, "f32")
        return first.reshape(-1, *keys.shape[1:]), second.reshape(-1, *values.shape[1:])

    def layer(self, layer: int, width: int, dtype: str) -> Cache:
        """Keys and values [count, width] of a layer."""
        if self._codes is None:
            rng = np.random.default_rng([self.seed, width])
            self._codes = rng.integers(-127, 128, (self.count + SHIFT * PARTS, width), np.int8)
        keys, values = (
            self._part(2 * layer + at, exponent, dtype) for at, exponent in enumerate(self.exponents[layer])
        )
        return keys, values

    def _part(self, part: int, exponent: int, dtype: str) -> Array:
        assert self._codes is not None
        start = part % PARTS * SHIFT
        scaled = self._codes[start : start + self.count].astype(np.float32) * np.float32(2.0**exponent)
        return np.asarray(scaled.astype(DTYPES[dtype]))


def _exponent(own: Array) -> int:
    """Of the power of two by which codes get the root mean square of ``own``; within what f16 holds."""
    size = float(np.sqrt(np.mean(np.square(own, dtype=np.float64)))) * np.sqrt(3) / 127
    return int(np.clip(np.rint(np.log2(size)), -16, 8)) if 0 < size < np.inf else -16
