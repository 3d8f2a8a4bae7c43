"""Sample-size parity, the precondition of every ratio between two traces, and the gate on the ratio of their standard
deviations (contract ``trace-parity-v1``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import zip_longest
from typing import Literal

import numpy as np

from kparity import contracts
from kparity.errors import UnknownName, WrongInput
from kparity.ops.spec import Array

CONTRACT = "trace-parity-v1"
SLOTS = (
    "attn_norm", "qkv", "attn_out", "ffn_norm", "ffn_gate", "ffn_up", "ffn_silu_gate", "ffn_swiglu_inner", "ffn_out",
    "output",
)  # fmt: skip
"""The ten places of a layer that a trace records, in order of computation."""
FIXES = "fix 1: record all tokens on both sides; fix 2: compare the last token's statistics on both sides (last_token)"
"""Both ways to sample-size parity; either will do."""
AT_ONCE = 1 << 20
"""Elements of which statistics are taken at a time: their fp64 copies are all that it costs."""
ALL_PASS = (
    "if the output is wrong although every layer passes, the defect is outside of what one traced forward pass sees: "
    "look at the autoregressive path, the prefill of the KV cache, and sampling"
)


@dataclass(frozen=True)
class Stats:
    """Statistics of one slot over ``count`` elements; ``min`` to ``std`` are taken over the finite ones.

    ``std`` has n - 1 in its denominator. A statistic that has too few finite elements is NaN.
    """

    min: float
    max: float
    mean: float
    std: float
    nan_count: int
    inf_count: int
    zero_count: int
    count: int

    @classmethod
    def of(cls, values: Array) -> Stats:
        """Statistics of an array of any shape, in fp64; raises WrongInput for an empty one."""
        flat = np.asarray(values).reshape(-1)
        if not flat.size:
            raise WrongInput("a trace slot has no element; record it after its kernel has run")
        pieces = (cls._of(flat[at : at + AT_ONCE]) for at in range(0, flat.size, AT_ONCE))
        return reduce(cls.merged, pieces)

    def merged(self, other: Stats) -> Stats:
        """Of both together (Chan, Golub and LeVeque, 1979)."""
        n, m = (each.count - each.nan_count - each.inf_count for each in (self, other))
        counts = (self.nan_count + other.nan_count, self.inf_count + other.inf_count,
                  self.zero_count + other.zero_count, self.count + other.count)  # fmt: skip
        if not n or not m:
            some = self if n else other
            return Stats(some.min, some.max, some.mean, some.std, *counts)
        apart = other.mean - self.mean
        squares = sum(each.std**2 * (k - 1) for each, k in ((self, n), (other, m)) if k > 1)
        std = math.sqrt((squares + apart**2 * n * m / (n + m)) / (n + m - 1))
        mean = self.mean + apart * m / (n + m)
        return Stats(min(self.min, other.min), max(self.max, other.max), mean, std, *counts)

    @classmethod
    def _of(cls, flat: Array) -> Stats:
        finite = flat[np.isfinite(flat)].astype(np.float64)
        low, high, mean = (finite.min(), finite.max(), finite.mean()) if finite.size else (math.nan,) * 3
        std = finite.std(ddof=1) if finite.size > 1 else math.nan
        nan, inf, zero = (int(each.sum()) for each in (np.isnan(flat), np.isinf(flat), flat == 0))
        return cls(float(low), float(high), float(mean), float(std), nan, inf, zero, flat.size)


@dataclass(frozen=True)
class Layer:
    """The slots of one layer, over all tokens of the prompt; ``last_token`` has them over the last token alone.

    ``last_token`` is absent unless it was asked for, so that nobody compares it with statistics over all tokens by
    accident.
    """

    slots: Mapping[str, Stats]
    last_token: Mapping[str, Stats] | None = None

    @classmethod
    def of(cls, tensors: Mapping[str, Array], last_token: bool = False) -> Layer:
        """Statistics of arrays [tokens, width]; raises UnknownName for a slot that is not one of the ten, WrongInput
        for an array of another rank.
        """
        for name, array in tensors.items():
            if name not in SLOTS:
                raise UnknownName("trace slot", name, SLOTS)
            if np.ndim(array) != 2:
                raise WrongInput(f"slot {name} has shape {np.shape(array)}; give [tokens, width]")
        last = {name: Stats.of(array[-1]) for name, array in tensors.items()} if last_token else None
        return cls({name: Stats.of(array) for name, array in tensors.items()}, last)


Trace = Sequence[Layer]
"""A trace: its layers in order."""


@dataclass(frozen=True)
class Check:
    """One comparison of one slot of one layer: the two sides, None where one lacks it; without a reason it passes."""

    layer: int
    slot: str
    a: Stats | None
    b: Stats | None
    reason: str

    @property
    def place(self) -> str:
        """For example ``layer 3 ffn_swiglu_inner``."""
        return f"layer {self.layer} {self.slot}"


@dataclass(frozen=True)
class Report:
    """Every check of a gate, and what they amount to; ``advice`` says what to do next."""

    checks: Sequence[Check]
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    reason: str
    advice: str = ""

    @property
    def failed(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if check.reason]


Skip = Collection[tuple[int, str]]
"""Layers and slots of which a side says itself that it does not have them."""
Reason = Callable[[Stats, Stats], str]
"""Why two slots do not pass; empty where they do."""


def _gate(
    a: Trace, b: Trace, slots: Sequence[str], last_token: bool, why: Reason, skip: Skip, compared: tuple[str, str],
    advice: str = "",
) -> Report:  # fmt: skip
    """Every slot of every layer, layers × slots checks (28 layers × 10 slots = 280); what one side lacks fails.

    ``compared`` says what of all checks failed, and what passed.
    """
    checks = []
    for layer, sides in enumerate(zip_longest(a, b, fillvalue=Layer({}))):
        left, right = ((side.last_token if last_token else side.slots) or {} for side in sides)
        for slot in slots:
            if (layer, slot) in skip:
                continue
            pair = left.get(slot), right.get(slot)
            there = [each for each in pair if each is not None]
            lacking = "only one side has this slot" if there else "neither side has this slot"
            checks.append(Check(layer, slot, *pair, why(*there) if len(there) == 2 else lacking))
    bad = [check for check in checks if check.reason]
    if not checks:
        return Report(checks, "INCONCLUSIVE", "nothing was compared: no layers or no slots", "record both traces again")
    if bad:
        reason = f"{len(bad)} of {len(checks)} {compared[0]}, first {bad[0].place}: {bad[0].reason}"
        return Report(checks, "FAIL", reason, FIXES if why is _apart else "")
    return Report(checks, "PASS", f"{len(checks)} of {len(checks)} {compared[1]}", advice)


def sample_size_parity(
    a: Trace, b: Trace, *, slots: Sequence[str] = SLOTS, last_token: bool = False, skip: Skip = ()
) -> Report:  # fmt: skip
    """Equal counts in every slot of every layer.

    A layer or slot that one side lacks fails its checks; no layers or no slots at all is INCONCLUSIVE. With
    ``last_token`` the statistics over the last token are compared; a side that has none fails. ``skip`` are places that
    a side itself says it does not have: the only ones without a check.
    """
    return _gate(a, b, slots, last_token, _apart, skip, ("counts differ", "counts are equal"))


def _apart(a: Stats, b: Stats) -> str:
    """Two counts that differ, with the factor between them where it is whole."""
    low, high = sorted((a.count, b.count))
    if low == high > 0:
        return ""
    factor = f" ({high} = {high // low} × {low})" if low and high % low == 0 else ""
    return f"{a.count} against {b.count}{factor}"


def std_ratio_gate(
    a: Trace, b: Trace, *, slots: Sequence[str] = SLOTS, last_token: bool = False, skip: Skip = ()
) -> Report:  # fmt: skip
    """max(σa/σb, σb/σa) of every slot of every layer, within the contract's limit.

    INCONCLUSIVE unless ``sample_size_parity`` passes: a ratio over unequal samples is biased, and the reason says in
    which direction. NaN and infinities in either trace fail, as does a std that is not finite; two constant slots
    (σ = 0) pass, one constant slot fails.
    """
    precondition = sample_size_parity(a, b, slots=slots, last_token=last_token, skip=skip)
    limit = contracts.load(CONTRACT).threshold("std_ratio")
    if precondition.verdict != "PASS":
        reason = f"precondition sample-size parity does not hold: {precondition.reason}"
        return Report(
            precondition.checks, "INCONCLUSIVE", reason + _bias(precondition.failed, limit), precondition.advice
        )

    def why(left: Stats, right: Stats) -> str:
        ratio, wrong = _ratio(left, right)
        return wrong or ("" if limit.holds(ratio) else f"std ratio = {ratio:.4g} (> {limit.value:g})")

    return _gate(a, b, slots, last_token, why, skip, ("ratios", f"ratios within {limit.value:g}"), ALL_PASS)


def _ratio(a: Stats, b: Stats) -> tuple[float, str]:
    """The larger of the two ratios of standard deviations, and what prevents taking it."""
    for name, side in (("first", a), ("second", b)):
        if side.nan_count or side.inf_count:
            return math.nan, f"{side.nan_count} NaN and {side.inf_count} infinite elements on the {name} side"
        if not math.isfinite(side.std):
            return math.nan, f"the {name} side has no finite standard deviation ({side.count} elements)"
    low, high = sorted((a.std, b.std))
    if low == high:
        return 1.0, ""
    return (high / low, "") if low > 0 else (math.inf, "one side is constant, the other is not")


def _bias(failed: Sequence[Check], limit: contracts.Threshold) -> str:
    """What the gate would have said of the unequal slots, and which way each of these verdicts may be wrong."""
    told = [(*_ratio(each.a, each.b), each.place) for each in failed if each.a and each.b]
    alarms = [(ratio, place) for ratio, wrong, place in told if not wrong and not limit.holds(ratio)]
    quiet = [place for ratio, wrong, place in told if not wrong and limit.holds(ratio)]
    biases = []
    if alarms:
        ratio, place = max(alarms)
        biases.append(f"; {len(alarms)} would fail (worst {ratio:.4g} at {place}), each possibly a false positive: ")
        biases.append("unequal samples alone can give such a ratio")
    if quiet:
        biases.append(f"; {len(quiet)} would pass, each possibly a false negative: ")
        biases.append("unequal samples can hide a real difference")
    return "".join(biases)
