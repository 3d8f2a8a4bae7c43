"""rope: rotary position embedding (Su et al., 2021) in its two conventions.

For head vectors x[m, h, :] of D elements of which the first R rotate, with angle a = pos[m] · freq[i], i < R/2:

    neox         (y[i], y[i + R/2])   = (x[i]·cos a − x[i + R/2]·sin a,  x[i + R/2]·cos a + x[i]·sin a)
    interleaved  (y[2i], y[2i + 1])   = (x[2i]·cos a − x[2i + 1]·sin a,  x[2i + 1]·cos a + x[2i]·sin a)

Elements from R on are copied. ``freq`` comes from ``frequencies``: theta^(−2i/R) / scale / factor_i. The product
pos·freq is rounded to f32 before the sine is taken, in every dialect and in the field's engines: its error of
pos·2^-24 radians is part of the bound. A kernel reduces the angle itself: the sine of a large argument is not accurate
in every shading language.

A NaN or an infinity spoils its own pair only, as IEEE has it: at position 0, where the sine is 0, inf · 0 is NaN.
Copied elements keep their bits.

ABI: x [M, H, D] f32, pos [M] i32, freq [R/2] f32 → y [M, H, D] f32. D and R are even.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kparity.errors import WrongInput
from kparity.kernels.support import MANY, MODELS, ROWS, TINY, U32, values
from kparity.ops.spec import Arg, Array, Case, ErrorBound, Grid, Op, Value, Work, ceil_div, span

POSITIONS = {"start": (0,), "second": (1,), "last": (4095, 4094), "far": (131071, 131070)}
"""Kinds of input that are random values at given positions, in turn."""


def frequencies(theta: float, rotated: int, scale: float = 1.0, factors: Sequence[float] = ()) -> Array:
    """Angular frequency of each pair in radians per position, f32 [rotated/2], computed in fp64.

    ``scale`` is the factor of linear context scaling: positions are divided by it. ``factors`` divide each pair's own
    (``rope_freqs`` of Llama 3.1 and later); without any, none does.
    """
    exponent = -2.0 * np.arange(rotated // 2, dtype=np.float64) / rotated
    found = np.power(float(theta), exponent) / float(scale)
    return np.asarray(found / np.asarray(factors or 1.0, np.float64), np.float32)


class Rope(Op):
    """Parameters: M rows, H heads, D elements a head, R of them rotating, mode, theta, linear scale."""

    name = "rope"
    required = ("M", "H", "D")
    named_by = ("mode",)
    defaults: ClassVar[Mapping[str, Value]] = {"mode": "neox", "theta": 10000.0, "scale": 1.0, "R": 0}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"mode": ("neox", "interleaved")}

    def case(self, **params: int | float | str) -> Case:
        return super().case(**{**params, "R": params.get("R") or params.get("D", 0)})

    def check(self, case: Case) -> None:
        if case["D"] % 2 or case["R"] % 2 or case["R"] > case["D"]:
            raise WrongInput(f"rope: D is {case['D']} and R is {case['R']}, expected even numbers with R <= D")

    def args(self, case: Case) -> tuple[Arg, ...]:
        heads = (case["M"], case["H"], case["D"])
        return (
            Arg("x", "f32", heads),
            Arg("pos", "i32", (case["M"],)),
            Arg("freq", "f32", (case["R"] // 2,)),
            Arg("y", "f32", heads, "out"),
        )

    def _pairs(self, case: Case) -> tuple[Array, Array]:
        i = np.arange(case["R"] // 2)
        return (i, i + case["R"] // 2) if case["mode"] == "neox" else (2 * i, 2 * i + 1)

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        x, pos, freq = inputs[0].astype(dtype), inputs[1], inputs[2].astype(dtype)
        angle = (pos.astype(dtype)[:, None] * freq[None, :])[:, None, :]  # [M, 1, R/2]
        cos, sin = np.cos(angle), np.sin(angle)
        first, second = self._pairs(case)
        y = x.copy()
        y[..., first] = x[..., first] * cos - x[..., second] * sin
        y[..., second] = x[..., second] * cos + x[..., first] * sin
        return [y]

    def constants(self, case: Case) -> dict[str, int | float]:
        return {"R": case["R"], "NEOX": int(case["mode"] == "neox")}

    def launch(self, case: Case) -> Grid:
        return Grid(span(ceil_div(case["M"] * case["H"] * case["D"] // 2, 64)), 64)

    def cases(self) -> list[Case]:
        shapes = (
            (1, 1, 2, 2, 10000.0, 1.0),
            (3, 5, 64, 64, 10000.0, 1.0),
            (33, 2, 128, 128, 500000.0, 1.0),
            (7, 3, 80, 32, 10000.0, 4.0),
            (1, 20, 128, 128, 500000.0, 1.0),
        )
        return self.every("M H D R theta scale", shapes, mode=("neox", "interleaved"))

    def more(self) -> list[Case]:
        shapes: list[dict[str, Value]] = [
            {"M": m, "H": heads, "D": model.head, "theta": model.theta}  # queries and keys of every model
            for model in MODELS.values()
            for heads in dict.fromkeys((model.heads, model.kv_heads))
            for m in (1, 9)
        ]
        shapes += [{"M": m, "H": 3, "D": 64} for m in ROWS[::2]]
        shapes += [{"M": 2, "H": 3, "D": d} for d in (2, 4, 6, 16, 34, 66, 126, 130, 256)]
        shapes += [{"M": 3, "H": 2, "D": 128, "R": r} for r in (2, 32, 62, 64, 126)]  # a part rotates
        shapes += [{"M": 3, "H": 2, "D": 64, "theta": theta, "scale": scale} for theta, scale in (
            (10000.0, 0.5), (10000.0, 4.0), (500000.0, 1.0), (500000.0, 8.0), (1000000.0, 1.0), (1000000.0, 2.0),
        )]  # fmt: skip
        found = [self.case(**shape, mode=mode) for shape in shapes for mode in self.choices["mode"]]
        prefill = [self.case(M=m, H=20, D=128, theta=500000.0) for m in (31, 32, 64)]
        folded = [self.case(M=513, H=128, D=128)]  # more work-groups than one dimension of a grid holds
        return found + prefill + folded

    def kinds(self, case: Case) -> tuple[str, ...]:
        kinds = ("random", *POSITIONS, "one_hot", "outlier", "tiny", "alternating", "all_max", "nan", "infinite")
        return kinds if case["M"] * case["H"] * case["D"] < MANY else kinds[:1]

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        pos = np.resize(np.array(POSITIONS.get(kind, (4095, 1, 0, 131071, 17, 511, -1, 2047)), np.int32), case["M"])
        x = values(rng, "random" if kind in POSITIONS else kind, case["M"], case["H"], case["D"])
        return [x, pos, frequencies(case["theta"], case["R"], case["scale"])]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        x, pos, freq = inputs[0].astype(np.float64), inputs[1].astype(np.float64), inputs[2].astype(np.float64)
        # One rounding of pos·freq, sine and cosine within 4 ULP of a value of at most 1, three roundings of the sum.
        angle = np.abs(pos)[:, None] * freq[None, :]
        error = (U32 * angle + 8 * U32)[:, None, :]
        first, second = self._pairs(case)
        reach = np.abs(x[..., first]) + np.abs(x[..., second])
        limit = np.zeros_like(x)
        limit[..., first] = limit[..., second] = error * reach + 5 * TINY
        derivation = "(u·pos·freq + 8u)·(|x1| + |x2|) + 5·2^-126 for flushes, u = 2^-24; copied elements exact"
        return [ErrorBound(limit, derivation)]

    def work(self, case: Case) -> Work:
        count = case["M"] * case["H"] * case["D"]
        return Work(8 * count, 3 * count)


OP = Rope()
