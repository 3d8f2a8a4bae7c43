"""The rung ``decode``: greedy ids of both sides, re-anchored on the reference's at every step, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kparity.gates.decode import token_verdicts
from kparity.ladder.limits import Judge
from kparity.ladder.record import Decoded, Measure
from kparity.ladder.stream import Seat
from kparity.numerics.statistics import sprt, wilson_interval

DIVERGED = "DIVERGED"
ALLOWED = ("SAME", "EXACT-TIE", "NEAR-TIE")


def noise(judge: Judge) -> float:
    """How far a logit may lie from where it should by noise: the p99 of the floor, and no less than the contract's
    margin of a tie.
    """
    least = judge.contract.threshold("decode_tie").value
    if judge.floor is None:
        return least / 2
    largest = [np.quantile(each.rows.max_abs, 0.99, method="higher") for each in judge.floor.controls.values()]
    return max(least / 2, float(max(largest)))


def decoded(reference: Seat, candidate: Seat, tokens: Sequence[int], steps: int, within: float) -> Decoded:
    """Greedy steps of one prompt on both sides, each fed with the reference's id."""
    for seat in (reference, candidate):
        seat.reset()
    left, right = reference.prefill(tokens), candidate.prefill(tokens)
    ids: tuple[list[int], list[int]] = ([], [])
    kinds: list[str] = []
    for step in range(steps):
        best = reference.greedy(left), candidate.greedy(right)
        for kept, each in zip(ids, best, strict=True):
            kept.append(each)
        kinds.append(str(token_verdicts(np.array([best[1]]), left[None], within)[0]) if min(best) >= 0 else DIVERGED)
        if step + 1 < steps:
            anchor = max(best[0], 0)
            left, right = reference.step(anchor), candidate.step(anchor)
    return Decoded(prompt_tokens=len(tokens), reference=ids[0], candidate=ids[1], steps=kinds)


def undecided(prompts: Sequence[Decoded], judge: Judge) -> bool:
    """Whether more prompts would still tell the rate of the contract from the one that it refuses."""
    good = sum(all(kind in ALLOWED for kind in each.steps) for each in prompts)
    rates = (judge.contract.threshold(name).value for name in ("decode_rate", "decode_rate_least"))
    return sprt(good, len(prompts), *rates) == "go on"


def measures(prompts: Sequence[Decoded], judge: Judge) -> list[Measure]:
    """Exact ids without ties, and how many ties there were."""
    kinds = [kind for each in prompts for kind in each.steps]
    diverged, ties = kinds.count("DIVERGED"), sum("TIE" in kind for kind in kinds)
    decided = len(kinds) - ties
    exact = 1.0 if not decided else 1 - diverged / decided
    return [judge.measure("decode_exact", f"{decided - diverged} of {decided} ids, without ties", exact),
            judge.measure("decode_ties", f"{ties} ties of {len(kinds)} ids", ties / len(kinds))]  # fmt: skip


def rate(prompts: Sequence[Decoded]) -> str:
    """Ids that are equal; distinct prompts without a divergence, with the interval of Wilson."""
    kinds = [kind for each in prompts for kind in each.steps]
    good = sum(all(kind in ALLOWED for kind in each.steps) for each in prompts)
    low, high = wilson_interval(good, len(prompts))
    exact = f"{kinds.count('SAME')} of {len(kinds)} ids exact"
    return (
        f"{exact}; {good} of {len(prompts)} distinct prompts exact but for ties (Wilson 95 %: {low:.3f} to {high:.3f})"
    )


def cause(first: Decoded, again: Decoded) -> str:
    """Why ids diverged: by where the first one lies, and whether the same prompt diverges in the same way ``again``."""
    at = first.steps.index(DIVERGED)
    if again.candidate != first.candidate:
        return "the candidate chooses other ids on a second run: sampling for argmax, or memory that nobody wrote"
    pairs = zip(first.reference, first.candidate, first.steps, strict=True)
    offsets = {right - left for left, right, kind in pairs if kind == DIVERGED}
    if len(offsets) == 1 and first.steps[:2] == [DIVERGED, DIVERGED]:
        return f"ids are shifted by {offsets.pop():+d}: an offset of the vocabulary"
    where = "the first id after the prompt: prefill as it serves" if at == 0 else f"id {at}: KV update of single steps"
    return f"the same on a second run; it begins with {where}"
