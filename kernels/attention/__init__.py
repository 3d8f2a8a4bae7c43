"""attention: causal grouped-query attention of M queries against a cache of keys and values.

    s[j]   = q[m, h, :] · kcache[j, g, :] / sqrt(D),   0 <= j <= min(pos[m], L - 1),  g = h / (H / G)
    out    = Σ_j softmax(s)[j] · vcache[j, g, :]
    lse    = log Σ_j exp(s[j])

A row with pos < 0 sees no key: out = 0 and lse = -inf. Positions of the cache that no query sees may hold anything, NaN
included. Kernels use the online softmax (Milakov & Gimelshein, 2018), so that no score is stored.

A NaN in a query makes its out and lse NaN, one in a key those of every query that sees it, one in a value the same
element of out; a score of +inf is NaN likewise (inf - inf). An infinite value makes its element of out infinite. What
follows from a product 0 · inf is free: a score of -inf has the weight 0 in the limit, but an online softmax that meets
it first has inf - inf; an infinite last value is NaN where a kernel lets it stand in, with a weight of 0, for keys past
the end.

ABI: q [M, H, D] f32, kcache [L, G, D] f32|f16, vcache [L, G, D], pos [M] i32 → out [M, H, D] f32, lse [M, H] f32. D is
even.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kparity.errors import WrongInput
from kparity.kernels.support import F16_MAX, KINDS, MANY, MODELS, ROWS, TINY, U32, gamma, normal, spoil, values
from kparity.ops.spec import Arg, Array, Case, ErrorBound, Grid, Op, Stage, Value, Work, ceil_div

GPU_HEADS = 4
"""Query heads for which a group of the GPU text loads a key once: registers, 16 each."""
GPU_WHOLE = 512
"""The longest cache whose keys are not split."""
GPU_GROUPS, GPU_PARTS = 528, 64
"""Groups that fill a large GPU, and the most parts into which keys are split for that."""
LENGTHS = (1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1023, 1025, 4095, 4096)
"""Lengths of a cache at which tiles of keys end."""
HEADS = (2, 4, 6, 8, 10, 16, 30, 34, 64, 66, 80, 96, 100, 126, 128, 130, 256)
"""Head sizes: of real models, and at which vectors end."""


class Attention(Op):
    """Parameters: M queries, L positions of the cache, H query heads, G key-value heads, D head size, cache dtype."""

    name = "attention"
    required = ("M", "L", "H", "G", "D")
    named_by = ("dtype",)
    defaults: ClassVar[Mapping[str, Value]] = {"dtype": "f16"}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"dtype": ("f16", "f32")}

    def check(self, case: Case) -> None:
        if case["H"] % case["G"]:
            raise WrongInput(f"attention: {case['H']} query heads are no multiple of {case['G']} key-value heads")
        if case["D"] % 2:
            raise WrongInput(f"attention: D is {case['D']}, expected an even number")

    def args(self, case: Case) -> tuple[Arg, ...]:
        heads, cache = (case["M"], case["H"], case["D"]), (case["L"], case["G"], case["D"])
        return (
            Arg("q", "f32", heads),
            Arg("kcache", case["dtype"], cache),
            Arg("vcache", case["dtype"], cache),
            Arg("pos", "i32", (case["M"],)),
            Arg("out", "f32", heads, "out"),
            Arg("lse", "f32", (case["M"], case["H"]), "out"),
        )

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        m_count, heads, groups, d = case["M"], case["H"], case["G"], case["D"]
        q, pos = inputs[0].astype(dtype), inputs[3]
        keys = np.minimum(pos + 1, case["L"])
        most = max(int(keys.max(initial=0)), 0)
        kcache, vcache = (cache[:most].astype(dtype) for cache in inputs[1:3])
        out = np.zeros((m_count, heads, d), dtype)
        lse = np.full((m_count, heads), -np.inf, dtype)
        scale = np.asarray(1.0 / np.sqrt(d), dtype)
        for m in range(m_count):
            count = int(keys[m])
            if count <= 0:
                continue
            queries = q[m].reshape(groups, heads // groups, d)
            scores = queries @ kcache[:count].transpose(1, 2, 0) * scale
            top = scores.max(axis=-1, keepdims=True)
            weights = np.exp(scores - top)
            total = weights.sum(axis=-1, keepdims=True)
            out[m] = (weights / total @ vcache[:count].swapaxes(0, 1)).reshape(heads, d)
            lse[m] = (top + np.log(total)).reshape(heads)
        return [out, lse]

    def constants(self, case: Case) -> dict[str, int | float]:
        tile = zip(("GPU_BLOCK", "GPU_LANES", "TILE_H", "AHEAD", "SPLITS"), self.gpu_tile(case), strict=True)
        scale = float(np.float32(1.0 / np.sqrt(case["D"])))
        return {"F16": int(case["dtype"] == "f16"), "SCALE": scale, **dict(tile)}

    def launch(self, case: Case) -> Grid:
        return Grid((case["H"], case["M"], 1), 64)

    @staticmethod
    def gpu_tile(case: Case) -> tuple[int, int, int, int, int]:
        """Geometry of the GPU text: work-items of a group, work-items that share a key, query heads that share the
        loads of one, keys that each has under way, and parts into which the keys of a query are split.

        Short caches are not split: the merge would cost more than the parts save.
        """
        lanes, share = 1, case["H"] // case["G"]
        while lanes * 8 < case["D"]:
            lanes *= 2
        tile_h = max(heads for heads in range(1, GPU_HEADS + 1) if share % heads == 0)
        groups = case["M"] * case["H"] // tile_h
        splits = 1
        if case["L"] > GPU_WHOLE:
            splits = max(1, min(GPU_PARTS, ceil_div(GPU_GROUPS, groups), ceil_div(case["L"], 64)))
        few = splits == 1 and groups * 16 < GPU_GROUPS
        block = 256 if few and case["L"] > 64 else 128 if case["L"] > 32 else 64
        return max(block, lanes), lanes, tile_h, 4 if case["dtype"] == "f16" else 2, splits

    def stages(self, case: Case, dialect: str) -> tuple[Stage, ...]:
        if dialect != "gpu":
            return super().stages(case, dialect)
        block, _, tile_h, _, splits = self.gpu_tile(case)
        return (Stage(self.name, Grid((case["H"] // tile_h, case["M"], splits), block)),)

    def scratch(self, case: Case, dialect: str) -> tuple[Arg, ...]:
        _, _, tile_h, _, splits = self.gpu_tile(case)
        if dialect != "gpu" or splits == 1:
            return ()
        heads = (splits, case["M"], case["H"])
        return (
            Arg("sums", "f32", (*heads, case["D"]), "out"),
            Arg("stats", "f32", (*heads, 2), "out"),
            Arg("done", "u32", (case["M"], case["H"] // tile_h), "inout"),
        )

    def cases(self) -> list[Case]:
        both = ((1, 1, 1, 1, 2), (1, 64, 4, 2, 64), (13, 129, 5, 1, 64), (33, 200, 4, 4, 32), (2, 300, 8, 2, 128))
        either = (
            (1, 257, 20, 5, 128, "f16"),
            (3, 33, 8, 1, 80, "f16"),
            (2, 65, 7, 1, 16, "f32"),
            (5, 31, 6, 2, 96, "f32"),
            (1, 1000, 8, 2, 64, "f16"),  # keys in parts, full and empty ones
            (13, 700, 5, 1, 80, "f16"),
            (3, 600, 6, 2, 34, "f32"),
        )
        return [*self.every("M L H G D", both, dtype=("f16", "f32")), *self.every("M L H G D dtype", either)]

    def more(self) -> list[Case]:
        both = self.choices["dtype"]
        models = [
            (m, cap, model.heads, model.kv_heads, model.head)
            for model in MODELS.values()
            for m, cap in ((1, 33), (1, 513), (9, 129))
        ]
        models += [(1, 4096, 20, 5, 128), (64, 128, 20, 5, 128), *((2, cap, 4, 2, 64) for cap in LENGTHS)]
        lengths = [self.case(M=2, L=cap, H=4, G=2, D=64, dtype="f32") for cap in LENGTHS[::3]]
        rows = [self.case(M=m, L=70, H=4, G=1, D=32) for m in ROWS]
        shared = [(3, 65, share * g, g, 32, both[share % 2]) for share in range(1, 9) for g in (1, 3)]
        heads = self.in_turn("M L H G D", ((2, 67, 2, 1, d) for d in HEADS), "dtype", both)
        return self.every("M L H G D", models) + lengths + rows + self.every("M L H G D dtype", shared) + heads

    def kinds(self, case: Case) -> tuple[str, ...]:
        kinds = ("random", "rising", "zeros", "outlier", "one_hot", "falling", "stale", "empty", "all_max", "tiny")
        scores = case["M"] * case["H"] * case["L"] * case["D"]
        return (*kinds, "alternating", "nan", "infinite") if scores < 4 * MANY else kinds[:3]

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        m, cap, h, g, d = (case[name] for name in "MLHGD")
        dtype = np.float16 if case["dtype"] == "f16" else np.float32
        # Tails of any tile first, then anything; an empty row and a position beyond the cache among them.
        tails = [cap - 1, -1, cap + 5, 30, 31, 32, 62, 63, 64, 126, 127, 128, 0]
        pos = np.array([*tails, *rng.integers(0, cap, max(m - len(tails), 0))], np.int32)[:m]
        same = kind in KINDS and kind not in ("nan", "infinite")
        q, k = (values(rng, kind if same else "random", *shape) for shape in ((m, h, d), (cap, g, d)))
        v = normal(rng, cap, g, d)
        if kind == "empty":
            pos[:] = -1
        if kind == "all_max":  # equal scores of a common size, and sums far beyond f16
            q, v[:] = q * np.float32(2.0**-32), F16_MAX
        if kind == "nan":  # in a query, in the last key, in the first value
            spoil(q, np.nan), spoil(k[-1:], np.nan)
            v[0, :, 0] = np.nan
        if kind == "infinite":  # queries all of whose scores are +inf; the first of several values
            spoil(q, np.inf)
            k = np.abs(k) + np.float32(0.01)
            pos[pos == 0] = 1  # somebody's last value stands in for keys past the end
            v[0, :, 0] = np.resize(np.array([np.inf, -np.inf]), g) if cap > 1 else 0
        if kind in ("rising", "falling"):  # every key is the new maximum of the online softmax, or none after the first
            q, k = np.abs(q), np.abs(k) * np.linspace(0, 4, cap, dtype=np.float32)[:, None, None]
            k = k if kind == "rising" else k[::-1]
        k, v = (np.ascontiguousarray(cache).astype(dtype) for cache in (k, v))
        if kind == "stale":
            pos = np.minimum(pos, cap // 2)
            k[cap // 2 + 1 :], v[cap // 2 + 1 :] = np.nan, np.inf
        return [q, k, v, pos]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        m_count, heads, groups, d = case["M"], case["H"], case["G"], case["D"]
        q, pos = np.abs(inputs[0].astype(np.float64)), inputs[3]
        most = max(int(pos.max()), 0)  # what no query sees may be NaN
        kabs, vabs = (np.abs(cache[: most + 1].astype(np.float64)) for cache in inputs[1:3])
        out_limit = np.zeros((m_count, heads, d))
        lse_limit = np.zeros((m_count, heads))
        for m in range(m_count):
            count = min(int(pos[m]) + 1, case["L"])
            if count <= 0:
                continue
            queries = q[m].reshape(groups, heads // groups, d)
            # Error of a score, δ: γ_{D+2}·|q|·|k|/√D, and the rounding of s − max, 2u·reach. Softmax turns it into a
            # relative 2δ. An exponential within (3 + 2|s − max|) ULP adds 6u + 8u·reach, the two sums γ_L each; a
            # rescaling of the online softmax hits numerator and denominator alike. In lse it does not cancel: up to L
            # exponentials, whose arguments sum to at most 2·reach.
            reach = (queries @ kabs[:count].transpose(1, 2, 0)).max(axis=-1).reshape(heads) / np.sqrt(d)
            delta = (gamma(d + 2) + 2 * U32) * reach
            relative = 2 * delta + 8 * U32 * reach + 2 * gamma(count + 8)
            spread = vabs[:count].max(axis=0)  # [G, D]
            out_limit[m] = relative[:, None] * np.repeat(spread, heads // groups, axis=0) + TINY
            lse_limit[m] = delta + 8 * U32 * reach + gamma(8 * (count + 1)) + 4 * U32 * (np.abs(truth[1][m]) + 1)
        derivation = "(2δ + 8u·r + 2γ_(L+8))·max|v|, δ = (γ_(D+2) + 2u)·r, r = max_j |q|·|k_j|/√D"
        return [ErrorBound(out_limit, derivation), ErrorBound(lse_limit, "δ + 8u·r + γ_(8L+8) + 4u·(|lse| + 1)")]

    def work(self, case: Case) -> Work:
        width = 2 if case["dtype"] == "f16" else 4
        cache = 2 * case["L"] * case["G"] * case["D"] * width
        return Work(cache + 8 * case["M"] * case["H"] * case["D"], 4 * case["M"] * case["H"] * case["L"] * case["D"])


OP = Attention()
