"""The specifications: their bounds admit a right f32 implementation, and formulas written apart agree with them."""

import cmath
import math
import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kparity import ops
from kparity.errors import UnknownName, WrongInput
from kparity.ops import packing
from kparity.ops.spec import DTYPES, MAX_GROUPS, Array, Case, Op, padded, span

OF_SCALE = {"token": 2**20, "block256": 256, "block32": 32}
"""Activations of a scale; of a whole row, more than any has."""


def made(case: Case, kind: str = "random") -> list[Array]:
    return ops.get(case.op).inputs(case, np.random.default_rng([case.seed(), len(kind)]), kind)


def right(op: Op, case: Case, inputs: list[Array]) -> list[Array]:
    return op.reference(case, inputs, np.float32)


@pytest.mark.parametrize("op", ops.every(), ids=lambda op: op.name)
def test_the_f32_reference_meets_every_bound(findings, op: Op) -> None:
    for case in op.cases():
        for kind in op.kinds(case):
            for finding in findings(case, kind, right):
                assert finding.ok, str(finding)


def last_lost(y: Array) -> Array:
    y[..., -1] = 0
    return y


def neighbours_swapped(y: Array) -> Array:
    y[..., :2] = y[..., 1::-1]
    return y


SMALL_CHANGES: dict[str, Callable[[Array], Array]] = {
    "2 % too large": lambda y: y * 1.02,
    "in half precision": lambda y: y.astype(np.float16),
    "the last column lost": last_lost,
    "two columns swapped": neighbours_swapped,
    "negated": lambda y: -y,
}
"""What cosine, NMSE or one tolerance for everything let pass. Wrong kernels are in ``kernels/*/mutants.py``."""


@pytest.mark.parametrize("op", ops.every(), ids=lambda op: op.name)
def test_each_output_that_is_a_little_wrong_is_outside_of_its_bound(findings, op: Op) -> None:
    case = max(op.cases(), key=lambda case: case["M"])
    for name, change in SMALL_CHANGES.items():
        changed: list[bool] = []

        def wrong(op: Op, case: Case, inputs: list[Array], change=change, changed=changed) -> list[Array]:
            outputs = []
            for arg, y in zip(op.outputs_of(case), op.reference(case, inputs), strict=True):
                stored = y.astype(DTYPES[arg.dtype])
                outputs.append(change(stored.copy()))
                changed.append(not np.array_equal(stored, outputs[-1].astype(stored.dtype)))
            return outputs

        for finding, differs in zip(findings(case, "random", wrong), changed, strict=True):
            assert finding.ok is not differs, f"{name}: {finding}"


def test_what_position_0_cannot_see() -> None:
    """Rope is the identity there, in either convention. This is why a probe goes on after BOS."""
    case = ops.get("rope").case(M=1, H=2, D=64)
    inputs = made(case, "start")
    other = ops.get("rope").case(M=1, H=2, D=64, mode="interleaved")
    assert np.array_equal(*(ops.get("rope").reference(each, inputs)[0] for each in (case, other)))


@pytest.mark.parametrize("op", ops.every(), ids=lambda op: op.name)
def test_cases_are_few_and_seeded(op: Op) -> None:
    """What else a case must be is in ``test_sweep.py``."""
    cases = op.cases()
    assert len(cases) <= 32  # each is compiled by each backend
    for case in cases:
        for kind in op.kinds(case):
            for arg, one, two in zip(op.inputs_of(case), made(case, kind), made(case, kind), strict=True):
                assert one.shape == arg.shape and one.flags.c_contiguous, arg
                assert one.tobytes() == two.tobytes(), kind


# Formulas written apart: plain Python, complex numbers, torch.


def turn(head: list[float], pos: int, freq: Array, mode: str) -> None:
    """Rotate a head in place, by complex multiplication; theta is 500000 and the scale 2."""
    half = len(freq)
    for i in range(half):
        assert freq[i] == np.float32(500000.0 ** (-i / half) / 2.0)
        first, second = (i, i + half) if mode == "neox" else (2 * i, 2 * i + 1)
        turned = complex(head[first], head[second]) * cmath.exp(1j * int(pos) * float(freq[i]))
        head[first], head[second] = turned.real, turned.imag


@pytest.mark.parametrize("mode", ["neox", "interleaved"])
def test_rope_is_a_complex_multiplication(mode: str) -> None:
    case = ops.get("rope").case(M=8, H=2, D=40, R=32, theta=500000.0, scale=2.0, mode=mode)
    x, pos, freq = made(case)
    want = x.astype(np.float64)
    for m, h in np.ndindex(8, 2):
        turn(want[m, h], pos[m], freq, mode)
    assert ops.get("rope").reference(case, [x, pos, freq])[0] == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_attention_in_plain_loops(dtype: str) -> None:
    op = ops.get("attention")
    case = op.case(M=3, L=9, H=6, G=3, D=4, dtype=dtype)
    q, k, v, pos = made(case)
    out, lse = op.reference(case, [q, k, v, pos])
    for m, h in np.ndindex(3, 6):
        visible = range(min(int(pos[m]) + 1, 9))
        weights = [
            math.exp(math.fsum(float(q[m, h, d]) * float(k[j, h // 2, d]) for d in range(4)) / 2) for j in visible
        ]
        assert lse[m, h] == (pytest.approx(math.log(sum(weights))) if weights else -math.inf)
        for d in range(4):
            want = sum(w * float(v[j, h // 2, d]) for w, j in zip(weights, visible, strict=True)) / (sum(weights) or 1)
            assert out[m, h, d] == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("ascale", ["token", "block256", "block32"])
@pytest.mark.parametrize("wscale", ["tensor", "row", "block256", "block128", "block64"])
def test_tgemv_in_plain_integers(wscale: str, ascale: str) -> None:
    """Codes are read from the bytes by their place, not by ``packing``."""
    op = ops.get("tgemv")
    case = op.case(M=2, N=3, K=300, wscale=wscale, ascale=ascale)
    words, scales, q, of_rows, qsum = made(case)
    y = op.reference(case, [words, scales, q, of_rows, qsum])[0]
    length = int(wscale.removeprefix("block")) if wscale.startswith("block") else 256
    wide = np.broadcast_to(scales if wscale.startswith("block") else scales[:, None], (3, 512 // length))
    for m, n in np.ndindex(2, 3):
        row, want = words[n].astype("<u4").tobytes(), 0.0
        step = 32 if ascale == "block32" else length
        for at in range(0, 512, step):
            acc = 0
            for e in range(at, at + step):
                byte = row[4 * (e // 16) + e % 4]
                acc += ((byte >> (2 * (e % 16 // 4))) % 4 - 1) * int(q[m, e])
            want += acc * float(of_rows[m, at // OF_SCALE[ascale]]) * float(wide[n, at // length])
        assert y[m, n] == pytest.approx(want, rel=1e-12)
        spans = [q[m, at : at + OF_SCALE[ascale]] for at in range(0, 512, OF_SCALE[ascale])]
        assert [int(span.astype(int).sum()) for span in spans] == qsum[m].tolist()


def is_quantised(row: list[float], q: Array, scale: Array, qsum: Array, mode: str, rel: float = 1e-12) -> None:
    """Scale, codes and sum of each span of a row, half to even."""
    row = row + [0.0] * (len(q) - len(row))
    length = min(len(row), OF_SCALE[mode])
    for index, at in enumerate(range(0, len(row), length)):
        part = row[at : at + length]
        peak = max(part, key=abs)
        want = {"token": max(abs(peak), 1e-5), "block256": -peak, "block32": abs(peak)}[mode] / 127
        codes = [min(127, max(-128, round(value / want))) if want else 0 for value in part]
        kept = struct.unpack("<e", struct.pack("<e", want))[0] if mode == "block32" else want
        assert scale[index] == pytest.approx(kept, rel=rel)
        assert q[at : at + length].tolist() == codes and qsum[index] == sum(codes)


@pytest.mark.parametrize("kind", ["random", "ties", "small", "zeros"])
def test_act_quant_in_plain_python(kind: str) -> None:
    op = ops.get("act_quant")
    for mode in OF_SCALE:
        case = op.case(M=2, K=700, mode=mode)
        x = made(case, kind)[0]
        q, scale, qsum = op.reference(case, [x])
        for m in range(2):
            is_quantised(x[m].astype(float).tolist(), q[m], scale[m], qsum[m], mode, rel=1e-15)


PRE = {
    "none": lambda x: x,
    "add": lambda a, b: a + b,
    "silu": lambda g, u: g / (1 + math.exp(-g)) * u,
    "relu2": lambda g, u: (g * g if g > 0 else 0.0) * u,
}


def test_the_small_ops_in_plain_python() -> None:
    rms, glu = ops.get("rmsnorm"), ops.get("glu")
    x, weight = made(rms.case(M=2, D=33))
    y = rms.reference(rms.case(M=2, D=33), [x, weight])[0]
    for m, d in np.ndindex(2, 33):
        square = math.fsum(float(value) ** 2 for value in x[m]) / 33
        assert y[m, d] == pytest.approx(float(x[m, d]) / math.sqrt(square + 1e-5) * float(weight[d]), rel=1e-12)
    gate, up = made(glu.case(M=1, D=40))
    for act in ("silu", "relu2"):
        y = glu.reference(glu.case(M=1, D=40, act=act), [gate, up])[0]
        assert y[0] == pytest.approx(list(map(PRE[act], gate[0].tolist(), up[0].tolist())), rel=1e-12)


@pytest.mark.parametrize("kind", ["random", "small", "outlier", "zeros", "large"])
@pytest.mark.parametrize("mode", ["token", "block256", "block32"])
@pytest.mark.parametrize("pre", PRE)
def test_norm_quant_in_plain_python(pre: str, mode: str, kind: str) -> None:
    op, width = ops.get("norm_quant"), 300
    case = op.case(M=2, D=width, pre=pre, mode=mode, clamp=int(pre == "relu2"))
    *given, weight = made(case, kind if kind in op.kinds(case) else "random")
    outputs = op.reference(case, [*given, weight])
    q, scale, qsum = outputs[-3:]
    for m in range(2):
        numbers = [float(value) for array in given for value in array[m]]
        pairs = list(zip(*(numbers[at : at + width] for at in range(0, len(numbers), width)), strict=True))
        h = [PRE[pre](*pair) for pair in pairs]
        h = [min(65504.0, max(-65504.0, value)) for value in h] if pre == "relu2" else h
        if pre != "none":
            assert outputs[0][m] == pytest.approx(h, rel=1e-12)
        root = math.sqrt(math.fsum(value * value for value in h) / width + 1e-5)
        y = [value / root * float(gain) for value, gain in zip(h, weight, strict=True)]
        is_quantised(y, q[m], scale[m], qsum[m], mode)


def half(value: float) -> float:
    """What an f16 holds of a value."""
    try:
        return float(struct.unpack("<e", struct.pack("<e", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize("mode", ["neox", "interleaved"])
def test_rope_store_in_complex_numbers(mode: str, dtype: str) -> None:
    op = ops.get("rope_store")
    case = op.case(M=5, H=3, G=2, D=10, R=6, L=7, theta=500000.0, scale=2.0, mode=mode, dtype=dtype)
    for kind in ("random", "beyond", "extreme", "zeros"):  # the product of complex infinities is another one
        qkv, pos, freq, *caches = made(case, kind)
        q, *stored = op.reference(case, [qkv, pos, freq, *caches])
        want = [cache.astype(np.float64) for cache in caches]
        rounded = half if dtype == "f16" else float
        for m in range(5):
            heads = [[float(value) for value in qkv[m, 10 * at : 10 * at + 10]] for at in range(7)]
            for head in heads[:5]:
                turn(head, pos[m], freq, mode)
            assert q[m].ravel() == pytest.approx(heads[0] + heads[1] + heads[2], abs=1e-12)
            if 0 <= pos[m] < 7:
                for cache, at in zip(want, (3, 5), strict=True):
                    cache[pos[m]] = [rounded(value) for value in heads[at] + heads[at + 1]]
        for got, cache in zip(stored, want, strict=True):
            assert got.astype(np.float64) == pytest.approx(cache, rel=1e-7, abs=1e-12, nan_ok=True)


def test_an_f16_key_has_one_right_value_away_from_ties() -> None:
    op = ops.get("rope_store")
    case = op.case(M=2, H=20, G=5, D=128, L=64, theta=500000.0)
    inputs = made(case)
    keys = op.bounds(case, inputs, op.reference(case, inputs))[1].limit
    assert keys is not None and 0 < (keys[inputs[1]] > 0).mean() < 0.02


def test_kv_store_rounds_as_struct_does() -> None:
    op = ops.get("kv_store")
    case = op.case(M=3, L=9, D=66)
    inputs = made(case, "extreme")
    kcache = op.reference(case, inputs)[0]
    for m, at in enumerate(inputs[2]):
        for d in range(66 if at >= 0 else 0):
            assert np.array_equal(kcache[at, d], half(float(inputs[0][m, d])), equal_nan=True)


# Cases, packing and small helpers.


def test_packing_golden_words() -> None:
    weights = np.zeros((1, 16), np.int8)
    assert hex(packing.pack(weights)[0, 0]) == "0x55555555" and packing.pack(weights).shape == (1, 16)
    weights[0, 0], weights[0, 1], weights[0, 4], weights[0, 15] = 1, -1, 1, -1
    assert hex(packing.pack(weights)[0, 0]) == "0x1555545a"
    assert hex(packing.pack(np.full((1, 4), 2, np.int8))[0, 0]) == "0x57575757"  # file formats have a code for +2
    for bad in (np.full((1, 4), 3, np.int8), np.zeros(4, np.int8), np.zeros((1, 4), np.int32)):
        with pytest.raises(WrongInput):
            packing.pack(bad)


@given(st.integers(1, 4), st.integers(1, 600), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_packing_is_undone(n: int, k: int, seed: int) -> None:
    weights = np.random.default_rng(seed).integers(-1, 2, (n, k)).astype(np.int8)
    words = packing.pack(weights)
    assert words.shape == (n, padded(k) // 16) and (packing.unpack(words, k) == weights).all()
    assert (packing.unpack(words, padded(k))[:, k:] == 0).all()


def test_cases_are_checked_and_stable() -> None:
    op = ops.get("tgemv")
    case = op.case(K=256, N=3, M=1)
    assert case.id == "tgemv[K=256,M=1,N=3,ascale=token,out=f32,wscale=tensor]" and case == op.case(M=1, N=3, K=256)
    assert case.seed() == op.case(M=1, N=3, K=256).seed() != case.seed(1)
    with pytest.raises(UnknownName, match="wscale"):
        op.case(K=256, N=3, M=1, wscales="tensor")
    one = {"M": 1, "N": 1, "K": 1}
    for bad in ({"K": 256}, {**one, "M": 0}, {**one, "out": "f64"}, {**one, "K": 10**6}):
        with pytest.raises(WrongInput):
            op.case(**bad)
    for name, bad in (("rope", {"M": 1, "H": 1, "D": 3}), ("attention", {"M": 1, "L": 1, "H": 3, "G": 2, "D": 2}),
                      ("dense_gemv", {"M": 1, "N": 4, "K": 2, "row0": 3, "rows": 2})):  # fmt: skip
        with pytest.raises(WrongInput):
            ops.get(name).case(**bad)
    with pytest.raises(UnknownName, match="rope"):
        ops.get("ropes")
    with pytest.raises(UnknownName):
        op.inputs(ops.get("rmsnorm").case(M=1, D=1), np.random.default_rng(0))


@given(st.integers(0, 5_000_000))
@settings(max_examples=50, deadline=None)
def test_a_span_covers_its_groups(groups: int) -> None:
    x, y, z = span(groups)
    assert z == 1 and x * y >= groups and max(x, y) <= MAX_GROUPS
