"""Metrics of logits against plain sums in exact order, closed forms, and rows that must fail."""

from __future__ import annotations

import math
from dataclasses import fields
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kparity.errors import WrongInput
from kparity.numerics.logits import (
    BINS,
    HALVES,
    Rows,
    bhattacharyya,
    compare_logits,
    error_histogram,
    error_map,
    half_octave,
    sigma_ratio,
    spread,
    top_tokens,
)
from kparity.numerics.statistics import bootstrap_farther, quantile, sprt, sprt_left

INF, NAN = math.inf, math.nan
RNG = np.random.default_rng(7)
LOGITS = RNG.normal(0, 3, (5, 3000)).astype(np.float32)
NOISY = LOGITS + RNG.normal(0.01, 0.1, LOGITS.shape).astype(np.float32)


def one(reference: list[float], candidate: list[float], dtype: type = np.float32) -> Rows:
    return compare_logits(np.array([reference], dtype), np.array([candidate], dtype))


def plainly(r: list[float], c: list[float]) -> dict[str, float]:
    """The same measures, a sum at a time."""
    error = [b - a for a, b in zip(r, c, strict=True)]
    dot = {name: math.fsum(x * y for x, y in zip(*pair, strict=True))
           for name, pair in {"rr": (r, r), "cc": (c, c), "rc": (r, c), "ee": (error, error)}.items()}  # fmt: skip
    tops = max(r), max(c)
    logs = [top + math.log(math.fsum(math.exp(x - top) for x in side)) for side, top in zip((r, c), tops, strict=True)]
    p, q = ([x - log for x in side] for side, log in zip((r, c), logs, strict=True))
    ranked = [sorted(range(len(side)), key=lambda i, side=side: (-side[i], i)) for side in (r, c)]
    return {
        "mse": dot["ee"] / len(r), "rmse": math.sqrt(dot["ee"] / len(r)), "l2": math.sqrt(dot["ee"]),
        "max_abs": max(map(abs, error)), "mean_abs": math.fsum(map(abs, error)) / len(r),
        "mean_error": math.fsum(error) / len(r), "cosine": dot["rc"] / math.sqrt(dot["rr"] * dot["cc"]),
        "norm_ratio": math.sqrt(dot["cc"] / dot["rr"]), "factor": dot["rc"] / dot["rr"],
        "kl": math.fsum(math.exp(x) * (x - y) for x, y in zip(p, q, strict=True)),
        **{f"top{k}": len({*ranked[0][:k]} & {*ranked[1][:k]}) / min(k, len(r)) for k in (1, 5, 10)},
        "reference_argmax": ranked[0][0], "candidate_argmax": ranked[1][0],
        "reference_gap": max(r) - r[ranked[1][0]],
        "reference_margin": r[ranked[0][0]] - r[ranked[0][1]], "candidate_margin": c[ranked[1][0]] - c[ranked[1][1]],
        "reference_bad": 0, "candidate_bad": 0,
    }  # fmt: skip


def assert_rows(rows: Rows, want: list[dict[str, float]]) -> None:
    for name in want[0]:
        tolerance = 0 if name.startswith(("top", "max", "ref", "cand")) else 1e-11
        assert getattr(rows, name) == pytest.approx([row[name] for row in want], rel=tolerance, abs=tolerance), name


@pytest.mark.parametrize("dtypes", [("f4", "f4"), ("f8", "f4"), ("f8", "f8")])
def test_every_measure_is_the_plain_sum(dtypes: tuple[str, str]) -> None:
    reference, candidate = LOGITS.astype(dtypes[0]), NOISY.astype(dtypes[1])
    want = [plainly(r, c) for r, c in zip(reference.tolist(), candidate.tolist(), strict=True)]
    rows = compare_logits(reference, candidate)
    assert set(want[0]) == {f.name for f in fields(Rows)} | {"rmse"} and len(rows) == 5
    assert_rows(rows, want)


@given(st.lists(st.tuples(st.integers(-6, 6), st.integers(-6, 6)), min_size=2, max_size=40))
def test_small_rows_with_many_ties(pairs: list[tuple[int, int]]) -> None:
    reference, candidate = ([float(pair[side]) or 1.0 for pair in pairs] for side in (0, 1))  # no row of zeros
    assert_rows(one(reference, candidate), [plainly(reference, candidate)])


def test_closed_forms() -> None:
    rows = one([0, 0], [math.log(3), 0], np.float64)  # halves against three quarters and a quarter
    assert rows.kl[0] == pytest.approx(math.log(2 / math.sqrt(3)), rel=1e-14)
    assert one([3, 4], [6, 8]).factor[0] == one([3, 4], [6, 8]).norm_ratio[0] == 2
    assert one([3, 4], [4, -3]).cosine[0] == one([3, 4], [4, -3]).factor[0] == 0
    assert one([1, 2], [2, 1]).l2[0] == pytest.approx(math.sqrt(2)) and one([1, 2], [2, 1]).mse[0] == 1
    far = one([0, 3e38], [3e38, 0])
    assert far.kl[0] == pytest.approx(3e38, rel=1e-6) and far.cosine[0] == 0
    assert one([0, 0], [0, 0]).cosine[0] == 1 and one([0, 0], [1, 0]).cosine[0] == one([1, 0], [0, 0]).cosine[0] == 0


def test_equal_and_shifted_rows() -> None:
    same, shifted = compare_logits(LOGITS, LOGITS), compare_logits(LOGITS, LOGITS.astype(np.float64) + 1000)
    for rows in (same, shifted):
        assert rows.kl == pytest.approx(0, abs=1e-12) and (rows.kl >= 0).all()
        assert all((getattr(rows, name) == 1).all() for name in ("top1", "top5", "top10"))
    assert not same.mse.any() and not same.kl.any() and not same.log_norm_ratio.any() and same.sigma == 0
    assert shifted.mean_error == pytest.approx(1000) and shifted.cosine_distance.min() > 0.5
    scaled = compare_logits(LOGITS, LOGITS * np.float32(0.5))
    assert scaled.factor == pytest.approx(0.5) and scaled.cosine_distance == pytest.approx(0, abs=1e-15)
    assert scaled.log_norm_ratio == pytest.approx(math.log(2))


@pytest.mark.parametrize("at", [0, 2999])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("sides", [("reference",), ("candidate",), ("reference", "candidate")])
def test_a_row_that_is_not_finite_keeps_its_place_and_meets_no_limit(
    sides: tuple[str, ...], value: float, at: int
) -> None:
    chunks = {"reference": LOGITS.copy(), "candidate": LOGITS.copy()}
    for side in sides:
        chunks[side][2, at] = value
    rows, clean = compare_logits(**chunks), compare_logits(LOGITS, LOGITS)
    for name in ("mse", "rmse", "l2", "max_abs", "mean_abs", "kl", "cosine_distance", "log_norm_ratio"):
        assert np.isinf(getattr(rows, name)).tolist() == [False, False, True, False, False], name
        assert not rows.summary()[name].most <= 1e300 and not rows.summary()[name].mean <= 1e300
    assert np.isnan([rows.cosine[2], rows.norm_ratio[2], rows.factor[2], rows.mean_error[2]]).all()
    assert rows.top1[2] == rows.top5[2] == rows.top10[2] == 0 and rows.reference_argmax[2] != rows.candidate_argmax[2]
    assert not rows.summary()["cosine"].median >= -1 and rows.sigma == INF
    assert sigma_ratio(rows, clean) == sigma_ratio(clean, rows) == sigma_ratio(rows, rows) == INF
    for side in sides:
        assert getattr(rows, f"{side}_bad").tolist() == [0, 0, 1, 0, 0] and getattr(rows, f"{side}_argmax")[2] < 0
        assert np.isnan(getattr(rows, f"{side}_margin")[2])


def test_differences_beyond_fp64_are_infinite() -> None:
    rows = one([1.7e308, 0], [-1.7e308, 0], np.float64)
    assert rows.mse[0] == rows.kl[0] == rows.max_abs[0] == rows.mean_abs[0] == INF and rows.cosine[0] == -1
    assert one([-1.7e308, 0], [1.7e308, 0], np.float64).kl[0] == INF  # an infinite error of weight 0
    assert one([0, 0], [1, 0]).log_norm_ratio[0] == one([1, 0], [0, 0]).log_norm_ratio[0] == INF


@pytest.mark.parametrize("size", [3, 2559, 2560, 5000, 128_256])
@pytest.mark.parametrize("levels", [1, 3, 10**6])
def test_the_lower_id_wins_a_tie(size: int, levels: int) -> None:
    logits = np.random.default_rng(size).integers(0, levels, size).astype(np.float32)
    assert top_tokens(logits).tolist() == np.lexsort((np.arange(size), -logits))[:10].tolist()


def test_chunks_do_not_change_a_bit() -> None:
    whole = compare_logits(LOGITS, NOISY)
    parts = Rows.joined(compare_logits(LOGITS[at : at + 2], NOISY[at : at + 2]) for at in (0, 2, 4))
    assert all(getattr(whole, f.name).tobytes() == getattr(parts, f.name).tobytes() for f in fields(Rows))
    counts = [error_histogram(LOGITS[at : at + 2], NOISY[at : at + 2], 0.1) for at in (0, 2, 4)]
    assert (sum(counts) == error_histogram(LOGITS, NOISY, 0.1)).all()


def test_errors_fall_into_their_bins() -> None:
    errors = np.array([[0, 0.06, 0.07, -0.07, 7.94, 8.07, 99, INF, -INF, NAN]])
    found = error_histogram(np.zeros_like(errors), errors * 2, sigma=2.0)
    middle = BINS // 2
    assert {at - middle: n for at, n in enumerate(found.tolist()) if n} == {
        0: 2, 1: 1, -1: 1, 64: 1, 65: 4, -65: 1,
    }  # fmt: skip


def test_errors_are_counted_beside_the_size_of_a_logit() -> None:
    """Each by the half of an octave that the plain logarithm gives, and what is not finite behind the last."""
    reference = np.array([[0.0, 1.0, 1.5, -3.1, 40.0, NAN, 2.0]], np.float32)
    candidate = np.array([[0.0, 1.3, 1.5, -3.0, 41.4, 1.0, INF]], np.float32)
    found = error_map(reference, candidate)
    told = [(half_octave(a), half_octave(b)) for a, b in np.argwhere(found)]
    assert told == [(0.0, 0.0), (1.0, 0.25), (1.5, 0.0), (2.0, INF), (3.0, 0.09375), (32.0, 1.0), (INF, INF)]
    assert found.sum() == 7 and (error_map(np.vstack([reference] * 2), np.vstack([candidate] * 2)) == 2 * found).all()
    for size in np.abs(LOGITS[0, :50]).tolist():
        at = next(at for at in range(HALVES) if half_octave(at + 1) > size)
        assert half_octave(at) in (2.0 ** math.floor(math.log2(size)), 1.5 * 2.0 ** math.floor(math.log2(size)))
        assert error_map([[size]], [[size]])[at, 0] == 1


def test_the_coefficient_sees_a_tail_that_the_cosine_hides() -> None:
    control = LOGITS + RNG.normal(0, 0.1, LOGITS.shape)
    twin = LOGITS + RNG.normal(0, 0.1, LOGITS.shape)
    tailed = LOGITS + RNG.normal(0, 0.1, LOGITS.shape) + 0.4 * (RNG.random(LOGITS.shape) < 0.05)
    base, like, unlike = (error_histogram(LOGITS, one, 0.1) for one in (control, twin, tailed))
    assert bhattacharyya(base, like) > 0.995 > 0.985 > bhattacharyya(base, unlike)
    assert compare_logits(LOGITS, tailed).cosine.min() > 0.998
    rows = [compare_logits(LOGITS, one) for one in (control, twin, tailed)]
    assert rows[0].sigma == pytest.approx((control - LOGITS).std(), rel=1e-12)
    assert sigma_ratio(rows[1], rows[0]) == pytest.approx(1, abs=0.02) and sigma_ratio(rows[2], rows[0]) > 1.3
    assert bhattacharyya(np.array([1, 0]), np.array([0, 5])) == 0
    assert bhattacharyya(np.ones(20), np.ones(20)) == 1  # whose rounded sum is above
    assert bhattacharyya(np.array([1, 1]), np.array([9, 0])) == pytest.approx(math.sqrt(0.5))
    same = compare_logits(LOGITS, LOGITS)
    assert sigma_ratio(same, same) == 1 and sigma_ratio(rows[0], same) == INF and sigma_ratio(same, rows[0]) == 0


def test_what_cannot_be_compared_is_refused() -> None:
    for pair in ((LOGITS, NOISY[:4]), (LOGITS[0], NOISY[0]), (LOGITS[:0], NOISY[:0])):
        for function in (compare_logits, lambda a, b: error_histogram(a, b, 1.0)):
            with pytest.raises(WrongInput, match="logits"):
                function(*pair)
    for sigma in (0.0, -1.0, NAN, INF):
        with pytest.raises(WrongInput, match="standard deviation"):
            error_histogram(LOGITS, NOISY, sigma)
    with pytest.raises(WrongInput):
        bhattacharyya(np.array([1, 2]), np.array([0, 0]))
    with pytest.raises(WrongInput, match="no logits"):
        Rows.joined([])


def test_summary_is_of_observed_values() -> None:
    rows = compare_logits(LOGITS, NOISY)
    found = rows.summary()["kl"]
    assert found == spread(rows.kl) and found.median == sorted(rows.kl)[2] and found.p99 == found.most == max(rows.kl)
    assert quantile(range(1, 101), 0.99) == 100 and quantile(range(101), 0.99) == 99 and quantile([1, 2], 0.5) == 2
    assert quantile([0, 1, INF], 0.5) == 1 and quantile([0, INF, INF], 0.5) == INF and math.isnan(quantile([0, NAN], 0))
    with pytest.raises(WrongInput):
        quantile([], 0.5)


@pytest.mark.parametrize(
    ("successes", "n", "verdict"),
    [(0, 0, "go on"), (325, 325, "go on"), (326, 326, "accept"), (326, 327, "go on"), (580, 581, "accept"),
     (0, 1, "go on"), (100, 101, "go on"), (0, 2, "reject"), (180, 182, "reject"), (200, 202, "go on")],
)  # fmt: skip
def test_sequential_test_of_three_nines_against_two(successes: int, n: int, verdict: str) -> None:
    assert sprt(successes, n, 0.999, 0.99, 0.05, 0.05) == verdict
    assert (sprt_left(successes, n, 0.999, 0.99) == 0) == (verdict != "go on")


@pytest.mark.parametrize(("successes", "n", "left"), [(0, 0, INF), (20, 20, 306), (325, 325, 1), (101, 102, 115)])
def test_how_many_more_trials_decide_at_the_present_rate(successes: int, n: int, left: float) -> None:
    assert sprt_left(successes, n, 0.999, 0.99) == left


@pytest.mark.parametrize(
    "given",
    [(2, 1, 0.9, 0.5), (-1, 1, 0.9, 0.5), (1, 1, 0.5, 0.9), (1, 1, 1.0, 0.5), (1, 1, 0.9, 0.5, 0.0),
     (1, 1, 0.9, 0.5, 0.5, 0.5)],
)  # fmt: skip
def test_impossible_sequential_tests_are_refused(given: tuple) -> None:
    with pytest.raises(WrongInput):
        sprt(*given)


def test_the_farther_side() -> None:
    near, far = RNG.random(256), RNG.random(256)
    assert bootstrap_farther(near + 0.3, far) == 1 and bootstrap_farther(near, far + 0.3) == 0
    assert bootstrap_farther(near, near) == bootstrap_farther([NAN], [INF]) == 0.5
    assert bootstrap_farther([*near, NAN], [*near, 9]) == 1 and bootstrap_farther([1.0], [INF]) == 0
    # two positions, one for each side: both from the larger difference, or both from the other, or one of each
    assert bootstrap_farther([3.0, 0.0], [0.0, 1.0], seed=1) == pytest.approx(0.75, abs=0.02)
    assert bootstrap_farther(near, far, seed=3) == bootstrap_farther(near, far, seed=3)
    for pair in (([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(WrongInput):
            bootstrap_farther(*pair)


def test_a_row_takes_less_than_an_engine_needs_for_it(capsys: pytest.CaptureFixture) -> None:
    reference = RNG.normal(0, 3, (1, 128_256)).astype(np.float32)
    candidate, best = reference + np.float32(0.01), []
    for function in (compare_logits, lambda a, b: error_histogram(a, b, 0.1)):
        times = []
        for _ in range(10):
            start = perf_counter()
            function(reference, candidate)
            times.append((perf_counter() - start) * 1e3)
        best.append(min(times))
    with capsys.disabled():
        print(f"\na row of 128,256 logits: {best[0]:.2f} ms, its histogram {best[1]:.2f} ms")
    assert sum(best) < 60
