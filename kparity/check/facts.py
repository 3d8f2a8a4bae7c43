"""Inputs, fp64 truth, bounds and the f32 peer of a case: computed once, and the same for every backend."""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kparity.ops.spec import Array, Case, ErrorBound, Op

KEPT_BYTES = 1 << 29
"""What the memory of facts may hold; beyond it the oldest are computed again."""


@dataclass(frozen=True)
class Expected:
    """What one kind of input of a case must give."""

    op: Op
    case: Case
    inputs: list[Array]
    truth: list[Array]
    bounds: list[ErrorBound]

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


class Memory:
    """The facts of the latest cases: a sweep asks for them once per backend, mutants of a kernel once each."""

    def __init__(self, limit: int) -> None:
        self.limit, self.nbytes = limit, 0
        self._kept: OrderedDict[tuple[str, str, int], Expected] = OrderedDict()

    def get(self, key: tuple[str, str, int]) -> Expected | None:
        """What is kept under a key, which becomes the latest."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: tuple[str, str, int], found: Expected) -> None:
        """Keep facts as the latest, and let go of the oldest beyond the limit."""
        earlier = self._kept.pop(key, None)
        self._kept[key] = found
        self.nbytes += found.nbytes - (earlier.nbytes if earlier else 0)
        while self.nbytes > self.limit and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self.nbytes -= oldest.nbytes


_memory = Memory(KEPT_BYTES)


def remember(kind: str, seed: int, found: Expected) -> None:
    """Let facts stand for those of their case, a kind and a seed, as long as no others are asked for."""
    _memory.put((found.case.id, kind, seed), found)


def made(op: Op, case: Case, inputs: list[Array]) -> Expected:
    """Truth and bounds of inputs."""
    with np.errstate(all="ignore"):  # infinities and NaN are among the inputs
        truth = op.reference(case, inputs)
        return Expected(op, case, inputs, truth, op.bounds(case, inputs, truth))


def facts(op: Op, case: Case, kind: str, seed: int) -> Expected:
    """The facts of one kind of input; its generator is seeded from ``seed``, the case's name and the kind alone."""
    key = (case.id, kind, seed)
    known = _memory.get(key)
    if known is not None:
        return known
    rng = np.random.default_rng([case.seed(seed), zlib.crc32(kind.encode())])
    with np.errstate(all="ignore"):
        inputs = op.inputs(case, rng, kind)
    found = made(op, case, inputs)
    _memory.put(key, found)
    return found
