"""argmax: the index of the largest value of each row; the lowest index wins a tie; a row that holds a NaN gives -1.

ABI: x [M, N] f32 → idx [M] i32.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kparity.kernels.support import ROWS, TAILS, VOCABULARY, WIDTHS, normal, values
from kparity.ops.spec import Arg, Array, Case, ErrorBound, Grid, Op, Stage, Work, ceil_div

GPU_WHOLE, GPU_SHARE = 8192, 2048
"""Shortest row that several groups of the GPU text share, and the elements that each takes: 8 a work-item."""


class Argmax(Op):
    """Parameters: M rows, N values."""

    name = "argmax"
    required = ("M", "N")

    def args(self, case: Case) -> tuple[Arg, ...]:
        return (Arg("x", "f32", (case["M"], case["N"])), Arg("idx", "i32", (case["M"],), "out"))

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        x = inputs[0]
        found = np.where(np.isnan(x).any(axis=-1), -1, np.argmax(np.where(np.isnan(x), -np.inf, x), axis=-1))
        return [found.astype(np.int32)]

    def constants(self, case: Case) -> dict[str, int | float]:
        return {"GPU_BLOCK": self.launch(case).block, "PARTS": self.parts(case)}

    def launch(self, case: Case) -> Grid:
        return Grid((case["M"], 1, 1), 256 if case["N"] >= 1024 else 64)

    @staticmethod
    def parts(case: Case) -> int:
        """Groups of the GPU text that share a long row; their results meet in the one that ends last."""
        return 1 if case["N"] < GPU_WHOLE else ceil_div(case["N"], GPU_SHARE)

    def stages(self, case: Case, dialect: str) -> tuple[Stage, ...]:
        if dialect != "gpu":
            return super().stages(case, dialect)
        return (Stage(self.name, Grid((self.parts(case), case["M"], 1), self.launch(case).block)),)

    def scratch(self, case: Case, dialect: str) -> tuple[Arg, ...]:
        parts = self.parts(case)
        if dialect != "gpu" or parts == 1:
            return ()
        return Arg("keys", "u32", (case["M"], parts, 2), "out"), Arg("done", "u32", (case["M"],), "inout")

    def cases(self) -> list[Case]:
        return self.every("M N", ((1, 1), (3, 65), (2, 1536), (33, 257), (1, 128256), (4, 1023)))

    def more(self) -> list[Case]:
        shapes = [(1, width) for width in WIDTHS] + [(m, 640) for m in ROWS] + [(2, n) for n in TAILS]
        # Around the shortest row that several groups share; vocabularies of real models.
        shapes += [(3, GPU_WHOLE + by) for by in (-1, 0, 1)] + [(2, 32002), (3, VOCABULARY), (1, 151_936)]
        return self.every("M N", shapes)

    def kinds(self, case: Case) -> tuple[str, ...]:
        return ("random", "first", "last", "equal", "lowest", "nan", "infinite", "zeros", "tiny", "ascending")

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        x = normal(rng, case["M"], case["N"])
        if kind in ("first", "last"):
            x[:, 0 if kind == "first" else -1] = 9.0
            return [x]
        if kind == "tiny":  # a device may take subnormal numbers for zero; an index may not
            return [values(rng, "tiny", case["M"], case["N"]) * np.float32(2.0**-10)]
        if kind == "ascending":  # neighbours in f32: every lane finds a new maximum at every step
            x[:] = 1 + np.arange(case["N"]) * 2.0**-23
            return [x]
        if kind == "equal":
            return [np.full_like(x, -3.0)]
        if kind == "lowest":  # nothing but -inf, and -inf everywhere but at the end
            x[:] = -np.inf
            x[1::2, -1] = -3.0e38
            return [x]
        if kind == "nan":  # at either end, and beside an infinity; x >= best and x > best differ here
            x[:, 0 if case["M"] == 1 else -1] = np.nan
            x[1::2, 0] = np.inf
            return [x]
        if kind == "infinite":
            x[:, rng.integers(0, case["N"], 2)] = np.inf
            return [x]
        if kind == "zeros":  # -0 and +0 are equal: the first wins
            return [np.where(rng.integers(0, 2, x.shape), 0.0, -0.0).astype(np.float32)]
        x[:, rng.integers(0, case["N"], 2)] = 9.0  # a tie at the top
        if case["M"] > 2:
            x[1, case["N"] // 2] = np.nan
            x[2, :] = -np.inf
        return [x]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        return [ErrorBound(None, "an index: every bit")]

    def work(self, case: Case) -> Work:
        return Work(4 * case["M"] * case["N"], case["M"] * case["N"])


OP = Argmax()
