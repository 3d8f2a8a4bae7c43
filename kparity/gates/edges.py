"""Kernels that depend on the position, at every edge of the served context: one of the measures of gate ``kernels``."""

from __future__ import annotations

import numpy as np

from kparity.device.adapter import Buffer, Kernel, filled
from kparity.gates.filled import edges
from kparity.gates.reference import SEED
from kparity.numerics.compare import Comparison
from kparity.numerics.expected import Expected
from kparity.ops.spec import DTYPES, Array, Case, Op


def at_edges(kernel: Kernel, op: Op, case: Case, context: int) -> list[Comparison]:
    """Launches of ``M`` rows after each other, whose positions are the edges of a context, each against fp64 truth.

    Truth is that of one case with all these rows. What has no row of its own (a cache) stays on the device meanwhile.
    """
    names = [arg.name for arg in kernel.args if arg.role != "out"]
    if "pos" not in names:
        return []
    backend, rows, places = kernel.backend, case["M"], edges(context)
    places += [-1] * (-len(places) % rows)
    whole = op.case(**{**dict(case.params), "M": len(places)})
    inputs = op.inputs(whole, np.random.default_rng([SEED, case.seed()]), "random")
    inputs[names.index("pos")] = np.asarray(places, np.int32)
    given = dict(zip(names, inputs, strict=True))
    shapes = {arg.name: arg.shape for arg in op.args(whole)}
    shared = {arg.name for arg in kernel.args if arg.shape == shapes[arg.name]}
    kept: dict[str, Buffer] = {}
    parts: dict[str, list[Array]] = {arg.name: [] for arg in kernel.args if arg.role != "in"}
    for at in range(0, len(places), rows):
        buffers = []
        for arg in kernel.args:
            if arg.name not in shared or arg.name not in kept:
                if arg.role == "out":
                    array = filled(arg.shape, arg.dtype, 0xFF)
                else:
                    array = given[arg.name] if arg.name in shared else given[arg.name][at : at + rows]
                kept[arg.name] = backend.upload(np.ascontiguousarray(array))
            buffers.append(kept[arg.name])
        backend.record([kernel.bind(*buffers)]).run()
        for name in parts:
            if name not in shared or at + rows == len(places):
                parts[name].append(backend.download(kept[name]))
    outputs = [np.concatenate(parts[arg.name]).astype(DTYPES[arg.dtype]) for arg in kernel.args if arg.role != "in"]
    return Expected.of(op, whole, inputs).compare(f"{case.id} at the edges of {context} positions", outputs)
