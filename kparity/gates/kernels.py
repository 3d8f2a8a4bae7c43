"""The gate ``kernels``: each kernel that serves, on made inputs, against fp64 truth.

Norms and quantisers hide small errors of the op before them from every logit; here each stands alone. It is the last
gate: what an earlier one rejects has a name that says more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from kparity import ops
from kparity.device.adapter import Buffer, Kernel, launched
from kparity.engine import Engine
from kparity.gates.candidate import Candidate
from kparity.gates.edges import at_edges
from kparity.gates.reference import SEED
from kparity.gates.verdict import Gate
from kparity.model.gguf_file import GgufFile
from kparity.numerics.compare import Comparison, judge
from kparity.numerics.expected import Expected
from kparity.ops.spec import Case, ErrorBound, Op
from kparity.plain.file import opened
from kparity.plain.weights import head_of, picked, pieces

ELSEWHERE = ("tgemv", "argmax")
"""Ops that the gates ``exact`` and ``decode`` hold against truth."""
EDGES = ("outlier", "small", "ties", "zeros", "stale")
"""Kinds of input beside random ones for the kernels of a step, where the op has them."""
PADDED = ("beyond",)
"""The same for the kernels of a chunk: rows of padding."""
SMALL = 1 << 17
"""Elements of all arguments up to which a kernel gets more than random inputs: large tables are dear to make."""


def kinds_of(op: Op, case: Case) -> list[str]:
    """The kinds of input for one kernel: finite and normal numbers only, which no device may treat in its own way."""
    if sum(math.prod(arg.shape) for arg in op.args(case)) > SMALL:
        return ["random"]
    more = EDGES if case["M"] == 1 else PADDED
    return ["random", *(kind for kind in op.kinds(case) if kind in more)]


def _findings(kernel: Kernel, op: Op, case: Case, kind: str) -> list[Comparison]:
    """One launch on one kind of input: every output against fp64 truth."""
    inputs = op.inputs(case, np.random.default_rng([SEED, case.seed()]), kind)
    return Expected.of(op, case, inputs).compare(f"{case.id} {kind}", launched(kernel.backend, kernel, inputs))


def _table(engine: Engine, case: Case) -> Buffer | None:
    """The part of embedding or head that a kernel reads, where it is large; None for all other kernels."""
    parts = {"embed": engine.weights.embedding, "dense_gemv": engine.weights.head}.get(case.op, [])
    width = case["K" if case.op == "dense_gemv" else "D"] if parts else 0
    found = (part.buffer for part in parts
             if (part.row0, part.rows, part.buffer.shape[1]) == (case["row0"], case["rows"], width))  # fmt: skip
    return next((buffer for buffer in found if math.prod(buffer.shape) > SMALL), None)


def _on_table(file: GgufFile, kernel: Kernel, op: Op, case: Case, table: Buffer) -> Iterator[Comparison]:
    """One launch on the table that serves, with random ids or activations: truth comes from the file, some rows at a
    time, so that no table is made and none is in memory twice. Rows or columns of other parts must stay.
    """
    rng, m, where = np.random.default_rng([SEED, case.seed()]), case["M"], f"{case.id} resident"
    first, last, whole = case["row0"], case["row0"] + case["rows"], case["N" if case.op == "dense_gemv" else "V"]
    before = [rng.standard_normal(kernel.args[-1].shape).astype(np.float32)] if last - first < whole else []
    if case.op == "embed":
        ids = rng.integers(0, whole, m).astype(np.int32)
        ids[-1] = last - 1
        rows = picked(file, file.tensors["token_embd.weight"], ids)
        for elsewhere in before:
            rows = np.where(((ids >= first) & (ids < last))[:, None], rows, elsewhere)
        known = Expected.of(op, op.case(M=m, V=m, D=case["D"], dtype="f32"), [rows, np.arange(m, dtype=np.int32)])
        yield from known.compare(where, launched(kernel.backend, kernel, [table, ids, *before]))
        return
    x = op.inputs(op.case(M=m, N=1, K=case["K"], dtype="f32"), rng)[1]
    (got,) = launched(kernel.backend, kernel, [table, x, *before])
    truth, limits = np.empty((2, m, last - first))
    for at, weights in pieces(file, head_of(file), first, last):
        some = op.case(M=m, N=len(weights), K=case["K"], dtype="f32")
        known, place = Expected.of(op, some, [weights, x]), slice(at.start - first, at.stop - first)
        truth[:, place], limits[:, place] = known.truth[0], known.bounds[0].limit
    yield judge(where, "y", got[:, first:last], truth, ErrorBound(limits, known.bounds[0].derivation))
    for elsewhere in before:
        others, kept = (np.delete(each, np.s_[first:last], axis=1) for each in (got, elsewhere))
        yield judge(where, "y", others, kept, ErrorBound(None, "columns of other parts: every bit"))


def _all(engine: Engine) -> Iterator[Comparison]:
    """Every kernel that was built for a step or a chunk, and that no other gate holds against truth."""
    with opened(engine.model.path) as file:
        for case, kernel in list(engine.kernels.built.items()):
            op, table = ops.get(case.op), _table(engine, case)
            for kind in kinds_of(op, case) if case.op not in ELSEWHERE else ():
                engine.tick(f"{case.op} {kind}")
                yield from _on_table(file, kernel, op, case, table) if table else _findings(kernel, op, case, kind)
            engine.tick(f"{case.op} at edges")
            yield from at_edges(kernel, op, case, engine.context)


def gate_kernels(candidate: Candidate) -> Gate:
    """Made inputs through every kernel that the step and the chunk launch, each output within its own bound."""
    engine, wrong, first = candidate.engine, 0, ""
    for finding in _all(engine):
        wrong += finding.wrong
        first = first or ("" if finding.ok else str(finding))
    return candidate.judged("kernels", {"kernels_wrong": wrong}, lambda bad: ("KP-KERNEL", first))
