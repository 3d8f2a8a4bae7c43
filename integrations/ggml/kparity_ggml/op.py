"""What the ops of ggml share: a graph instead of a text, and no launch geometry."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from kparity.kernels.support import U32
from kparity.ops.spec import Array, Case, Grid, Op, Work
from kparity_ggml.library import Graph


class GgmlOp(Op):
    """An op of ggml. Its output is called ``y``; ``scratch`` are results between nodes."""

    texts = "kparity_ggml"
    required: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def graph(self, graph: Graph, case: Case) -> None:
        """Make the tensors of the arguments and the nodes."""

    def launch(self, case: Case) -> Grid:
        """ggml chooses its own."""
        return Grid((1, 1, 1), 1)

    def work(self, case: Case) -> Work:
        """The bytes of the buffers; one operation per element, where an op says nothing better."""
        args = self.args(case)
        return Work(sum(arg.nbytes for arg in args), math.prod(args[-1].shape))


def normal(rng: np.random.Generator, *shape: int) -> Array:
    """Standard normal values, f32."""
    return rng.standard_normal(shape, np.float32)


def gamma(roundings: float) -> float:
    """The relative error of so many roundings in f32."""
    return roundings * U32 / (1.0 - roundings * U32)


def sizes(array_shape: Sequence[int]) -> tuple[int, ...]:
    """A shape in ggml's order."""
    return tuple(reversed(array_shape))
