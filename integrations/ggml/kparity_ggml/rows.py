"""ggml's ops on rows of activations: norm, gates, sums, products, argmax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kparity.errors import WrongInput
from kparity.kernels.support import TINY, U32
from kparity.ops.spec import Arg, Array, Case, ErrorBound
from kparity_ggml.library import Graph
from kparity_ggml.op import GgmlOp, gamma, normal, sizes

SHAPES = [(1, 1), (1, 31), (3, 64), (2, 255), (7, 257), (1, 2560), (9, 1025), (33, 96), (1, 6912), (5, 4096)]
"""Rows and widths: tails of every vector and work-group, widths of models."""


class Rows(GgmlOp):
    """An op on rows x[T, D] of f32."""

    required = ("T", "D")
    reads: tuple[str, ...] = ("x",)

    def args(self, case: Case) -> tuple[Arg, ...]:
        shape = (case["T"], case["D"])
        return (*(Arg(name, "f32", shape) for name in self.reads), Arg("y", "f32", shape, "out"))

    def operands(self, graph: Graph, case: Case) -> list[int]:
        """The tensors of the inputs."""
        return [graph.tensor(arg.name, arg.dtype, *sizes(arg.shape)) for arg in self.inputs_of(case)]

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        return [normal(rng, *arg.shape) * np.float32(1e-3 if kind == "small" else 3) for arg in self.inputs_of(case)]

    def kinds(self, case: Case) -> tuple[str, ...]:
        return ("random", "small")

    def cases(self) -> list[Case]:
        return self.every("T D", SHAPES[:4])

    def more(self) -> list[Case]:
        return self.every("T D", SHAPES[4:])


class RmsNorm(Rows):
    """``ggml_rms_norm``: y = x / √(mean x² + eps)."""

    name = "ggml_rms_norm"
    defaults = {"eps": 1e-5}  # noqa: RUF012

    def graph(self, graph: Graph, case: Case) -> None:
        graph.node("y", "rms_norm", *self.operands(graph, case), case["eps"])

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        x, eps = inputs[0].astype(dtype), np.float32(case["eps"]).astype(dtype)
        return [x / np.sqrt(np.mean(x * x, -1, keepdims=True, dtype=dtype) + eps)]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        limit = (gamma(case["D"] + 3) / 2 + gamma(6)) * np.abs(truth[0]) + TINY
        return [ErrorBound(limit, "(γ(D + 3)/2 + γ(6))·|y|: a sum of D squares under a root")]

    def more(self) -> list[Case]:
        return [*super().more(), *self.every("T D", SHAPES[1:5], eps=(1e-6, 0.1))]


class Swiglu(Rows):
    """``ggml_swiglu_split``: y = a · sigmoid(a) · b."""

    name, reads = "ggml_swiglu", ("a", "b")

    def graph(self, graph: Graph, case: Case) -> None:
        graph.node("y", "swiglu_split", *self.operands(graph, case))

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        a, b = (each.astype(dtype) for each in inputs)
        return [a / (1 + np.exp(-a)) * b]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        limit = np.abs(truth[0]) * (8 + 4 * np.abs(inputs[0].astype(np.float64))) * U32 + TINY
        return [ErrorBound(limit, "(8 + 4|a|)·u·|y|: exp to 3 + 2|a| ULP")]


class ReluSqr(Rows):
    """``ggml_relu`` and ``ggml_sqr``, one after the other: BitNet's activation."""

    name = "ggml_relu_sqr"

    def scratch(self, case: Case, dialect: str) -> tuple[Arg, ...]:
        """What lies between them."""
        return (Arg("positive", "f32", (case["T"], case["D"])),)

    def graph(self, graph: Graph, case: Case) -> None:
        graph.node("y", "sqr", graph.node("positive", "relu", *self.operands(graph, case)))

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        return [np.square(np.maximum(inputs[0].astype(dtype), 0))]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        return [one_rounding(truth[0])]


def one_rounding(truth: Array) -> ErrorBound:
    """Of a sum or a product."""
    return ErrorBound(np.abs(truth) * U32 + TINY, "u·|y|: one rounding")


class Add(Rows):
    """``ggml_add``: y[H, T, D] = a + b. ``b``: same, row [D], column [H, T, 1], head [T, D], permuted ([T, H, D] in
    memory).
    """

    name, required, reads = "ggml_add", ("H", "T", "D"), ("a", "b")
    defaults = {"b": "same"}  # noqa: RUF012
    choices = {"b": ("same", "row", "column", "head", "permuted")}  # noqa: RUF012
    of = "add"

    def args(self, case: Case) -> tuple[Arg, ...]:
        h, t, d = case["H"], case["T"], case["D"]
        b = {"same": (h, t, d), "row": (1, 1, d), "column": (h, t, 1), "head": (1, t, d), "permuted": (t, h, d)}
        return (Arg("a", "f32", (h, t, d)), Arg("b", "f32", b[case["b"]]), Arg("y", "f32", (h, t, d), "out"))

    def graph(self, graph: Graph, case: Case) -> None:
        a, b = self.operands(graph, case)
        graph.node("y", self.of, a, graph.swapped(b) if case["b"] == "permuted" else b)

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        a, b = (each.astype(dtype) for each in inputs)
        b = b.swapaxes(0, 1) if case["b"] == "permuted" else b
        return [a + b if self.of == "add" else a * b]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        return [one_rounding(truth[0])]

    def kinds(self, case: Case) -> tuple[str, ...]:
        return ("random",)

    def cases(self) -> list[Case]:
        return self.every("H T D", [(1, 1, 31), (2, 3, 257)], b=self.choices["b"])

    def more(self) -> list[Case]:
        return self.every("H T D", [(3, 5, 2560), (4, 33, 65)], b=self.choices["b"])


class Mul(Add):
    """``ggml_mul``, in the same way."""

    name, of = "ggml_mul", "mul"


class Argmax(Rows):
    """``ggml_argmax``: y[T], the index of the largest of each row; inputs have no ties."""

    name = "ggml_argmax"

    def check(self, case: Case) -> None:
        if case["D"] > 1 << 22:
            raise WrongInput(f"ggml_argmax: D is {case['D']}, of which f32 holds no row without ties")

    def args(self, case: Case) -> tuple[Arg, ...]:
        return (Arg("x", "f32", (case["T"], case["D"])), Arg("y", "i32", (case["T"],), "out"))

    def graph(self, graph: Graph, case: Case) -> None:
        graph.node("y", "argmax", *self.operands(graph, case))

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        return [inputs[0].argmax(-1).astype(np.int32)]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        return [ErrorBound(None, "every bit: an index is an index")]

    def kinds(self, case: Case) -> tuple[str, ...]:
        return ("random", "last", "negative")

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        """A permutation in each row; last: the largest in the last column; negative: nothing above zero."""
        x = np.stack([rng.permutation(case["D"]) for _ in range(case["T"])]).astype(np.float32)
        if kind == "last":
            x[:, -1] = case["D"] + 1
        return [x - case["D"] - 1 if kind == "negative" else x]

    def more(self) -> list[Case]:
        return [*super().more(), *self.every("T D", [(3, 32000), (2, 128256)])]


RMS_NORM, SWIGLU, RELU_SQR, ADD, MUL, ARGMAX = RmsNorm(), Swiglu(), ReluSqr(), Add(), Mul(), Argmax()
