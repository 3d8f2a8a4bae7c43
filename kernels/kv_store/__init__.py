"""kv_store: new keys and values into their places in the cache.

    kcache[pos[m], :] = k[m, :],  vcache[pos[m], :] = v[m, :]    where 0 <= pos[m] < L; other rows are left as they are

Rows of a padded prefill chunk carry pos = -1 and are not stored; no position occurs twice. An f16 cache rounds to
nearest even: from 65520 on to an infinity, below 2^-14 to subnormals; a NaN stays one, whatever its bits.

ABI: k [M, D] f32, v [M, D] f32, pos [M] i32 → kcache [L, D] f32|f16 (inout), vcache [L, D] (inout), with D = KV heads ×
head size, even.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kparity.errors import WrongInput
from kparity.kernels.support import MODELS, ROWS, normal
from kparity.ops.spec import Arg, Array, Case, ErrorBound, Grid, Op, Value, Work, ceil_div, span

EDGES = (
    *(0.0, 65504.0, 65519.996, 65520.0, 1e6, 3e38, np.inf, np.nan),  # the largest f16, and where rounding passes it
    *(2.0**-14, 2.0**-14 * (1 - 2.0**-11), 2.0**-24, 2.0**-25, 2.0**-25 * 1.0001, 3 * 2.0**-25, 2.0**-26, 1e-30),
    *(
        1 + 2.0**-11,
        1 + 3 * 2.0**-11,
        1 + 2.0**-11 * 1.0001,
        2.0**-15 + 2.0**-25,
    ),  # ties of normal and subnormal numbers
)
"""Values at which the rounding to f16 changes its mind."""


class KvStore(Op):
    """Parameters: M rows, L positions of the cache, D elements a position, dtype of the cache."""

    name = "kv_store"
    required = ("M", "L", "D")
    named_by = ("dtype",)
    defaults: ClassVar[Mapping[str, Value]] = {"dtype": "f16"}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"dtype": ("f16", "f32")}

    def check(self, case: Case) -> None:
        if case["D"] % 2:
            raise WrongInput(f"kv_store: D is {case['D']}, expected an even number")

    def args(self, case: Case) -> tuple[Arg, ...]:
        rows, cache = (case["M"], case["D"]), (case["L"], case["D"])
        return (
            Arg("k", "f32", rows),
            Arg("v", "f32", rows),
            Arg("pos", "i32", (case["M"],)),
            Arg("kcache", case["dtype"], cache, "inout"),
            Arg("vcache", case["dtype"], cache, "inout"),
        )

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        k, v, pos = inputs[:3]
        caches = [cache.copy() for cache in inputs[3:]]
        for cache, rows in zip(caches, (k, v), strict=True):
            for m, at in enumerate(pos):
                if 0 <= at < case["L"]:
                    with np.errstate(over="ignore"):  # an infinity is the specified result
                        cache[at] = rows[m].astype(cache.dtype)
        return caches

    def constants(self, case: Case) -> dict[str, int | float]:
        return {"F16": int(case["dtype"] == "f16")}

    def launch(self, case: Case) -> Grid:
        return Grid(span(ceil_div(case["M"] * case["D"] // 2, 64)), 64)

    def cases(self) -> list[Case]:
        shapes = ((1, 4, 2), (3, 9, 66), (33, 64, 128))
        return self.every("M L D", shapes, dtype=("f16", "f32"))

    def more(self) -> list[Case]:
        shapes = [(m, 70, model.kv_heads * model.head) for model in MODELS.values() for m in (1, 64)]
        shapes += [(m, 70, 66) for m in ROWS]
        shapes += [(2, 5, d) for d in (2, 4, 62, 64, 126, 128, 130, 254, 258)]
        shapes += [(5, cap, 10) for cap in (1, 2, 31, 33, 4096)]
        return self.in_turn("M L D", shapes, "dtype", ("f16", "f16", "f32"))

    def kinds(self, case: Case) -> tuple[str, ...]:
        return ("random", "beyond", "extreme")

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        m, cap, d = case["M"], case["L"], case["D"]
        dtype = np.float16 if case["dtype"] == "f16" else np.float32
        pos = rng.permutation(max(cap, m))[:m].astype(np.int32)
        pos[pos >= cap] = -1
        if m > 1:
            pos[m // 2] = -1
        if kind == "beyond":
            pos[::2] = np.resize(np.array([cap, -2, cap + 7, 2**31 - 1, -(2**31)], np.int32), len(pos[::2]))
        caches = [normal(rng, cap, d).astype(dtype) for _ in range(2)]
        k, v = normal(rng, m, d), normal(rng, m, d)
        if kind == "extreme":
            edges = np.array(EDGES, np.float32)
            at = rng.integers(0, len(edges), (2, m, d))
            k, v = edges[at[0]], -edges[at[1]]
            pos[0] = 0 if m == 1 else pos[0]
        return [k, v, pos, *caches]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        return [ErrorBound(None, "a copy, or a rounding to nearest even: every bit")] * 2

    def work(self, case: Case) -> Work:
        width = 2 if case["dtype"] == "f16" else 4
        return Work(2 * case["M"] * case["D"] * (4 + width), 0)


OP = KvStore()
