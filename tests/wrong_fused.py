"""Wrong kernels of the ops that are several others in one launch, each made of the steps of the right one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kparity import ops
from kparity.ops.spec import Array, Case, Op
from tests.wrong import (
    Row,
    Wrong,
    flushed_f16,
    half_away,
    no_last,
    norm,
    quantise,
    truncated_f16,
    with_input,
    with_output,
    with_params,
)

Heads = list[Array]
ADDED = {"M": 3, "D": 257, "pre": "add"}
STORED = {"M": 7, "H": 4, "G": 2, "D": 80, "R": 32, "L": 9}


def h_of(case: Case, inputs: list[Array]) -> Array:
    h: Array = inputs[0].astype(np.float64)
    return h + inputs[1] if case["pre"] == "add" else h


def normed(y_of: Callable[[Array, Array, list[Array]], Array], top: float = 127, rounding: Any = np.rint) -> Wrong:
    """norm_quant in steps, for pre none and add in mode token: ``y_of`` gives y from h, the weight and the inputs."""

    def candidate(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
        h = h_of(case, inputs)
        found = quantise(y_of(h, inputs[-1], inputs), rounding, top)
        return [h, *found] if case["pre"] == "add" else found

    return candidate


def right_norm(h: Array, w: Array, _: list[Array]) -> Array:
    return norm(h, w)[0]


def weighed_last(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
    """The weight multiplies the int8 values: what a norm folded into the next op may come to."""
    h, w = h_of(case, inputs), inputs[-1]
    q, scale, _ = quantise(norm(h, np.ones_like(w))[0], np.rint)
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


FUSED: list[Row] = [
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
    ("rope_store", "keys truncated to f16", {**STORED, "R": 80}, "random",
     roped(lambda t, p: [t[0], truncated_f16(t[1]).astype(float), p[2]])),
    ("rope_store", "values truncated to f16", STORED, "random", roped(lambda t, p: [t[0], t[1], truncated_f16(p[2])])),
    ("rope_store", "keys rounded before they turn", {**STORED, "R": 80}, "random",
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
