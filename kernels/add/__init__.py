"""add: the residual connection, y = a + b. NaN and infinities are IEEE's: inf + (-inf) is NaN.

ABI: a [M, D] f32, b [M, D] f32 → y [M, D] f32 (a buffer of its own: WebGPU forbids aliasing).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kparity.kernels.support import MANY, ROWS, TAILS, TINY, U32, WIDTHS, values
from kparity.ops.spec import Arg, Array, Case, ErrorBound, Grid, Op, Work, ceil_div, span


class Add(Op):
    """Parameters: M rows, D width."""

    name = "add"
    required = ("M", "D")

    def args(self, case: Case) -> tuple[Arg, ...]:
        shape = (case["M"], case["D"])
        return (Arg("a", "f32", shape), Arg("b", "f32", shape), Arg("y", "f32", shape, "out"))

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        return [inputs[0].astype(dtype) + inputs[1].astype(dtype)]

    def launch(self, case: Case) -> Grid:
        return Grid(span(ceil_div(case["M"] * case["D"], 64)), 64)

    def cases(self) -> list[Case]:
        return self.every("M D", ((1, 1), (1, 256), (3, 257), (33, 2560)))

    def more(self) -> list[Case]:
        shapes = [(1, width) for width in WIDTHS] + [(m, 640) for m in ROWS] + [(2, d) for d in TAILS]
        shapes.append((1700, 2560))  # more work-groups than one dimension of a grid holds
        return self.every("M D", shapes)

    def kinds(self, case: Case) -> tuple[str, ...]:
        kinds = ("random", "outlier", "zeros", "one_hot", "tiny", "alternating", "huge", "nan", "infinite")
        return kinds if case["M"] * case["D"] < MANY else kinds[:1]

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        a, b = (values(rng, "random" if kind == "huge" else kind, case["M"], case["D"]) for _ in range(2))
        if kind == "huge":  # sums on both sides of the largest f32
            return [np.clip(x, -3.9, 3.9) * np.float32(2.0**126) for x in (a, b)]
        if kind == "infinite":
            b[0] = -a[0]  # infinities that cancel in the first row, and others alone
        return [a, b]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        return [
            ErrorBound(
                U32 * np.abs(truth[0]) * (1 + 2.0**-20) + 3 * TINY, "u·|y| + 3·2^-126: one rounding, three flushes"
            )
        ]

    def work(self, case: Case) -> Work:
        count = case["M"] * case["D"]
        return Work(12 * count, count)


OP = Add()
