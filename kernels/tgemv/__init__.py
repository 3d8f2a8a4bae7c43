"""tgemv: ternary weights times int8 activations, exact in int32, then scaled.

    acc[m, n]    = Σ_k w[n, k] · q[m, k]           exact in int32 (per span where a scale is per span of a row)
    y[m, n]      = f32(acc[m, n]) · (ascale[m] · wscale[n or 0])   weight scales per tensor or row, ascale per token
    y[m, n]      = Σ_s f32(acc_s[m, n]) · (ascale[m, b or 0] · wscale[n, s or 0])   otherwise, s ascending

A span s is 256, 128 or 64 weights, as ``wscale`` says, and 256 where that has none; b is the block of 256 around it.
With ascale ``block32`` a sum is of 32, each with its scale of activations and that of the weights around it.

``w`` is packed (see ``kparity.ops.packing``): code = w + 1, 16 codes a word; a kernel may multiply codes and subtract
``qsum`` exactly once per span. With ``out = i32`` the accumulators themselves are the output.

Scales: a NaN makes every output of its span NaN, an infinity makes it infinite, or NaN where the sum is 0. A scale or a
product of two below 2^-126 may be flushed to 0; one beyond f32 is outside the domain.

ABI: w [N, Kp/16] u32, wscale [1] | [N] | [N, Kp/span] f32, q [M, Kp] i8, ascale [M, S] f32, qsum [M, S] i32 → y
[M, N] f32 | i32, with S = 1 (ascale ``token``), Kp/256 (``block256``) or Kp/32 (``block32``).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kparity.errors import WrongInput
from kparity.kernels.support import MANY, MODELS, ROWS, TAILS, TINY, U32, gamma, normal, spoil
from kparity.ops import packing
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

BLOCK = 64
GPU_LOADS = 8
"""Loads of 16 bytes per row that a work-item of the GPU text has under way at most: registers, 4 each."""
GPU_LOCAL = 24_576
"""Bytes of activations that a group of the GPU text keeps in local memory at most."""
TENSOR_M = 16
"""Rows of activations from which the CUDA text has tensor cores: half of the tokens of its tile."""
GPU_GROUPS = 132
"""Groups that fill a large GPU: its multiprocessors."""
GPU_FEW, GPU_MANY = 8_192, 65_536
"""Work-items below which rows are cut finer, and from which a work-item takes two rows."""
MAX_K = 131_072
"""Largest K for which 128·K <= 2^24, so that an accumulator is exact in f32 too."""
SPANS = {"block256": 256, "block128": 128, "block64": 64}
"""Weights that a scale within a row counts for."""
EXTREMES = {"zeros": (0, 0), "all_max": (1, 127), "all_min": (-1, -128), "opposed": (1, -128)}
"""Every weight and every activation of a kind of input."""


class Tgemv(Op):
    """Parameters: M rows of activations, N rows of weights, K, the spans of both scales, the output's type."""

    name = "tgemv"
    required = ("M", "N", "K")
    defaults: ClassVar[Mapping[str, Value]] = {"wscale": "tensor", "ascale": "token", "out": "f32"}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "wscale": ("tensor", "row", *SPANS),
        "ascale": tuple(ACTS),
        "out": ("f32", "i32"),
    }

    def check(self, case: Case) -> None:
        if case["K"] > MAX_K:
            raise WrongInput(f"tgemv: K is {case['K']}; above {MAX_K} an accumulator is no longer exact in f32")

    @staticmethod
    def blocks(case: Case) -> int:
        """Blocks of 256 weights in a padded row."""
        return padded(case["K"]) // 256

    @staticmethod
    def span(case: Case) -> int:
        """Weights that a scale within a row counts for, and 256 where there is none."""
        return SPANS.get(str(case["wscale"]), 256)

    @classmethod
    def summed(cls, case: Case) -> int:
        """Elements of a row that are summed before they are scaled, where there are scales within a row."""
        return 32 if case["ascale"] == "block32" else cls.span(case)

    @staticmethod
    def whole(case: Case) -> bool:
        """Whether a row is summed as a whole."""
        return case["out"] == "i32" or (case["wscale"] not in SPANS and case["ascale"] == "token")

    def spans(self, case: Case, wscale: Array, ascale: Array) -> Iterator[tuple[slice, Array, Array]]:
        """Of each span of a row: its columns, and its scales of weights [1 or N] and of activations [M, 1]."""
        span, step = self.span(case), self.summed(case)
        for start in range(0, padded(case["K"]), step):
            at = start // span
            of_weights = wscale[:, at] if case["wscale"] in SPANS else wscale
            of_rows = ascale[:, 0 if case["ascale"] == "token" else start // ACTS[case["ascale"]]]
            yield slice(start, start + step), of_weights, of_rows[:, None]

    def args(self, case: Case) -> tuple[Arg, ...]:
        m, n, kp = case["M"], case["N"], padded(case["K"])
        s = act_spans(case["ascale"], case["K"])
        scales = {"tensor": (1,), "row": (n,)}.get(str(case["wscale"]), (n, kp // self.span(case)))
        return (
            Arg("w", "u32", (n, kp // 16)),
            Arg("wscale", "f32", scales),
            Arg("q", "i8", (m, kp)),
            Arg("ascale", "f32", (m, s)),
            Arg("qsum", "i32", (m, s)),
            Arg("y", case["out"], (m, n), "out"),
        )

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        words, wscale, q, ascale, _qsum = inputs
        weights = packing.unpack(words, padded(case["K"])).astype(np.float32)
        m, n = case["M"], case["N"]
        # f32 products of these integers are exact in any order (K <= MAX_K), and the matrix product is fast.
        if self.whole(case):
            acc = q.astype(np.float32) @ weights.T
            if case["out"] == "i32":
                return [acc.astype(np.int32)]
            return [(acc.astype(dtype) * (ascale.astype(dtype) * wscale.astype(dtype))).astype(dtype)]
        y = np.zeros((m, n), dtype)
        for part, w_s, a_s in self.spans(case, wscale, ascale):
            acc = (q[:, part].astype(np.float32) @ weights[:, part].T).astype(dtype)
            y += acc * (a_s.astype(dtype) * w_s.astype(dtype))
        return [y]

    def defines(self, case: Case) -> dict[str, int | float]:
        lanes = self.lanes(case)
        return {
            "M": case["M"], "N": case["N"], "KP": padded(case["K"]), "WORDS": padded(case["K"]) // 16,
            "BLOCKS": self.blocks(case), "SPAN": 256 if self.whole(case) else self.span(case),
            "W_PER_BLOCK": int(case["wscale"] in SPANS), "W_PER_ROW": int(case["wscale"] == "row"),
            "A_PER_BLOCK": int(case["ascale"] == "block256"), "A_PER_32": int(case["ascale"] == "block32"),
            "OUT_I32": int(case["out"] == "i32"),
            "LANES": lanes, "ROWS": BLOCK // lanes, "TILE_M": self.tile_m(case), "BLOCK": BLOCK,
            "TENSOR": int(self.tensor(case)),
            **dict(zip(("GPU_BLOCK", "GPU_LANES", "TILE_N", "AHEAD"), self.gpu_tile(case), strict=True)),
        }  # fmt: skip

    @staticmethod
    def lanes(case: Case) -> int:
        """Work-items that share one row: a power of two, each with at least 16 bytes of weights."""
        lanes = 4
        while lanes < BLOCK and lanes * 2 * 4 <= padded(case["K"]) // 16:
            lanes *= 2
        return lanes

    @staticmethod
    def tile_m(case: Case) -> int:
        """Rows of activations that one work-item carries, so that a weight is decoded once for all of them."""
        return int(min(case["M"], 8))

    @classmethod
    def tensor(cls, case: Case) -> bool:
        """Whether the CUDA text multiplies on tensor cores: not where scales change within a row, whose sums of floats
        have an order that follows the work-items of the other text.
        """
        return case["M"] >= TENSOR_M and cls.whole(case)

    def launch(self, case: Case) -> Grid:
        rows = BLOCK // self.lanes(case)
        return Grid((ceil_div(case["N"], rows), ceil_div(case["M"], self.tile_m(case)), 1), BLOCK)

    @classmethod
    def gpu_tile(cls, case: Case) -> tuple[int, int, int, int]:
        """Geometry of the GPU text: work-items of a group, work-items that share rows, rows that they share, and loads
        of 16 bytes per row that each has under way.

        A row is cut so finely that a work-item needs few loads (they are all issued at once), and finer where there
        are too few rows to fill a large GPU. Where there are plenty, two rows share the activations.
        """
        chunks, tile_m, lanes = padded(case["K"]) // 64, cls.tile_m(case), 4
        if cls.tensor(case):  # 128 rows a group of matrix cores; 32, that share K, where these would be too few
            lanes, rows = (4, 4) if ceil_div(case["N"], 128) * ceil_div(case["M"], 32) >= GPU_GROUPS else (8, 2)
            steps, loads = ceil_div(chunks, lanes), min(2, ceil_div(chunks, lanes))
            return 128, lanes, rows, ceil_div(steps, ceil_div(steps, loads))
        while lanes < (128 if tile_m == 1 else 32) and lanes * 2 <= chunks:
            if ceil_div(chunks, lanes) <= GPU_LOADS and case["M"] * case["N"] * lanes >= GPU_FEW:
                break
            lanes *= 2
        many = ceil_div(case["M"], tile_m) * case["N"] * lanes >= GPU_MANY
        spanned = (
            case["wscale"] in SPANS or case["ascale"] != "token"
        )  # a sum per span and output: no registers for more
        steps, loads = ceil_div(chunks, lanes), GPU_LOADS if tile_m == 1 else 2
        loads = 1 if spanned and tile_m > 1 else max(1, min(loads, GPU_LOCAL // (64 * lanes * tile_m)))
        tile_n = 2 if many and (tile_m == 1 or not spanned) else 1
        return max(lanes, 128 if many else 64), lanes, tile_n, ceil_div(steps, ceil_div(steps, loads))

    def stages(self, case: Case, dialect: str) -> tuple[Stage, ...]:
        if dialect != "gpu":
            return super().stages(case, dialect)
        block, lanes, tile_n, _ = self.gpu_tile(case)
        groups = (ceil_div(case["N"], block // lanes * tile_n), ceil_div(case["M"], self.tile_m(case)), 1)
        return (Stage(self.name, Grid(groups, block)),)

    def variant(self, case: Case) -> str:
        weights = {"tensor": "", "row": "_wrow", "block256": "_wblock"}.get(str(case["wscale"]), f"_w{case['wscale']}")
        spans = weights + {"token": "", "block256": "_ablock", "block32": "_ablock32"}[str(case["ascale"])]
        return f"dp4a{spans}{'_i32' if case['out'] == 'i32' else ''}"

    def cases(self) -> list[Case]:
        small, tiled, wide, long = (1, 3, 257), (9, 33, 640), (2, 70, 2560), (1, 5, 4100)
        # 16401 rows, here and below: so many that the GPU text gives two to a work-item.
        plain = ((1, 1, 1), (1, 16_401, 256), small, (3, 17, 768), tiled, (33, 8_401, 300), wide, long)
        # Tails of tokens, rows and K on matrix cores, whose waves share K here, and have rows of their own above.
        crowd = (19, 45, 1100)
        found = self.every("M N K", (*plain, (16, 3, 40), crowd, (65, 32, 2560)))
        found += self.every("M N K", (small, tiled, crowd), wscale="row")
        found += [self.case(M=1, N=16_401, K=300, wscale="row", ascale="block256")]
        found += self.every("M N K", (small, tiled, crowd, long), out="i32")
        both = ("block256", "block256")
        spanned = (
            (small, ("tensor", "block256"), ("block256", "token"), ("block64", "block32")),
            (tiled, ("block128", "block256"), ("block128", "block32"), both),
            (wide, ("tensor", "block256"), ("block64", "token"), both),
        )
        found += self.every("M N K wscale ascale", [(*shape, *span) for shape, *spans in spanned for span in spans])
        integers = [self.case(M=17, N=9, K=300, ascale=each, out="i32") for each in self.choices["ascale"]]
        return [*found, *integers, self.case(M=3, N=17, K=768, wscale="block256", ascale="block256", out="i32")]

    def more(self) -> list[Case]:
        # A step of every model, scales as I2_S (one per tensor) and TQ2_0 (one per block) have them.
        steps = self.every("M N K", ((1, *shape) for model in MODELS.values() for shape in model.gemvs))
        spanned = ((1, 640, 2560, "token"), (1, 2560, 2560, "block256"), (1, 3200, 8640, "block256"))
        blocks = self.every("M N K ascale", spanned, wscale="block256")
        chunks = [(64, 1536, 1536), (64, 640, 2560), (64, 2560, 2560), (32, 2560, 6912), (33, 3200, 8640)]
        # Every combination of options, for one row, a tile of rows and a tile with a tail.
        options = self.every("M N K", ((1, 71, 900), (11, 71, 900)), **self.choices)
        rows = self.every("M N K", ((m, 70, 640) for m in ROWS))
        rows += self.every("M N K", ((m, 70, 640) for m in ROWS[1::2]), wscale=("row", "block256"), ascale="block256")
        lengths = [(2, n, 512) for n in (*TAILS, 4097)]
        lengths += [(2, 9, k) for k in (*TAILS, 1500, 4096, 8640, MAX_K - 1, MAX_K)]
        plain = [*steps, *blocks, *self.every("M N K", (*chunks, (9, 8640, 3200))), *options, *rows]
        plain += self.every("M N K", lengths)
        long = ((2, 9, k) for k in (*TAILS[-5:], 8640, MAX_K))
        plain += self.every("M N K", long, wscale="block256", ascale="block256")
        # The spans of Q2_0 and PTQ1_0; 2496 is a multiple of 64 only.
        narrow = ((1, 4096, 4096), (2, 16_401, 320), (1, 71, 2496), *((2, 9, k) for k in (64, 192, 8640)))
        plain += self.every("M N K", narrow, wscale=("block128", "block64"))
        plain += self.every("M N K", ((m, 70, 640) for m in ROWS[1::2]), wscale="block64", ascale="block256")
        by_32 = (
            (1, 4096, 4096, "block64"),
            (2, 70, 2560, "block128"),
            (33, 320, 1100, "tensor"),
            (2, 9, 320, "block256"),
        )
        plain += self.every("M N K wscale", by_32, ascale="block32")
        others = (
            (1, 3, 257, "block256", "block256"),
            (1, 3, 257, "block64", "block256"),
            (9, 33, 640, "block128", "token"),
            (9, 33, 640, "tensor", "block256"),
            (9, 33, 640, "block256", "token"),
        )
        return plain + self.every("M N K wscale ascale", (*others, (2, 70, 2560, "block256", "token")))

    def kinds(self, case: Case) -> tuple[str, ...]:
        kinds = ("random", "all_max", "opposed", "one_hot", "all_min", "zeros", "alternating", "outlier")
        weights = case["N"] * case["K"]
        if weights >= 4 * MANY:
            return kinds[:2] if weights >= 32 * MANY else kinds[:4]
        return (*kinds, "unit", "tiny", "nan", "infinite") if case["out"] == "f32" else kinds

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        m, n, k = case["M"], case["N"], case["K"]
        # Types of files with such spans can hold +2.
        weights = rng.integers(-1, 3 if self.span(case) < 256 else 2, (n, k), np.int8)
        values = rng.integers(-128, 128, (m, k), np.int8)
        if kind in EXTREMES:  # the largest accumulators of either sign
            weights[:], values[:] = EXTREMES[kind]
        elif kind == "one_hot":  # y is a column of w: a fingerprint of the layout
            values[:] = np.arange(k) == (k - 1 - 7 * np.arange(m)[:, None]) % k
        elif kind == "alternating":
            weights[:] = np.where(np.arange(k) % 2, -1, 1)
            values[:] = np.where((np.arange(k) + np.arange(m)[:, None]) % 2, -127, 127)
        elif kind == "outlier":
            values //= 100
            values[:, -1] = 127
        q = np.zeros((m, padded(k)), np.int8)
        q[:, :k] = values
        spans = act_spans(case["ascale"], k)
        ascale = (np.abs(normal(rng, m, spans)) + 0.01).astype(np.float32)
        shape = self.args(case)[1].shape
        wscale = (np.abs(normal(rng, *shape)) + 0.01).astype(np.float32)
        if kind == "unit":
            ascale[:], wscale[:] = 1, 1
        elif kind == "tiny":
            ascale *= np.float32(10.0) ** rng.integers(-40, -30, ascale.shape).astype(np.float32)
        elif kind in ("nan", "infinite"):
            bad = np.nan if kind == "nan" else np.inf
            spoil(ascale, bad)
            if case["wscale"] != "tensor":
                spoil(wscale.reshape(n, -1), bad)
        qsum = q.reshape(m, spans, -1).sum(axis=-1, dtype=np.int32)
        return [packing.pack(weights), wscale, q, ascale, qsum]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        if case["out"] == "i32":
            return [ErrorBound(None, "integers: every bit")]
        words, wscale, q, ascale, _qsum = inputs
        if (wscale == 1).all() and (ascale == 1).all():
            return [ErrorBound(np.zeros(truth[0].shape), "unit scales: the accumulator itself, exact in f32")]
        if self.whole(case):
            limit = (4 * U32 + self._flushed(ascale, wscale)) * np.abs(truth[0]) + TINY
            return [ErrorBound(limit, "exact accumulator, then 2 roundings: 2 ULP <= 4u·|y|; below 2^-126 flushed")]
        weights = packing.unpack(words, padded(case["K"])).astype(np.float32)
        n = padded(case["K"]) // self.summed(case) + 2
        limit = np.zeros((case["M"], case["N"]))
        for part, w_s, a_s in self.spans(case, wscale, ascale):  # |A||x| of the sum over spans, whose terms are exact
            acc = np.abs(q[:, part].astype(np.float32) @ weights[:, part].T).astype(np.float64)
            scales = np.abs(a_s.astype(np.float64) * w_s)
            limit += acc * scales * (gamma(n) + self._flushed(a_s, w_s)) + TINY
        return [ErrorBound(limit, f"γ_{n}·Σ_s|acc_s·scale_s|: exact accumulators, {n - 2} spans; below 2^-126 flushed")]

    @staticmethod
    def _flushed(*scales: Array) -> Array:
        """The share of a term that is lost where a scale, or the product of both, is flushed below 2^-126."""
        wide = [np.abs(scale.astype(np.float64)) for scale in scales]
        with np.errstate(divide="ignore"):
            lost: Array = np.minimum(TINY / (wide[0] * wide[1]) + TINY / wide[0] + TINY / wide[1], 1)
        return lost

    def work(self, case: Case) -> Work:
        kp = padded(case["K"])
        moved = case["N"] * kp // 4 + case["M"] * kp + 4 * case["M"] * case["N"]
        return Work(moved, 2 * case["M"] * case["N"] * case["K"])


OP = Tgemv()
