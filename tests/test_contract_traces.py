"""Sample-size parity comes before every ratio: contract trace-parity-v1, against made traces."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kparity.errors import UnknownName, WrongInput
from kparity.traces.parity import ALL_PASS, FIXES, SLOTS, Layer, Stats, Trace, sample_size_parity, std_ratio_gate

TOKENS, HIDDEN, LAYERS = 7, 3584, 28
STORY_LAYER, STORY_SLOT = 3, "ffn_swiglu_inner"
DRIFT = 1.2154
"""What the two right engines of the story really differed by."""


def tensors(layer: int) -> dict[str, np.ndarray]:
    """[TOKENS, HIDDEN] per slot. In one slot the first token carries massive values, as first tokens do."""
    rng = np.random.default_rng(layer)
    found = {slot: rng.normal(0, 1, (TOKENS, HIDDEN)).astype(np.float32) for slot in SLOTS}
    if layer == STORY_LAYER:
        # σ over all tokens is √((6 + s²) / 7): 15 times σ of one ordinary token for s = 39.6.
        found[STORY_SLOT][0] *= math.sqrt(7 * 15**2 - 6)
    return found


def engine(tokens: slice, drift: float = 1.0, last_token: bool = False) -> Trace:
    """The trace of an engine that records these tokens, off by a factor in the slot of the story."""
    layers = []
    for layer in range(LAYERS):
        found = {slot: array[tokens] for slot, array in tensors(layer).items()}
        if layer == STORY_LAYER:
            found[STORY_SLOT] = found[STORY_SLOT] * drift
        layers.append(Layer.of(found, last_token))
    return layers


ALL, LAST = slice(None), slice(-1, None)


def ratio_of(a: Stats, b: Stats) -> float:
    return max(a.std / b.std, b.std / a.std)


def test_the_story_of_18_that_becomes_1_2() -> None:
    one, other = engine(ALL, DRIFT), engine(LAST)
    apart = ratio_of(one[STORY_LAYER].slots[STORY_SLOT], other[STORY_LAYER].slots[STORY_SLOT])
    assert 17 < apart < 19.5
    before = std_ratio_gate(one, other)
    assert before.verdict == "INCONCLUSIVE"
    assert "worst 18" in before.reason and f"at layer {STORY_LAYER} {STORY_SLOT}" in before.reason
    assert before.advice == FIXES and "fix 1" in FIXES and "fix 2" in FIXES

    fixed = engine(ALL)
    first = std_ratio_gate(one, fixed)
    assert first.verdict == "PASS"
    assert 1.15 < ratio_of(one[STORY_LAYER].slots[STORY_SLOT], fixed[STORY_LAYER].slots[STORY_SLOT]) < 1.25

    left, right = engine(ALL, DRIFT, last_token=True), engine(LAST, last_token=True)
    second = std_ratio_gate(left, right, last_token=True)
    assert second.verdict == "PASS" and len(second.checks) == LAYERS * len(SLOTS)
    check = next(c for c in second.checks if (c.layer, c.slot) == (STORY_LAYER, STORY_SLOT))
    assert check.a and check.b and 1.15 < check.a.std / check.b.std < 1.25


def test_all_tokens_against_the_last_token_is_inconclusive() -> None:
    report = sample_size_parity(engine(ALL), engine(LAST))
    assert report.verdict == "FAIL" and len(report.checks) == len(report.failed) == 280
    first = report.checks[0]
    assert first.a and first.b and (first.a.count, first.b.count) == (25088, 3584)
    assert report.reason.startswith("280 of 280 counts differ, first layer 0 attn_norm: 25088 against 3584")
    assert "25088 = 7 × 3584" in report.reason and report.advice == FIXES
    assert std_ratio_gate(engine(ALL), engine(LAST)).verdict == "INCONCLUSIVE"


def small(layers: int = 3, width: int = 5, seed: int = 0) -> list[Layer]:
    rng = np.random.default_rng(seed)
    return [Layer.of({slot: rng.normal(0, 1, (4, width)) for slot in SLOTS}) for _ in range(layers)]


def with_slot(trace: list[Layer], layer: int, slot: str, **changes: float) -> list[Layer]:
    """A copy in which one slot has other statistics."""
    there = trace[layer]
    changed = Layer({**there.slots, slot: dataclasses.replace(there.slots[slot], **changes)})
    return [*trace[:layer], changed, *trace[layer + 1 :]]


def test_any_single_count_that_differs_is_the_one_failed_check() -> None:
    trace = small(LAYERS)
    assert sample_size_parity(trace, trace).verdict == "PASS"
    for layer, slot in itertools.product(range(LAYERS), SLOTS):
        other = with_slot(trace, layer, slot, count=21)
        report = sample_size_parity(trace, other)
        assert len(report.checks) == 280 and report.verdict == "FAIL"
        assert [(check.layer, check.slot) for check in report.failed] == [(layer, slot)]


def test_a_real_factor_is_the_one_failed_check() -> None:
    trace = small(LAYERS)
    other = with_slot(trace, 17, "qkv", std=trace[17].slots["qkv"].std * 2)
    report = std_ratio_gate(trace, other)
    assert report.verdict == "FAIL" and [check.place for check in report.failed] == ["layer 17 qkv"]
    assert "layer 17 qkv: std ratio = 2 (> 1.4)" in report.reason
    lost_branch = with_slot(trace, 0, "output", std=trace[0].slots["output"].std * math.sqrt(2))
    assert std_ratio_gate(trace, lost_branch).verdict == "FAIL"


@pytest.mark.parametrize(
    "change",
    [{"nan_count": 1}, {"inf_count": 1}, {"std": math.nan}, {"std": math.inf}, {"std": 0.0}],
    ids=["nan", "inf", "std nan", "std inf", "constant"],
)
def test_what_is_not_finite_fails(change: dict[str, float]) -> None:
    trace = small()
    other = with_slot(trace, 1, "ffn_up", **change)
    for a, b in ((trace, other), (other, trace)):
        report = std_ratio_gate(a, b)
        assert report.verdict == "FAIL" and [check.place for check in report.failed] == ["layer 1 ffn_up"]
    if change != {"std": 0.0}:  # two constants agree, two NaN do not
        assert std_ratio_gate(other, other).verdict == "FAIL"


def test_a_real_nan_is_counted_and_fails() -> None:
    values = np.ones((2, 4), np.float32)
    values[0, 1], values[1, 2], values[1, 3] = np.nan, np.inf, 0
    stats = Stats.of(values)
    assert (stats.nan_count, stats.inf_count, stats.zero_count, stats.count) == (1, 1, 1, 8)
    assert (stats.min, stats.max, stats.mean) == (0.0, 1.0, pytest.approx(5 / 6))
    trace = [Layer.of({slot: values for slot in SLOTS})]
    assert std_ratio_gate(trace, trace).verdict == "FAIL"


def test_nothing_compared_is_not_green() -> None:
    for gate in (sample_size_parity, std_ratio_gate):
        assert gate([], []).verdict == "INCONCLUSIVE" and "nothing was compared" in gate([], []).reason
        assert gate(small(), small(), slots=()).verdict == "INCONCLUSIVE"
    assert sample_size_parity(small(3), small(2)).verdict == "FAIL"
    assert len(sample_size_parity(small(3), small(2)).failed) == len(SLOTS)
    assert sample_size_parity(small(), []).verdict == "FAIL"
    trace = small()
    lacking = [Layer({slot: stats for slot, stats in layer.slots.items() if slot != "qkv"}) for layer in trace]
    assert [check.slot for check in sample_size_parity(trace, lacking).failed] == ["qkv"] * 3
    assert sample_size_parity(lacking, lacking).verdict == "FAIL"
    assert "only one side has this slot" in sample_size_parity(trace, lacking).reason
    assert std_ratio_gate(trace, lacking).verdict == "INCONCLUSIVE"
    with pytest.raises(WrongInput, match="no element"):
        Layer.of({"qkv": np.empty((0, 4))})


def test_the_bias_is_named() -> None:
    false_positive = std_ratio_gate(engine(ALL, DRIFT), engine(LAST))
    assert "1 would fail (worst 18" in false_positive.reason and "possibly a false positive" in false_positive.reason
    assert "279 would pass, each possibly a false negative" in false_positive.reason
    trace = small()
    hidden = with_slot(trace, 0, "qkv", count=5)
    said = std_ratio_gate(trace, hidden).reason
    assert "1 would pass, each possibly a false negative" in said and "false positive" not in said


def test_a_pass_points_at_what_a_trace_cannot_see() -> None:
    advice = std_ratio_gate(small(), small()).advice
    assert advice == ALL_PASS
    for word in ("autoregressive", "prefill", "KV cache", "sampling"):
        assert word in advice


def test_statistics_leave_their_array_alone() -> None:
    values = np.random.default_rng(1).normal(0, 1, (3, 8)).astype(np.float32)
    before = values.tobytes()
    Layer.of({"output": values}, last_token=True)
    assert values.tobytes() == before


counted = st.integers(1, 3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(counted, counted), min_size=0, max_size=6), st.integers(0, 2**32 - 1))
def test_no_ratio_is_judged_without_parity(counts: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (
        [Layer.of({"qkv": rng.normal(0, 1, (pair[side], 4))}) for pair in counts] for side in (0, 1)
    )  # layers of 1 to 3 tokens, often unequal
    parity, ratio = (gate(a, b, slots=("qkv",)) for gate in (sample_size_parity, std_ratio_gate))
    equal = bool(counts) and all(left == right for left, right in counts)
    assert (parity.verdict == "PASS") is equal
    assert (ratio.verdict in ("PASS", "FAIL")) is equal
    turned = std_ratio_gate(b, a, slots=("qkv",))
    assert [bool(check.reason) for check in turned.checks] == [bool(check.reason) for check in ratio.checks]
    assert turned.verdict == ratio.verdict


@settings(max_examples=100, deadline=None)
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=st.floats(-100, 100, width=32))
)
def test_statistics_follow_their_definitions(values: np.ndarray) -> None:
    stats, exact = Stats.of(values), [float(x) for x in values.ravel()]
    mean = math.fsum(exact) / len(exact)
    assert stats.count == len(exact) and stats.zero_count == exact.count(0.0)
    assert (stats.min, stats.max) == (min(exact), max(exact))
    assert stats.mean == pytest.approx(mean, rel=1e-12, abs=1e-12)
    if len(exact) == 1:
        assert math.isnan(stats.std)
    else:
        variance = math.fsum((x - mean) ** 2 for x in exact) / (len(exact) - 1)
        assert stats.std == pytest.approx(math.sqrt(variance), rel=1e-12, abs=1e-12)


def test_last_token_statistics_are_absent_by_default() -> None:
    widths = dict.fromkeys(SLOTS, 8) | dict.fromkeys(("ffn_gate", "ffn_up", "ffn_silu_gate", "ffn_swiglu_inner"), 20)
    made = {slot: np.random.default_rng(0).normal(0, 1, (TOKENS, width)) for slot, width in widths.items()}
    assert Layer.of(made).last_token is None
    last = Layer.of(made, last_token=True).last_token
    assert last is not None and {slot: stats.count for slot, stats in last.items()} == widths
    assert all(last[slot] == Stats.of(array[-1]) for slot, array in made.items())
    without = [Layer.of(made)]
    assert sample_size_parity(without, without, last_token=True).verdict == "FAIL"


def test_wrong_slots_and_shapes_are_named() -> None:
    with pytest.raises(UnknownName, match="did you mean 'ffn_gate'"):
        Layer.of({"ffn_gat": np.ones((1, 2))})
    with pytest.raises(WrongInput, match=r"give \[tokens, width\]"):
        Layer.of({"qkv": np.ones(4)})
    assert len(SLOTS) == 10
