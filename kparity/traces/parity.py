"""Sample-size parity, the precondition of every ratio between two traces, and the gate on the ratio of their standard
deviations (contract ``trace-parity-v1``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


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
        flat = np.asarray(values).ravel()
        if not flat.size:
            raise WrongInput("a trace slot has no element; record it after its kernel has run")
        finite = flat[np.isfinite(flat)].astype(np.float64)
        nan, zero = int(np.isnan(flat).sum()), int((flat == 0).sum())
        numbers = (finite.min(), finite.max(), finite.mean()) if finite.size else (math.nan,) * 3
        std = float(finite.std(ddof=1)) if finite.size > 1 else math.nan
        low, high, mean = (float(number) for number in numbers)
        return cls(low, high, mean, std, nan, flat.size - finite.size - nan, zero, flat.size)


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


@dataclass(frozen=True)
class Check:
    """One comparison of one slot of one layer: the two values (None where a side lacks the slot) and a verdict."""

    layer: int
    slot: str
    a: float | None
    b: float | None
    verdict: Verdict
    reason: str = ""

    @property
    def place(self) -> str:
        """For example ``layer 3 ffn_swiglu_inner``."""
        return f"layer {self.layer} {self.slot}"


@dataclass(frozen=True)
class Report:
    """Every check of a gate, and what they amount to; ``advice`` says what to do next."""

    checks: Sequence[Check]
    verdict: Verdict
    reason: str
    advice: str = ""

    @property
    def failed(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if check.verdict != "PASS"]


Trace = Sequence[Layer]
"""A trace: its layers in order."""

FIXES = "fix 1: record all tokens on both sides; fix 2: compare the last token's statistics on both sides (last_token)"
"""Both ways to sample-size parity; either will do."""

ALL_PASS = (
    "if the output is wrong although every layer passes, the defect is outside of what one traced forward pass sees: "
    "look at the autoregressive path, the prefill of the KV cache, and sampling"
)


def _side(trace: Trace, layer: int, slot: str, last_token: bool) -> Stats | None:
    if layer >= len(trace):
        return None
    slots = trace[layer].last_token if last_token else trace[layer].slots
    return None if slots is None else slots.get(slot)


def sample_size_parity(a: Trace, b: Trace, *, slots: Sequence[str] = SLOTS, last_token: bool = False) -> Report:
    """Equal counts in every slot of every layer: layers × slots checks (28 layers × 10 slots = 280).

    A layer or slot that one side lacks fails its checks; no layers or no slots at all is INCONCLUSIVE. With
    ``last_token`` the statistics over the last token are compared; a side that has none fails.
    """
    checks = []
    for layer in range(max(len(a), len(b))):
        for slot in slots:
            left, right = (_side(trace, layer, slot, last_token) for trace in (a, b))
            n = None if left is None else left.count
            m = None if right is None else right.count
            good = n is not None and n == m and n > 0
            checks.append(Check(layer, slot, n, m, "PASS" if good else "FAIL", "" if good else _apart(n, m)))
    if not checks:
        return Report(checks, "INCONCLUSIVE", "nothing was compared: no layers or no slots", "record both traces again")
    bad = [check for check in checks if check.verdict == "FAIL"]
    if bad:
        first = f"{len(bad)} of {len(checks)} counts differ, first {bad[0].place}: {bad[0].reason}"
        return Report(checks, "FAIL", first, FIXES)
    return Report(checks, "PASS", f"{len(checks)} of {len(checks)} counts are equal")


def _apart(a: int | None, b: int | None) -> str:
    """Two counts, with the factor between them where it is whole."""
    if a is None or b is None:
        return f"{'neither side has' if a is b else 'only one side has'} this slot"
    low, high = sorted((a, b))
    factor = f" ({high} = {high // low} × {low})" if low and high % low == 0 and high != low else ""
    return f"{a} against {b}{factor}"


def std_ratio_gate(a: Trace, b: Trace, *, slots: Sequence[str] = SLOTS, last_token: bool = False) -> Report:
    """max(σa/σb, σb/σa) of every slot of every layer, within the contract's limit.

    INCONCLUSIVE unless ``sample_size_parity`` passes: a ratio over unequal samples is biased, and the reason says in
    which direction. NaN and infinities in either trace fail, as does a std that is not finite; two constant slots
    (σ = 0) pass, one constant slot fails.
    """
    precondition = sample_size_parity(a, b, slots=slots, last_token=last_token)
    limit = contracts.load(CONTRACT).threshold("std_ratio")
    if precondition.verdict != "PASS":
        biased = _bias(a, b, precondition.failed, last_token, limit.value)
        reason = f"precondition sample-size parity does not hold: {precondition.reason}"
        return Report(precondition.checks, "INCONCLUSIVE", f"{reason}{biased}", precondition.advice)
    checks = []
    for check in precondition.checks:
        left, right = (_side(trace, check.layer, check.slot, last_token) for trace in (a, b))
        assert left is not None and right is not None
        ratio, wrong = _ratio(left, right)
        if not wrong and not limit.holds(ratio):
            wrong = f"std ratio = {ratio:.4g} (> {limit.value:g})"
        checks.append(Check(check.layer, check.slot, left.std, right.std, "FAIL" if wrong else "PASS", wrong))
    bad = [check for check in checks if check.verdict == "FAIL"]
    if bad:
        return Report(checks, "FAIL", f"{len(bad)} of {len(checks)} ratios, first {bad[0].place}: {bad[0].reason}")
    return Report(checks, "PASS", f"{len(checks)} of {len(checks)} ratios within {limit.value:g}", ALL_PASS)


def _ratio(a: Stats, b: Stats) -> tuple[float, str]:
    """The larger of the two ratios of standard deviations, and what prevents taking it."""
    for name, side in (("first", a), ("second", b)):
        if side.nan_count or side.inf_count:
            return math.nan, f"{side.nan_count} NaN and {side.inf_count} infinite elements on the {name} side"
        if not math.isfinite(side.std):
            return math.nan, f"the {name} side has no finite standard deviation ({side.count} elements)"
    if a.std == b.std:
        return 1.0, ""
    low, high = sorted((a.std, b.std))
    return (high / low, "") if low > 0 else (math.inf, "one side is constant, the other is not")


def _bias(a: Trace, b: Trace, failed: Sequence[Check], last_token: bool, limit: float) -> str:
    """What the gate would have said of the unequal slots, and which way each of these verdicts may be wrong."""
    alarms: list[tuple[float, str]] = []
    quiet: list[tuple[float, str]] = []
    for check in failed:
        left, right = (_side(trace, check.layer, check.slot, last_token) for trace in (a, b))
        if left is None or right is None:
            continue
        ratio, wrong = _ratio(left, right)
        if not wrong:
            (alarms if ratio > limit else quiet).append((ratio, check.place))
    said = ""
    if alarms:
        ratio, place = max(alarms)
        said += (
            f"; {len(alarms)} would fail (worst {ratio:.4g} at {place}), each possibly a false positive: "
            "unequal samples alone can give such a ratio"
        )
    if quiet:
        said += f"; {len(quiet)} would pass, each possibly a false negative: unequal samples can hide a real difference"
    return said
