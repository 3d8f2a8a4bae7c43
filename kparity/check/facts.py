"""Inputs, fp64 truth, bounds and the f32 peer of a case: computed once, and the same for every backend."""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kparity.spec import Array, Bound, Case, Op

KEPT_BYTES = 1 << 29
"""What the memory of facts may hold; beyond it the oldest are computed again."""


@dataclass(frozen=True)
class Facts:
    """What one kind of input of a case must give."""

    op: Op
    case: Case
    inputs: list[Array]
    truth: list[Array]
    bounds: list[Bound]

    @cached_property
    def sha256(self) -> str:
        """Digest of all inputs: dtype, shape and bytes."""
        digest = hashlib.sha256()
        for array in self.inputs:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @cached_property
    def peer(self) -> list[Array]:
        """The outputs of the f32 reference on the same inputs."""
        with np.errstate(all="ignore"):
            return self.op.reference(self.case, self.inputs, np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of inputs, truth and limits."""
        limits = [bound.limit for bound in self.bounds if bound.limit is not None]
        return sum(array.nbytes for array in (*self.inputs, *self.truth, *limits))


_kept: OrderedDict[tuple[str, str, int], Facts] = OrderedDict()


def facts(op: Op, case: Case, kind: str, seed: int) -> Facts:
    """The facts of one kind of input; its generator is seeded from ``seed``, the case's name and the kind alone."""
    key = (case.id, kind, seed)
    if key in _kept:
        _kept.move_to_end(key)
        return _kept[key]
    rng = np.random.default_rng([case.seed(seed), zlib.crc32(kind.encode())])
    with np.errstate(all="ignore"):  # infinities and NaN are among the inputs
        inputs = op.inputs(case, rng, kind)
        truth = op.reference(case, inputs)
        found = Facts(op, case, inputs, truth, op.bounds(case, inputs, truth))
    _kept[key] = found
    while len(_kept) > 1 and sum(each.nbytes for each in _kept.values()) > KEPT_BYTES:
        _kept.popitem(last=False)
    return found
