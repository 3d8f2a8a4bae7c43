"""Wrong kernels that aggregates let pass, or that have been seen in the field: the bounds must reject every one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kparity import ops
from kparity.ops.spec import Array, Case, Op
from tests.wrong import (
    Row,
    Wrong,
    flushed_f16,
    half_away,
    half_precision,
    no_last,
    norm,
    quantise,
    scaled,
    truncated_f16,
    with_input,
    with_output,
    with_params,
)
from tests.wrong_fused import ADDED, FUSED, STORED, normed, right_norm, roped


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


def quantiser(rounding: Callable[[Array], Array], top: float = 127, low: int = -128) -> Wrong:
    return lambda op, case, inputs: quantise(inputs[0].astype(np.float64), rounding, top, low)


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


def glu_of(act: Callable[[Array], Array]) -> Wrong:
    return lambda op, case, inputs: [act(inputs[0].astype(np.float64)) * inputs[1]]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ATTENTION = {"M": 13, "L": 129, "H": 8, "G": 2, "D": 64}
WRONG: list[Row] = [
    *FUSED,
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
