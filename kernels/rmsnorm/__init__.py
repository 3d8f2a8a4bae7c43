"""rmsnorm: root-mean-square normalisation with a learned gain (Zhang & Sennrich, 2019).

    y[m, d] = x[m, d] / sqrt(mean_d(x[m, :]²) + eps) · weight[d]

The sum of the squares must be in range of f32, whatever is divided by it. A row that holds a NaN is NaN; one that holds
an infinity is NaN there and 0 elsewhere.

ABI: x [M, D] f32, weight [D] f32 → y [M, D] f32.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kparity.kernels.support import ROWS, TAILS, TINY, U32, WIDTHS, gamma, normal, values
from kparity.ops.spec import Arg, Array, Case, ErrorBound, Grid, Op, Value, Work


class RmsNorm(Op):
    """Parameters: M rows, D width, eps."""

    name = "rmsnorm"
    required = ("M", "D")
    defaults: ClassVar[Mapping[str, Value]] = {"eps": 1e-5}

    def args(self, case: Case) -> tuple[Arg, ...]:
        m, d = case["M"], case["D"]
        return (Arg("x", "f32", (m, d)), Arg("weight", "f32", (d,)), Arg("y", "f32", (m, d), "out"))

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        x, weight = (array.astype(dtype) for array in inputs)
        mean = np.mean(x * x, axis=-1, keepdims=True, dtype=dtype)
        return [(x / np.sqrt(mean + np.asarray(case["eps"], dtype)) * weight).astype(dtype)]

    def constants(self, case: Case) -> dict[str, int | float]:
        return {"EPS": float(case["eps"])}

    def launch(self, case: Case) -> Grid:
        return Grid((case["M"], 1, 1), 256 if case["D"] >= 1024 else 64)

    def cases(self) -> list[Case]:
        return self.every("M D", ((1, 1), (1, 256), (3, 257), (2, 2560), (33, 64), (5, 1023), (1, 6912)))

    def more(self) -> list[Case]:
        shapes = [(1, width) for width in WIDTHS] + [(m, 640) for m in ROWS] + [(2, d) for d in TAILS] + [(64, 2560)]
        heads = ((20, 128, 1e-6), (5, 96, 1e-6), (3, 2560, 1e-12))
        return self.every("M D", shapes) + self.every("M D eps", heads)

    def kinds(self, case: Case) -> tuple[str, ...]:
        return ("random", "zeros", "outlier", "one_hot", "small", "tiny", "all_max", "alternating", "nan", "infinite")

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        x, weight = values(rng, "random" if kind == "small" else kind, case["M"], case["D"]), normal(rng, case["D"])
        return [x * np.float32(0.003) if kind == "small" else x, weight]  # small: a mean square about as large as eps

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        # The sum of squares has no cancellation: γ_D; the square root halves it; 8 roundings for the rest (an inverse
        # square root of 2 ULP among them). A value below 2^-126 may be flushed before it is divided.
        x, weight = (array.astype(np.float64) for array in inputs)
        gain = np.abs(weight) / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + case["eps"])
        limit = (gamma(case["D"]) / 2 + 8 * U32) * np.abs(truth[0]) + TINY * (1 + gain)
        return [ErrorBound(limit, f"(γ_{case['D']}/2 + 8u)·|y| + 2^-126·(1 + |weight|/rms), u = 2^-24")]

    def work(self, case: Case) -> Work:
        return Work(4 * (2 * case["M"] * case["D"] + case["D"]), 4 * case["M"] * case["D"])


OP = RmsNorm()
