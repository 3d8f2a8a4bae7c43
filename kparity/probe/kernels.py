"""The gate ``kernels``: each kernel that serves, on made inputs, against fp64 truth.

Norms and quantisers hide small errors of the op before them from every logit; here each stands alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kparity import compare, ops
from kparity.adapter import Backend, Kernel
from kparity.probe.candidate import Candidate
from kparity.probe.reference import SEED
from kparity.probe.verdict import Gate
from kparity.spec import DTYPES, Array

ELSEWHERE = ("tgemv", "argmax")
"""Ops that the gates ``exact`` and ``decode`` hold against truth."""


def _run(backend: Backend, kernel: Kernel, inputs: Sequence[Array]) -> list[Array]:
    """Outputs of one launch; pure outputs are poisoned with NaN or -1 before."""
    left, buffers = iter(inputs), []
    for arg in kernel.args:
        if arg.role == "out":
            poison = np.full(arg.nbytes, 0xFF, np.uint8).view(DTYPES[arg.dtype]).reshape(arg.shape)
            buffers.append(backend.upload(poison))
        else:
            buffers.append(backend.upload(np.ascontiguousarray(next(left))))
    backend.record([kernel.bind(*buffers)]).run()
    found = zip(kernel.args, buffers, strict=True)
    return [backend.download(buffer).astype(DTYPES[arg.dtype]) for arg, buffer in found if arg.role != "in"]


def gate_kernels(candidate: Candidate) -> Gate:
    """Random inputs through every kernel that the step and the chunk launch, each output within its own bound."""
    engine, wrong, first = candidate.engine, 0, ""
    for case, kernel in list(engine.kernels.built.items()):
        if case.op in ELSEWHERE:
            continue
        op = ops.get(case.op)
        inputs = op.inputs(case, np.random.default_rng([SEED, case.seed()]), "random")
        with np.errstate(all="ignore"):
            truth = op.reference(case, inputs)
            bounds = op.bounds(case, inputs, truth)
        got = _run(engine.backend, kernel, inputs)
        for arg, output, want, bound in zip(op.outputs_of(case), got, truth, bounds, strict=True):
            finding = compare.judge(case.id, arg.name, output, want, bound)
            wrong += finding.wrong
            first = first or ("" if finding.ok else str(finding))
    measure = candidate.measure("kernels_wrong", wrong)
    return candidate.judged("kernels", [measure], lambda bad: ("KP-KERNEL", first))
