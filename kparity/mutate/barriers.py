"""Mutants without a barrier: one for each barrier of an op's text, and of each shared text that it uses.

What is wrong with them is an order alone. A device on which the work-items of a group happen to run side by side gives
the right bits without any barrier: those of the GPU text run where races are told (cuda-ptx). Those of WGSL show where
a processor runs a group piece by piece (lavapipe), by their values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from kparity.ops.assemble import file_of, kernel_text, uses
from kparity.ops.mutant import Mutant, Patch

CALLS = {"gpu": "BARRIER();", "wgsl": "workgroupBarrier();"}
"""Dialect → how a barrier is written there."""
REDUCTION, REDUCES = "prelude/lanes.h", "REDUCE("
"""The reduction over the waves of a group, and how a GPU text asks for it."""
TENSOR = "prelude/ternary_mma.cu"
"""The product on matrix cores, the one shared text with a barrier that a GPU text may use."""
WITHIN_A_WAVE = ("dense_gemv",)
"""Ops that ask for it over lanes of one wave: no barrier of it is in their kernels, which a test reads from the PTX."""
COMES_ONCE = ("rmsnorm", "act_quant", "tgemv", "argmax", "norm_quant")
"""Ops that reduce once: nobody has used the reduction's memory when they come to its first barrier."""
ONCE = "tests/test_ptx_kernels.py::test_a_barrier_before_the_only_reduction_orders_nothing"
"""Proves it of each, by every access to shared memory in each of its cases."""


def files(op: str, dialect: str) -> Iterator[str]:
    """The texts of an op in a dialect that may hold barriers, by their paths below ``kernels/``."""
    own = file_of(op, dialect)
    text = kernel_text(own)
    yield own
    if dialect == "wgsl":
        yield from uses(text, "wgsl")
        return
    if TENSOR in uses(text, "cu"):
        yield TENSOR
    if REDUCES in text and op not in WITHIN_A_WAVE:
        yield REDUCTION


def of_op(op: str) -> Mapping[str, Mutant]:
    """Name → mutant: ``no-barrier-tgemv-cu-2`` lacks the second barrier of ``tgemv.cu``."""
    found = dict[str, Mutant]()
    for dialect, call in CALLS.items():
        for file in files(op, dialect):
            count, path = kernel_text(file).count(call), PurePosixPath(file)
            for number in range(1, count + 1):
                name = f"no-barrier-{path.stem.replace('_', '-')}-{path.suffix[1:]}-{number}"
                patch = Patch(f"«{call}→»", times=count, file=file, only=number)
                once = file == REDUCTION and number == 1 and op in COMES_ONCE
                what = f"Barrier {number} of {count} in {path.name} is missing."
                equivalent = {dialect: ONCE} if once else {}
                found[name] = Mutant(what, equivalent, "cuda-ptx" if dialect == "gpu" else "", **{dialect: patch})
    return found
