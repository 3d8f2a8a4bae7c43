"""The mutants of every op: every patch fits, and the Python ones run and are rejected.

The compiled dialects run in ``kparity mutate``.
"""

from pathlib import PurePosixPath
from typing import Any

import pytest

from kparity import ops
from kparity.backends.numpy import NumpyBackend
from kparity.check.core import check_case
from kparity.check.record import FAIL, PASS
from kparity.device.adapter import Backend
from kparity.mutate import barriers
from kparity.mutate.library import of_op
from kparity.mutate.patch import apply_numpy, loaded
from kparity.ops.assemble import TEXTS, kernel_text
from kparity.ops.mutant import Mutant, Patch
from kparity.ops.spec import Case, Op

LEAST = {
    "tgemv": 12, "rope": 12, "attention": 12, "rope_store": 6, "embed": 8, "rmsnorm": 9, "act_quant": 10, "kv_store": 8,
    "glu": 11, "add": 6, "dense_gemv": 7, "argmax": 6, "norm_quant": 15,
}  # fmt: skip
"""Mutants that an op must have, in every dialect."""
LONG = ("tgemv", "rope", "attention", "rope_store")
"""Ops with more mutants than any dialect has."""
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
"""Mutants of the other ops that cannot be written in every dialect: why, and in which they are."""
PYTHON = ("numpy", "torch")


def subjects(dialects: tuple[str, ...] = tuple(TEXTS)) -> list[Any]:
    """Op, dialect and mutant of every patch."""
    return [
        pytest.param(op, dialect, mutant, id=f"{op}-{dialect}-{name}")
        for op in LEAST
        for name, mutant in of_op(op).items()
        for dialect in dialects
        if dialect in mutant.patches
    ]


@pytest.mark.parametrize(("op", "dialect", "mutant"), subjects())
def test_a_patch_fits_and_changes_its_source(op: str, dialect: str, mutant: Mutant) -> None:
    texts = mutant.sources(op, dialect)
    assert texts
    for path, text in texts.items():
        assert text != kernel_text(path)
        if PurePosixPath(path).suffix == ".py":
            compile(text, path, "exec")


def test_a_mark_says_what_changes() -> None:
    patch = Patch("a «+→-» b«, c→»«→;»", times=2)
    assert patch.apply("x", "a + b, c | a + b, c") == "a - b; | a - b;"


@pytest.mark.parametrize("op", LEAST)
def test_there_are_enough_and_no_two_are_the_same(op: str) -> None:
    assert set(LEAST) == set(ops.NAMES)
    mutants = of_op(op)
    for dialect in TEXTS:
        texts = [mutant.sources(op, dialect) for mutant in mutants.values() if dialect in mutant.patches]
        assert len(texts) >= LEAST[op], f"{dialect} has {len(texts)} mutants"
        assert all(text not in texts[:at] for at, text in enumerate(texts)), f"{dialect} has one mutant twice"
    for name, mutant in mutants.items():
        assert mutant.patches, f"{name} changes nothing"
        assert mutant.what.endswith("."), f"{name} has no sentence that says what is wrong"
    assert len({mutant.what for mutant in mutants.values()}) == len(mutants)


def test_a_dialect_is_left_out_for_a_reason_only() -> None:
    """Barriers are those of a dialect, and each by itself."""
    known = {f"{op}/{name}": set(each.patches) for op in set(LEAST) - set(LONG) for name, each in of_op(op).items()
             if name not in barriers.of_op(op) and not each.only}  # fmt: skip
    partial = {name: dialects for name, dialects in known.items() if dialects != set(TEXTS)}
    assert partial == {name: dialects for name, (_, dialects) in PARTIAL.items()}


def wrong_backend(dialect: str, texts: dict[str, str]) -> Backend:
    """A backend of its own whose kernels come from these texts."""
    if dialect == "numpy":
        apply_numpy(backend := NumpyBackend(), texts)
        return backend
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from kparity.backends.torch import TorchBackend

    (module,) = (loaded(path, text) for path, text in texts.items())

    class Wrong(TorchBackend):
        def build(self, op: Op, case: Case) -> Any:
            kernel = super().build(op, case)
            kernel.run = module.run
            return kernel

    torch.set_num_threads(1)
    return Wrong(torch, "cpu")


@pytest.mark.parametrize(("op", "dialect", "mutant"), subjects(PYTHON))
def test_a_mutant_is_rejected_where_the_original_passes(op: str, dialect: str, mutant: Mutant) -> None:
    texts, spec = mutant.sources(op, dialect), ops.get(op)
    wrong, smallest_first = wrong_backend(dialect, texts), sorted(spec.cases(), key=lambda case: spec.work(case).flops)
    records = ((case, each) for case in smallest_first for each in check_case(wrong, spec, case, stop_at_first=True))
    case, record = next((each for each in records if each[1].outcome == FAIL), (None, None))
    assert case and record, f"survives every case of {op}: {mutant.what}"
    # An error of the patched text itself would be caught too, and would say nothing about the gate.
    assert record.failed, f"does not run: {record.reason}"
    right = wrong_backend(dialect, {path: kernel_text(path) for path in texts})
    assert [one.outcome for one in check_case(right, spec, case, kinds=[record.kind])] == [PASS]
