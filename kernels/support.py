"""What the specifications share: seeded inputs of named kinds, shapes of real models, the pieces of an error bound."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kparity.errors import UnknownName
from kparity.ops.spec import ROUNDOFF, Array

U32 = ROUNDOFF["f32"]
TINY = 2.0**-126
"""The smallest normal f32: a device may flush what is below it to zero, operands and results alike."""
F16_MAX = 65504.0
"""The largest f16."""


def in_f16(x: Array) -> Array:
    """Rounded to f16, half to even, in the type that they had."""
    with np.errstate(over="ignore", under="ignore"):
        return x.astype(np.float16).astype(x.dtype)


def moved_in_f16(x: Array, relative: float | Array) -> Array:
    """How far f16(x) moves at most where x >= 0 is off by that much."""
    with np.errstate(invalid="ignore"):
        low, middle, high = (in_f16(x * (1 + side * relative)) for side in (-1, 0, 1))
        return np.where(low == high, 0, np.maximum(high - middle, middle - low))


KINDS = ("random", "zeros", "outlier", "one_hot", "alternating", "tiny", "all_max", "nan", "infinite")
"""The kinds of values that ``values`` makes."""
MANY = 1 << 18
"""Elements from which a case is tried with few kinds of input."""


@dataclass(frozen=True)
class Model:
    """The widths of a BitNet b1.58 model and the base of its RoPE."""

    width: int
    ffn: int
    heads: int
    kv_heads: int
    head: int
    theta: float = 10000.0

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(N, K) of the ternary matrices: q or output, k or v, gate or up, down."""
        kv = self.kv_heads * self.head
        return (self.width, self.width), (kv, self.width), (self.ffn, self.width), (self.width, self.ffn)

    @property
    def fused(self) -> tuple[tuple[int, int], ...]:
        """(N, K) of those that one launch takes together: q, k and v; gate and up."""
        return (self.width + 2 * self.kv_heads * self.head, self.width), (2 * self.ffn, self.width)

    @property
    def gemvs(self) -> list[tuple[int, int]]:
        """(N, K) of every ternary GEMV, each once."""
        return list(dict.fromkeys((*self.linears, *self.fused)))


MODELS = {
    "0.7B": Model(1536, 4096, 16, 16, 96),
    "2B": Model(2560, 6912, 20, 5, 128, 500000.0),
    "3B": Model(3200, 8640, 32, 32, 100),
}
"""BitNet b1.58 as published: 0.7B and 3B (1bitLLM), 2B-4T (Microsoft)."""
WIDTHS = tuple(sorted({width for model in MODELS.values() for width in (model.width, model.ffn)}))
"""Every width of an activation in those models."""
VOCABULARY = 128_256
"""Rows of the embedding and of the LM head of 2B-4T."""
SERVED = MODELS["2B"]
"""The model whose launches are timed, compiled and written by default."""
ROWS = (*range(1, 10), 31, 32, 33, 64)
"""Rows of activations: a step, every tail of a tile of 8, the neighbourhood of 32, a prefill chunk."""
TAILS = (1, 2, 3, 7, 8, 9, 31, 32, 33, 63, 65, 127, 255, 256, 257, 513, 1025)
"""Widths around the powers of two at which vectors, work-groups and blocks of 256 end."""


DRAWN = 1_048_583
"""Values after which ``normal`` repeats itself: a prime, so that no two rows of a table are alike. A head of 128256 x
2560 drawn to its end took ten seconds.
"""


def normal(rng: np.random.Generator, *shape: int, dtype: npt.DTypeLike = np.float32) -> Array:
    """Standard normal values in f32 or f16: both signs, so that sums cancel."""
    found = np.empty(math.prod(shape), dtype)
    drawn = rng.standard_normal(min(DRAWN, found.size)).astype(np.float32).astype(dtype)
    for at in range(0, found.size, DRAWN):
        found[at : at + DRAWN] = drawn[: found.size - at]
    return found.reshape(shape)


def spoil(x: Array, *what: float) -> Array:
    """Put the values of ``what`` in turn into every third row of ``x`` from the last on; returns ``x``.

    The place is the end of the last row, and another one in each of the others; two rows of three stay as they are, and
    must come out as if the spoilt ones were not there.
    """
    rows, width = x.reshape(-1, x.shape[-1]), x.shape[-1]
    at = np.arange(0, len(rows), 3)
    rows[len(rows) - 1 - at, (width - 1 - 7 * at) % width] = np.resize(np.array(what, x.dtype), len(at))
    return x


def values(rng: np.random.Generator, kind: str, *shape: int) -> Array:
    """Seeded f32 values of one kind; the last axis is the one that an op reduces.

    ``outlier`` has one channel 1000 times larger, and it is the last, where tails are; ``one_hot`` has a single 1 in
    each row, at another place in each, beginning at the end; ``alternating`` sums to nothing; ``tiny`` reaches below
    the normal numbers; ``all_max`` is the largest f16 everywhere; ``nan`` and ``infinite`` have one such value in
    every third row (see ``spoil``).
    """
    if kind not in KINDS:
        raise UnknownName("kind of input", kind, KINDS)
    found = normal(rng, *shape)
    if kind == "zeros":
        found[:] = 0
    elif kind == "outlier":
        found[..., -1] *= 1000
    elif kind == "one_hot":
        rows = found.reshape(-1, shape[-1])
        rows[:] = 0
        at = np.arange(len(rows))
        rows[at, (shape[-1] - 1 - at) % shape[-1]] = 1
    elif kind == "alternating":
        found[:] = np.where(np.arange(shape[-1]) % 2, -1, 1)
    elif kind == "tiny":
        found *= np.float32(10.0) ** rng.integers(-40, -30, shape).astype(np.float32)
    elif kind == "all_max":
        found[:] = F16_MAX
    elif kind == "nan":
        spoil(found, np.nan)
    elif kind == "infinite":
        spoil(found, np.inf, -np.inf)
    return found


def gamma(n: int, u: float = U32) -> float:
    """Higham's γ_n = n·u / (1 − n·u): the relative bound of a sum of n terms in any order."""
    return n * u / (1 - n * u)
