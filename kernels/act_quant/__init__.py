"""act_quant: activations to int8, with the scale that undoes it and the sum that unsigned codes need.

mode ``token`` (BitNet b1.58, one scale per row):

    s = 127 / max(absmax(x[m, :]), 1e-5),  q = clamp(round_half_even(x·s), -128, 127),  scale = 1 / s

mode ``block256`` (llama.cpp's Q8_K, one scale per 256 activations; x_max is the value with the largest magnitude, the
first of several, sign kept):

    s = -127 / x_max,  q = min(127, round_half_even(x·s)),  scale = 1 / s;  a block of zeros has q = 0 and scale = 0

mode ``block32`` (llama.cpp's Q8_0, one scale per 32 activations, which is kept as f16):

    s = 127 / absmax,  q = clamp(round_half_even(x·s), -128, 127),  scale = f16(absmax / 127);  zeros as above

Rows are padded with q = 0 to Kp = 256·ceil(K/256). ``qsum`` is Σq over the same span as the scale: kernels that
multiply the unsigned codes w + 1 subtract it exactly once. In mode ``block256`` a block that is not zero has |x_max| >=
2^-100, because -127 / x_max leaves the range of f32 at 2^-121.

A span that holds a NaN has a NaN for its scale, and one that holds an infinity an infinite scale (in mode ``block256``
with the sign of -x_max; in ``block32`` also where the scale is past f16), so that nothing finite comes of it; no code
is right then, and its codes and sum are free, but for the finite activations beside an infinity, whose codes are 0.

ABI: x [M, K] f32 → q [M, Kp] i8, scale [M, S] f32, qsum [M, S] i32, with S = 1 (token), Kp/256 (block256) or Kp/32
(block32).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kparity.kernels.support import ROWS, TAILS, U32, WIDTHS, in_f16, moved_in_f16, normal, spoil, values
from kparity.ops.spec import ACTS, Arg, Array, Case, ErrorBound, Grid, Op, Value, Work, act_spans, padded

ANY_CODE, ANY_SUM = 255.0, 2.0**32
"""Limits that no i8 and no i32 exceeds: the output is free."""


class ActQuant(Op):
    """Parameters: M rows, K width, mode."""

    name = "act_quant"
    required = ("M", "K")
    named_by = ("mode",)
    defaults: ClassVar[Mapping[str, Value]] = {"mode": "token"}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"mode": tuple(ACTS)}

    @staticmethod
    def spans(case: Case) -> int:
        """Scales per row."""
        return act_spans(case["mode"], case["K"])

    def args(self, case: Case) -> tuple[Arg, ...]:
        m, k, s = case["M"], case["K"], self.spans(case)
        return (
            Arg("x", "f32", (m, k)),
            Arg("q", "i8", (m, padded(k)), "out"),
            Arg("scale", "f32", (m, s), "out"),
            Arg("qsum", "i32", (m, s), "out"),
        )

    def reference(self, case: Case, inputs: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> list[Array]:
        m, k, spans = case["M"], case["K"], self.spans(case)
        x = np.zeros((m, padded(k)), dtype)
        x[:, :k] = inputs[0]
        blocks = x.reshape(m, spans, -1)
        if case["mode"] == "token":
            top = np.maximum(np.abs(blocks).max(axis=-1), np.asarray(1e-5, dtype))
            s = (np.asarray(127, dtype) / top)[..., None]
        elif case["mode"] == "block32":
            top = np.maximum(blocks.max(axis=-1, keepdims=True), -blocks.min(axis=-1, keepdims=True))
            s = np.divide(x.dtype.type(127), top, out=np.zeros_like(top), where=top != 0)
        else:
            at = np.abs(blocks).argmax(axis=-1)
            top = np.take_along_axis(blocks, at[..., None], axis=-1)
            s = np.divide(np.asarray(-127, dtype), top, out=np.zeros_like(top), where=top != 0)
        q = np.clip(np.rint(blocks * s), -128, 127).astype(np.int8)
        scale = np.divide(np.asarray(1, dtype), s, out=np.zeros_like(s), where=top.reshape(s.shape) != 0)
        scale = scale[..., 0].astype(dtype)
        if case["mode"] == "block32":
            scale = in_f16(top[..., 0] / x.dtype.type(127))
        return [q.reshape(m, -1), scale, q.sum(axis=-1, dtype=np.int32)]

    def constants(self, case: Case) -> dict[str, int | float]:
        mode = case["mode"]
        per_block, per_32 = int(mode == "block256"), int(mode == "block32")
        return {"KP": padded(case["K"]), "SPANS": self.spans(case), "PER_BLOCK": per_block, "PER_32": per_32}

    def launch(self, case: Case) -> Grid:
        per_row = case["mode"] == "token"
        return Grid((case["M"], self.spans(case), 1), 256 if per_row and case["K"] >= 1024 else 64)

    def cases(self) -> list[Case]:
        shapes = ((1, 1), (1, 256), (3, 257), (2, 2560), (33, 64), (5, 1023), (1, 6912))
        return self.every("M K", shapes, mode=self.choices["mode"])

    def more(self) -> list[Case]:
        modes = self.choices["mode"]
        models = self.every("M K", ((1, width) for width in WIDTHS), mode=modes)
        shapes = [*((m, 640) for m in ROWS), *((2, k) for k in TAILS), (64, 2560)]
        return models + self.in_turn("M K", shapes, "mode", modes)

    def kinds(self, case: Case) -> tuple[str, ...]:
        kinds = ("random", "zeros", "outlier", "one_hot", "ties", "equal", "small", "all_max", "alternating", "huge")
        return (*kinds, "subnormal", "nan", "infinite")

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        m, k = case["M"], case["K"]
        if kind == "ties":  # halves and whole numbers under a scale of 2^-3: round half to even decides every element
            x = (rng.integers(-253, 254, (m, k)) / 16).astype(np.float32)
            step = ACTS[case["mode"]] or 256
            x[:, ::step] = np.where(rng.integers(0, 2, x[:, ::step].shape), 127 / 8, -127 / 8)
            later = x[:, 200::256]  # as large, of the other sign: the first decides
            later[:] = -x[:, ::256][:, : later.shape[1]]
            return [x]
        if kind == "equal":
            return [np.repeat(normal(rng, m, 1), k, axis=1)]
        if kind == "small":  # below the floor of mode token; a block of zeros among blocks that are none
            # In mode block32: scales that are subnormal in f16.
            x = normal(rng, m, k) * np.float32(1e-5 if case["mode"] == "block32" else 1e-6)
            x[:, 256:512] = 0
            return [x]
        if kind == "huge":  # near the largest f32
            return [values(rng, "random", m, k) * np.float32(2.0**125)]
        if kind == "subnormal":  # beside one that is normal in each block: their codes are 0, flushed or not
            x = values(rng, "tiny", m, k)
            x[:, ::256] = 1
            return [x]
        if kind == "infinite":
            return [spoil(normal(rng, m, k), np.inf, -np.inf)]
        return [values(rng, kind, m, k)]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        m, k, spans = case["M"], case["K"], self.spans(case)
        # A quotient next to a rounding tie may fall to either side: s carries a division within 2.5 ULP (5u, where a
        # dialect allows that) and the rounding of 1e-5, x·s one more, of |x·s| <= 127.5: only elements that are closer
        # than that to a tie may differ, by one. Where the scale is a power of two, s is too: 127 / (127·2^k) comes out
        # exact even as 127·rcp(127), since 1/127 rounds with an error of u/16. There round half to even is exact.
        x = np.zeros((m, padded(k)))
        x[:, :k] = inputs[0]
        of_spans = truth[1].astype(np.float64)
        if case["mode"] == "block32":  # codes are those of the scale before it is rounded to f16
            of_spans = np.abs(x).reshape(m, spans, -1).max(axis=-1) / 127
        scale = np.repeat(of_spans, padded(k) // spans, axis=1)
        exact = np.divide(x, scale, out=np.zeros_like(x), where=scale != 0)
        power = np.frexp(scale)[0] == 0.5
        tie = ((np.abs(exact - np.floor(exact) - 0.5) <= 8 * U32 * 127) & ~power).astype(np.float64)
        ties = tie.reshape(m, spans, -1).sum(axis=-1)
        tie[~np.isfinite(x) | np.isnan(scale)], ties[~np.isfinite(of_spans)] = ANY_CODE, ANY_SUM
        by_scale = ErrorBound(
            12 * U32 * np.abs(truth[1]), "12u·|scale|: two divisions within 2.5 ULP, the rounding of 1e-5"
        )
        if case["mode"] == "block32":
            told = "where f16(absmax/127·(1 ± 6u)) may fall, one division within 2.5 ULP: 0 away from a tie of f16"
            by_scale = ErrorBound(moved_in_f16(of_spans, 6 * U32), told, stepped=True)
        return [
            ErrorBound(
                tie, "1 where x/scale is within 8u·127 of a tie, 0 elsewhere and at scales 2^k; free beside NaN"
            ),
            by_scale,
            ErrorBound(ties, "the number of ties in the span; free where the scale is not finite"),
        ]

    def work(self, case: Case) -> Work:
        return Work(case["M"] * (4 * case["K"] + padded(case["K"])), 3 * case["M"] * case["K"])


OP = ActQuant()
