"""What a difference of logits looks like, in one sentence each: only what was measured, and where to look first."""

from __future__ import annotations

import numpy as np

from kparity.numerics.logits import Rows, top_tokens
from kparity.ops.spec import Array

GAIN_SPREAD = 0.1
"""A factor is constant where its spread, and what it leaves, are below this share of its distance from 1."""


EARLY = 4
"""A position before this one is bad as soon as there is a past."""
JUMP = 5
"""A difference jumps where it is so many times that of the three positions before."""


def bad_numbers(rows: Rows) -> str:
    """NaN and infinity, with the side and the position; else empty."""
    for side, bad in (("candidate", rows.candidate_bad), ("reference", rows.reference_bad)):
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            return f"{int(bad[at])} logits of the {side} at position {at} are NaN or infinite"
    return ""


def gain(rows: Rows) -> str:
    """A constant factor between both sides, by regression at each position."""
    factor = float(np.median(rows.factor))
    away = abs(factor - 1)
    left = np.sqrt(
        np.maximum(0, 2 * rows.cosine_distance)
    )  # what is left of the candidate without the factor, per norm
    if (
        np.isfinite(factor)
        and away > 0
        and max(float(np.std(rows.factor)), float(np.median(left))) < GAIN_SPREAD * away
    ):
        return f"the logits are those of the reference times {factor:.4f}: a gain (norm weights, final scale)"
    return ""


def first(reference: Array, candidate: Array, rows: Rows) -> str:
    """Of position 0; both logits [vocab]."""
    if told := bad_numbers(rows) or gain(rows):
        return told
    left, right = top_tokens(reference)[:5], top_tokens(candidate)[:5]
    offsets = {int(each) for each in (right - left + len(reference) // 2) % len(reference) - len(reference) // 2}
    if len(offsets) == 1 and 0 not in offsets:
        return f"the likeliest tokens are shifted by {offsets.pop():+d} ids: an offset of the vocabulary"
    cosine, l2 = float(rows.cosine[0]), float(rows.l2[0])
    if cosine < 0.95 and l2 > 1:
        return f"cosine {cosine:.4f}, L2 {l2:.3g}: other embedding, activation function or layout of weights, or no key"
    return f"cosine {cosine:.6f}, no constant factor: other (de)quantisation, or a wrong element; an F16 control tells"


def positions(rows: Rows, bad: Array) -> str:
    """Of all positions; ``bad`` marks those beyond their limits."""
    if told := bad_numbers(rows) or gain(rows):
        return told
    where, count = np.flatnonzero(bad), len(rows)
    if not where.size:
        return "no position is beyond its limit, all together are: a small error everywhere; an F16 control tells"
    start, l2 = int(where[0]), rows.l2
    if start == 0:
        return "position 0 is already wrong"
    if float(bad[start:].mean()) > 0.5:
        if start < EARLY:
            return f"right at position 0, wrong from {start} on, with the first keys before it: RoPE, mask or KV update"
        before, behind = float(np.median(l2[1:start])), float(np.median(l2[start:]))
        if l2[start] > JUMP * l2[max(1, start - 3) : start].max():
            return (
                f"right up to position {start - 1}, wrong from {start} on (median L2 {before:.3g}, then {behind:.3g}): "
                f"KV index, stride or a chunk boundary; try prompts of {start} to {start + 2} tokens"
            )
        slope = float(np.polyfit(np.arange(1, count), np.log(np.maximum(l2[1:], 1e-30)), 1)[0]) if count > 8 else 0.0
        if slope > 0:
            return f"the difference grows with the position ({np.expm1(slope):.1%} each): RoPE base or scale, or mask"
    return f"{where.size} of {count} positions are beyond a limit, the first is {start}: no trend; an F16 control tells"
