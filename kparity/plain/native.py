"""Products of large files by the native kernels: integer sums, exact whatever computes them; the scales are applied as
in the pass without.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from kparity.model.gguf_file import GgufFile
from kparity.model.ternary import load_ternary
from kparity.plain.file import beside_of
from kparity.spec import Array

if TYPE_CHECKING:
    from kparity.plain.forward import Product, Quantised, Stream


@cache
def _backend() -> Any:
    """The cpu backend; None where its native module is missing."""
    from kparity.backends.cpu import CpuBackend
    from kparity.errors import Unavailable

    try:
        return CpuBackend()
    except Unavailable:
        return None


def product(file: GgufFile, name: str) -> Product | None:
    """W · a of a weight with one scale; None where it has several, or where there is no native module."""
    from kparity import ops

    backend = _backend()
    if backend is None:
        return None
    weight = load_ternary(file, file.tensors[f"{name}.weight"], float(beside_of(file, name)))
    if weight.kind != "tensor":
        return None
    words, one = backend.upload(weight.words), backend.upload(np.ones(1, np.float32))

    def multiply(stream: Stream, given: Quantised) -> Array:
        rows = len(given.q)
        kernel = backend.build(ops.get("tgemv"), ops.get("tgemv").case(M=rows, N=weight.n, K=weight.k))
        out = np.zeros((rows, weight.n), stream.dtype)
        spans = [slice(0, weight.k)] if given.scale.shape[1] == 1 else _blocks(weight.k)
        for at, span in enumerate(spans):
            q = np.zeros((rows, kernel.args[2].shape[1]), np.int8)
            q[:, span] = given.q[:, span]
            inputs = (q, np.ones((rows, 1), np.float32), q.sum(axis=1, keepdims=True, dtype=np.int32))
            sums = backend.empty((rows, weight.n), "f32")
            backend.record([kernel.bind(words, one, *(backend.upload(each) for each in inputs), sums)]).run()
            scale = given.scale[:, at : at + 1] * stream.dtype.type(weight.wscale[0])
            out += backend.download(sums).astype(stream.dtype) * scale
        return out

    return multiply


def _blocks(k: int) -> list[slice]:
    return [slice(at, min(at + 256, k)) for at in range(0, k, 256)]
