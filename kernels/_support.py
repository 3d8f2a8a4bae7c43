"""What the specifications share: seeded inputs and the pieces of an error bound."""

from __future__ import annotations

import numpy as np

from kparity.spec import Array

U32 = 2.0**-24
"""Unit roundoff of f32."""
U16 = 2.0**-11
"""Unit roundoff of f16."""


def normal(rng: np.random.Generator, *shape: int) -> Array:
    """Standard normal f32 values: both signs, so that sums cancel."""
    return rng.standard_normal(shape).astype(np.float32)


def gamma(n: int, u: float = U32) -> float:
    """Higham's γ_n = n·u / (1 − n·u): the relative bound of a sum of n terms in any order."""
    return n * u / (1 - n * u)
