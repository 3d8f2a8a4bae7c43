"""ggml's rotation, softmax and attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kparity.errors import WrongInput
from kparity.kernels.support import TINY, U32
from kparity.ops.spec import ROUNDOFF, Arg, Array, Case, ErrorBound
from kparity_ggml.library import Graph
from kparity_ggml.op import GgmlOp, gamma, normal, sizes

U16 = ROUNDOFF["f16"]
MODES = {"normal": 0, "neox": 2}
FAR = 131_071
"""The last position of a context of 128 Ki."""


class Rope(GgmlOp):
    """``ggml_rope_ext`` of x[T, H, D] at the positions up to ``last``: the first ``dims`` of each head are rotated,
    pairs (2i, 2i + 1) in mode normal and (i, i + dims/2) in neox, by position · base^(−2i/dims), by a factor of each
    frequency where there are ``factors``.
    """

    name, required, named_by = "ggml_rope", ("T", "H", "D", "last"), ("mode",)
    defaults = {"dims": 0.0, "mode": "neox", "base": 10000.0, "factors": "no"}  # noqa: RUF012
    choices = {"mode": tuple(MODES), "factors": ("no", "yes")}  # noqa: RUF012

    def check(self, case: Case) -> None:
        if self.dims(case) % 2 or self.dims(case) > case["D"] or case["last"] + 1 < case["T"]:
            raise WrongInput("ggml_rope: dims is even and at most D, and there are T positions up to last")

    def dims(self, case: Case) -> int:
        """Elements that are rotated: all, where dims is 0."""
        return int(case["dims"] or case["D"])

    def args(self, case: Case) -> tuple[Arg, ...]:
        x = (case["T"], case["H"], case["D"])
        factors = (Arg("factors", "f32", (self.dims(case) // 2,)),) if case["factors"] == "yes" else ()
        return (Arg("x", "f32", x), Arg("positions", "i32", x[:1]), *factors, Arg("y", "f32", x, "out"))

    def graph(self, graph: Graph, case: Case) -> None:
        given = [graph.tensor(arg.name, arg.dtype, *sizes(arg.shape)) for arg in self.inputs_of(case)]
        x, positions, factors = (*given, None)[:3]
        mode = MODES[case["mode"]]
        numbers = (case["base"], 1.0, 0.0, 1.0, 0.0, 0.0)
        graph.node("y", "rope_ext", x, positions, factors, self.dims(case), mode, 0, *numbers)

    def angles(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike) -> Array:
        """[T, dims/2]; in f32 by one factor after the other, as a kernel may."""
        dims, position = self.dims(case), inputs[1].astype(dtype)[:, None]
        at, base = np.arange(dims // 2), np.float32(case["base"]).astype(dtype)
        if np.dtype(dtype) == np.float64:
            angles = position * base ** (-2.0 * at / dims)
        else:
            steps = np.full(dims // 2, base ** np.float32(-2.0 / dims), np.float32)
            steps[0] = 1
            angles = np.cumprod(np.broadcast_to(steps, (len(position), dims // 2)) * np.where(at, 1, position), -1,
                                dtype=np.float32)  # fmt: skip
        return angles / inputs[2].astype(dtype) if case["factors"] == "yes" else angles

    def pairs(self, case: Case) -> tuple[Array, Array]:
        """The indices of the first and of the second of each pair."""
        dims = self.dims(case)
        first = np.arange(dims // 2) * (2 if case["mode"] == "normal" else 1)
        return first, first + (1 if case["mode"] == "normal" else dims // 2)

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        y, (one, two) = inputs[0].astype(dtype), self.pairs(case)
        angles = self.angles(case, inputs, dtype)[:, None]
        cos, sin, a, b = np.cos(angles), np.sin(angles), y[..., one], y[..., two]
        y[..., one], y[..., two] = a * cos - b * sin, a * sin + b * cos
        return [y]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        x, (one, two) = np.abs(inputs[0].astype(np.float64)), self.pairs(case)
        angles = np.abs(self.angles(case, inputs, np.float64))
        error = np.minimum(angles * (3 * np.arange(angles.shape[1]) + 5) * U32, 2.0)[:, None] + 8 * U32
        limit = np.zeros(truth[0].shape)
        limit[..., one] = limit[..., two] = (x[..., one] + x[..., two]) * error + TINY
        return [ErrorBound(limit, "(|a| + |b|)·((3i + 5)·u·θ + 8u): an angle in f32 by i factors; 0 where not rotated")]

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        positions = np.arange(case["last"] + 1 - case["T"], case["last"] + 1, dtype=np.int32)
        found = [normal(rng, case["T"], case["H"], case["D"]), rng.permutation(positions)]
        if case["factors"] == "yes":
            found.append(rng.uniform(1, 8, self.dims(case) // 2).astype(np.float32))
        return found

    def cases(self) -> list[Case]:
        return self.every("T H D last", [(1, 1, 64, 1), (3, 5, 128, 4095)], mode=tuple(MODES), factors=("no", "yes"))

    def more(self) -> list[Case]:
        return [
            *self.every("T H D last", [(7, 3, 96, 63), (2, 4, 128, FAR), (33, 2, 64, 2047)], mode=tuple(MODES),
                        factors=("no", "yes")),
            *self.every("T H D last dims", [(5, 3, 96, 4095, 64.0), (2, 2, 80, FAR, 20.0)], mode=tuple(MODES)),
            *self.every("T H D last base", [(2, 4, 128, FAR, 500000.0), (9, 1, 256, 8191, 1e6)], mode=tuple(MODES)),
        ]  # fmt: skip


def slopes(heads: int, bias: float) -> Array:
    """ALiBi's slope of each head; 1 without a bias."""
    if not bias:
        return np.ones(heads)
    low = 2 ** math.floor(math.log2(heads))
    return np.array([2.0 ** (-bias * (h + 1) / low if h < low else -bias / 2 * (2 * (h - low) + 1) / low)
                     for h in range(heads)])  # fmt: skip


def softmax(logits: Array) -> Array:
    """Over the last dimension."""
    powers: Array = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True, dtype=powers.dtype)


def causal(rng: np.random.Generator, t: int, kv: int) -> Array:
    """A mask: the last T of KV positions see what is before them, with a bias of each pair."""
    seen = np.arange(kv) <= kv - t + np.arange(t)[:, None]
    return np.where(seen | (np.arange(kv) == 0), rng.uniform(-2, 0, (t, kv)), -np.inf)


def weight_error(p: Array, logits: Array, error: Array) -> Array:
    """The relative error of softmax weights whose logits err by ``error``, exp by 3 + 2|z| ULP, the sum by γ(KV)."""
    depth = np.where(np.isfinite(logits), logits.max(-1, keepdims=True) - logits, 0)
    error = np.where(np.isfinite(logits), error, 0)
    each: Array = error + error.max(-1, keepdims=True) + (6 + 5 * depth) * U32
    whole: Array = each + (p * each).sum(-1, keepdims=True) + gamma(p.shape[-1] + 8)
    return whole * 1.02


class SoftMax(GgmlOp):
    """``ggml_soft_max_ext`` of x[H, T, KV]: softmax(scale · x + slope · mask); ``bias`` is ALiBi's."""

    name, required, named_by = "ggml_soft_max", ("H", "T", "KV"), ("mask",)
    defaults = {"mask": "f16", "scale": 0.125, "bias": 0.0}  # noqa: RUF012
    choices = {"mask": ("none", "f16", "f32")}  # noqa: RUF012

    def args(self, case: Case) -> tuple[Arg, ...]:
        h, t, kv = case["H"], case["T"], case["KV"]
        mask = () if case["mask"] == "none" else (Arg("mask", case["mask"], (t, kv)),)
        return (Arg("x", "f32", (h, t, kv)), *mask, Arg("y", "f32", (h, t, kv), "out"))

    def graph(self, graph: Graph, case: Case) -> None:
        given = [graph.tensor(arg.name, arg.dtype, *sizes(arg.shape)) for arg in self.inputs_of(case)]
        x, mask = (*given, None)[:2]
        graph.node("y", "soft_max_ext", x, mask, case["scale"], case["bias"])

    def _logits(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike) -> tuple[Array, Array]:
        """What is taken from x, and what from the mask."""
        x = inputs[0].astype(dtype) * np.float32(case["scale"]).astype(dtype)
        if case["mask"] == "none":
            return x, np.zeros_like(x)
        return x, slopes(case["H"], case["bias"]).astype(dtype)[:, None, None] * inputs[1].astype(dtype)

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        x, mask = self._logits(case, inputs, dtype)
        return [softmax(x + mask)]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        x, mask = self._logits(case, inputs, np.float64)
        error = U32 * (2 * np.abs(x) + (2 if not case["bias"] else 12) * np.abs(mask))
        limit = truth[0] * weight_error(truth[0], x + mask, error) + TINY
        return [ErrorBound(limit, "p·(δz_i + max δz + Σp·δz + γ(KV + 8) + (6 + 5|z|)u): logits, exp and the sum")]

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        x = normal(rng, case["H"], case["T"], case["KV"]) * np.float32(8)
        if case["mask"] == "none":
            return [x]
        return [x, causal(rng, case["T"], case["KV"]).astype(np.float32 if case["mask"] == "f32" else np.float16)]

    def cases(self) -> list[Case]:
        return self.every("H T KV", [(1, 1, 1), (3, 5, 33)], mask=self.choices["mask"])

    def more(self) -> list[Case]:
        return [
            *self.every("H T KV", [(4, 1, 257), (2, 7, 1025), (5, 3, 4096), (2, 33, 64)], mask=self.choices["mask"]),
            *self.every("H T KV", [(8, 2, 65), (6, 3, 100)], mask=("f16", "f32"), bias=8.0),
        ]


class FlashAttn(GgmlOp):
    """``ggml_flash_attn_ext``: y[T, H, D] of q[H, T, D], k and v [G, KV, D] of ``kv`` and a mask [T, KV] in f16.

    ``layout`` cache: k and v are [KV, G, D] in memory, as a cache holds them. ``prec``: sums asks for sums in f32
    (``ggml_prec_set_acc``), free for nothing. Either allows operands in f16, and free sums too.
    """

    name, required, named_by = "ggml_flash_attn", ("T", "KV", "H", "G", "D"), ("kv",)
    defaults = {"kv": "f16", "mask": "yes", "layout": "plain", "prec": "free"}  # noqa: RUF012
    choices = dict(kv=("f16", "f32"), mask=("yes", "no"), layout=("plain", "cache"), prec=("free", "sums"))  # noqa: RUF012

    def check(self, case: Case) -> None:
        if case["H"] % case["G"]:
            raise WrongInput("ggml_flash_attn: H is a multiple of G")

    def args(self, case: Case) -> tuple[Arg, ...]:
        t, kv, h, g, d = (case[name] for name in self.required)
        stored = (kv, g, d) if case["layout"] == "cache" else (g, kv, d)
        mask = (Arg("mask", "f16", (t, kv)),) if case["mask"] == "yes" else ()
        return (
            Arg("q", "f32", (h, t, d)), Arg("k", case["kv"], stored), Arg("v", case["kv"], stored), *mask,
            Arg("y", "f32", (t, h, d), "out"),
        )  # fmt: skip

    def graph(self, graph: Graph, case: Case) -> None:
        given = [graph.tensor(arg.name, arg.dtype, *sizes(arg.shape)) for arg in self.inputs_of(case)]
        if case["layout"] == "cache":
            given[1:3] = graph.swapped(given[1]), graph.swapped(given[2])
        q, k, v, mask = (*given, None)[:4]
        y = graph.node("y", "flash_attn_ext", q, k, v, mask, case["D"] ** -0.5, 0.0, 0.0)
        if case["prec"] == "sums":
            graph.exact(y)

    def _operands(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike) -> list[Array]:
        """q, k and v by head, and the mask."""
        q, k, v = (each.astype(dtype) for each in inputs[:3])
        if case["layout"] == "cache":
            k, v = k.swapaxes(0, 1), v.swapaxes(0, 1)
        mask = inputs[3].astype(dtype) if case["mask"] == "yes" else np.zeros(1, dtype)
        return [q, *(np.repeat(each, case["H"] // case["G"], 0) for each in (k, v)), mask]

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        """In f32 with what ``prec`` allows: operands, weights of the values too, and sums in f16."""
        q, k, v, mask = self._operands(case, inputs, dtype)
        rounds = np.dtype(dtype) == np.float32
        if rounds:
            q, k, v = (each.astype(np.float16).astype(dtype) for each in (q, k, v))
        z = q @ k.swapaxes(1, 2) * np.float32(case["D"] ** -0.5).astype(dtype) + mask
        if not rounds:
            return [(softmax(z) @ v).swapaxes(0, 1)]
        powers = np.exp(z - z.max(-1, keepdims=True))
        if case["prec"] == "sums":
            return [(powers.astype(np.float16).astype(dtype) @ v / powers.sum(-1, keepdims=True)).swapaxes(0, 1)]
        total = np.zeros(q.shape, np.float16)
        for at in range(case["KV"]):
            total = (total + powers[..., at, None] * v[:, None, at]).astype(np.float16)
        return [(total.astype(dtype) / powers.sum(-1, keepdims=True)).swapaxes(0, 1)]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        q, k, v, mask = self._operands(case, inputs, np.float64)
        scale, half = case["D"] ** -0.5, case["prec"] == "free"
        size = np.abs(q) @ np.abs(k).swapaxes(1, 2) * scale
        z = q @ k.swapaxes(1, 2) * scale + mask
        p = softmax(z)
        error = size * (gamma(case["D"] + 4) + 2.02 * U16)
        error += 3 * U32 * np.where(np.isfinite(z), np.abs(z), 0)
        error = p * (weight_error(p, z, error) + gamma(case["KV"] + 8) + U16 * (2 + half * (case["KV"] + 1)))
        limit = (error @ np.abs(v)).swapaxes(0, 1) + 2.0**-24 * case["KV"]
        why = "Σ p|v|·(δp + γ(KV + 8) + 2·u16): operands in f16"
        return [ErrorBound(limit, why + (", u16·(KV + 1): sums in f16" if half else ", sums in f32"))]

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        found = [normal(rng, *arg.shape).astype(np.float16 if arg.dtype == "f16" else np.float32)
                 for arg in self.inputs_of(case)[:3]]  # fmt: skip
        return [*found, causal(rng, case["T"], case["KV"]).astype(np.float16)] if case["mask"] == "yes" else found

    def cases(self) -> list[Case]:
        return self.every("T KV H G D", [(1, 33, 4, 1, 64), (3, 64, 4, 2, 128)], kv=("f16", "f32"))

    def more(self) -> list[Case]:
        shapes = [(1, 1, 2, 2, 64), (5, 127, 6, 2, 80), (9, 257, 2, 1, 128), (1, 513, 20, 5, 128)]
        return [
            *self.every("T KV H G D", shapes, kv=("f16", "f32"), mask=("yes", "no")),
            *self.every("T KV H G D", [(2, 65, 4, 2, 128), (1, 256, 4, 4, 96)], kv=("f16", "f32"), layout="cache"),
            *self.every("T KV H G D", [(1, 33, 4, 1, 64), (7, 255, 4, 2, 128)], kv=("f16", "f32"), prec="sums"),
        ]


ROPE, SOFT_MAX, FLASH_ATTN = Rope(), SoftMax(), FlashAttn()
