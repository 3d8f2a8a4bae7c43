"""norm_tgemv: norm_quant (one scale a row), then tgemv, in one launch, for one row of activations.

    q, scale, qsum = norm_quant(x | a, b; weight)      and h = a + b goes on as an output with pre ``add``
    y              = tgemv(w, wscale, q, scale, qsum)

Every group of the GPU text quantises the row for itself, in the order of norm_quant's own text, so that the bits of h
and y are those of the two launches. It pays where the row is short beside the weights. Other texts there are none.

ABI: w [N, Kp/16] u32, wscale [1] | [N] f32, x [1, K] | a [1, K], b [1, K] f32, weight [K] f32 → (h [1, K] f32,) y
[1, N] f32. K is a multiple of 4.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kparity import ops
from kparity.errors import WrongInput
from kparity.kernels.support import MANY as MANY_WEIGHTS
from kparity.kernels.support import MODELS
from kparity.ops import packing
from kparity.ops.spec import Arg, Array, Case, ErrorBound, Grid, Op, Stage, Value, Work, ceil_div, padded

LONGEST = 24_576
"""Elements of the longest row: what a group keeps in local memory, a byte each."""
LOADS = 8
"""Loads of 16 bytes of weights that a work-item has under way at most: a row is taken in one go."""
FEW, MANY = 8_192, 65_536
"""Work-items below which rows are cut finer, and from which a work-item takes two rows."""


class NormTgemv(Op):
    """Parameters: M (1), N rows of weights, K, what stands before the norm, its eps, the scales of the weights."""

    name = "norm_tgemv"
    required = ("M", "N", "K")
    defaults: ClassVar[Mapping[str, Value]] = {"pre": "none", "eps": 1e-5, "wscale": "tensor"}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"pre": ("none", "add"), "wscale": ("tensor", "row")}

    def check(self, case: Case) -> None:
        if case["M"] != 1 or case["K"] % 4 or padded(case["K"]) > LONGEST:
            given = f"M is {case['M']} and K is {case['K']}"
            raise WrongInput(f"norm_tgemv: {given}, expected one row of a multiple of 4, at most {LONGEST}")

    @staticmethod
    def parts(case: Case) -> tuple[Case, Case]:
        """The cases of the two launches that it stands for."""
        norm = ops.get("norm_quant").case(M=1, D=case["K"], pre=case["pre"], eps=case["eps"])
        return norm, ops.get("tgemv").case(M=1, N=case["N"], K=case["K"], wscale=case["wscale"])

    def args(self, case: Case) -> tuple[Arg, ...]:
        norm, product = (ops.get(part.op).args(part) for part in self.parts(case))
        return *product[:2], *norm[:-3], product[-1]

    def _split(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike) -> tuple[list[Array], list[Array]]:
        """Outputs of the first launch, and the inputs of the second."""
        norm, _ = self.parts(case)
        found = ops.get("norm_quant").reference(norm, inputs[2:], dtype)
        return found, [*inputs[:2], *found[-3:]]

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        found, given = self._split(case, inputs, dtype)
        return [*found[:-3], *ops.get("tgemv").reference(self.parts(case)[1], given, dtype)]

    def defines(self, case: Case) -> dict[str, int | float]:
        norm, product = self.parts(case)
        first, second = (ops.get(part.op).defines(part) for part in (norm, product))
        tile = dict(zip(("GPU_BLOCK", "GPU_LANES", "TILE_N", "AHEAD"), self.tile(case), strict=True))
        return {
            **second, **tile, "NORMED": 1, "D": case["K"], "PRE": int(case["pre"] == "add"), "EPS": first["EPS"],
            "NORM_BLOCK": first["GPU_BLOCK"],
        }  # fmt: skip

    @staticmethod
    def tile(case: Case) -> tuple[int, int, int, int]:
        """As tgemv's, but in groups twice as large, of which each does the norm, and in one batch."""
        chunks, lanes = padded(case["K"]) // 64, 4
        while lanes < 128 and lanes * 2 <= chunks:
            if ceil_div(chunks, lanes) <= LOADS and case["N"] * lanes >= FEW:
                break
            lanes *= 2
        many = case["N"] * lanes >= MANY
        return 256 if many else 128, lanes, 2 if many else 1, ceil_div(chunks, lanes)

    def launch(self, case: Case) -> Grid:
        block, lanes, tile_n, _ = self.tile(case)
        return Grid((ceil_div(case["N"], block // lanes * tile_n), 1, 1), block)

    def stages(self, case: Case, dialect: str) -> tuple[Stage, ...]:
        return (Stage("tgemv", self.launch(case)),)

    def variant(self, case: Case) -> str:
        return f"{case['pre']}{'_wrow' if case['wscale'] == 'row' else ''}"

    def cases(self) -> list[Case]:
        shapes = ((1, 4, 4), (1, 3, 256), (1, 37, 1100), (1, 130, 2560), (1, 16_401, 300))
        return self.every("M N K", shapes, **self.choices)[::3] + self.every(
            "M N K pre", ((1, 70, 640, "add"), (1, 33, 6912, "none")), wscale=self.choices["wscale"]
        )

    def more(self) -> list[Case]:
        # A step of every model: output behind its own norm, then q, k and v, then gate and up, whose scales differ.
        found = [self.case(M=1, N=model.width, K=model.width) for model in MODELS.values()]
        found += self.every("M N K", ((1, *shape) for model in MODELS.values() for shape in model.fused), pre="add",
                            wscale="row")  # fmt: skip
        lengths = ((1, 2, k) for k in (8, 252, 260, 516, 1028, 4096, 8640, LONGEST))
        return [*found, *self.every("M N K", lengths, pre="add")]

    def kinds(self, case: Case) -> tuple[str, ...]:
        kinds = ("random", "outlier", "small", "zeros", "one_hot", "nan", "infinite")
        return kinds[:2] if case["N"] * case["K"] > 4 * MANY_WEIGHTS else kinds

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        norm, product = self.parts(case)
        weights = ops.get("tgemv").inputs(product, rng)[:2]
        return [*weights, *ops.get("norm_quant").inputs(norm, rng, kind)]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        norm, product = self.parts(case)
        found, given = self._split(case, inputs, np.float64)
        *first, ties, scales, _ = ops.get("norm_quant").bounds(norm, inputs[2:], found)
        (second,) = ops.get("tgemv").bounds(product, given, truth[-1:])
        words, wscale, q, scale, _ = given
        assert ties.limit is not None and scales.limit is not None and second.limit is not None
        weights = packing.unpack(words, padded(case["K"])).astype(np.float32).T
        sums = np.abs(q.astype(np.float32) @ weights)
        apart = ties.limit.astype(np.float32) @ np.abs(weights)  # how far accumulators may be from truth's
        moved = apart * np.abs(scale) * (1 + 2.0**-20) + (sums + apart) * scales.limit
        told = (
            "tgemv's, and (Σ_k|w|·tie_k·|scale| + (|acc| + Σ_k|w|·tie_k)·δscale)·|wscale|, ties and δscale norm_quant's"
        )
        return [*first, ErrorBound(second.limit + np.abs(wscale.astype(np.float64)) * moved, told)]

    def work(self, case: Case) -> Work:
        norm, product = (ops.get(part.op).work(part) for part in self.parts(case))
        between = 2 * padded(case["K"])  # what no launch hands to another
        return Work(norm.bytes + product.bytes - between, norm.flops + product.flops)


OP = NormTgemv()
