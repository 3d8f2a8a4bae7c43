"""Inputs of a timed case, fp64 truth and bounds of its outputs, and distinct copies of both for a rotation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kparity import ops
from kparity.ops.spec import Array, Case, ErrorBound

PIECE = 16384
"""Rows whose truth is computed at once, and rows of a large matrix that are drawn; the others repeat them, shifted."""


@dataclass(frozen=True)
class Expected:
    """Inputs of a case, fp64 truth and bounds of its outputs."""

    inputs: list[Array]
    truth: list[Array]
    bounds: list[ErrorBound]


def turns_by_rows(case: Case) -> bool:
    """Whether a copy is the weights turned by rows, which turns the outputs alike."""
    if case.op == "tgemv":
        return bool(case["wscale"] == "tensor")
    return case.op == "dense_gemv" and bool(case["rows"] == case["N"])  # a part of a head is bound to its columns


def in_pieces(case: Case) -> bool:
    """Whether the case has more rows than are computed at once."""
    return turns_by_rows(case) and bool(case["N"] > PIECE)


def part_of(case: Case, rows: int) -> Case:
    """The same case with another number of rows."""
    given = {name: value for name, value in case.params if name not in ("rows", "row0")}
    return ops.get(case.op).case(**{**given, "N": rows})


def draw(case: Case, seed: int = 0) -> list[Array]:
    """Seeded inputs; rows beyond ``PIECE`` of a weight repeat the first ones, turned along K, so that rows differ."""
    op, rng = ops.get(case.op), np.random.default_rng(case.seed(seed))
    if not in_pieces(case):
        return op.inputs(case, rng)
    first = op.inputs(part_of(case, PIECE), rng)
    turned = [np.roll(first[0], at, axis=1) for at in range(-(-case["N"] // PIECE))]
    return [np.concatenate(turned)[: case["N"]], *first[1:]]


@lru_cache(maxsize=1)
def facts_of(case: Case, seed: int = 0) -> Expected:
    """Truth, in pieces of rows where there are many: a whole head in fp64 would take gigabytes."""
    op, inputs = ops.get(case.op), draw(case, seed)
    if not in_pieces(case):
        truth = op.reference(case, inputs)
        return Expected(inputs, truth, op.bounds(case, inputs, truth))
    truths, limits, why = [], [], ""
    for at in range(0, case["N"], PIECE):
        words = inputs[0][at : at + PIECE]
        piece, given = part_of(case, len(words)), [words, *inputs[1:]]
        truths += op.reference(piece, given)
        bound = op.bounds(piece, given, truths[-1:])[0]
        limits.append(np.zeros(truths[-1].shape) if bound.limit is None else bound.limit)
        why = bound.derivation
    return Expected(inputs, [np.concatenate(truths, axis=1)], [ErrorBound(np.concatenate(limits, axis=1), why)])


def shifted(case: Case, inputs: Sequence[Array], at: int) -> list[Array]:
    """Copy ``at`` of the inputs: weights turned by rows, a full cache in another order, or the same again."""
    if turns_by_rows(case):
        return [np.roll(inputs[0], at, axis=0), *inputs[1:]]
    if case.op == "attention" and case["M"] == 1 and int(inputs[3][0]) == case["L"] - 1:
        return [inputs[0], np.roll(inputs[1], at, axis=0), np.roll(inputs[2], at, axis=0), *inputs[3:]]
    return list(inputs)


def turned(case: Case, array: Array, at: int) -> Array:
    """What ``shifted`` makes of an output, or of its limit."""
    return np.roll(array, at, axis=-1) if turns_by_rows(case) else array
