"""ggml's products, gathered rows and copies, over every type of weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kparity.errors import WrongInput
from kparity.kernels.support import TINY
from kparity.ops.spec import ROUNDOFF, Arg, Array, Case, ErrorBound, Work
from kparity_ggml.formats import BLOCK, FLOATS, RUN, decode, encode, int8_deviation, int8_rounded, row_bytes
from kparity_ggml.library import Graph
from kparity_ggml.op import GgmlOp, gamma, normal, sizes

U16 = ROUNDOFF["f16"]
KINDS = tuple([*FLOATS, *BLOCK])
SPARE = 32
"""Elements behind each row of activations, where a view skips some."""


def weights(name: str, kind: str, *shape: int) -> Arg:
    """An argument of weights [..., rows, K]: of floats, or of bytes."""
    if kind in FLOATS:
        return Arg(name, kind, shape)
    return Arg(name, "i8", (*shape[:-1], row_bytes(kind, shape[-1])))


def require_blocks(kind: str, k: int) -> None:
    """Raise WrongInput unless rows are whole blocks."""
    if kind in BLOCK and k % BLOCK[kind][0]:
        raise WrongInput(f"rows of {kind} are whole blocks of {BLOCK[kind][0]}; K is {k}")


class MulMat(GgmlOp):
    """``ggml_mul_mat``: y[B·R, M, N] = x[B·R, M, K] · a[B, N, K]ᵀ, where a's batches serve R of x's each.

    ``layout``: plain; rows (a is a view from its second row on); gaps (x is a view whose rows have a gap between them);
    permuted (x is [M, B·R, K] in memory). ``prec`` is what is asked of the arithmetic: free, nothing; sums, that
    they are f32 (``ggml_prec_set_acc``); f32, that activations are not rounded below it either (``ggml_prec_set_src``,
    which takes the wish for them, and not for the weights).
    """

    name, required, named_by = "ggml_mul_mat", ("M", "N", "K"), ("type",)
    defaults = {"type": "f32", "B": 1, "R": 1, "layout": "plain", "prec": "sums"}  # noqa: RUF012
    choices = dict(type=KINDS, layout=("plain", "rows", "gaps", "permuted"), prec=("free", "sums", "f32"))  # noqa: RUF012

    def check(self, case: Case) -> None:
        require_blocks(case["type"], case["K"])

    def variant(self, case: Case) -> str:
        return str(case["type"]).lower()

    def args(self, case: Case) -> tuple[Arg, ...]:
        m, n, k, b, r, layout = (case[name] for name in ("M", "N", "K", "B", "R", "layout"))
        x = (m, b * r, k) if layout == "permuted" else (b * r, m, k + SPARE * (layout == "gaps"))
        return (
            weights("a", case["type"], b, n + 2 * (layout == "rows"), k),
            Arg("x", "f32", x), Arg("y", "f32", (b * r, m, n), "out"),
        )  # fmt: skip

    def graph(self, graph: Graph, case: Case) -> None:
        m, n, k, b, r, layout = (case[name] for name in ("M", "N", "K", "B", "R", "layout"))
        kind = case["type"]
        row = row_bytes(kind, k) if kind in BLOCK else k * np.dtype(FLOATS[kind]).itemsize
        a = graph.tensor("a", kind, k, n + 2 * (layout == "rows"), b)
        x = graph.tensor("x", "f32", *sizes(self.args(case)[1].shape))
        if layout == "rows":
            a = graph.view(a, (k, n, b, 1), (row, row * (n + 2), row * (n + 2) * b), row)
        if layout == "gaps":
            full = 4 * (k + SPARE)
            x = graph.view(x, (k, m, b * r, 1), (full, full * m, full * m * b * r))
        if layout == "permuted":
            x = graph.swapped(x)
        y = graph.node("y", "mul_mat", a, x)
        if case["prec"] != "free":
            graph.exact(y, *(1,) if case["prec"] == "f32" else ())

    def _operands(self, case: Case, inputs: Sequence[Array]) -> tuple[Array, Array]:
        """fp64 weights [B·R, N, K] and f32 activations [B·R, M, K]."""
        a, x, layout = decode(case["type"], inputs[0]), inputs[1], case["layout"]
        a = a[:, 1:-1] if layout == "rows" else a
        x = x[..., : case["K"]] if layout == "gaps" else x.swapaxes(0, 1) if layout == "permuted" else x
        return np.repeat(a, case["R"], 0), x

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        """In f32 with what ``prec`` allows: weights in f16, activations in int8 or f16, sums in f16."""
        a, x = self._operands(case, inputs)
        if np.dtype(dtype) == np.float32:
            a = a.astype(np.float16)
        if np.dtype(dtype) == np.float32 and case["prec"] != "f32":
            x = int8_rounded(x, RUN[case["type"]]) if case["type"] in RUN else x
            x = x.astype(np.float16).astype(np.float32) if case["type"] in FLOATS else x
        if np.dtype(dtype) == np.float32 and case["prec"] == "free":
            total = np.zeros((*x.shape[:-1], a.shape[1]), np.float16)
            for at in range(case["K"]):
                total = (total + x[..., at, None] * a[:, None, :, at].astype(np.float32)).astype(np.float16)
            return [total.astype(dtype)]
        return [np.matmul(x.astype(dtype), a.astype(dtype).swapaxes(1, 2))]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        a, x = self._operands(case, inputs)
        size_a, size_x = np.abs(a).swapaxes(1, 2), np.abs(x.astype(np.float64))
        limit = gamma(case["K"] + 8) * (size_x @ size_a) + TINY
        half_x, half_a = (np.abs(each - each.astype(np.float16)) for each in (size_x, size_a))
        if case["prec"] == "f32":
            return [ErrorBound(limit + size_x @ half_a, "γ(K + 8)·|x||a| + |x||δa|: sums in f32, weights in f16")]
        rounded = np.maximum(half_x, int8_deviation(x, RUN[case["type"]])) if case["type"] in RUN else half_x
        limit = limit * (1 + 2.0**-8) + rounded @ size_a + (size_x + rounded) @ half_a
        why = "γ(K + 8)·|x||a| + |δx||a| + |x||δa|: f16 operands or int8 activations"
        if case["prec"] == "free":
            limit, why = limit + case["K"] * (U16 * (size_x @ size_a) + 2.0**-25), f"{why}, K·u16·|x||a|: sums in f16"
        return [ErrorBound(limit, why)]

    def kinds(self, case: Case) -> tuple[str, ...]:
        return ("whole", "random", "one_hot") if case["layout"] == "plain" and case["B"] == 1 else ("whole", "random")

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        """whole: activations that int8 and f16 hold exactly, so that only the sums may err; one_hot: weights alone."""
        a, x, _ = self.args(case)
        rows = a.shape[:-1]
        data = encode(case["type"], normal(rng, *rows, case["K"]) * np.float32(0.05))
        if kind == "random":
            return [data, normal(rng, *x.shape)]
        values = rng.integers(-127, 128, x.shape).astype(np.float32)
        values[..., ::32] = 127
        if kind == "one_hot":
            values[:] = 0
            at = rng.integers(0, case["K"], x.shape[:-1])
            np.put_along_axis(values, at[..., None], 127, -1)
        return [data, values]

    def work(self, case: Case) -> Work:
        flops = 2 * case["M"] * case["N"] * case["K"] * case["B"] * case["R"]
        return Work(super().work(case).bytes, flops)

    def cases(self) -> list[Case]:
        return self.every("M N K", [(1, 33, 512), (8, 5, 256), (9, 33, 256)], type=KINDS)

    def more(self) -> list[Case]:
        rows = [(m, 33, 512) for m in (2, 3, 7, 8, 9, 16, 33, 64, 512)]
        tall = [(1, n, k) for n in (1, 127) for k in (256, 2560)]
        tails = [(m, 5, k) for m in (1, 9) for k in (1, 31, 77, 255, 1025)]
        return [
            *self.every("M N K", [*rows, *tall], type=KINDS),
            *self.every("M N K", tails, type=tuple(FLOATS)),
            *self.every("M N K", [(1, 33, 512), (9, 33, 512)], type=KINDS, layout=("rows", "gaps", "permuted")),
            *self.every("M N K B R", [(1, 17, 256, 2, 3), (9, 17, 256, 2, 3)], type=KINDS),
            *self.every("M N K B R", [(5, 17, 256, 3, 2)], type=KINDS, layout="permuted"),
            *self.every("M N K", [(1, 33, 512), (8, 33, 512), (9, 33, 512)], type=KINDS, prec=("free", "f32")),
        ]


class GetRows(GgmlOp):
    """``ggml_get_rows``: y[T, K], the rows ids[T] of a[V, K], decoded."""

    name, required, named_by = "ggml_get_rows", ("V", "T", "K"), ("type",)
    defaults = {"type": "f32"}  # noqa: RUF012
    choices = {"type": KINDS}  # noqa: RUF012
    check, variant = MulMat.check, MulMat.variant

    def args(self, case: Case) -> tuple[Arg, ...]:
        v, t, k = case["V"], case["T"], case["K"]
        return (weights("a", case["type"], v, k), Arg("ids", "i32", (t,)), Arg("y", "f32", (t, k), "out"))

    def graph(self, graph: Graph, case: Case) -> None:
        a = graph.tensor("a", case["type"], case["K"], case["V"])
        graph.node("y", "get_rows", a, graph.tensor("ids", "i32", case["T"]))

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        return [decode(case["type"], inputs[0])[inputs[1]].astype(dtype)]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        return [decoded(case["type"], truth[0])]

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        ids = rng.integers(0, case["V"], case["T"]).astype(np.int32)
        ids[-1] = case["V"] - 1
        return [encode(case["type"], normal(rng, case["V"], case["K"])), ids]

    def cases(self) -> list[Case]:
        return self.every("V T K", [(65, 1, 256), (33, 7, 512)], type=KINDS)

    def more(self) -> list[Case]:
        return self.every("V T K", [(3, 65, 1), (9, 5, 77), (1000, 33, 31)], type=tuple(FLOATS))


def decoded(kind: str, truth: Array) -> ErrorBound:
    """Floats to the bit; of blocks the product of scale and code, which f32 rounds three times at most."""
    if kind in FLOATS:
        return ErrorBound(np.zeros(truth.shape), "0: every value is an f32")
    return ErrorBound(3 * ROUNDOFF["f32"] * np.abs(truth) + TINY, "3·u·|y|: scale times code in f32")


class Cpy(GgmlOp):
    """``ggml_cpy`` of a[H, T, K]. ``to``: f32 or f16, of whatever ``type``; of f32 also a quantised type, from which a
    second copy brings it back. ``layout`` permuted: [T, H, K] in memory.
    """

    name, required, named_by = "ggml_cpy", ("H", "T", "K"), ("type", "to")
    defaults = {"type": "f32", "to": "f32", "layout": "plain"}  # noqa: RUF012
    choices = {"type": KINDS, "to": KINDS, "layout": ("plain", "permuted")}  # noqa: RUF012

    def check(self, case: Case) -> None:
        for name in ("type", "to"):
            require_blocks(case[name], case["K"])
        if case["to"] in BLOCK and case["type"] != "f32":
            raise WrongInput(f"ggml_cpy: to={case['to']} is for type=f32")

    def variant(self, case: Case) -> str:
        return f"{case['type']}_{case['to']}".lower()

    def args(self, case: Case) -> tuple[Arg, ...]:
        shape = (case["H"], case["T"], case["K"])
        stored = (shape[1], shape[0], shape[2]) if case["layout"] == "permuted" else shape
        result = case["to"] if case["to"] in FLOATS else "f32"
        return (weights("a", case["type"], *stored), Arg("y", result, shape, "out"))

    def scratch(self, case: Case, dialect: str) -> tuple[Arg, ...]:
        """The quantised values, on their way."""
        if case["to"] in FLOATS:
            return ()
        return (weights("blocks", case["to"], case["H"], case["T"], case["K"]),)

    def graph(self, graph: Graph, case: Case) -> None:
        shape = (case["K"], case["T"], case["H"])
        stored = (shape[0], shape[2], shape[1]) if case["layout"] == "permuted" else shape
        a = graph.tensor("a", case["type"], *stored)
        a = graph.swapped(a) if case["layout"] == "permuted" else a
        if case["to"] in BLOCK:
            a = graph.copied(a, graph.tensor("blocks", case["to"], *shape))
        graph.copied(a, graph.tensor("y", case["to"] if case["to"] in FLOATS else "f32", *shape))

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        """In f32 of a quantised type: what ggml's own quantiser would give."""
        a = decode(case["type"], inputs[0])
        a = a.swapaxes(0, 1) if case["layout"] == "permuted" else a
        if case["to"] == "f16":
            return [a.astype(np.float16)]
        if case["to"] in BLOCK and np.dtype(dtype) == np.float32:
            a = decode(case["to"], encode(case["to"], a))
        return [a.astype(dtype)]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        if case["to"] == "f16":
            return [ErrorBound(None, "every bit: rounding to nearest even has one result")]
        if case["to"] in FLOATS:
            return [decoded(case["type"], truth[0])]
        runs = truth[0].reshape(*truth[0].shape[:-1], -1, 32)
        step = np.abs(runs).max(-1, keepdims=True) / (127 if case["to"] == "q8_0" else 8)
        cut = np.where((np.abs(runs) > 7.4 * step) & (case["to"] == "q4_0"), step, step / 2)
        limit = cut * (1 + 2.0**-10) + np.abs(runs) * 2.0**-10 + TINY
        why = "d/2, d at the end that q4_0 lacks, and the scale's rounding to f16"
        return [ErrorBound(limit.reshape(truth[0].shape), why)]

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        a, _ = self.args(case)
        return [encode(case["type"], normal(rng, *a.shape[:-1], case["K"]))]

    def cases(self) -> list[Case]:
        return self.every("H T K", [(2, 3, 256)], type=KINDS, layout="plain") + self.more()

    def more(self) -> list[Case]:
        odd = [(1, 1, 1), (3, 5, 77), (2, 7, 255)]
        return [
            *self.every("H T K", odd, type=tuple(FLOATS), to=tuple(FLOATS), layout=("plain", "permuted")),
            *self.every("H T K", [(1, 1, 32), (3, 5, 96), (2, 7, 1024)], to=("q8_0", "q4_0")),
        ]


MUL_MAT, GET_ROWS, CPY = MulMat(), GetRows(), Cpy()
