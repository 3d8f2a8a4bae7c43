"""norm_quant: what stands between two GEMVs, in one launch: residual or gated activation, then rmsnorm, then act_quant.

    h = x                                   pre ``none``
    h = a + b                               pre ``add``
    h = g / (1 + exp(-g)) · u               pre ``silu``    with gu = [g | u], the two halves of a row
    h = max(g, 0)² · u                      pre ``relu2``   limited to ±65504 with ``clamp`` = 1
    y = h / sqrt(mean_d(h²) + eps) · weight
    q, scale, qsum = act_quant(y)           per token, per 256 or per 32 (``mode``; see act_quant)

Every intermediate value is rounded to f32 as if the ops ran one by one. ``h`` is an output except for pre ``none``:
the residual stream goes on with it, and the later passes of a kernel read it again instead of computing it again.

ABI: x [M, D] | a [M, D], b [M, D] | gu [M, 2D] f32, weight [D] f32 → (h [M, D] f32,) q [M, Dp] i8, scale [M, S] f32,
qsum [M, S] i32, with Dp = 256·ceil(D/256) and S = 1 (token), Dp/256 (block256) or Dp/32
(block32).

NaN and infinities go the way of the ops: a row of h that holds a NaN is NaN as a whole once it is normalised, one that
holds an infinity is NaN there and 0 elsewhere; a span with a NaN has a NaN for its scale, and its codes and sum are
free. In mode ``block256`` the largest |y| of a block is 0 or at least 2^-100; h² and its sum are in range of f32.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kparity.kernels.support import (
    F16_MAX,
    MODELS,
    ROWS,
    TAILS,
    TINY,
    U32,
    WIDTHS,
    gamma,
    in_f16,
    moved_in_f16,
    normal,
    spoil,
    values,
)
from kparity.ops.spec import (
    ACTS,
    Arg,
    Array,
    Case,
    ErrorBound,
    Grid,
    Op,
    Stage,
    Value,
    Work,
    act_spans,
    ceil_div,
    padded,
)

ANY_CODE, ANY_SUM = 255.0, 2.0**32
"""Limits that no i8 and no i32 exceeds: the output is free."""
GPU_THREADS = 512
"""Most work-items that the GPU text gives to a row."""


class NormQuant(Op):
    """Parameters: M rows, D width, pre, clamp, eps, mode."""

    name = "norm_quant"
    required = ("M", "D")
    defaults: ClassVar[Mapping[str, Value]] = {"pre": "none", "clamp": 0, "eps": 1e-5, "mode": "token"}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "pre": ("none", "add", "silu", "relu2"),
        "mode": tuple(ACTS),
    }

    @staticmethod
    def spans(case: Case) -> int:
        """Scales per row."""
        return act_spans(case["mode"], case["D"])

    def args(self, case: Case) -> tuple[Arg, ...]:
        m, d, s = case["M"], case["D"], self.spans(case)
        plain = (Arg("x", "f32", (m, d)),)
        two = (Arg("a", "f32", (m, d)), Arg("b", "f32", (m, d)))
        gated = (Arg("gu", "f32", (m, 2 * d)),)
        h = () if case["pre"] == "none" else (Arg("h", "f32", (m, d), "out"),)
        return (
            *{"none": plain, "add": two}.get(case["pre"], gated),
            Arg("weight", "f32", (d,)),
            *h,
            Arg("q", "i8", (m, padded(d)), "out"),
            Arg("scale", "f32", (m, s), "out"),
            Arg("qsum", "i32", (m, s), "out"),
        )

    @staticmethod
    def _pre(case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike) -> Array:
        d = case["D"]
        if case["pre"] == "none":
            return inputs[0].astype(dtype)
        if case["pre"] == "add":
            total: Array = inputs[0].astype(dtype) + inputs[1].astype(dtype)
            return total
        gate, up = inputs[0][:, :d].astype(dtype), inputs[0][:, d:].astype(dtype)
        if case["pre"] == "silu":
            decay = np.exp(-np.abs(gate))
            h = gate * np.where(gate >= 0, 1 / (1 + decay), decay / (1 + decay)) * up
        else:
            h = np.square(np.maximum(gate, 0)) * up
        limited: Array = (np.clip(h, -F16_MAX, F16_MAX) if case["clamp"] else h).astype(dtype)
        return limited

    def _normed(self, case: Case, h: Array, weight: Array, dtype: npt.DTypeLike) -> Array:
        mean = np.mean(h * h, axis=-1, keepdims=True, dtype=dtype)
        y: Array = (h / np.sqrt(mean + np.asarray(case["eps"], dtype)) * weight.astype(dtype)).astype(dtype)
        return y

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        m, d, spans = case["M"], case["D"], self.spans(case)
        h = self._pre(case, inputs, dtype)
        y = np.zeros((m, padded(d)), dtype)
        y[:, :d] = self._normed(case, h, inputs[-1], dtype)
        blocks = y.reshape(m, spans, -1)
        if case["mode"] == "token":
            top = np.maximum(np.abs(blocks).max(axis=-1), np.asarray(1e-5, dtype))
            s = (np.asarray(127, dtype) / top)[..., None]
        elif case["mode"] == "block32":
            top = np.abs(blocks).max(axis=-1, keepdims=True)
            s = np.divide(np.asarray(127, dtype), top, out=np.zeros_like(top), where=top != 0)
        else:
            at = np.abs(blocks).argmax(axis=-1)
            peak = np.take_along_axis(blocks, at[..., None], axis=-1)
            s = np.divide(np.asarray(-127, dtype), peak, out=np.zeros_like(peak), where=peak != 0)
        q = np.clip(np.rint(blocks * s), -128, 127).astype(np.int8)
        scale = np.divide(np.asarray(1, dtype), s, out=np.zeros_like(s), where=s != 0)[..., 0].astype(dtype)
        if case["mode"] == "block32":
            scale = in_f16(top[..., 0] / np.asarray(127, dtype))
        outputs = [q.reshape(m, -1), scale, q.sum(axis=-1, dtype=np.int32)]
        return outputs if case["pre"] == "none" else [h, *outputs]

    def constants(self, case: Case) -> dict[str, int | float]:
        return {
            "DP": padded(case["D"]), "SPANS": self.spans(case), "PRE": self.choices["pre"].index(case["pre"]),
            "CLAMP": case["clamp"], "PER_BLOCK": int(case["mode"] == "block256"),
            "PER_32": int(case["mode"] == "block32"), "EPS": float(case["eps"]),
            "GPU_BLOCK": self.gpu_block(case),
        }  # fmt: skip

    def launch(self, case: Case) -> Grid:
        """One group a row: the norm needs the whole row, also where scales are per block."""
        return Grid((case["M"], 1, 1), 256 if case["D"] >= 512 else 64)

    @staticmethod
    def gpu_block(case: Case) -> int:
        """Work-items of the GPU text: 4 elements each and as often as needed, evenly; whole blocks of 256 elements."""
        quads = padded(case["D"]) // 4
        return ceil_div(ceil_div(quads, ceil_div(quads, GPU_THREADS)), 64) * 64

    def stages(self, case: Case, dialect: str) -> tuple[Stage, ...]:
        if dialect != "gpu":
            return super().stages(case, dialect)
        return (Stage(self.name, Grid((case["M"], 1, 1), self.gpu_block(case))),)

    def variant(self, case: Case) -> str:
        return f"{case['pre']}{'_clamp' if case['clamp'] else ''}_{case['mode']}"

    def cases(self) -> list[Case]:
        return [
            *self.every("M D", ((1, 256), (3, 257)), pre=self.choices["pre"], mode=("token", "block256")),
            *self.every("M D pre", ((1, 256, "none"), (3, 257, "silu")), mode="block32"),
            self.case(M=1, D=2),
            self.case(M=2, D=2560, pre="add"),
            self.case(M=1, D=6912, pre="relu2", clamp=1),
            self.case(M=2, D=1023, pre="silu", mode="block256"),
            self.case(M=2, D=300, pre="silu", clamp=1),
        ]

    def more(self) -> list[Case]:
        # What stands between the GEMVs of every model: norm before qkv, residual and norm before the FFN, gate and norm
        models = self.every("M D", ((1, model.width) for model in MODELS.values()), pre=("none", "add"))
        gated = [(1, model.ffn, *gate) for model in MODELS.values() for gate in (("silu", 0), ("relu2", 1))]
        models += self.every("M D pre clamp", gated)
        models += [self.case(M=1, D=width, pre="silu", mode="block256") for width in WIDTHS]
        shapes = [*((m, 640) for m in ROWS), *((2, d) for d in TAILS[1:]), (3, 16385)]
        models += self.every("M D pre clamp", ((2, 2560, "add", 0), (1, 6912, "relu2", 1)), mode="block32")
        # Each mode with every pre, then the other one.
        turns = zip(shapes, cycle(product(self.choices["mode"], self.choices["pre"])), strict=False)
        found = self.every("M D mode pre", ((*shape, *options) for shape, options in turns))
        return [*models, *found, self.case(M=64, D=2560, pre="add")]

    def kinds(self, case: Case) -> tuple[str, ...]:
        kinds = ("random", "zeros", "outlier", "one_hot", "small", "alternating", "all_max", "nan", "infinite")
        return kinds if case["pre"] in ("none", "add") else (*kinds, "large")

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        m, d = case["M"], case["D"]
        weight = normal(rng, d)
        # small: a mean square about as large as eps. large: a gated activation past the largest f16.
        reach = np.float32({"small": 0.003, "large": 3000}.get(kind, 1))
        steep = 30 if kind == "large" else 3
        kind = "random" if kind in ("small", "large") else kind
        if case["pre"] == "none":
            return [values(rng, kind, m, d) * reach, weight]
        if case["pre"] == "add":
            b = values(rng, "zeros" if kind == "zeros" else "random", m, d)
            return [values(rng, kind, m, d) * reach, b * reach, weight]
        gate = values(rng, "random" if kind == "infinite" else kind, m, d)
        gate = np.clip(gate * (1 if kind == "all_max" else steep), -80, 80)
        if kind == "infinite":
            spoil(gate, np.inf)
        return [np.concatenate([gate, normal(rng, m, d) * reach], axis=1).astype(np.float32), weight]

    def _relative(self, case: Case, inputs: Sequence[Array]) -> Array:
        """Relative error of h, element by element [M, D]."""
        m, d = case["M"], case["D"]
        if case["pre"] == "none":
            return np.zeros((m, d))
        if case["pre"] == "silu":  # the error of exp(-g), (3 + 2|g|) ULP, weighs as much as exp(-g) in 1 + exp(-g)
            gate = np.clip(inputs[0][:, :d].astype(np.float64), -104, 104)
            found: Array = (8 + 2 * (3 + 2 * np.abs(gate)) / (1 + np.exp(gate))) * U32
            return found
        return np.full((m, d), (1 if case["pre"] == "add" else 4) * U32)

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        m, d, spans = case["M"], case["D"], self.spans(case)
        h = self._pre(case, inputs, np.float64)
        y = np.zeros((m, padded(d)))
        y[:, :d] = self._normed(case, h, inputs[-1], np.float64)
        relative = np.zeros_like(y)
        relative[:, :d] = self._relative(case, inputs)
        _, scale_truth, _ = truth[-3:]
        of_spans = scale_truth.astype(np.float64)
        if case["mode"] == "block32":  # codes are those of the scale before it is rounded to f16
            of_spans = np.abs(y).reshape(m, spans, -1).max(axis=-1) / 127
        scale = np.repeat(of_spans, padded(d) // spans, axis=1)
        exact = np.divide(y, scale, out=np.zeros_like(y), where=scale != 0)
        # δpeak, of the largest |y| of a span: no |y| moves by more than |y|·δh. δroot, of the root of the mean square:
        # Σh²·2δh / Σh², halved by the root.
        sizes = np.abs(y).reshape(m, spans, -1)
        top = sizes.max(axis=-1)
        reach = (sizes * relative.reshape(sizes.shape)).max(axis=-1)
        peak = np.divide(reach, top, out=np.zeros_like(top), where=top > 0)
        squares = np.square(h)
        total = squares.sum(axis=-1, keepdims=True)
        moved = (squares * relative[:, :d]).sum(axis=-1, keepdims=True)
        root = np.divide(moved, total, out=np.zeros_like(total), where=total > 0)
        # The root is a factor of every element and of the peak, and cancels in the quotient; what does not is the error
        # of this h and of the peak's, and the roundings of norm and quotient (10u). A peak of 1e-5 is given, not
        # measured: there the root does not cancel.
        floored = (scale_truth * 127 <= 1.0001e-5) & (case["mode"] == "token")
        spanwide = 10 * U32 + peak + floored * (gamma(d) / 2 + 8 * U32 + root)
        width = np.abs(exact) * (relative + np.repeat(spanwide, padded(d) // spans, axis=1))
        tie = (np.abs(exact - np.floor(exact) - 0.5) <= width).astype(np.float64)
        ties = tie.reshape(m, spans, -1).sum(axis=-1)
        tie[np.isnan(scale)], ties[np.isnan(scale_truth)] = ANY_CODE, ANY_SUM
        off = gamma(d) / 2 + 20 * U32 + root + peak
        by_scale = ErrorBound(off * np.abs(scale_truth) + TINY, f"(γ_{d}/2 + 20u + δroot + δpeak)·|scale|")
        if case["mode"] == "block32":
            told = f"where f16(absmax/127·(1 ± (γ_{d}/2 + 20u + δroot + δpeak))) may fall: 0 away from a tie of f16"
            by_scale = ErrorBound(moved_in_f16(of_spans, off), told, stepped=True)
        found = [
            ErrorBound(tie, "1 where y/scale is within |y/scale|·(10u + δh + δpeak) of a tie, else 0; free beside NaN"),
            by_scale,
            ErrorBound(ties, "the number of ties in the span; free where the scale is NaN"),
        ]
        if case["pre"] == "none":
            return found
        flushed = np.full((m, d), TINY)
        if case["pre"] != "add":  # a square, or exp(-g) times g, below 2^-126 may be flushed before it meets up
            gate, up = np.abs(inputs[0].astype(np.float64)).reshape(m, 2, d).swapaxes(0, 1)
            flushed = TINY * (1 + up * np.maximum(gate, 1))
        limit = relative[:, :d] * np.abs(h) * (1 + 2.0**-20) + flushed
        return [ErrorBound(limit, "δh·|h|: u for add, 4u for relu2, (8 + 2(3 + 2|g|)/(1 + e^g))u for silu"), *found]

    def work(self, case: Case) -> Work:
        m, d = case["M"], case["D"]
        reads = {"none": 1, "add": 2}.get(case["pre"], 2)
        writes = 0 if case["pre"] == "none" else 1
        return Work(m * (4 * d * (reads + writes) + padded(d)) + 4 * d, 8 * m * d)


OP = NormQuant()
