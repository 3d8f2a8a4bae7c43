"""rope_store: RoPE on queries and keys, and the new keys and values into the cache, in one launch.

A row of ``qkv`` holds H query heads, then G key heads, then G value heads of D elements each, as one GEMV over the
concatenated weights gives them.

    q[m, h, :]               = rope(qkv[m, h, :], pos[m])
    kcache[pos[m], g, :]     = rope(qkv[m, H + g, :], pos[m])          where 0 <= pos[m] < L
    vcache[pos[m], g, :]     = qkv[m, H + G + g, :]                    where 0 <= pos[m] < L

See rope for the two conventions and for the angle (the product pos·freq is rounded to f32, and reduced by the
kernel), and kv_store for the cache (rows with a position outside [0, L) are not stored; f16 rounds to nearest even).
A NaN or an infinity spoils its own pair of a query or key, or its own value.

ABI: qkv [M, (H + 2G)·D] f32, pos [M] i32, freq [R/2] f32 → q [M, H, D] f32, kcache [L, G·D] f32|f16 (inout), vcache
[L, G·D] (inout). D and R are even.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kparity.errors import WrongInput
from kparity.kernels.support import MODELS, ROWS, TINY, U32, normal, spoil
from kparity.ops.spec import Arg, Array, Case, ErrorBound, Grid, Op, Value, Work, ceil_div, span

EDGES = (65504.0, 65519.996, 65520.0, 1e6, 2.0**-14 * (1 - 2.0**-11), 2.0**-24, 2.0**-25, 3 * 2.0**-25, 1 + 2.0**-11,
         np.inf, np.nan)  # fmt: skip
"""Values at which the rounding to f16 changes its mind."""


class RopeStore(Op):
    """Parameters: M rows, H query heads, G key-value heads, D head size, R rotating, L cache positions, mode, dtype.

    ``theta`` and ``scale`` give the frequencies of the test inputs.
    """

    name = "rope_store"
    required = ("M", "H", "G", "D", "L")
    named_by = ("mode", "dtype")
    defaults: ClassVar[Mapping[str, Value]] = {
        "mode": "neox", "theta": 10000.0, "scale": 1.0, "R": 0, "dtype": "f16",
    }  # fmt: skip
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"mode": ("neox", "interleaved"), "dtype": ("f16", "f32")}

    def case(self, **params: Value) -> Case:
        return super().case(**{**params, "R": params.get("R") or params.get("D", 0)})

    def check(self, case: Case) -> None:
        if case["D"] % 2 or case["R"] % 2 or case["R"] > case["D"]:
            raise WrongInput(f"rope_store: D is {case['D']} and R is {case['R']}, expected even numbers with R <= D")

    def args(self, case: Case) -> tuple[Arg, ...]:
        m, h, g, d, cap = (case[name] for name in "MHGDL")
        return (
            Arg("qkv", "f32", (m, (h + 2 * g) * d)),
            Arg("pos", "i32", (m,)),
            Arg("freq", "f32", (case["R"] // 2,)),
            Arg("q", "f32", (m, h, d), "out"),
            Arg("kcache", case["dtype"], (cap, g * d), "inout"),
            Arg("vcache", case["dtype"], (cap, g * d), "inout"),
        )

    @staticmethod
    def _pairs(case: Case) -> tuple[Array, Array]:
        i = np.arange(case["R"] // 2)
        return (i, i + case["R"] // 2) if case["mode"] == "neox" else (2 * i, 2 * i + 1)

    def _turned(self, case: Case, x: Array, pos: Array, freq: Array) -> Array:
        """RoPE of heads x [M, heads, D] in x's dtype."""
        angle = (pos.astype(x.dtype)[:, None] * freq.astype(x.dtype)[None, :])[:, None, :]
        cos, sin = np.cos(angle), np.sin(angle)
        first, second = self._pairs(case)
        y: Array = x.copy()
        y[..., first] = x[..., first] * cos - x[..., second] * sin
        y[..., second] = x[..., second] * cos + x[..., first] * sin
        return y

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        m, h, g, d, cap = (case[name] for name in "MHGDL")
        heads = inputs[0].astype(dtype).reshape(m, h + 2 * g, d)
        pos, freq = inputs[1], inputs[2]
        turned = self._turned(case, heads[:, : h + g], pos, freq)
        kcache, vcache = (cache.copy() for cache in inputs[3:5])
        stored = (pos >= 0) & (pos < cap)
        with np.errstate(over="ignore"):  # an f16 infinity is the specified result
            for row in np.flatnonzero(stored):
                kcache[pos[row]] = turned[row, h:].reshape(-1).astype(kcache.dtype)
                vcache[pos[row]] = heads[row, h + g :].reshape(-1).astype(vcache.dtype)
        return [turned[:, :h].copy(), kcache, vcache]

    def constants(self, case: Case) -> dict[str, int | float]:
        return {"R": case["R"], "NEOX": int(case["mode"] == "neox"), "F16": int(case["dtype"] == "f16")}

    def launch(self, case: Case) -> Grid:
        """A work-item takes two neighbouring elements of a row of qkv: what one word of an f16 cache holds."""
        pairs = case["M"] * (case["H"] + 2 * case["G"]) * case["D"] // 2
        return Grid(span(ceil_div(pairs, 64)), 64)

    def cases(self) -> list[Case]:
        shapes = (
            (1, 1, 1, 2, 1, 2, 10000.0, 1.0),
            (3, 5, 1, 64, 40, 64, 500000.0, 1.0),
            (7, 4, 2, 80, 9, 32, 10000.0, 4.0),
        )
        small = self.every("M H G D L R theta scale", shapes, mode=("neox", "interleaved"), dtype=("f16", "f32"))
        return [*small, self.case(M=2, H=20, G=5, D=128, L=3000, theta=500000.0)]

    def more(self) -> list[Case]:
        models = MODELS.values()
        shapes = [(m, each.heads, each.kv_heads, each.head, 130, each.theta) for each in models for m in (1, 33)]
        shapes += [(m, 3, 2, 32, 70, 10000.0) for m in ROWS]
        shapes += [(3, g * share, g, 16, 5, 10000.0) for g, share in ((1, 2), (1, 7), (1, 8), (2, 4))]
        found = self.in_turn("M H G D L theta", shapes, "mode", self.choices["mode"])
        turned = [(3, 4, 2, d, r, 9, 2.0) for d, r in ((34, 34), (64, 2), (128, 62))]
        options = self.every("M H G D R L scale", turned, **self.choices)
        return [*found, *options, self.case(M=2, H=20, G=5, D=128, L=4096, theta=500000.0)]

    def kinds(self, case: Case) -> tuple[str, ...]:
        kinds = ("random", "beyond", "extreme", "nan", "infinite", "zeros")
        return kinds if case["L"] < 1000 else kinds[:3]

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        m, h, g, d, cap = (case[name] for name in "MHGDL")
        pos = rng.permutation(max(cap, m))[:m].astype(np.int32)
        pos[pos >= cap] = -1
        if kind == "beyond":
            pos[::2] = np.resize(np.array([cap, -2, 131071, cap + 7], np.int32), len(pos[::2]))
        # Frequencies of theta and scale, as kparity.kernels.rope.frequencies gives them.
        exponent = -2.0 * np.arange(case["R"] // 2) / case["R"]
        freq = (np.power(float(case["theta"]), exponent) / float(case["scale"])).astype(np.float32)
        dtype = np.float16 if case["dtype"] == "f16" else np.float32
        caches = [normal(rng, cap, g * d).astype(dtype) for _ in range(2)]
        qkv = normal(rng, m, h + 2 * g, d)
        if kind in ("nan", "infinite"):
            spoil(qkv, *((np.nan,) if kind == "nan" else (np.inf, -np.inf)))
        if kind == "zeros":
            qkv[:] = 0
        if kind == "extreme":  # keys among the subnormal numbers of f16, values at the edges of its roundings
            qkv[:, h : h + g] *= np.float32(2.0**-16)
            values = qkv[:, h + g :]
            values[:] = np.copysign(rng.choice(np.array(EDGES, np.float32), values.shape), values)
        return [qkv.reshape(m, -1), pos, freq, *caches]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        m, h, g, d, cap = (case[name] for name in "MHGDL")
        heads = inputs[0].astype(np.float64).reshape(m, h + 2 * g, d)[:, : h + g]
        pos, freq = inputs[1], inputs[2].astype(np.float64)
        turned = self._turned(case, heads, pos, freq)
        error = (U32 * np.abs(pos.astype(np.float64))[:, None] * freq[None, :] + 8 * U32)[:, None, :]
        first, second = self._pairs(case)
        limit = np.zeros_like(heads)
        reach = np.abs(heads[..., first]) + np.abs(heads[..., second])
        limit[..., first] = limit[..., second] = error * reach + 5 * TINY
        # Rounding is monotonic: a key lies between the rounded ends of the interval in which it lay before.
        keys = np.zeros((cap, g * d))
        dtype = truth[1].dtype
        for row in np.flatnonzero((pos >= 0) & (pos < cap)):
            key, spread = turned[row, h:].reshape(-1), limit[row, h:].reshape(-1)
            low, high = ((key + way * spread).astype(dtype).astype(np.float64) for way in (-1, 1))
            stored = truth[1][pos[row]].astype(np.float64)
            keys[pos[row]] = np.maximum(high - stored, stored - low)
        return [
            ErrorBound(limit[:, :h], "(u·pos·freq + 8u)·(|x1| + |x2|) + 5·2^-126, u = 2^-24; copied elements exact"),
            ErrorBound(
                keys, "the same, ends rounded as the cache is: an f16 is exact away from ties; other rows exact"
            ),
            ErrorBound(None, "a copy, or a rounding to nearest even: every bit"),
        ]

    def work(self, case: Case) -> Work:
        m, h, g, d = (case[name] for name in "MHGD")
        width = 2 if case["dtype"] == "f16" else 4
        return Work(m * d * (4 * (h + 2 * g) + 4 * h + 2 * g * width), 3 * m * d * (h + g))


OP = RopeStore()
