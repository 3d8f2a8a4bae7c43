"""The mutants of the other nine ops: every patch fits, and the Python ones run and are rejected.

The compiled dialects run in ``kparity mutate``.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from kparity import ops
from kparity.check.core import check_case
from kparity.check.record import PASS
from kparity.mutate.library import of_op
from kparity.mutate.patch import original
from kparity.ops.assemble import TEXTS
from kparity.ops.mutant import Mutant
from tests.test_mutants_core import failures, patched, wrong_backend

LEAST = {
    "embed": 8,
    "rmsnorm": 9,
    "act_quant": 10,
    "kv_store": 8,
    "glu": 11,
    "add": 6,
    "dense_gemv": 7,
    "argmax": 6,
    "norm_quant": 13,
}
"""Mutants that an op has at least in every dialect."""

PARTIAL = {
    "rmsnorm/lane-dropped": ("torch and numpy have no lanes", {"gpu", "wgsl", "native"}),
    "act_quant/maximum-of-row-0": ("the native text sees one span at a time", set(TEXTS) - {"native"}),
    "act_quant/padding-not-written": ("torch and numpy give new arrays", {"gpu", "wgsl", "native"}),
    "dense_gemv/lane-dropped": ("torch and numpy have no lanes", {"gpu", "wgsl", "native"}),
    "glu/grid-not-folded": ("only GPU APIs have a grid", {"gpu", "wgsl"}),
    "add/grid-not-folded": ("only GPU APIs have a grid", {"gpu", "wgsl"}),
    "dense_gemv/grid-not-folded": ("only WGSL folds the grid of a case that fits into memory", {"wgsl"}),
    "argmax/bits-compared": ("the native text compares floats", set(TEXTS) - {"native"}),
    "argmax/share-dropped": ("the others do not join shares of a row", {"gpu", "wgsl"}),
}
"""Mutants that cannot be written in every dialect: why, and in which they are."""


def subjects(*dialects: str) -> list[Any]:
    """Op, dialect and mutant of every patch."""
    return [
        pytest.param(op, dialect, mutant, id=f"{op}-{dialect}-{mutant.name}")
        for op in LEAST
        for mutant in of_op(op)
        for dialect in dialects
        if dialect in mutant.patches
    ]


@pytest.mark.parametrize(("op", "dialect", "mutant"), subjects(*TEXTS))
def test_a_patch_fits_and_changes_its_source(op: str, dialect: str, mutant: Mutant) -> None:
    texts = patched(op, dialect, mutant)
    assert texts
    for path, text in texts.items():
        assert text != original(path)
        if PurePosixPath(path).suffix == ".py":
            compile(text, path, "exec")


@pytest.mark.parametrize("op", LEAST)
def test_there_are_enough_and_no_two_are_the_same(op: str) -> None:
    mutants = of_op(op)
    assert len({mutant.what for mutant in mutants}) == len(mutants)
    assert all(mutant.what.endswith(".") for mutant in mutants)
    for dialect in TEXTS:
        texts = [patched(op, dialect, mutant) for mutant in mutants if dialect in mutant.patches]
        assert len(texts) >= LEAST[op], f"{dialect} has {len(texts)} mutants"
        assert all(text not in texts[:at] for at, text in enumerate(texts)), f"{dialect} has one mutant twice"


def test_a_dialect_is_left_out_for_a_reason_only() -> None:
    found = {
        f"{op}/{mutant.name}": set(mutant.patches)
        for op in LEAST
        for mutant in of_op(op)
        if set(mutant.patches) != set(TEXTS)
    }
    assert found == {name: dialects for name, (_, dialects) in PARTIAL.items()}


@pytest.mark.parametrize(("op", "dialect", "mutant"), subjects("numpy", "torch"))
def test_a_mutant_is_rejected_where_the_original_passes(op: str, dialect: str, mutant: Mutant) -> None:
    texts, spec = patched(op, dialect, mutant), ops.get(op)
    witness = next(failures(wrong_backend(dialect, texts), spec), None)
    assert witness is not None, f"{mutant.name} survives every case of {op}: {mutant.what}"
    case, record = witness
    # An error of the patched text itself would be caught too, and would say nothing about the gate.
    assert record.failed, f"{mutant.name} does not run: {record.reason}"
    right = wrong_backend(dialect, {path: original(path) for path in texts})
    assert [one.outcome for one in check_case(right, spec, case, kinds=[record.kind])] == [PASS]
