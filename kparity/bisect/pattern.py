"""What the wrong elements of a tensor have in common, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kparity.diagnose.patterns import TILES
from kparity.numerics.expected import Expected
from kparity.ops.spec import Array

SPREAD = 1e-3
"""A factor is constant where it varies by less than this share of it."""


def pattern_of(known: Expected, outputs: Sequence[Array]) -> str:
    """Of the first output that is wrong."""
    for arg, got, truth, bound in zip(
        known.op.outputs_of(known.case), outputs, known.truth, known.bounds, strict=True
    ):  # fmt: skip
        with np.errstate(all="ignore"):
            off = np.abs(got.astype(np.float64) - truth)
            bad = got != truth.astype(got.dtype) if bound.limit is None else ~((off <= bound.limit) | (got == truth))
        if bad.any():
            return f"{arg.name}: {described(got, truth, bad)}"
    return ""


def described(got: Array, want: Array, bad: Array) -> str:
    """Where the bad elements lie, then what they are, of arrays [rows, …, columns]."""
    flat = [each.reshape(len(each), -1) if each.ndim > 1 else each.reshape(1, -1) for each in (got, want, bad)]
    where = next(_where(flat[2]), f"{int(flat[2].sum())} of {flat[2].size} elements, without a pattern")
    heads = next(_heads(bad), "")
    what = next(_what(flat[0][flat[2]].astype(np.float64), flat[1][flat[2]].astype(np.float64)), "")
    return "; ".join(filter(None, (heads or where, what or next(_moved(*flat), ""))))


def _where(bad: Array) -> Iterator[str]:
    """By rows, then by columns."""
    rows, columns = np.flatnonzero(bad.any(axis=1)), np.flatnonzero(bad.any(axis=0))
    count, width = bad.shape
    if bad.all():
        yield f"all {bad.size} elements"
    if len(rows) < count and bad[rows].mean() > 0.9:
        yield f"{_of(rows, count, 'row')}, whole"
    if len(columns) == width:
        return
    if columns[-1] == width - 1 and len(columns) == width - columns[0] and len(columns) <= width // 2:
        yield f"the tail: the last {len(columns)} of {width} columns"
    for tile in TILES:
        tiles = np.unique(columns // tile)
        if len(tiles) == 1 and len(columns) > 1 and tile < width:
            yield f"one tile of {tile}: columns {tiles[0] * tile} to {tiles[0] * tile + tile - 1} of {width}"
    for step in range(width // 3, 1, -1):
        lanes = np.unique(columns % step)
        if len(lanes) == 1 and len(columns) >= 3 and len(columns) >= 0.9 * len(range(lanes[0], width, step)):
            yield f"every {step}th column, from {lanes[0]} on"
    yield f"{_of(columns, width, 'column')} in {_of(rows, count, 'row')}"


def _of(some: Array, count: int, what: str) -> str:
    shown = ", ".join(map(str, some[:4])) + (" …" if len(some) > 4 else "")
    return f"all {count} {what}s" if len(some) == count else f"{len(some)} of {count} {what}s ({shown})"


def _heads(bad: Array) -> Iterator[str]:
    """Of an array [rows, heads, head_dim]: some heads, or the same elements of each."""
    if bad.ndim != 3 or bad.all():
        return
    heads, inside = np.flatnonzero(bad.any(axis=(0, 2))), np.flatnonzero(bad.any(axis=(0, 1)))
    if len(heads) < bad.shape[1]:
        yield f"{_of(heads, bad.shape[1], 'head')}"
    elif len(inside) < bad.shape[2]:
        yield f"elements {inside[0]} to {inside[-1]} of every head of {bad.shape[2]}, {len(inside)} of them"


def _what(got: Array, want: Array) -> Iterator[str]:
    """A constant relation of the bad elements to what they should be."""
    if not np.isfinite(got).all():
        yield f"{int((~np.isfinite(got)).sum())} of them NaN or infinite"
        return
    if not got.any():
        yield "all zero"
        return
    if (got == got.astype(np.float16)).all() and not (want == want.astype(np.float16)).all():
        yield "each of them a number of f16"
    there = np.abs(want) > np.abs(want).max(initial=0) * 1e-3
    with np.errstate(all="ignore"):
        factor = got[there] / want[there]
    if len(factor) > 2 and np.isfinite(factor).all():
        typical = float(np.median(factor))
        if abs(typical - 1) > SPREAD and np.abs(factor - typical).max() <= SPREAD * abs(typical):
            told = "of the opposite sign" if abs(typical + 1) < SPREAD else f"{typical:.4g} times what they should be"
            yield told if typical else "zero where something belongs"
        elif np.abs(np.abs(factor) - 1).max() < SPREAD:
            yield "some of the opposite sign"
    if len(got) > 2 and np.ptp(got - want) <= SPREAD * np.abs(got - want).max():
        yield f"{float(np.median(got - want)):+.4g} off, all alike"


def _moved(got: Array, want: Array, bad: Array) -> Iterator[str]:
    """Right values at a wrong place."""
    near = 1e-3 * float(np.abs(want).max(initial=0))
    for axis, name in ((1, "column"), (0, "row")):
        for by in (1, -1, *(each for tile in TILES for each in (tile, -tile))):
            if want.shape[axis] > abs(by) and (np.abs(got - np.roll(want, by, axis=axis))[bad] <= near).mean() > 0.9:
                yield f"the values that belong {abs(by)} {name}s {'before' if by > 0 else 'behind'}"
    pairs = want.reshape(len(want), -1, 2)[..., ::-1].reshape(want.shape) if want.shape[1] % 2 == 0 else want
    if pairs is not want and (np.abs(got - pairs)[bad] <= near).mean() > 0.9:
        yield "neighbours exchanged"
