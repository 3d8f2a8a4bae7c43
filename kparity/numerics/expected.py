"""What a case must give on its inputs: fp64 truth and error bounds, and how outputs are held against them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kparity.numerics.compare import Comparison, judge
from kparity.ops.spec import Array, Case, ErrorBound, Op


@dataclass(frozen=True)
class Expected:
    """Inputs of a case, truth in fp64 and the bound of every output."""

    op: Op
    case: Case
    inputs: Sequence[Array]
    truth: Sequence[Array]
    bounds: Sequence[ErrorBound]

    @classmethod
    def of(cls, op: Op, case: Case, inputs: Sequence[Array], truth: Sequence[Array] | None = None) -> Expected:
        """Compute the bounds, and truth where none is given."""
        with np.errstate(all="ignore"):  # infinities and NaN are among the inputs
            truth = op.reference(case, inputs) if truth is None else truth
            return cls(op, case, inputs, truth, op.bounds(case, inputs, truth))

    def compare(self, where: str, outputs: Sequence[Array]) -> list[Comparison]:
        """Judge every output; ``where`` is what the case is called."""
        together = zip(self.op.outputs_of(self.case), outputs, self.truth, self.bounds, strict=True)
        return [judge(where, arg.name, got, truth, bound) for arg, got, truth, bound in together]

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

    @cached_property
    def nbytes(self) -> int:
        """Bytes of inputs, truth and limits."""
        limits = [bound.limit for bound in self.bounds if bound.limit is not None]
        return sum(array.nbytes for array in (*self.inputs, *self.truth, *limits))
