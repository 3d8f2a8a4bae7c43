"""How far the tensors of two traces are apart, row by row: some rows of both sides are in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kparity.ops.spec import Array
from kparity.traces.dumps import AT_ONCE
from kparity.traces.files import Entry, Loaded
from kparity.traces.slots import Key


@dataclass(frozen=True)
class Errors:
    """Of a slot, row by row: squares of the difference and of the second side. The rest is of all rows."""

    apart: Array
    size: Array
    cosine: float
    max_abs: float
    positions: Sequence[int]
    width: int

    @property
    def rows(self) -> Array:
        """Relative errors; infinite for what is not finite, and for something instead of nothing."""
        return relative(self.apart, self.size)

    @property
    def error(self) -> float:
        """The root of their mean square."""
        return rms(self.rows)


def relative(apart: Array, size: Array) -> Array:
    """√(apart / size) of squares, 0 of 0 / 0; what is not finite is infinite."""
    with np.errstate(all="ignore"):
        found = np.sqrt(np.where(apart == 0, 0.0, apart / size))
    return np.where(np.isfinite(found), found, math.inf)


def rms(values: Array) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


@dataclass(frozen=True)
class Pair:
    """A slot on both sides, with the rows that both have."""

    a: Entry
    b: Entry
    positions: Sequence[int]

    @classmethod
    def of(cls, a: Entry, b: Entry, last_token: bool) -> Pair | None:
        """None where a side kept no rows, or none that the other has."""
        if a.rows is None or b.rows is None or a.rows.width != b.rows.width:
            return None
        ends = {a.positions[-1], b.positions[-1]}
        if last_token and (len(ends) == 1 or 1 in (len(a.rows), len(b.rows))):
            return cls(a, b, [max(ends)])
        common = a.positions if a.positions == b.positions else sorted({*a.positions} & {*b.positions})
        return cls(a, b, common) if common and not last_token else None

    def pieces(self) -> Iterator[tuple[Array, Array]]:
        """Rows of both sides as f64, some at a time."""
        step = max(1, AT_ONCE // 4 // self.width)
        for at in range(0, len(self.positions), step):
            part = self.positions[at : at + step]
            yield self._read(self.a, part), self._read(self.b, part)

    def _read(self, side: Entry, positions: Sequence[int]) -> Array:
        assert side.rows is not None
        if len(self.positions) == 1:
            found = [len(side.rows) - 1] if len(side.rows) == 1 else [list(side.positions).index(positions[0])]
        else:
            found = np.searchsorted(side.positions, positions).tolist()
        return side.rows.at(found).astype(np.float64)

    @property
    def width(self) -> int:
        """Elements of a row."""
        assert self.a.rows is not None
        return self.a.rows.width


def measured(pairs: Sequence[Pair]) -> Errors:
    """Of a slot; its heads, where it has some, side by side."""
    apart, size, most = [], [], 0.0
    dot = left = right = 0.0
    for pair in pairs:
        rows: list[tuple[Array, Array]] = []
        for a, b in pair.pieces():
            off = a - b
            rows.append((np.square(off).sum(1), np.square(b).sum(1)))
            most = max(most, float(np.abs(off).max())) if np.isfinite(off).all() else math.inf
            dot, left, right = dot + float(np.vdot(a, b)), left + float(np.vdot(a, a)), right + float(np.vdot(b, b))
        apart.append(np.concatenate([each for each, _ in rows]))
        size.append(np.concatenate([each for _, each in rows]))
    cosine = dot / math.sqrt(left * right) if left * right > 0 else float(left == right)
    width = sum(pair.width for pair in pairs)
    return Errors(np.sum(apart, axis=0), np.sum(size, axis=0), cosine, most, pairs[0].positions, width)


def through_norm(of: Pair, norm: Pair) -> float:
    """The error that a norm makes of its input's: each element's, times what the norm multiplied that element by. A
    channel that dwarfs the others in the input, and not behind the weight, does not hide them.
    """
    apart, size = [], []
    for (a, b), (_, out) in zip(of.pieces(), norm.pieces(), strict=True):
        with np.errstate(all="ignore"):
            scaled = np.where(b == 0, 0.0, out / b) * (a - b)
        apart.append(np.square(scaled).sum(1))
        size.append(np.square(out).sum(1))
    return rms(relative(np.concatenate(apart), np.concatenate(size)))


def pairs_of(a: Loaded, b: Loaded, last_token: bool) -> dict[Key, list[Pair]]:
    """Slots whose rows both sides have, heads put together, in order of computation."""
    found: dict[Key, list[Pair]] = {}
    for key in sorted({*a.entries} & {*b.entries}, key=lambda key: key.order):
        pair = Pair.of(a.entries[key], b.entries[key], last_token)
        if pair:
            found.setdefault(Key(key.layer, key.slot), []).append(pair)
    return found
