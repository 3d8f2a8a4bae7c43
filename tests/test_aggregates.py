"""The native pass is its numpy twin on hostile values; no thread and no instruction set changes a bit."""

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
from kparity.numerics import aggregates
from kparity.numerics.aggregates import Pass, one_pass, pass_numpy
from kparity.numerics.compare import judge
from kparity.ops.spec import ErrorBound

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
    assert judge("c", "y", a.astype(">f4"), np.full(8, 2.0), ErrorBound(np.full(8, 0.5), "a test")).wrong == 8


def test_without_the_native_module_judge_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    got = values(rng, 999, "f4", 0.1).reshape(9, 111)
    truth, limit = near(rng, got.ravel(), "f8").reshape(9, 111), rng.choice(LIMITS, (9, 111))
    native = judge("c", "y", got, truth, ErrorBound(limit, "a test"))
    monkeypatch.setattr(aggregates, "_native", lambda: None)
    assert repr(judge("c", "y", got, truth, ErrorBound(limit, "a test"))) == repr(native)
