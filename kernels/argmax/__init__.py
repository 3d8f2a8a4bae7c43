"""argmax: the index of the largest value of each row; the lowest index wins a tie; a row that holds a NaN gives -1.

ABI: x [M, N] f32 → idx [M] i32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kparity.kernels._support import normal
from kparity.spec import Arg, Array, Bound, Case, Launch, Op, Work


class Argmax(Op):
    """Parameters: M rows, N values."""

    name = "argmax"

    def required(self) -> Sequence[str]:
        return ("M", "N")

    def args(self, case: Case) -> tuple[Arg, ...]:
        return (Arg("x", "f32", (case["M"], case["N"])), Arg("idx", "i32", (case["M"],), "out"))

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        x = inputs[0]
        found = np.where(np.isnan(x).any(axis=-1), -1, np.argmax(np.nan_to_num(x, nan=-np.inf, posinf=np.inf, neginf=-np.inf), axis=-1))
        return [found.astype(np.int32)]

    def defines(self, case: Case) -> dict[str, int | float]:
        return {"M": case["M"], "N": case["N"], "BLOCK": self.launch(case).block}

    def launch(self, case: Case) -> Launch:
        return Launch((case["M"], 1, 1), 256 if case["N"] >= 1024 else 64)

    def cases(self) -> list[Case]:
        return [self.case(M=m, N=n) for m, n in ((1, 1), (3, 65), (2, 1536), (33, 257))]

    def inputs(self, case: Case, rng: np.random.Generator) -> list[Array]:
        x = normal(rng, case["M"], case["N"])
        x[:, rng.integers(0, case["N"], 2)] = 9.0  # a tie at the top
        if case["M"] > 2:
            x[1, case["N"] // 2] = np.nan
            x[2, :] = -np.inf
        return [x]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[Bound]:
        return [Bound(None, "an index: every bit")]

    def work(self, case: Case) -> Work:
        return Work(4 * case["M"] * case["N"], case["M"] * case["N"])


OP = Argmax()
