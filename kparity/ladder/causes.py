"""What a difference of logits looks like, in one sentence each: only what was measured, and where to look first."""

from __future__ import annotations

import numpy as np

from kparity.numerics.logits import Rows, top_tokens
from kparity.ops.spec import Array

# These numbers choose words and judge nothing: a failure stands by the contract before it is given a cause.
GAIN_SPREAD = 0.1
"""A factor is constant where its spread, and what it leaves, are below this share of its distance from 1: what a gain
explains to a tenth is told as a gain.
"""
OTHER_COSINE, OTHER_L2 = 0.95, 1.0
"""A position 0 below the one and above the other is another function and not another rounding, which stays above the
contract's ceiling_cosine. The L2 is for logits so small that rounding alone turns them.
"""
LIKELIEST = 5
"""Tokens that must all be shifted by one offset: of one or two it could be chance."""
MOST = 0.5
"""Share of bad positions, from the first on, above which what began there has lasted."""
EARLY = 4
"""A position before this one is bad as soon as there is a past."""
JUMP, BEFORE = 5, 3
"""A difference jumps where it is so many times the largest of so many positions before: noise seldom does."""
GROWTH, GROWS_OVER = 2.0, 8
"""A fit grows where it at least doubles over the walk, of more positions than these: noise has a slope, too."""


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
    left = np.sqrt(np.maximum(0, 2 * rows.cosine_distance))  # what the factor leaves of the candidate, per norm
    if np.isfinite(factor) and max(float(np.std(rows.factor)), float(np.median(left))) < GAIN_SPREAD * away:
        return f"the logits are those of the reference times {factor:.4f}: a gain (norm weights, final scale)"
    return ""


def first(reference: Array, candidate: Array, rows: Rows) -> str:
    """Of position 0; both logits [vocab]."""
    if told := bad_numbers(rows) or gain(rows):
        return told
    left, right = top_tokens(reference)[:LIKELIEST], top_tokens(candidate)[:LIKELIEST]
    offsets = {int(each) for each in (right - left + len(reference) // 2) % len(reference) - len(reference) // 2}
    if len(offsets) == 1 and 0 not in offsets:
        return f"the likeliest tokens are shifted by {offsets.pop():+d} ids: an offset of the vocabulary"
    cosine, l2 = float(rows.cosine[0]), float(rows.l2[0])
    if cosine < OTHER_COSINE and l2 > OTHER_L2:
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
    if float(bad[start:].mean()) > MOST:
        if start < EARLY:
            return f"right at position 0, wrong from {start} on, with the first keys before it: RoPE, mask or KV update"
        before, behind = float(np.median(l2[1:start])), float(np.median(l2[start:]))
        if l2[start] > JUMP * l2[max(1, start - BEFORE) : start].max():
            return (
                f"right up to position {start - 1}, wrong from {start} on (median L2 {before:.3g}, then {behind:.3g}): "
                f"KV index, stride or a chunk boundary; try prompts of {start} to {start + 2} tokens"
            )
        logs = np.log(np.maximum(l2[1:], np.finfo(np.float64).tiny))
        slope = float(np.polyfit(np.arange(1, count), logs, 1)[0]) if count > GROWS_OVER else 0.0
        if slope * count > np.log(GROWTH):
            return f"the difference grows with the position ({np.expm1(slope):.1%} each): RoPE base or scale, or mask"
    return f"{where.size} of {count} positions are beyond a limit, the first is {start}: no trend; an F16 control tells"
