"""dense_gemv: floating-point weights times f32 activations; the LM head.

    y[m, row0 + r] = Σ_k w[r, k] · x[m, k]       r < rows, f32 accumulation

A head that exceeds one binding (128256 × 2560 in f16 is 657 MB) is bound in parts: ``w`` holds ``rows`` rows that begin
at ``row0``, and a launch writes those columns of y only.

NaN and infinities are IEEE's, 0 · inf = NaN included: one in x reaches its row of y, one in w its column.

ABI: w [rows, K] f16|f32, x [M, K] f32 → y [M, N] f32 (inout when rows < N). K is even for f16.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kparity.errors import WrongInput
from kparity.kernels.support import F16_MAX, MANY, MODELS, ROWS, TAILS, TINY, VOCABULARY, gamma, normal, spoil, values
from kparity.ops.spec import DTYPES, Arg, Array, Case, ErrorBound, Grid, Op, Stage, Value, Work, ceil_div, span

BLOCK = 64
GPU_LOADS = 8
"""Loads of 16 bytes that a work-item of the GPU text has under way: registers, 4 each."""
GPU_MANY = 131_072
"""Work-items from which rows share the activations."""


class DenseGemv(Op):
    """Parameters: M rows of activations, N outputs, K, dtype of the weights, row0 and rows of the bound part."""

    name = "dense_gemv"
    required = ("M", "N", "K")
    named_by = ("dtype",)
    defaults: ClassVar[Mapping[str, Value]] = {"dtype": "f16", "row0": 0, "rows": 0}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"dtype": ("f16", "f32")}

    def case(self, **params: int | float | str) -> Case:
        return super().case(**{**params, "rows": params.get("rows") or params.get("N", 0)})

    def check(self, case: Case) -> None:
        if case["dtype"] == "f16" and case["K"] % 2:
            raise WrongInput(f"dense_gemv: K is {case['K']}, expected an even number for f16 weights")
        if case["row0"] < 0 or case["row0"] + case["rows"] > case["N"]:
            raise WrongInput(f"dense_gemv: rows {case['row0']}+{case['rows']} exceed the {case['N']} outputs")

    def args(self, case: Case) -> tuple[Arg, ...]:
        partial = case["rows"] < case["N"]
        return (
            Arg("w", case["dtype"], (case["rows"], case["K"])),
            Arg("x", "f32", (case["M"], case["K"])),
            Arg("y", "f32", (case["M"], case["N"]), "inout" if partial else "out"),
        )

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        partial = case["rows"] < case["N"]
        y = inputs[2].astype(dtype) if partial else np.empty((case["M"], case["N"]), dtype)
        row0, x = case["row0"], inputs[1].astype(dtype)
        for at in range(0, case["rows"], 8192):  # converted piece by piece: a whole head in fp64 would be gigabytes
            piece = inputs[0][at : at + 8192].astype(dtype)
            y[:, row0 + at : row0 + at + len(piece)] = x @ piece.T
        return [y]

    @staticmethod
    def lanes(case: Case) -> int:
        """Work-items that share one row: a power of two, at most BLOCK."""
        lanes = 8
        while lanes < BLOCK and lanes * 2 * 8 <= case["K"]:
            lanes *= 2
        return lanes

    def constants(self, case: Case) -> dict[str, int | float]:
        lanes = self.lanes(case)
        return {
            "ROW0": case["row0"], "NROWS": case["rows"], "F16": int(case["dtype"] == "f16"),
            "LANES": lanes, "ROWS": BLOCK // lanes, "TILE_M": min(case["M"], 8),
            **dict(zip(("GPU_BLOCK", "GPU_LANES", "TILE_N", "AHEAD"), self.gpu_tile(case), strict=True)),
        }  # fmt: skip

    def launch(self, case: Case) -> Grid:
        """x and y fold the rows (``span``), z walks the tiles of M."""
        x, y, _ = span(ceil_div(case["rows"], BLOCK // self.lanes(case)))
        return Grid((x, y, ceil_div(case["M"], min(case["M"], 8))), BLOCK)

    @staticmethod
    def gpu_tile(case: Case) -> tuple[int, int, int, int]:
        """Geometry of the GPU text: work-items of a group, work-items that share rows, rows that they share, and loads
        per row that each has under way.
        """
        lanes = 4
        while lanes < 32 and lanes * 16 <= case["K"]:
            lanes *= 2
        many = case["rows"] * lanes >= GPU_MANY
        tile_n = 1 if not many else 4 if case["M"] <= 2 else 2  # a sum per row and output: no registers for more
        ahead = 1 if case["M"] > 2 else GPU_LOADS // tile_n // (1 if case["dtype"] == "f16" else 2)
        return 128 if many else 64, lanes, tile_n, max(1, min(ahead, ceil_div(case["K"], 8 * lanes)))

    def stages(self, case: Case, dialect: str) -> tuple[Stage, ...]:
        if dialect != "gpu":
            return super().stages(case, dialect)
        block, lanes, tile_n, _ = self.gpu_tile(case)
        x, y, _ = span(ceil_div(case["rows"], block // lanes * tile_n))
        return (Stage(self.name, Grid((x, y, ceil_div(case["M"], min(case["M"], 8))), block)),)

    def cases(self) -> list[Case]:
        shapes = ((1, 1, 2), (1, 300, 256), (3, 17, 66), (9, 33, 640), (33, 65, 100))
        several = ((1, 4_099, 264), (9, 4_099, 264))  # enough rows for work-items to take several
        found = self.every("M N K", (*shapes, *several), dtype=("f16", "f32"))
        found += self.every("M N K", shapes[2:4], dtype=("f16", "f32"), row0=5, rows=9)
        # An odd K, and more work-groups than one dimension of a grid holds.
        return [*found, self.case(M=2, N=5, K=33, dtype="f32"), self.case(M=1, N=530_001, K=2)]

    def more(self) -> list[Case]:
        # A head of each model's width; the vocabulary of 2B-4T, narrow, and the last part of its head as it is bound.
        heads = [self.case(M=m, N=1003, K=model.width) for model in MODELS.values() for m in (1, 9)]
        heads += [self.case(M=m, N=VOCABULARY, K=128) for m in (1, 3)]
        heads += [self.case(M=1, N=VOCABULARY, K=2560, row0=VOCABULARY - 8016, rows=8016)]
        shapes = [*((m, 70, 264) for m in ROWS), *((2, n, 136) for n in TAILS)]
        found = self.in_turn("M N K", shapes, "dtype", ("f16", "f16", "f32"))
        lengths = [self.case(M=2, N=9, K=k, dtype="f32") for k in (*TAILS[::2], 8640)]
        lengths += [self.case(M=2, N=9, K=k) for k in (2, 6, 8, 10, 62, 66, 130, 254, 258, 514, 1026, 8640)]
        return heads + found + lengths

    def kinds(self, case: Case) -> tuple[str, ...]:
        kinds = ("random", "one_hot", "all_max", "zeros", "outlier", "alternating", "tiny", "nan", "infinite")
        weights = case["rows"] * case["K"]
        return kinds if weights < 4 * MANY else kinds[:2] if weights < 32 * MANY else kinds[:1]

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        w = normal(rng, case["rows"], case["K"], dtype=DTYPES[case["dtype"]])
        if kind == "alternating":  # equal weights: the sum is the cancellation itself
            w[:] = w[:, :1]
        if kind == "all_max":
            w[:] = F16_MAX
        if kind in ("nan", "infinite") and case["N"] > 1:
            spoil(w[: case["rows"] // 2], np.nan if kind == "nan" else np.inf)
        found = [w, values(rng, kind, case["M"], case["K"])]
        return [*found, normal(rng, case["M"], case["N"])] if case["rows"] < case["N"] else found

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        limit = np.zeros((case["M"], case["N"]))
        k = case["K"]
        x = np.abs(inputs[1].astype(np.float64))
        for at in range(0, case["rows"], 8192):
            weights = np.abs(inputs[0][at : at + 8192], dtype=np.float64)
            first = case["row0"] + at
            limit[:, first : first + len(weights)] = gamma(k + 1) * (x @ weights.T) + TINY * (
                weights.sum(axis=1) + 2 * k
            )
        return [ErrorBound(limit, f"γ_{k + 1}·(|w||x|) + 2^-126·(Σ|w| + 2K), u = 2^-24; columns of other parts exact")]

    def work(self, case: Case) -> Work:
        width = 2 if case["dtype"] == "f16" else 4
        moved = case["rows"] * case["K"] * width + 4 * case["M"] * (case["K"] + case["rows"])
        return Work(moved, 2 * case["M"] * case["rows"] * case["K"])


OP = DenseGemv()
