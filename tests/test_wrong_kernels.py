"""Wrong kernels that aggregates let pass, or that have been seen in the field: the bounds must reject every one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kparity import ops
from kparity.spec import Array, Case, Op, padded

Wrong = Callable[[Op, Case, list[Array]], list[Array]]


def scaled(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
    return [output * 1.02 for output in op.reference(case, inputs)]


def half_precision(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
    return [output.astype(np.float16) for output in op.reference(case, inputs)]


def with_input(index: int, change: Callable[[Array], Array]) -> Wrong:
    """The right kernel over a changed input."""

    def candidate(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
        inputs[index] = change(inputs[index])
        return op.reference(case, inputs)

    return candidate


def with_params(**params: Any) -> Wrong:
    """The right kernel of another case."""

    def candidate(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
        return op.reference(op.case(**{**dict(case.params), **params}), inputs)

    return candidate


def with_output(index: int, change: Callable[[Array, list[Array]], Array]) -> Wrong:
    """The right kernel and something after it."""

    def candidate(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
        outputs = op.reference(case, inputs)
        outputs[index] = change(outputs[index], inputs)
        return outputs

    return candidate


def no_last(x: Array) -> Array:
    x[..., -1] = 0
    return x


def swap_columns(x: Array) -> Array:
    x[..., [0, 1]] = x[..., [1, 0]]
    return x


def zero_row(y: Array, _: list[Array]) -> Array:
    y[..., y.shape[-1] // 2] = 0
    return y


def codes_uncorrected(times: int) -> Callable[[Array, list[Array]], Array]:
    """Σq added to the accumulators as often as the codes w + 1 leave it in."""

    def change(y: Array, inputs: list[Array]) -> Array:
        scale = inputs[3] * inputs[1] if y.dtype.kind == "f" else 1
        return y + times * inputs[4] * scale

    return change


def _quantise(x: Array, rounding: Callable[[Array], Array], top: float = 127, low: int = -128) -> list[Array]:
    s = top / np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-5)
    q = np.zeros((len(x), padded(x.shape[1])))
    q[:, : x.shape[1]] = np.clip(rounding(x * s), low, 127)
    return [q, 1 / s, q.sum(axis=-1, keepdims=True)]


def quantiser(rounding: Callable[[Array], Array], top: float = 127, low: int = -128) -> Wrong:
    return lambda op, case, inputs: _quantise(inputs[0].astype(np.float64), rounding, top, low)


def half_away(x: Array) -> Array:
    return np.trunc(x + np.copysign(0.5, x))


def _attention(op: Op, case: Case, inputs: list[Array], head: Callable[[int], int], shift: bool = True) -> list[Array]:
    """Attention in f32 with a map of heads of one's own, with or without the subtraction of the maximum."""
    q, k, v, pos = (array.astype(np.float32) if array.dtype.kind == "f" else array for array in inputs)
    out, lse = np.zeros_like(q), np.full(q.shape[:2], -np.inf, np.float32)
    for m, h in np.ndindex(q.shape[:2]):
        count = min(pos[m] + 1, case["L"])
        if count > 0:
            scores = k[:count, head(h)] @ q[m, h] / np.float32(math.sqrt(case["D"]))
            top = scores.max() if shift else np.float32(0)
            weights = np.exp(scores - top)
            out[m, h], lse[m, h] = weights @ v[:count, head(h)] / weights.sum(), top + np.log(weights.sum())
    return [out, lse]


def heads_interleaved(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
    return _attention(op, case, inputs, lambda h: h % case["G"])


def no_maximum(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
    return _attention(op, case, inputs, lambda h: h // (case["H"] // case["G"]), shift=False)


def last_of_a_tie(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
    x = inputs[0]
    return [np.where(np.isnan(x).any(axis=-1), -1, x.shape[1] - 1 - np.argmax(x[:, ::-1], axis=-1))]


def truncated_f16(x: Array) -> Array:
    rounded = x.astype(np.float16)
    down = np.where(np.abs(rounded.astype(np.float64)) > np.abs(x), np.nextafter(rounded, np.float16(0)), rounded)
    return down.astype(np.float32)


def flushed_f16(x: Array) -> Array:
    return np.where(np.abs(x) < 2.0**-14, 0, x).astype(np.float32)


def glu_of(act: Callable[[Array], Array]) -> Wrong:
    return lambda op, case, inputs: [act(inputs[0].astype(np.float64)) * inputs[1]]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def norm(x: Array, w: Array, eps: float = 1e-5, outside: float = 0, centre: bool = False) -> list[Array]:
    x = x.astype(np.float64)
    x = x - x.mean(axis=-1, keepdims=True) if centre else x
    return [x / (np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) + outside) * w]


def h_of(case: Case, inputs: list[Array]) -> Array:
    h: Array = inputs[0].astype(np.float64)
    return h + inputs[1] if case["pre"] == "add" else h


def normed(y_of: Callable[[Array, Array, list[Array]], Array], top: float = 127, rounding: Any = np.rint) -> Wrong:
    """norm_quant in steps, for pre none and add in mode token: ``y_of`` gives y from h, the weight and the inputs."""

    def candidate(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
        h = h_of(case, inputs)
        found = _quantise(y_of(h, inputs[-1], inputs), rounding, top)
        return [h, *found] if case["pre"] == "add" else found

    return candidate


def right_norm(h: Array, w: Array, _: list[Array]) -> Array:
    return norm(h, w)[0]


def weighed_last(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
    """The weight multiplies the int8 values: what a norm folded into the next op may come to."""
    h, w = h_of(case, inputs), inputs[-1]
    q, scale, _ = _quantise(norm(h, np.ones_like(w))[0], np.rint)
    q[:, : h.shape[1]] = np.clip(np.rint(q[:, : h.shape[1]] * w), -128, 127)
    return [h, q, scale, q.sum(axis=-1, keepdims=True)]


def halves_swapped(gu: Array) -> Array:
    return np.roll(gu, gu.shape[1] // 2, axis=1)


def one_scale_for_blocks(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
    *h, q, scale, _ = op.reference(op.case(**{**dict(case.params), "mode": "token"}), inputs)
    return [*h, q, np.repeat(scale, 2, axis=1), q.reshape(len(q), 2, 256).sum(axis=-1)]


def second_pass_before_the_clamp(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
    """h is limited where it is stored, and not where it is normalised."""
    free = op.reference(op.case(**{**dict(case.params), "clamp": 0}), inputs)
    return [free[0].clip(-65504, 65504), *free[1:]]


Heads = list[Array]


def right_heads(turned: Heads, plain: Heads) -> Heads:
    return [turned[0], turned[1], plain[2]]


def same(x: Array) -> Array:
    return x


def roped(
    heads: Callable[[Heads, Heads], Heads] = right_heads,
    angle: Callable[[Array], Array] = same,
    place: Callable[[Array], Array] = same,
) -> Wrong:
    """rope_store in steps. ``heads`` chooses q, k and v among the turned and the plain ones; ``angle`` and ``place``
    change the positions of one of the two uses.
    """

    def candidate(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
        rope, kv_store = ops.get("rope"), ops.get("kv_store")
        m, h, g, d = (case[name] for name in "MHGD")
        qkv, pos, freq, *caches = inputs
        plain = np.split(qkv.reshape(m, h + 2 * g, d), [h, h + g], axis=1)
        turned = [
            rope.reference(rope.case(M=m, H=x.shape[1], D=d, R=case["R"], mode=case["mode"]), [x, angle(pos), freq])[0]
            for x in plain
        ]
        q, k, v = heads(turned, plain)
        store = kv_store.case(M=m, L=case["L"], D=g * d, dtype=case["dtype"])
        return [q, *kv_store.reference(store, [k.reshape(m, -1), v.reshape(m, -1), place(pos), *caches])]

    return candidate


def regrouped(order: Callable[[int, int], list[int]]) -> Wrong:
    """The right kernel over heads in another order, which ``order`` gives from H and G."""

    def candidate(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
        m, h, g, d = (case[name] for name in "MHGD")
        inputs[0] = inputs[0].reshape(m, h + 2 * g, d)[:, order(h, g)].reshape(m, -1)
        return op.reference(case, inputs)

    return candidate


def by_group(h: int, g: int) -> list[int]:
    """A group's queries, its key and its value, then the next group's: the row of some checkpoints."""
    own = h // g
    firsts = [at * (own + 2) for at in range(g)]
    queries = [at + i for at in firsts for i in range(own)]
    return [*queries, *(at + own for at in firsts), *(at + own + 1 for at in firsts)]


def heads_first(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
    """The caches as [G, L, D]."""
    g, d, cap = case["G"], case["D"], case["L"]
    inputs[3:] = [cache.reshape(g, cap, d).swapaxes(0, 1).reshape(cap, g * d) for cache in inputs[3:]]
    q, *caches = op.reference(case, inputs)
    return [q, *(cache.reshape(cap, g, d).swapaxes(0, 1).reshape(cap, g * d) for cache in caches)]


ATTENTION = {"M": 13, "L": 129, "H": 8, "G": 2, "D": 64}
ADDED = {"M": 3, "D": 257, "pre": "add"}
STORED = {"M": 7, "H": 4, "G": 2, "D": 80, "R": 32, "L": 9}
WRONG: list[tuple[str, str, dict[str, Any], str, Wrong]] = [
    ("tgemv", "scale +2 %", {"M": 2, "N": 70, "K": 2560}, "random", scaled),
    ("tgemv", "f16 output", {"M": 2, "N": 70, "K": 2560}, "random", half_precision),
    ("tgemv", "last column dropped", {"M": 2, "N": 70, "K": 2560}, "random", with_input(2, no_last)),
    ("tgemv", "last column dropped, K odd", {"M": 1, "N": 9, "K": 257}, "random",
     with_input(2, lambda q: np.where(np.arange(q.shape[1]) < 256, q, 0).astype(np.int8))),
    ("tgemv", "columns swapped", {"M": 2, "N": 70, "K": 2560}, "random", with_input(2, swap_columns)),
    ("tgemv", "a row zeroed", {"M": 2, "N": 70, "K": 2560}, "random", with_output(0, zero_row)),
    ("tgemv", "Σq not subtracted", {"M": 2, "N": 70, "K": 256}, "random", with_output(0, codes_uncorrected(1))),
    ("tgemv", "Σq subtracted twice", {"M": 2, "N": 70, "K": 256}, "random", with_output(0, codes_uncorrected(-1))),
    ("tgemv", "Σq not subtracted, i32", {"M": 2, "N": 7, "K": 256, "out": "i32"}, "all_max",
     with_output(0, codes_uncorrected(1))),
    ("tgemv", "bytes of a word reversed", {"M": 1, "N": 7, "K": 256}, "one_hot", with_input(0, lambda w: w.byteswap())),
    ("tgemv", "weights mirrored", {"M": 1, "N": 7, "K": 256}, "random", with_output(0, lambda y, _: -y)),
    ("tgemv", "16-bit accumulator", {"M": 1, "N": 3, "K": 260, "out": "i32"}, "all_max",
     with_output(0, lambda y, _: y.astype(np.int16))),
    ("tgemv", "saturated at 2^15", {"M": 1, "N": 3, "K": 640, "out": "i32"}, "all_min",
     with_output(0, lambda y, _: y.clip(-32768, 32767))),
    ("tgemv", "scale of the block before", {"M": 2, "N": 9, "K": 768, "wscale": "block256"}, "random",
     with_input(1, lambda s: np.roll(s, 1, axis=1))),
    ("tgemv", "scale of another token", {"M": 2, "N": 9, "K": 768, "ascale": "block256"}, "random",
     with_input(3, lambda s: np.roll(s, 1, axis=0))),
    ("tgemv", "scale applied twice", {"M": 2, "N": 9, "K": 768}, "random", with_output(0, lambda y, i: y * i[1])),
    ("tgemv", "scale of row 0 for all", {"M": 2, "N": 9, "K": 768, "wscale": "row"}, "random",
     with_input(1, lambda s: np.full_like(s, s[0]))),
    ("tgemv", "scale of the row before", {"M": 2, "N": 9, "K": 768, "wscale": "row"}, "random",
     with_input(1, lambda s: np.roll(s, 1))),
    ("tgemv", "scales of the rows reversed", {"M": 2, "N": 9, "K": 768, "wscale": "row"}, "random",
     with_input(1, lambda s: s[::-1])),
    ("tgemv", "no scale of the row", {"M": 2, "N": 9, "K": 768, "wscale": "row"}, "random",
     with_input(1, np.ones_like)),
    ("tgemv", "scale of the first row of four", {"M": 2, "N": 9, "K": 768, "wscale": "row"}, "random",
     with_input(1, lambda s: s[np.arange(9) // 4 * 4])),
    ("tgemv", "scale of the token for the row's", {"M": 9, "N": 9, "K": 768, "wscale": "row"}, "random",
     lambda op, case, i: [op.reference(case, i)[0] * (i[1][:, None] / i[1])]),
    ("tgemv", "scale of the row before, blocks", {"M": 2, "N": 9, "K": 768, "wscale": "row", "ascale": "block256"},
     "random", with_input(1, lambda s: np.roll(s, 1))),
    ("tgemv", "scale of row 0 for all, blocks", {"M": 2, "N": 9, "K": 768, "wscale": "row", "ascale": "block256"},
     "random", with_input(1, lambda s: np.full_like(s, s[0]))),
    ("rmsnorm", "last column not summed", {"M": 3, "D": 257}, "random",
     lambda op, case, i: [i[0] / np.sqrt(np.square(i[0][:, :-1].astype(float)).sum(-1)[:, None] / 257 + 1e-5) * i[1]]),
    ("rmsnorm", "last column not summed, wide", {"M": 2, "D": 2560}, "outlier",
     lambda op, case, i: norm(no_last(i[0]), i[1])),
    ("rmsnorm", "no eps", {"M": 2, "D": 256}, "tiny", lambda op, case, i: norm(*i, eps=0)),
    ("rmsnorm", "eps 1e-6", {"M": 2, "D": 256}, "small", lambda op, case, i: norm(*i, eps=1e-6)),
    ("rmsnorm", "eps outside the root", {"M": 2, "D": 256}, "small", lambda op, case, i: norm(*i, 0, 1e-5)),
    ("rmsnorm", "layer norm", {"M": 2, "D": 256}, "random", lambda op, case, i: norm(*i, centre=True)),
    ("rmsnorm", "gain + 1", {"M": 2, "D": 256}, "random", lambda op, case, i: norm(i[0], i[1] + 1)),
    ("rmsnorm", "scale +2 %", {"M": 2, "D": 2560}, "random", scaled),
    ("rmsnorm", "f16 output", {"M": 2, "D": 2560}, "random", half_precision),
    ("rope", "interleaved for NEOX", {"M": 3, "H": 2, "D": 64}, "random", with_params(mode="interleaved")),
    ("rope", "NEOX for interleaved", {"M": 3, "H": 2, "D": 64, "mode": "interleaved"}, "random",
     with_params(mode="neox")),
    ("rope", "turns backwards", {"M": 3, "H": 2, "D": 64}, "random", with_input(1, lambda pos: -pos)),
    ("rope", "position off by one", {"M": 3, "H": 2, "D": 64}, "far", with_input(1, lambda pos: pos + 1)),
    ("rope", "position in f16", {"M": 3, "H": 2, "D": 64}, "random", with_input(1, lambda p: p.astype(np.float16))),
    ("rope", "frequencies off by one", {"M": 3, "H": 2, "D": 64}, "random", with_input(2, lambda f: np.roll(f, 1))),
    ("rope", "linear scale ignored", {"M": 3, "H": 2, "D": 64, "scale": 4.0}, "random", with_input(2, lambda f: f * 4)),
    ("rope", "theta 10000 for 500000", {"M": 3, "H": 2, "D": 128, "theta": 5e5}, "random",
     with_input(2, lambda f: (1e4 ** (-np.arange(64) / 64)).astype(np.float32))),
    ("rope", "the rest zeroed", {"M": 3, "H": 2, "D": 80, "R": 32}, "random", with_output(0, lambda y, _: no_last(y))),
    ("attention", "mask hides one more", ATTENTION, "random", with_input(3, lambda pos: np.maximum(pos - 1, -1))),
    ("attention", "mask shows one more", ATTENTION, "random", with_input(3, lambda pos: pos + 1)),
    ("attention", "no mask", ATTENTION, "random", with_input(3, lambda pos: np.full_like(pos, 10**6))),
    ("attention", "heads mapped by remainder", ATTENTION, "random", heads_interleaved),
    ("attention", "no scale", ATTENTION, "random", with_input(0, lambda q: q * 8)),
    ("attention", "keys and values exchanged", ATTENTION, "random",
     lambda op, case, i: op.reference(case, [i[0], i[2], i[1], i[3]])),
    ("attention", "maximum not subtracted", ATTENTION, "outlier", no_maximum),
    ("attention", "lse in base 2", ATTENTION, "random", with_output(1, lambda lse, _: lse / math.log(2))),
    ("attention", "lse of an empty row is 0", ATTENTION, "random",
     with_output(1, lambda lse, _: np.maximum(lse, -1e4))),
    ("attention", "an empty row is NaN", ATTENTION, "random",
     with_output(0, lambda out, i: np.where(i[3][:, None, None] < 0, np.nan, out))),
    ("attention", "f16 output", ATTENTION, "random", with_output(0, lambda out, _: out.astype(np.float16))),
    ("act_quant", "half away from zero", {"M": 3, "K": 257}, "ties", quantiser(half_away)),
    ("act_quant", "half up", {"M": 3, "K": 257}, "ties", quantiser(lambda x: np.floor(x + 0.5))),
    ("act_quant", "truncated", {"M": 3, "K": 257}, "random", quantiser(np.trunc)),
    ("act_quant", "scale of 128", {"M": 3, "K": 257}, "random", quantiser(np.rint, 128)),
    ("act_quant", "one scale for all rows", {"M": 3, "K": 257}, "random",
     with_output(1, lambda s, _: np.full_like(s, s.max()))),
    ("act_quant", "Σq forgets the tail", {"M": 3, "K": 257}, "equal", with_output(2, lambda s, _: s - 127)),
    ("act_quant", "sign of the block's peak lost", {"M": 3, "K": 300, "mode": "block256"}, "random",
     with_output(1, lambda s, _: np.abs(s))),
    ("act_quant", "scale +2 %", {"M": 3, "K": 300, "mode": "block256"}, "random",
     with_output(1, lambda s, _: s * 1.02)),
    ("act_quant", "a block of zeros divides by zero", {"M": 3, "K": 300, "mode": "block256"}, "zeros",
     with_output(1, lambda s, _: s / s)),
    ("glu", "sigmoid for silu", {"M": 3, "D": 257}, "random", glu_of(sigmoid)),
    ("glu", "gelu for silu", {"M": 3, "D": 257}, "random", glu_of(gelu)),
    ("glu", "relu² for silu", {"M": 3, "D": 257}, "random", glu_of(lambda g: np.maximum(g, 0) ** 2)),
    ("glu", "relu for relu²", {"M": 3, "D": 257, "act": "relu2"}, "random", glu_of(lambda g: np.maximum(g, 0))),
    ("glu", "square without relu", {"M": 3, "D": 257, "act": "relu2"}, "random", glu_of(np.square)),
    ("glu", "gate and up exchanged", {"M": 3, "D": 257}, "random", lambda op, case, i: op.reference(case, i[::-1])),
    ("glu", "no clamp", {"M": 3, "D": 257, "act": "relu2", "clamp": 1}, "random", with_params(clamp=0)),
    ("glu", "a clamp that was not asked for", {"M": 3, "D": 257, "act": "relu2"}, "random", with_params(clamp=1)),
    ("glu", "NaN becomes 0", {"M": 3, "D": 257, "act": "relu2"}, "nan",
     with_output(0, lambda y, _: np.nan_to_num(y, nan=0))),
    ("glu", "scale +2 %", {"M": 3, "D": 257}, "random", scaled),
    ("glu", "f16 output", {"M": 3, "D": 257}, "random", half_precision),
    ("add", "difference", {"M": 3, "D": 257}, "random", lambda op, case, i: [i[0] - i[1]]),
    ("add", "last column dropped", {"M": 3, "D": 257}, "random", with_output(0, lambda y, _: no_last(y))),
    ("add", "f16 output", {"M": 3, "D": 257}, "random", half_precision),
    ("dense_gemv", "last column dropped", {"M": 3, "N": 300, "K": 256}, "random", with_input(1, no_last)),
    ("dense_gemv", "columns swapped", {"M": 3, "N": 300, "K": 256}, "random", with_input(1, swap_columns)),
    ("dense_gemv", "a row zeroed", {"M": 3, "N": 300, "K": 256}, "random", with_output(0, zero_row)),
    ("dense_gemv", "activations in f16", {"M": 3, "N": 300, "K": 256}, "random",
     with_input(1, lambda x: x.astype(np.float16))),
    ("dense_gemv", "f16 output", {"M": 3, "N": 300, "K": 256}, "random", half_precision),
    ("dense_gemv", "scale +2 %", {"M": 3, "N": 300, "K": 640}, "random", scaled),
    ("dense_gemv", "row0 ignored", {"M": 3, "N": 20, "K": 66, "row0": 5, "rows": 9}, "random", with_params(row0=0)),
    ("dense_gemv", "other parts zeroed", {"M": 3, "N": 20, "K": 66, "row0": 5, "rows": 9}, "random",
     with_input(2, np.zeros_like)),
    ("embed", "the next row", {"M": 5, "V": 33, "D": 66}, "random", with_input(1, lambda ids: (ids + 1) % 33)),
    ("embed", "row0 ignored", {"M": 33, "V": 33, "D": 66, "row0": 2, "rows": 20}, "random", with_params(row0=0)),
    ("embed", "the clamped row for no id", {"M": 5, "V": 33, "D": 66}, "outside",
     with_input(1, lambda ids: ids.clip(0, 32))),
    ("embed", "zeros for no id", {"M": 5, "V": 33, "D": 66}, "outside",
     with_output(0, lambda x, _: np.nan_to_num(x, nan=0))),
    ("embed", "subnormals flushed", {"M": 5, "V": 33, "D": 66}, "extreme",
     with_output(0, lambda x, _: np.where(np.abs(x) < 2.0**-14, np.copysign(0, x), x))),
    ("embed", "sign of zero lost", {"M": 5, "V": 33, "D": 66}, "extreme", with_output(0, lambda x, _: x + 0.0)),
    ("argmax", "the last of a tie", {"M": 3, "N": 65}, "random", last_of_a_tie),
    ("argmax", "NaN wins", {"M": 3, "N": 65}, "nan", lambda op, case, i: [np.argmax(i[0], axis=-1)]),
    ("argmax", "NaN ignored", {"M": 3, "N": 65}, "nan", lambda op, case, i: [np.nanargmax(i[0], axis=-1)]),
    ("argmax", "magnitude", {"M": 3, "N": 65}, "lowest", lambda op, case, i: [np.argmax(np.abs(i[0]), axis=-1)]),
    ("argmax", "the tail unread", {"M": 3, "N": 65}, "last", lambda op, case, i: [np.argmax(i[0][:, :64], axis=-1)]),
    ("argmax", "no key in a row of -inf", {"M": 3, "N": 65}, "lowest",
     with_output(0, lambda idx, i: np.where(np.isneginf(i[0]).all(-1), -1, idx))),
    ("kv_store", "the next position", {"M": 3, "L": 9, "D": 66}, "random", with_input(2, lambda pos: pos + 1)),
    ("kv_store", "a padded row wraps", {"M": 3, "L": 9, "D": 66}, "random", with_input(2, lambda pos: pos % 9)),
    ("kv_store", "keys and values exchanged", {"M": 3, "L": 9, "D": 66}, "random",
     lambda op, case, i: op.reference(case, [i[1], i[0], *i[2:]])),
    ("kv_store", "truncated to f16", {"M": 3, "L": 9, "D": 66}, "random", with_input(0, truncated_f16)),
    ("kv_store", "clamped at 65504", {"M": 3, "L": 9, "D": 66}, "extreme",
     with_input(0, lambda k: k.clip(-65504, 65504))),
    ("kv_store", "subnormals flushed", {"M": 3, "L": 9, "D": 66}, "extreme", with_input(0, flushed_f16)),
    ("kv_store", "f32 cache rounded to f16", {"M": 3, "L": 9, "D": 66, "dtype": "f32"}, "random",
     with_input(0, lambda k: k.astype(np.float16).astype(np.float32))),
    ("norm_quant", "no eps", ADDED, "small", normed(lambda h, w, i: norm(h, w, eps=0)[0])),
    ("norm_quant", "no eps in a row of zeros", ADDED, "zeros", normed(lambda h, w, i: norm(h, w, eps=0)[0])),
    ("norm_quant", "eps 1e-6", ADDED, "small", normed(lambda h, w, i: norm(h, w, eps=1e-6)[0])),
    ("norm_quant", "eps outside the root", ADDED, "small", normed(lambda h, w, i: norm(h, w, 0, 1e-5)[0])),
    ("norm_quant", "a normalised, not the sum", ADDED, "random", normed(lambda h, w, i: norm(i[0], w)[0])),
    ("norm_quant", "the sum divided by the norm of a", ADDED, "random",
     normed(lambda h, w, i: h * norm(i[0], w)[0] / i[0])),
    ("norm_quant", "b added to the norm of a", ADDED, "random", normed(lambda h, w, i: norm(i[0], w)[0] + i[1])),
    ("norm_quant", "layer norm", ADDED, "random", normed(lambda h, w, i: norm(h, w, centre=True)[0])),
    ("norm_quant", "weight forgotten", ADDED, "random", normed(lambda h, w, i: norm(h, np.ones_like(w))[0])),
    ("norm_quant", "weight + 1", ADDED, "random", normed(lambda h, w, i: norm(h, w + 1)[0])),
    ("norm_quant", "weight one column further", ADDED, "random", normed(lambda h, w, i: norm(h, np.roll(w, 1))[0])),
    ("norm_quant", "quantised before the weight", ADDED, "random", weighed_last),
    ("norm_quant", "mean over the padded width", ADDED, "random",
     normed(lambda h, w, i: norm(h, w * math.sqrt(512 / 257), 1e-5 * 257 / 512)[0])),
    ("norm_quant", "last column not summed", ADDED, "random",
     normed(lambda h, w, i: h / np.sqrt(np.square(h[:, :-1]).sum(-1)[:, None] / 257 + 1e-5) * w)),
    ("norm_quant", "last column not summed, wide", {"M": 2, "D": 2560}, "outlier",
     normed(lambda h, w, i: norm(no_last(h), w)[0])),
    ("norm_quant", "y in f16", ADDED, "random", normed(lambda h, w, i: norm(h, w)[0].astype(np.float16).astype(float))),
    ("norm_quant", "rows share the norm of the first", ADDED, "random",
     normed(lambda h, w, i: h / np.sqrt(np.square(h[0]).mean() + 1e-5) * w)),
    ("norm_quant", "scale of 128", ADDED, "random", normed(right_norm, 128)),
    ("norm_quant", "truncated", ADDED, "random", normed(right_norm, rounding=np.trunc)),
    ("norm_quant", "half away from zero and a little", ADDED, "random",
     normed(right_norm, rounding=lambda x: half_away(x * 1.0005))),
    ("norm_quant", "h not written", ADDED, "random", with_output(0, lambda h, _: np.full_like(h, np.nan))),
    ("norm_quant", "the stream goes on without the sum", ADDED, "random", with_output(0, lambda h, i: i[0])),
    ("norm_quant", "the stream goes on normalised", ADDED, "random", with_output(0, lambda h, i: norm(h, i[-1])[0])),
    ("norm_quant", "h in f16", ADDED, "random", with_output(0, lambda h, _: h.astype(np.float16))),
    ("norm_quant", "the factor for the scale", ADDED, "random", with_output(2, lambda scale, _: 1 / scale)),
    ("norm_quant", "scale of another row", ADDED, "random", with_output(2, lambda scale, _: np.roll(scale, 1, axis=0))),
    ("norm_quant", "Σq forgets the last column", ADDED, "outlier",
     with_output(3, lambda total, i: total - np.copysign(127, (i[0] + i[1])[:, -1:] * i[-1][-1]).astype(int))),
    ("norm_quant", "Σq of the row in every block", {"M": 3, "D": 300, "mode": "block256"}, "random",
     with_output(2, lambda total, _: np.repeat(total.sum(axis=1, keepdims=True), 2, axis=1))),
    ("norm_quant", "Σq of the block before", {"M": 3, "D": 300, "mode": "block256"}, "random",
     with_output(2, lambda total, _: total[:, ::-1])),
    ("norm_quant", "the tail left as it was", ADDED, "random",
     with_output(1, lambda q, _: np.where(np.arange(512) < 257, q, -1))),
    ("norm_quant", "one scale for all blocks", {"M": 3, "D": 300, "mode": "block256"}, "random", one_scale_for_blocks),
    ("norm_quant", "sign of the block's peak lost", {"M": 3, "D": 300, "mode": "block256"}, "random",
     with_output(1, lambda s, _: np.abs(s))),
    ("norm_quant", "a block of zeros divides by zero", {"M": 3, "D": 300, "mode": "block256"}, "zeros",
     with_output(1, lambda s, _: s / s)),
    ("norm_quant", "gate and up exchanged", {"M": 3, "D": 257, "pre": "silu"}, "random",
     with_input(0, halves_swapped)),
    ("norm_quant", "gate and up exchanged, relu²", {"M": 3, "D": 257, "pre": "relu2"}, "random",
     with_input(0, halves_swapped)),
    ("norm_quant", "gate and up interleaved", {"M": 3, "D": 257, "pre": "silu"}, "random",
     with_input(0, lambda gu: np.concatenate([gu[:, ::2], gu[:, 1::2]], axis=1))),
    ("norm_quant", "relu² for silu", {"M": 3, "D": 257, "pre": "silu"}, "random", with_params(pre="relu2")),
    ("norm_quant", "silu for relu²", {"M": 3, "D": 257, "pre": "relu2"}, "random", with_params(pre="silu")),
    ("norm_quant", "no clamp, silu", {"M": 3, "D": 257, "pre": "silu", "clamp": 1}, "large", with_params(clamp=0)),
    ("norm_quant", "no clamp, relu²", {"M": 3, "D": 257, "pre": "relu2", "clamp": 1}, "large", with_params(clamp=0)),
    ("norm_quant", "a clamp that was not asked for", {"M": 3, "D": 257, "pre": "relu2"}, "large",
     with_params(clamp=1)),
    ("norm_quant", "clamped only where it is stored", {"M": 3, "D": 257, "pre": "relu2", "clamp": 1}, "large",
     second_pass_before_the_clamp),
    ("rope_store", "values turned", STORED, "random", roped(lambda turned, plain: turned)),
    ("rope_store", "keys stored as they came", STORED, "random", roped(lambda t, p: [t[0], p[1], p[2]])),
    ("rope_store", "queries as they came", STORED, "random", roped(lambda t, p: [p[0], t[1], p[2]])),
    ("rope_store", "keys turned twice", STORED, "random",
     roped(lambda t, p: [t[0], 2 * t[1] - p[1], p[2]])),
    ("rope_store", "keys and values exchanged", STORED, "random", roped(lambda t, p: [t[0], p[2], t[1]])),
    ("rope_store", "interleaved for NEOX", STORED, "random", with_params(mode="interleaved")),
    ("rope_store", "NEOX for interleaved", {**STORED, "mode": "interleaved"}, "random", with_params(mode="neox")),
    ("rope_store", "angle of the next position", STORED, "random", roped(angle=lambda pos: pos + 1)),
    ("rope_store", "place of the next position", STORED, "random", roped(place=lambda pos: pos + 1)),
    ("rope_store", "both of the next position", STORED, "random", with_input(1, lambda pos: pos + 1)),
    ("rope_store", "turns backwards", STORED, "random", roped(angle=lambda pos: -pos)),
    ("rope_store", "position of the first row for all", STORED, "random",
     roped(angle=lambda pos: np.full_like(pos, pos[0]))),
    ("rope_store", "a padded row wraps", STORED, "beyond", roped(place=lambda pos: np.where(pos < 0, pos % 9, pos))),
    ("rope_store", "a padded row at 0", STORED, "beyond", roped(place=lambda pos: np.where(pos < 0, 0, pos))),
    ("rope_store", "beyond the cache at its end", STORED, "beyond", roped(place=lambda pos: np.minimum(pos, 8))),
    ("rope_store", "the last position refused", {**STORED, "L": 7}, "random",
     roped(place=lambda pos: np.where(pos == 6, -1, pos))),
    ("rope_store", "queries of a padded row left out", STORED, "beyond",
     with_output(0, lambda q, i: np.where(i[1][:, None, None] < 0, np.nan, q))),
    ("rope_store", "a cache cleared around the new rows", STORED, "random",
     with_output(1, lambda cache, i: np.where(np.isin(np.arange(9), i[1])[:, None], cache, 0))),
    ("rope_store", "keys before queries", STORED, "random",
     regrouped(lambda h, g: [*range(g, g + h), *range(g), *range(g + h, h + 2 * g)])),
    ("rope_store", "values before keys", STORED, "random",
     regrouped(lambda h, g: [*range(h), *range(h + g, h + 2 * g), *range(h, h + g)])),
    ("rope_store", "heads by group", STORED, "random", regrouped(by_group)),
    ("rope_store", "key heads reversed", STORED, "random",
     regrouped(lambda h, g: [*range(h), *reversed(range(h, h + g)), *range(h + g, h + 2 * g)])),
    ("rope_store", "caches by head", STORED, "random", heads_first),
    ("rope_store", "frequencies off by one", STORED, "random", with_input(2, lambda f: np.roll(f, 1))),
    ("rope_store", "theta 10000 for 500000", {**STORED, "theta": 5e5}, "random",
     with_input(2, lambda f: (1e4 ** (-np.arange(16) / 16)).astype(np.float32))),
    ("rope_store", "linear scale ignored", {**STORED, "scale": 4.0}, "random", with_input(2, lambda f: f * 4)),
    ("rope_store", "all of the head turned", STORED, "random",
     lambda op, case, i: op.reference(
         op.case(**{**dict(case.params), "R": 80}), [*i[:2], np.resize(i[2], 40), *i[3:]])),
    ("rope_store", "the rest zeroed", STORED, "random", with_output(0, lambda q, _: no_last(q))),
    ("rope_store", "keys truncated to f16", STORED, "random",
     roped(lambda t, p: [t[0], truncated_f16(t[1]).astype(float), p[2]])),
    ("rope_store", "values truncated to f16", STORED, "random", roped(lambda t, p: [t[0], t[1], truncated_f16(p[2])])),
    ("rope_store", "keys rounded before they turn", STORED, "random",
     lambda op, case, i: [op.reference(case, i)[0],
                          *op.reference(case, [i[0].astype(np.float16).astype(np.float32), *i[1:]])[1:]]),
    ("rope_store", "keys in f16, flushed", STORED, "extreme", roped(lambda t, p: [t[0], flushed_f16(t[1]), p[2]])),
    ("rope_store", "values in f16, flushed", STORED, "extreme", roped(lambda t, p: [t[0], t[1], flushed_f16(p[2])])),
    ("rope_store", "values clamped at 65504", STORED, "extreme",
     roped(lambda t, p: [t[0], t[1], p[2].clip(-65504, 65504)])),
    ("rope_store", "f32 cache rounded to f16", {**STORED, "dtype": "f32"}, "random",
     roped(lambda t, p: [t[0], t[1].astype(np.float16), p[2]])),
    ("rope_store", "queries in f16", STORED, "random", with_output(0, lambda q, _: q.astype(np.float16))),
]  # fmt: skip


@pytest.mark.parametrize(("op", "name", "params", "kind", "wrong"), WRONG, ids=[f"{row[0]}: {row[1]}" for row in WRONG])
def test_a_wrong_kernel_is_rejected(
    findings, op: str, name: str, params: dict[str, Any], kind: str, wrong: Wrong
) -> None:
    found = findings(ops.get(op).case(**params), kind, wrong)
    assert not all(finding.ok for finding in found), f"{name} passes: {[finding.utilisation for finding in found]}"


def test_every_op_has_wrong_kernels() -> None:
    assert {row[0] for row in WRONG} == set(ops.NAMES)


def test_the_steps_of_the_fused_ops_are_right_unless_changed(findings) -> None:
    """Or everything made of them would be rejected for nothing."""
    for op, params, steps in (("norm_quant", ADDED, normed(right_norm)), ("rope_store", STORED, roped())):
        case = ops.get(op).case(**params)
        for kind in ops.get(op).kinds(case):
            assert all(finding.ok for finding in findings(case, kind, steps)), (op, kind)


def test_what_position_0_cannot_see(findings) -> None:
    """Rope is the identity there: the wrong convention passes. This is why a probe goes on after BOS."""
    case = ops.get("rope").case(M=1, H=2, D=64)
    assert all(finding.ok for finding in findings(case, "start", with_params(mode="interleaved")))


def test_small_scores_need_no_maximum(findings) -> None:
    case = ops.get("attention").case(**ATTENTION)
    assert all(finding.ok for finding in findings(case, "random", no_maximum))
