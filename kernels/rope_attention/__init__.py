"""rope_attention: rope_store, then attention over the caches that it left, in one launch, for one row.

    q, kcache, vcache = rope_store(qkv, pos, freq; kcache, vcache)
    out, lse          = attention(q, kcache, vcache, pos)

More rows than one are such launches one after the other; the GPU text takes one. There every group turns its own
queries and the newest key for itself. The caches have the bits that the two launches give, and so have out and lse
where a compiler fuses products alike. Other texts there are none.

ABI: qkv [M, (H + 2G)·D] f32, pos [M] i32, freq [R/2] f32 → kcache [L, G·D] f32|f16 (inout), vcache [L, G·D] (inout),
out [M, H, D] f32, lse [M, H] f32. D and R are even.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kparity import ops
from kparity.errors import WrongInput
from kparity.kernels.support import MODELS
from kparity.ops.spec import Arg, Array, Case, ErrorBound, Grid, Op, Stage, Value, Work

STORE = ("M", "H", "G", "D", "L", "R", "mode", "theta", "scale", "dtype")
ATTEND = ("M", "H", "G", "D", "L", "dtype")
"""Parameters of the two launches that it stands for."""


class RopeAttention(Op):
    """Parameters: M rows, H query heads, G key-value heads, D head size, L cache positions, R rotating, mode, dtype.

    ``theta`` and ``scale`` give the frequencies of the test inputs.
    """

    name = "rope_attention"
    required = ("M", "H", "G", "D", "L")
    named_by = ("mode", "dtype")
    defaults: ClassVar[Mapping[str, Value]] = {
        "mode": "neox", "theta": 10000.0, "scale": 1.0, "R": 0, "dtype": "f16",
    }  # fmt: skip
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"mode": ("neox", "interleaved"), "dtype": ("f16", "f32")}

    def case(self, **params: Value) -> Case:
        return super().case(**{**params, "R": params.get("R") or params.get("D", 0)})

    def check(self, case: Case) -> None:
        self.parts(case)

    @staticmethod
    def parts(case: Case) -> tuple[Case, Case]:
        """The cases of the two launches that it stands for."""
        store, attend = ({name: case[name] for name in names} for names in (STORE, ATTEND))
        return ops.get("rope_store").case(**store), ops.get("attention").case(**attend)

    def args(self, case: Case) -> tuple[Arg, ...]:
        store, attend = (ops.get(part.op).args(part) for part in self.parts(case))
        return *store[:3], *store[4:], *attend[-2:]

    def _rows(self, case: Case, inputs: Sequence[Array]) -> list[tuple[Case, list[Array]]]:
        """Each row as a case of its own with its inputs, but the caches."""
        one = self.case(**{**dict(case.params), "M": 1})
        return [(one, [inputs[0][at : at + 1], inputs[1][at : at + 1], inputs[2]]) for at in range(case["M"])]

    def _stored(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike) -> tuple[list[Array], list[Array]]:
        """Outputs of the first launch for one row, and the inputs of the second."""
        store, attend = self.parts(case)
        found = ops.get("rope_store").reference(store, inputs, dtype)
        shape = ops.get("attention").args(attend)[1].shape
        return found, [found[0], found[1].reshape(shape), found[2].reshape(shape), inputs[1]]

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        caches, outputs = list(inputs[3:5]), []
        for one, given in self._rows(case, inputs):
            found, then = self._stored(one, [*given, *caches], dtype)
            caches = found[1:]
            outputs.append(ops.get("attention").reference(self.parts(one)[1], then, dtype))
        return [*caches, *(np.concatenate(each) for each in zip(*outputs, strict=True))]

    def defines(self, case: Case) -> dict[str, int | float]:
        store, attend = (ops.get(part.op).defines(part) for part in self.parts(case))
        return {**attend, "ROPED": 1, "R": store["R"], "NEOX": store["NEOX"]}

    def launch(self, case: Case) -> Grid:
        return self.stages(case, "gpu")[0].launch

    def stages(self, case: Case, dialect: str) -> tuple[Stage, ...]:
        if case["M"] != 1 and dialect == "gpu":
            raise WrongInput(f"rope_attention: M is {case['M']}, a launch takes one row")
        return ops.get("attention").stages(self.parts(case)[1], dialect)

    def scratch(self, case: Case, dialect: str) -> tuple[Arg, ...]:
        return ops.get("attention").scratch(self.parts(case)[1], dialect)

    def cases(self) -> list[Case]:
        shapes = (
            (1, 1, 1, 2, 1, 2, "neox", "f16"),
            (1, 4, 2, 64, 40, 64, "interleaved", "f16"),
            (1, 5, 1, 64, 129, 32, "neox", "f32"),
            (1, 6, 2, 34, 9, 34, "interleaved", "f32"),
            (1, 8, 1, 80, 33, 80, "neox", "f16"),
            (1, 8, 2, 64, 1000, 64, "neox", "f16"),  # keys in parts
            (1, 6, 3, 34, 700, 16, "interleaved", "f32"),
            (1, 20, 5, 128, 600, 128, "neox", "f16"),
        )
        return self.every("M H G D L R mode dtype", shapes)

    def more(self) -> list[Case]:
        models = [(1, model.heads, model.kv_heads, model.head, cap, model.theta)
                  for model in MODELS.values() for cap in (130, 4096)]  # fmt: skip
        lengths = ((1, 4, 2, 64, cap) for cap in (2, 31, 32, 33, 127, 128, 257, 511, 512, 513, 1025))
        return [*self.every("M H G D L theta", models), *self.every("M H G D L", lengths, dtype=self.choices["dtype"])]

    def kinds(self, case: Case) -> tuple[str, ...]:
        return ("random", "beyond", "zeros", "first", "last", "nan") if case["L"] < 2000 else ("random", "last")

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        found = ops.get("rope_store").inputs(self.parts(case)[0], rng, "random" if kind in ("first", "last") else kind)
        if kind in ("first", "last"):
            found[1][:] = 0 if kind == "first" else case["L"] - 1
        return found

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        caches, limits, d, groups = list(inputs[3:5]), list[list[Array]](), case["D"], case["G"]
        moved = [np.zeros(each.shape) for each in caches]
        for one, given in self._rows(case, inputs):
            store, attend = self.parts(one)
            found, then = self._stored(one, [*given, *caches], np.float64)
            turned, *stored = ops.get("rope_store").bounds(store, [*given, *caches], found)
            assert turned.limit is not None and stored[0].limit is not None
            moved[0] = np.maximum(moved[0], stored[0].limit)
            caches = found[1:]
            outputs = ops.get("attention").reference(attend, then)
            out, lse = (each.limit for each in ops.get("attention").bounds(attend, then, outputs))
            assert out is not None and lse is not None
            count = max(min(int(given[1][0]) + 1, case["L"]), 0)
            # A score moves with the query and with the newest key.
            keys, spread = (each[:count].reshape(count, groups, d).swapaxes(0, 1) for each in (caches[0], moved[0]))
            values = np.abs(caches[1][:count].astype(np.float64)).max(axis=0, initial=0).reshape(groups, 1, d)
            of_query, query = (each.reshape(groups, -1, d) for each in (turned.limit[0], np.abs(found[0][0])))
            reach = of_query @ (np.abs(keys.astype(np.float64)) + spread).swapaxes(1, 2)
            more = (reach + query @ spread.swapaxes(1, 2)).max(axis=-1, initial=0)[..., None] / np.sqrt(d)
            limits.append([out + (2 * more * values).reshape(out.shape), lse + more.reshape(lse.shape)])
        of_out, of_lse = (np.concatenate(each) for each in zip(*limits, strict=True))
        told = "attention's, and {}, e = max_j (δq·|k_j| + |q|·δk_j)/√D with rope_store's δq and δk"
        return [
            ErrorBound(moved[0], "rope_store's"), ErrorBound(None, "rope_store's: every bit"),
            ErrorBound(of_out, told.format("2e·max|v|")), ErrorBound(of_lse, told.format("e")),
        ]  # fmt: skip

    def work(self, case: Case) -> Work:
        store, attend = (ops.get(part.op).work(part) for part in self.parts(case))
        between = 8 * case["M"] * case["H"] * case["D"]  # queries, which no launch hands to another
        return Work(store.bytes + attend.bytes - between, store.flops + attend.flops)


OP = RopeAttention()
