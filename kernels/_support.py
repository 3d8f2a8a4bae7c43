"""What the specifications share: seeded inputs of named kinds and the pieces of an error bound."""

from __future__ import annotations

import numpy as np

from kparity.errors import UnknownName
from kparity.spec import Array

U32 = 2.0**-24
"""Unit roundoff of f32."""
U16 = 2.0**-11
"""Unit roundoff of f16."""
TINY = 2.0**-126
"""The smallest normal f32: a device may flush what is below it to zero, operands and results alike."""

KINDS = ("random", "zeros", "outlier", "one_hot", "alternating", "tiny")
"""The kinds of values that ``values`` makes."""


def normal(rng: np.random.Generator, *shape: int) -> Array:
    """Standard normal f32 values: both signs, so that sums cancel."""
    return rng.standard_normal(shape).astype(np.float32)


def values(rng: np.random.Generator, kind: str, *shape: int) -> Array:
    """Seeded f32 values of one kind; the last axis is the one that an op reduces.

    ``outlier`` has one channel 1000 times larger, and it is the last, where tails are; ``one_hot`` has a single 1 in
    each row, at another place in each, beginning at the end; ``alternating`` sums to nothing; ``tiny`` reaches below
    the normal numbers.
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
    return found


def gamma(n: int, u: float = U32) -> float:
    """Higham's γ_n = n·u / (1 − n·u): the relative bound of a sum of n terms in any order."""
    return n * u / (1 - n * u)
