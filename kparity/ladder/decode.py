"""The rung ``decode``: greedy ids of both sides, re-anchored on the reference's at every step, prompt by prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec.structs import replace

from kparity.gates.decode import token_verdicts
from kparity.ladder.limits import Judge
from kparity.ladder.record import Decoded, Measure, Tie
from kparity.ladder.stream import Seat
from kparity.numerics.statistics import sprt, sprt_left, wilson_interval

DIVERGED: Final = "DIVERGED"


TOO_MANY_TIES = "more ids are excused than right engines need: a small error everywhere, or a floor that is too wide"


def decoded(reference: Seat, candidate: Seat, tokens: Sequence[int], steps: int, within: float) -> Decoded:
    """Greedy steps of one prompt on both sides, each fed with the reference's id."""
    for seat in (reference, candidate):
        seat.reset()
    left, right = reference.prefill(tokens), candidate.prefill(tokens)
    ids: tuple[list[int], list[int]] = ([], [])
    kinds: list[Tie] = []
    for step in range(steps):
        best = reference.greedy(left), candidate.greedy(right)
        for kept, each in zip(ids, best, strict=True):
            kept.append(each)
        kinds.append(
            token_verdicts(np.array([best[1]]), left[None], within).tolist()[0] if min(best) >= 0 else DIVERGED
        )
        if step + 1 < steps:
            anchor = max(best[0], 0)
            left, right = reference.step(anchor), candidate.step(anchor)
    return Decoded(prompt_tokens=len(tokens), reference=ids[0], candidate=ids[1], steps=kinds)


def _good(prompts: Sequence[Decoded]) -> int:
    return sum(DIVERGED not in each.steps for each in prompts)


def judged_rate(prompts: Sequence[Decoded], judge: Judge) -> Measure:
    """The share of prompts without a divergence, by a sequential test between the rate that the contract asks for and
    the one that it refuses.
    """
    counts, rates = (_good(prompts), len(prompts)), (judge.value("decode_rate"), judge.value("decode_rate_least"))
    more = sprt_left(*counts, *rates)
    told = f"{more:g} more prompts" if more < math.inf else "no number of prompts"
    short = f"{told} would decide at this rate; raise --prompts, or give --prompt-file" if more else ""
    found = judge.measure("decode_rate", f"{counts[0]} of {counts[1]} prompts", counts[0] / counts[1], short)
    return replace(found, holds=sprt(*counts, *rates) == "accept")


def measures(prompts: Sequence[Decoded], judge: Judge, short: str = "") -> list[Measure]:
    """Exact ids without ties, and how many ties there were. ``short`` is why a divergence may be noise, where it may
    be; few ties of few ids are none or a fifth of them by chance.
    """
    kinds = [kind for each in prompts for kind in each.steps]
    diverged, ties = kinds.count(DIVERGED), sum("TIE" in kind for kind in kinds)
    decided = len(kinds) - ties
    exact = 1.0 if not decided else 1 - diverged / decided
    lost = any(min(each.reference + each.candidate, default=0) < 0 for each in prompts)
    few = ties and not judge.contract.threshold("decode_ties_ids").holds(len(kinds))
    more = "too few ids to tell chance from a fault; raise --max-tokens or --prompts" if few else ""
    return [judge.measure("decode_exact", f"{decided - diverged} of {decided} ids, without ties", exact,
                          short if diverged and not lost else ""),
            judge.measure("decode_ties", f"{ties} ties of {len(kinds)} ids", ties / len(kinds), more)]  # fmt: skip


def rate(prompts: Sequence[Decoded]) -> str:
    """Ids that are equal; distinct prompts without a divergence, with the interval of Wilson."""
    kinds, good = [kind for each in prompts for kind in each.steps], _good(prompts)
    low, high = wilson_interval(good, len(prompts))
    exact = f"{kinds.count('SAME')} of {len(kinds)} ids exact"
    return (
        f"{exact}; {good} of {len(prompts)} distinct prompts exact but for ties (Wilson 95 %: {low:.3f} to {high:.3f})"
    )
