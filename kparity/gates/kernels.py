"""The gate ``kernels``: each kernel that serves, on made inputs, against fp64 truth.

Norms and quantisers hide small errors of the op before them from every logit; here each stands alone. It is the last
gate: what an earlier one rejects has a name that says more.
"""

from __future__ import annotations

import math

import numpy as np

from kparity import ops
from kparity.device.adapter import Backend, Kernel, launched
from kparity.gates.candidate import Candidate
from kparity.gates.reference import SEED
from kparity.gates.verdict import Gate
from kparity.numerics.compare import Comparison
from kparity.numerics.expected import Expected
from kparity.ops.spec import Case, Op

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


def _findings(backend: Backend, kernel: Kernel, op: Op, case: Case, kind: str) -> list[Comparison]:
    """One launch on one kind of input: every output against fp64 truth."""
    inputs = op.inputs(case, np.random.default_rng([SEED, case.seed()]), kind)
    return Expected.of(op, case, inputs).compare(f"{case.id} {kind}", launched(backend, kernel, inputs))


def gate_kernels(candidate: Candidate) -> Gate:
    """Made inputs through every kernel that the step and the chunk launch, each output within its own bound."""
    engine, wrong, first = candidate.engine, 0, ""
    for case, kernel in list(engine.kernels.built.items()):
        if case.op in ELSEWHERE:
            continue
        op = ops.get(case.op)
        for kind in kinds_of(op, case):
            engine.tick(f"{case.op} {kind}")
            for finding in _findings(engine.backend, kernel, op, case, kind):
                wrong += finding.wrong
                first = first or ("" if finding.ok else str(finding))
    return candidate.judged("kernels", {"kernels_wrong": wrong}, lambda bad: ("KP-KERNEL", first))
