"""What a timed run computed, kept so that it can be held against a reference after the clock has stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kparity.bench.plan import Point
from kparity.numerics import compare
from kparity.ops.spec import Array


def digest(logits: Array, best: Sequence[int] = ()) -> str:
    """SHA-256 of every bit of an output, and of the tokens on the way to it."""
    return hashlib.sha256(logits.tobytes() + np.array(best, np.int64).tobytes()).hexdigest()


class Outputs:
    """The logits [vocab] of the last sample of each point."""

    def __init__(self) -> None:
        self._last: dict[Point, Array] = {}

    def keep(self, point: Point, logits: Array) -> None:
        """Note the output of a sample in place of the one before."""
        self._last[point] = logits

    def cosines(self, path: str) -> dict[str, float | None]:
        """By point, the cosine with the reference's logits in an .npz file of prefixes; None where it is no number."""
        with np.load(Path(path)) as wanted:
            found = {point.name: compare.cosine(row, wanted[str(point.prefix)]) for point, row in self._last.items()}
        return {name: value if np.isfinite(value) else None for name, value in found.items()}
