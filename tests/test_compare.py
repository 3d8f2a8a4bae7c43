"""Comparison fails closed: each trap that has turned a harness green by mistake is a test here.

The native pass is its numpy twin on hostile values; no thread and no instruction set changes a bit.
"""

from __future__ import annotations

import math
import struct
from dataclasses import fields
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kparity import _native
from kparity.errors import WrongInput
from kparity.numerics import aggregates, compare
from kparity.numerics.aggregates import Pass, one_pass, pass_numpy
from kparity.numerics.compare import Comparison, judge
from kparity.ops.spec import ErrorBound

METRICS = [compare.cosine, compare.norm_ratio]
VECTOR = np.array([1.0, -2.0, 3.0], np.float32)


def bound(limit: object) -> ErrorBound:
    return ErrorBound(None if limit is None else np.asarray(limit, np.float64), "a test")


def against(got: object, truth: object) -> Comparison:
    """The aggregates of two arrays, held to a limit of zero, which excuses no overflow."""
    left, right = np.asarray(got), np.asarray(truth)
    return judge("c", "y", left, right, bound(np.zeros(right.shape)))


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_and_different_lengths_are_refused(metric) -> None:
    empty = np.zeros(0, np.float32)
    with pytest.raises(WrongInput, match="empty"):
        metric(empty, empty)
    for other in (VECTOR[:2], VECTOR[None]):  # the second would broadcast
        with pytest.raises(WrongInput, match="shapes"):
            metric(VECTOR, other)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("side", [0, 1, 2])
def test_nan_meets_no_threshold(metric, side: int) -> None:
    spoiled = np.array([1.0, np.nan, 3.0], np.float32)
    pair = [(spoiled, VECTOR), (VECTOR, spoiled), (spoiled, spoiled)][side]
    found = metric(*pair)
    assert math.isnan(found) and not found >= 0.99 and not found <= 1e-3
    finding = against(*pair)
    assert all(math.isnan(getattr(finding, one.name)) for one in fields(compare.Metrics))
    infinite = np.array([1, np.inf])
    assert math.isnan(metric(infinite, infinite))


def test_cosine_is_fp64_and_survives_large_and_small_values() -> None:
    rng = np.random.default_rng(1)
    a = rng.standard_normal(5000).astype(np.float32)
    assert compare.cosine(a, a) == pytest.approx(1, abs=1e-15)
    assert compare.cosine(a, -a) == pytest.approx(-1, abs=1e-15)
    assert compare.cosine(np.array([1e300, 1e300]), np.array([1e-300, 0])) == pytest.approx(math.sqrt(0.5))
    assert compare.cosine(np.full(4, 60000, np.float16), np.full(4, 60000, np.float16)) == 1.0
    assert compare.cosine(np.full(300, 127, np.int8), np.full(300, 127, np.int8)) == pytest.approx(1)  # no wrap


def test_cosine_cannot_see_a_factor_and_the_norm_ratio_does() -> None:
    assert compare.cosine(VECTOR * 1.02, VECTOR) > 0.999999
    assert compare.norm_ratio(VECTOR * 1.02, VECTOR) == pytest.approx(1.02)
    assert compare.norm_ratio(VECTOR, np.zeros(3)) == math.inf
    assert compare.norm_ratio(np.zeros(3), VECTOR) == 0.0
    zero = np.zeros(3)
    assert compare.norm_ratio(zero, zero) == compare.cosine(zero, zero) == 1.0
    assert compare.cosine(zero, VECTOR) == compare.cosine(VECTOR, zero) == 0.0


def test_nmse_and_max_abs() -> None:
    zero = np.zeros(3, np.float32)
    assert against(VECTOR * np.float32(1.1), VECTOR).nmse == pytest.approx(0.01, rel=1e-5)
    assert against(VECTOR, zero).nmse == math.inf and against(zero, zero).nmse == 0.0
    assert against(VECTOR, VECTOR + np.array([0, 0.5, -1])).max_abs == 1.0
    assert against([np.inf, 1], [np.inf, 1]).max_abs == 0.0
    assert against([np.inf, 1], [-np.inf, 1]).max_abs == against([np.inf, 1], [1e308, 1]).max_abs == math.inf
    beyond = against([1.7e308], [-1.7e308])
    assert beyond.max_abs == beyond.rmse == beyond.mse == beyond.nmse == math.inf and beyond.cosine == -1


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_max_ulp_counts_floats_between(dtype) -> None:
    one = np.array([1, -1, 0], dtype)
    up = np.nextafter(one, np.array([2, -2, 1], dtype))
    tiny = np.nextafter(np.array([0], dtype), np.array([1], dtype))
    largest = np.array([np.finfo(dtype).max], dtype)
    zero = np.array([0.0], dtype)
    assert against(one, one).max_ulp == against(zero, -zero).max_ulp == 0
    assert against(one, up).max_ulp == 1 and against(tiny, -tiny).max_ulp == 2
    assert against(largest, np.array([np.inf], dtype)).max_ulp == math.inf  # neighbours in bits, not in value


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_metrics_of_equal_arrays(values: list[float], seed: int) -> None:
    a = np.array(values)
    same = against(a, a)
    assert same.nmse == same.max_abs == 0 and same.norm_ratio == 1 and same.cosine == pytest.approx(1)
    noise = np.random.default_rng(seed).standard_normal(len(a))
    assert -1 <= compare.cosine(a, noise) <= 1


# judge


def test_judge_finds_the_worst_element() -> None:
    truth = np.arange(6, dtype=np.float64).reshape(2, 3)
    got = truth.astype(np.float32)
    got[1, 2] += 0.5
    got[0, 1] += 0.75
    finding = judge("case", "y", got, truth, bound(np.array([[1, 1, 1], [1, 1, 0.1]])))
    assert (finding.ok, finding.wrong, finding.count, finding.worst_index) == (False, 1, 6, (1, 2))
    assert (finding.got_value, finding.want_value, finding.error, finding.limit) == (5.5, 5.0, 0.5, 0.1)
    assert finding.utilisation == pytest.approx(5)
    for part in ("case y", "[1,2]", "5.5", "0.1", "a test", "cosine"):
        assert part in str(finding)
    assert judge("case", "y", got, truth, bound(np.ones((2, 3)))).utilisation == 0.75


BOTH, BEYOND = [math.inf, -math.inf], [1e40, -1e40, 1.0]
CASES = [
    # got, its type, truth, limit of every element, whether it is right
    ([1.5, 2], "f4", [1.0, 2.0], 0.5, True),  # at the limit
    ([1, 2], "f4", [1.0, 2.0], 0, True),  # zero by zero is no NaN
    ([1, 2.0000002], "f4", [1.0, 2.0], 0, False),
    *(([1, math.nan], "f4", [1.0, 2.0], limit, False) for limit in (1e30, None, math.nan, math.inf)),
    *(([1, 2], "f4", [1.0, math.nan], limit, False) for limit in (1e30, None, math.nan, math.inf)),
    *(([1, math.nan], "f4", [1.0, math.nan], limit, True) for limit in (1e30, None, math.nan, math.inf)),
    *((BOTH, "f4", BOTH, limit, True) for limit in (1e30, None, math.inf)),
    *((got, "f4", BOTH, limit, False) for limit in (1e30, None, math.inf)
      for got in ([math.inf, math.inf], [3e38, -math.inf], [math.nan, -math.inf])),
    ([math.inf, -math.inf, 1], "f4", BEYOND, 1e33, True),  # f32 ends before fp64
    *((got, "f4", BEYOND, 1e33, False)
      for got in ([-math.inf, -math.inf, 1], [3e38, -math.inf, 1], [math.inf, -math.inf, math.inf])),
    ([math.inf], "f2", [65520.0], 0, True),
    ([math.inf], "f2", [65500.0], 1, False),
    ([1, -2], "i4", np.array([1, -2], np.int32), None, True),  # exact means every bit
    ([1, -1], "i4", np.array([1, -2], np.int32), None, False),
    ([-0.0], "f4", [0.0], None, False),
    ([0], "f4", [1e-45], None, False),
    ([-128], "i1", np.array([127], np.int8), 1, False),  # integers do not wrap
]  # fmt: skip


@pytest.mark.parametrize(("got", "dtype", "truth", "limit", "ok"), CASES)
def test_judge_tells_right_from_wrong(got: list[float], dtype: str, truth, limit: float | None, ok: bool) -> None:
    want = np.asarray(truth)
    finding = judge("c", "y", np.array(got, dtype), want, bound(None if limit is None else np.full(want.shape, limit)))
    assert finding.ok == ok and (finding.wrong == 0) == ok and (finding.utilisation <= 1) == ok
    assert finding.nan_count == np.isnan(got).sum() and finding.inf_count == np.isinf(np.array(got, dtype)).sum()
    if not ok and np.isnan(got).any() and not np.isnan(want).any() and np.isfinite(want).all():
        assert finding.worst_index == (1,) and finding.error == math.inf
    if dtype == "i1":
        assert finding.error == 255


def test_judge_refuses_what_cannot_be_compared() -> None:
    a, ones = np.ones(3, np.float32), np.ones(3)
    for words, got, truth, limit in [
        ("shape", a[:2], ones, None),
        ("empty", a[:0], ones[:0], None),
        ("limit has shape", a, ones, 1.0),
        ("negative", a, ones, [1, -1e-300, 1]),
        ("negative", np.tile(a, 999), np.ones(2997), [1] * 2996 + [-1e-300]),  # anywhere
        ("dtype", a.astype(np.int32), ones, None),
    ]:
        with pytest.raises(WrongInput, match=words):
            judge("c", "y", got, truth, bound(limit))


def test_aggregates_miss_what_the_bound_sees() -> None:
    """One row of 4096 zeroed passes cosine and NMSE; the per-element bound rejects it."""
    rng = np.random.default_rng(7)
    truth = rng.standard_normal(4096)
    got = truth.astype(np.float32)
    at = int(np.argmin(np.abs(truth - 0.5)))
    got[at] = 0
    finding = judge("c", "y", got, truth, bound(1e-6 * np.abs(truth)))
    assert finding.cosine > 0.997 and finding.nmse < 5e-4
    assert not finding.ok and finding.wrong == 1 and finding.worst_index == (at,)


def test_judge_reports_the_aggregates() -> None:
    truth = np.array([2.0, -4.0, 0.0, 8.0])
    got = np.array([2.5, -4.0, 0.0, 7.0], np.float32)
    finding = judge("c", "y", got, truth, bound([1.0] * 4))
    assert finding.ok and (finding.max_abs, finding.max_rel, finding.mean_error) == (1.0, 0.25, -0.125)
    assert finding.mse == 1.25 / 4 and finding.rmse == math.sqrt(1.25 / 4) and finding.nmse == 1.25 / 84
    assert finding.max_ulp == 2**21 and (finding.nan_count, finding.inf_count) == (0, 0)
    assert finding.cosine == pytest.approx(77 / math.sqrt(71.25 * 84)) == compare.cosine(got, truth)
    assert finding.norm_ratio == pytest.approx(math.sqrt(71.25 / 84)) == compare.norm_ratio(got, truth)
    for part in ("mean error -0.125", "max ULP", "0 NaN", "0 inf"):
        assert part in str(finding)
    beside_zero = judge("c", "y", np.array([1e-9], np.float32), np.array([0.0]), bound([1.0]))
    assert beside_zero.ok and beside_zero.max_rel == math.inf
    integers = judge("c", "y", np.array([3, 5], np.int32), np.array([3, 4], np.int64), bound([1, 1]))
    assert integers.ok and (integers.max_ulp, integers.max_abs, integers.max_rel) == (0, 1, 0.25)


def test_judge_counts_infinities_and_its_means_fail_closed() -> None:
    finding = judge("c", "y", np.array([np.inf, 1], np.float32), np.array([np.inf, 1]), bound([1, 1]))
    assert finding.ok and finding.inf_count == 1 and finding.max_abs == finding.max_ulp == 0
    assert all(math.isnan(x) for x in (finding.cosine, finding.nmse, finding.mse, finding.rmse, finding.mean_error))
    finding = judge("c", "y", np.array([np.inf, 1], np.float32), np.array([1.0, 1]), bound([1, 1]))
    assert not finding.ok and finding.max_abs == finding.max_rel == finding.max_ulp == math.inf


def test_ulps_are_counted_from_truth_rounded_to_the_output() -> None:
    third = np.array([1 / 3])
    for dtype in (np.float32, np.float16):
        right = third.astype(dtype)
        assert against(right, third).max_ulp == 0 and against(np.nextafter(right, dtype(1)), third).max_ulp == 1
    double = 1 + 2.0**-11 + 2.0**-40  # through f32 it would be rounded twice, and down
    assert against([np.nextafter(np.float16(1), np.float16(2))], [double]).max_ulp == 0


@pytest.mark.parametrize("size", [1e300, 1e155, 1e-155, 1e-300])
def test_squares_that_fp64_cannot_hold(size: float) -> None:
    b = np.array([3.0, 4.0, 0.0]) * size
    found = against(b * 1.5, b)
    assert found.cosine == pytest.approx(1) and found.norm_ratio == pytest.approx(1.5)
    assert found.nmse == pytest.approx(0.25) and found.rmse == pytest.approx(2.5 * size / math.sqrt(3))
    assert found.mse == pytest.approx(found.rmse * found.rmse) and found.mean_error == pytest.approx(3.5 / 3 * size)
    assert (found.mse == math.inf) == (size > 1e154)


# the native pass

ISAS = [name for name, _ in _native.cpu_isas()]
FLOATS, INTEGERS = ("f4", "f2", "f8"), ("i1", "i4", "i8")
HOSTILE = [
    *(0.0, -0.0, math.nan, math.inf, -math.inf, 1.0, -1.0, 5e-324, 1e-45, -6e-8, 65504, 65519, 65520, -65535.9, 1e5),
    *(3.4028234e38, 3.4028235677973366e38, -3.5e38, 1e40, 1e-40, 1e155, 1e308, -1.7e308, 2.0**-14, 2.0**-24, 2.0**-25),
]
LIMITS = [0.0, math.nan, math.inf, 1e-6, 1.0, 1e33, 5e-324]
SUMS = ("got_sq", "truth_sq", "product", "error_sq", "signed")


def values(rng: np.random.Generator, count: int, dtype: str, hostile: float) -> np.ndarray:
    """Random values of both signs over many sizes, some of them hostile."""
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        ends = np.iinfo(kind)
        return rng.integers(ends.min, ends.max, count, kind, endpoint=True)
    usual = rng.standard_normal(count) * 10.0 ** rng.integers(-12, 12, count)
    with np.errstate(over="ignore"):
        return np.where(rng.random(count) < hostile, rng.choice(HOSTILE, count), usual).astype(kind)


def near(rng: np.random.Generator, got: np.ndarray, dtype: str) -> np.ndarray:
    """Truth that mostly agrees: rounding noise on some elements, a hostile value on few, equality on the rest."""
    with np.errstate(all="ignore"):
        truth = got.astype(np.float64) * (1 + 1e-7 * rng.standard_normal(got.size) * (rng.random(got.size) < 0.5))
        if np.dtype(dtype).kind in "iu":
            return np.where(rng.random(got.size) < 0.9, got, got // 2).astype(dtype)
        return np.where(rng.random(got.size) < 0.01, rng.choice(HOSTILE, got.size), truth).astype(dtype)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """got, truth and limits of one length, from one seed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.one_of(st.integers(1, 70), st.integers(1, 10_000), st.sampled_from([2047, 2048, 2049, 4096])))
    hostile = draw(st.sampled_from([0.0, 0.0, 0.001, 0.3]))
    if draw(st.booleans()):
        got_type, truth_type = draw(st.sampled_from(FLOATS)), draw(st.sampled_from(FLOATS))
    else:
        got_type, truth_type = draw(st.sampled_from([*[(a, b) for a in INTEGERS for b in INTEGERS], ("u4", "u4")]))
    got = values(rng, count, got_type, hostile)
    agree = draw(st.booleans())
    truth = near(rng, got, truth_type) if agree else values(rng, count, truth_type, hostile)
    limit = rng.choice(LIMITS, count) if draw(st.booleans()) else np.full(count, draw(st.sampled_from(LIMITS)))
    return got, truth, limit


def assert_twins(found: Pass, twin: Pass, got: np.ndarray, truth: np.ndarray) -> None:
    for name in {one.name for one in fields(Pass)} - set(SUMS):
        assert getattr(found, name) == getattr(twin, name), name
    if found.finite:
        sizes = [np.abs(x.astype(np.float64)) for x in (got, truth)]
        if max(x.max() for x in sizes) < 1e150:
            reach = {"got_sq": sizes[0] @ sizes[0], "truth_sq": sizes[1] @ sizes[1], "product": sizes[0] @ sizes[1],
                     "error_sq": twin.error_sq, "signed": (sizes[0] + sizes[1]).sum()}  # fmt: skip
            for name in SUMS:
                assert getattr(found, name) == pytest.approx(getattr(twin, name), rel=0, abs=1e-12 * reach[name]), name


@given(pairs())
@settings(max_examples=300, deadline=None)
def test_the_native_pass_is_its_twin(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    got, truth, limit = drawn
    for rule in ({"limit": limit}, {"bits": True}, {}):
        with np.errstate(all="ignore"):
            twin = pass_numpy(got, truth, rule.get("limit"), bits="bits" in rule)
        for isa in ISAS:
            assert_twins(Pass(**_native.compare(got, truth, isa=isa, **rule)), twin, got, truth)


@pytest.mark.parametrize(
    ("got_type", "truth_type"), [("f4", "f4"), ("f4", "f8"), ("f2", "f2"), ("f8", "f8"), ("i4", "i8")]
)
@pytest.mark.parametrize("spoiled", [False, True])
def test_threads_and_instruction_sets_change_no_bit(got_type: str, truth_type: str, spoiled: bool) -> None:
    rng = np.random.default_rng(3)
    count = 9_000_011 if got_type == truth_type == "f4" and not spoiled else 300_007
    got = values(rng, count, got_type, 0.0)
    truth = near(rng, got, truth_type) if spoiled else got.astype(truth_type)
    truth[::3] = truth[::3] * 0.5
    for rule in ({"limit": np.abs(truth.astype(np.float64)) * 1e-7}, {"bits": True}, {}):
        found = [_native.compare(got, truth, threads=n, isa=isa, **rule) for n, isa in product((0, 1, 2, 7), ISAS)]
        assert len({struct.pack("<17d", *one.values()) for one in found}) == 1


@pytest.mark.parametrize("isa", ISAS)
def test_ties_go_to_the_highest_index(isa: str) -> None:
    truth = np.zeros(20_000, np.float32)
    got = truth.copy()
    for places, error, wanted in ([], 0, 19_999), ([5, 700, 5000, 13_000], 1, 13_000), ([700], 2, 700):
        got[places] = error  # 700 has the largest error in the end
        for rule in ({}, {"bits": True}, {"limit": np.full(20_000, 2.0)}):
            assert _native.compare(got, truth, isa=isa, **rule)["worst"] == wanted


@pytest.mark.parametrize("isa", ISAS)
def test_no_maximum_is_missed_where_it_grows_slowly(isa: str) -> None:
    for step, dtype in product((1e-6, 1e-2, 0.5), (np.float32, np.float64)):
        b = np.full(30_000, 3, dtype)
        a = (b * (1 + 1e-3 * (1 + step * np.arange(30_000) / 2048))).astype(dtype)
        found = _native.compare(a, b, isa=isa)
        error = np.abs(a.astype(np.float64) - 3)
        assert (found["max_abs"], found["max_rel"]) == (error.max(), (error / 3).max())


@pytest.mark.parametrize("isa", ISAS)
def test_an_overflow_is_right_exactly_where_rounding_overflows(isa: str) -> None:
    for dtype, edge in ((np.float32, 2.0**128 - 2.0**103), (np.float16, 65520.0), (np.float64, math.inf)):
        for truth, right in ((edge, True), (np.nextafter(edge, 0), False), (-edge, False)):
            found = _native.compare(np.array([np.inf], dtype), np.array([truth]), np.zeros(1), isa=isa)
            assert found["wrong"] == (not right), (dtype, truth)


@pytest.mark.parametrize("limit", [5e-324, 1e-310, 1e-290, 1e33])
def test_ties_of_utilisations_that_overflow_or_vanish(limit: float) -> None:
    truth, limits = np.zeros(10_000), np.full(10_000, limit)
    got = np.where(np.arange(10_000) % 3 == 0, 7.0, 0.0)
    for size, isa in product((1.0, 1e-290, 1e-310, 5e-324), ISAS):
        assert _native.compare(got * size, truth, limits, isa=isa)["worst"] == 9999


def test_every_f16_and_its_midpoints_round_as_in_numpy() -> None:
    every = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    finite = np.sort(every[np.isfinite(every)]).astype(np.float64)
    middle = (finite[1:] + finite[:-1]) / 2
    for truth in (every.astype(np.float64), middle, np.nextafter(middle, 1e9), np.nextafter(middle, -1e9)):
        with np.errstate(over="ignore"):
            got = truth.astype(np.float16)
        for isa in ISAS:
            found = _native.compare(got, truth, bits=True, isa=isa)
            assert (found["wrong"], found["max_ulp"]) == (0, 0)


def test_the_native_pass_refuses_what_it_cannot_read() -> None:
    a = np.ones(8, np.float32)
    for got, truth, more in [
        (a, a[:4], {}), (a[:0], a[:0], {}), (a[::2], a[:4], {}), (a.astype(">f4"), a, {}), (a > 0, a, {}),
        (a.astype(np.longdouble), a, {}), (a, a, {"limit": np.ones(3)}), (a, a, {"limit": np.ones(8), "bits": True}),
        (a, a, {"isa": "sse9"}),
    ]:  # fmt: skip
        with pytest.raises(ValueError):
            _native.compare(got, truth, **more)
    assert one_pass(a[::2], a.astype(">f4")[::2]).max_abs == 0  # those are copied, or go to the twin
    assert judge("c", "y", a.astype(">f4"), np.full(8, 2.0), bound(np.full(8, 0.5))).wrong == 8


def test_without_the_native_module_judge_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    got = values(rng, 999, "f4", 0.1).reshape(9, 111)
    truth, limit = near(rng, got.ravel(), "f8").reshape(9, 111), rng.choice(LIMITS, (9, 111))
    native = judge("c", "y", got, truth, bound(limit))
    monkeypatch.setattr(aggregates, "_native", lambda: None)
    assert repr(judge("c", "y", got, truth, bound(limit))) == repr(native)
