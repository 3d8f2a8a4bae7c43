"""glu: the gated activation of a feed-forward block.

    silu   y = g / (1 + exp(-g)) · up
    relu2  y = max(g, 0)² · up

With ``clamp = 1`` the result is limited to ±65504, the largest f16, so that an f16 consumer never sees an infinity that
the arithmetic did not have (a squared activation reaches it in real models). NaN stays NaN.

Infinities follow the formula: silu(+inf) = +inf, silu(-inf) = -inf · 0 = NaN, relu2(-inf) = 0, and 0 · inf = NaN.

ABI: gate [M, D] f32, up [M, D] f32 → y [M, D] f32.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kparity.kernels.support import F16_MAX, MANY, ROWS, TAILS, TINY, U32, WIDTHS, normal, values
from kparity.ops.spec import Arg, Array, Case, ErrorBound, Grid, Op, Value, Work, ceil_div, span


class Glu(Op):
    """Parameters: M rows, D width, act, clamp."""

    name = "glu"
    required = ("M", "D")
    defaults: ClassVar[Mapping[str, Value]] = {"act": "silu", "clamp": 0}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"act": ("silu", "relu2")}

    def args(self, case: Case) -> tuple[Arg, ...]:
        shape = (case["M"], case["D"])
        return (Arg("gate", "f32", shape), Arg("up", "f32", shape), Arg("y", "f32", shape, "out"))

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        gate, up = (array.astype(dtype) for array in inputs)
        if case["act"] == "silu":
            decay = np.exp(-np.abs(gate))  # never overflows
            y = gate * np.where(gate >= 0, 1 / (1 + decay), decay / (1 + decay)) * up
        else:
            y = np.square(np.maximum(gate, 0)) * up
        return [(np.clip(y, -F16_MAX, F16_MAX) if case["clamp"] else y).astype(dtype)]

    def constants(self, case: Case) -> dict[str, int | float]:
        return {"RELU2": int(case["act"] == "relu2"), "CLAMP": case["clamp"]}

    def launch(self, case: Case) -> Grid:
        return Grid(span(ceil_div(case["M"] * case["D"], 64)), 64)

    def variant(self, case: Case) -> str:
        return f"{case['act']}{'_clamp' if case['clamp'] else ''}"

    def cases(self) -> list[Case]:
        return self.every("M D", ((1, 1), (3, 257), (2, 6912)), act=("silu", "relu2"), clamp=(0, 1))

    def more(self) -> list[Case]:
        shapes = [(1, width) for width in WIDTHS] + [(m, 640) for m in ROWS] + [(64, 6912)]
        acts = self.choices["act"]
        found = self.in_turn("M D", [*shapes, *shapes[:7]], "act", acts)
        limited = self.every("M D", ((2, d) for d in TAILS[::3]), act=acts, clamp=1)
        folded = self.case(M=640, D=6912, act="relu2")  # more work-groups than one dimension of a grid holds
        return [*found, *limited, folded]

    def kinds(self, case: Case) -> tuple[str, ...]:
        kinds = ("random", "extreme", "zeros", "all_max", "tiny", "nan", "infinite")
        return kinds if case["M"] * case["D"] < MANY else kinds[:1]

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        gate, up = (normal(rng, case["M"], case["D"]) * 4 for _ in range(2))
        if kind == "zeros":
            gate[:] = 0
        if kind == "extreme":  # where exp leaves the range of f32, and where the result does
            edges = np.array([-88, 88, -89, 89, -104, 104, -1e3, 1e3, -1e19, 1e19, -3e38, 3e38, -0.0, 1e-6, -17, 17])
            gate = np.resize(edges, gate.size).reshape(gate.shape)[:, ::-1]
            up = np.where(np.abs(up) < 1, 1, up)
            return [np.ascontiguousarray(gate).astype(np.float32), up.astype(np.float32)]
        if kind == "nan":
            gate[:, -1] = np.nan
            up[:, : case["D"] // 2 : 5] = np.nan
            return [gate.astype(np.float32), up.astype(np.float32)]
        if kind in ("all_max", "tiny"):
            return [values(rng, kind, case["M"], case["D"]) for _ in range(2)]
        if kind == "infinite":
            gate = np.resize(np.array([np.inf, -np.inf, 2, -2, np.inf, 0, np.inf, 3]), gate.shape)
            up = np.resize(np.array([3, 2, np.inf, -np.inf, 0, np.inf, -np.inf, -3]), up.shape)
            return [gate.astype(np.float32), up.astype(np.float32)]
        gate[:, ::7] *= 60  # far into both tails, and past f16 for relu²
        return [gate.astype(np.float32), up.astype(np.float32)]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        # exp within (3 + 2|g|) ULP, which is what WGSL grants; division within 2.5 ULP; three more roundings. Below the
        # smallest normal number a result may be flushed to zero.
        gate, up = np.abs(inputs[0].astype(np.float64)), np.abs(inputs[1].astype(np.float64))
        silu = case["act"] == "silu"
        terms = 8 + 2 * (3 + 2 * np.minimum(gate, 104)) if silu else 4.0
        derivation = "(8 + 2(3 + 2|g|))·u·|y| for silu, 4u·|y| for relu2, below 2^-126 flushed"
        # An exp(−g) that overflows or is flushed makes the whole product 0, however large g·up is.
        flushed = TINY * (1 + up * (gate if silu else 1))
        return [ErrorBound(terms * U32 * np.abs(truth[0]) + flushed, derivation)]

    def work(self, case: Case) -> Work:
        count = case["M"] * case["D"]
        return Work(12 * count, 5 * count)


OP = Glu()
