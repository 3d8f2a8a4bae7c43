"""The rung ``masks``: shapes of both sides, and what can be told of each side alone from its logits.

A later token may move no earlier logit, the first token must move every later one; a batch equals steps, a prompt and a
second one behind it; a reset leaves nothing; another sequence in the batch changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kparity.engines.base import Facts
from kparity.ladder.limits import Judge
from kparity.ladder.record import Measure
from kparity.ladder.stream import Seat, compared, side_by_side
from kparity.ladder.ways import AFTER, DECODE, LAST, ONE, SECOND, STEPS, TURN, last_rows
from kparity.ops.spec import Array

TOKENS = 20
"""Of a probe: GPU backends multiply more than 8 or 16 rows by other kernels than fewer, and both the whole and the
second of two turns go there.
"""
FACTS = ("vocab", "layers", "width", "kv_heads", "head_dim", "context", "kv", "bos", "eos")
AGREE = 5
"""Facts of the shape; the first of them must agree, where both sides know them."""
TOO_FEW, TOO_MANY = "a key too few (mask or KV index off by one, -1)", "lets one key too many through (off by one, +1)"
SURVIVES, UNSTEADY = "state survives a reset", "not deterministic, or memory that nobody wrote"
NO_STEPS = "batches and single steps differ (KV update, kernels of batches)"
NEIGHBOURS = "what else is in the batch changes the result (mask or KV of another sequence, kernels of batches)"
NO_PROMPT = "a prompt as it serves is not what a batch is (its last row, padding of a chunk, a recording)"
NO_TURN = "a second batch does not go on where the first ended (position counter, KV index)"


@dataclass(frozen=True)
class Probed:
    """What one side's probes found: measures, and for the first that fails its cause."""

    measures: list[Measure]
    cause: str = ""
    notes: tuple[str, ...] = ()


def shapes(reference: Facts, candidate: Facts, needed: int) -> tuple[list[str], list[str]]:
    """What of the facts must agree and does not, and what is to be known of the others: equal, or not."""
    both = [(name, getattr(reference, name), getattr(candidate, name)) for name in FACTS]
    wrong = [f"{name}: {left} and {right}" for name, left, right in both[:AGREE] if left != right and left and right]
    if 0 < candidate.context < needed:
        wrong.append(f"context of the candidate: {candidate.context}, {needed} positions are needed")
    alike = ", ".join(f"{name} {left}" for name, left, right in both if left == right)
    told = [f"alike: {alike}; {needed} positions are needed at most"]
    return wrong, told + [
        f"{name}: {left or 'not told'} and {right or 'not told'}" for name, left, right in both if left != right
    ]


def moved(before: Array, after: Array) -> Array:
    """Which positions have other bits."""
    left, right = (np.ascontiguousarray(each, np.float32).view(np.uint32) for each in (before, after))
    return np.asarray((left != right).any(axis=1))


def probed(seat: Seat, tokens: Sequence[int], judge: Judge) -> Probed:
    """Ask one side alone; ``tokens`` are at least three."""
    tokens, side, found = list(tokens[:TOKENS]), seat.side, list[Measure]()
    runs = [seat.fed(tokens) for _ in range(3)]
    base = runs[0]
    bad = ~np.isfinite(base).all(axis=1)
    if bad.any():
        found.append(judge.measure("masks_bad", f"{side} positions that are not finite", float(bad.sum())))
        return Probed(found, f"NaN or infinity at position {int(bad.argmax())}")
    for name, run in (("a second time", runs[1]), ("a third time", runs[2])):
        if (apart := _apart(seat, name, base, run, judge, found)).size:
            why = UNSTEADY if moved(runs[1], runs[2]).any() else SURVIVES
            return Probed(found, f"{name}, after a reset, position {apart[0]} differs: {why}")
    exact = not any(moved(base, each).any() for each in runs)
    notes = [] if exact else [f"the {side} gives other bits from run to run, least cosine {_worst(base, runs[1]):.6f}"]
    cause = _seen(seat, tokens, judge, base, exact, found) or _ways(seat, tokens, judge, base, found)
    if seat.facts.sequences < 2:
        notes.append(f"batch neighbours of the {side}: not asked, it has one sequence")
    else:
        cause = cause or _beside(seat, tokens, judge, base, exact, found)
    return Probed(found, cause, tuple(notes))


def repeated(seat: Seat, texts: Sequence[Sequence[int]], steps: int, judge: Judge) -> Probed:
    """The engine beside itself in a second process, bit for bit: texts, their prefill and the greedy ids behind it."""
    other, places = seat.again(), list[str]()
    both = (seat, other)
    try:
        for number, ids in enumerate(texts, 1):
            at = 0
            for left, right in side_by_side(both, ids):
                places += [f"position {at + place} of text {number}" for place in np.flatnonzero(moved(left, right))]
                at += len(left)
            for each in both:
                each.reset()
            rows = [each.prefill(ids) for each in both]
            for step in range(steps):
                if moved(rows[0][None], rows[1][None]).any():
                    places.append(f"greedy id {step} of text {number}")
                rows = [each.step(max(seat.greedy(rows[0]), 0)) for each in both]
    finally:
        seat.seconds += other.seconds
        other.engine.close()
    measure = judge.measure("masks_repeated", f"{seat.side} a second time: logits with other bits", float(len(places)))
    return Probed([measure], f"{places[0]} has other bits in a second process" if places else "")


def _seen(seat: Seat, tokens: Sequence[int], judge: Judge, base: Array, exact: bool, found: list[Measure]) -> str:
    """Which tokens move which positions; the cause where one moves too many or too few."""
    last, middle, side = len(tokens) - 1, len(tokens) // 2, seat.side
    other = seat.fed(_with(tokens, last, seat.facts))
    future = moved(base, other)[:last]
    if not exact:  # bits differ anyway: what noise does not explain
        future &= _beyond(base, other, judge)[:last]
    found.append(judge.measure("masks_future", f"{side} positions that see a later token", float(future.sum())))
    if future.any():
        only = future.sum() == 1 and future[-1]
        why = f"the mask {TOO_MANY}" if only else "there is no causal mask in a batch"
        return f"a later token moves position {int(future.argmax())}: {why}"
    firsts = [moved(base, seat.fed(_with(tokens, 0, seat.facts, step))) for step in (1, 2)]
    blind = ~(firsts[0] | firsts[1])
    own = bool(~moved(base, seat.fed(_with(tokens, middle, seat.facts)))[middle])
    found.append(judge.measure("masks_unseen", f"{side} positions that miss a token", float(blind.sum() + own)))
    if blind.any():
        return f"position {int(blind.argmax())} does not see the first token: {TOO_FEW}"
    return f"position {middle} does not see its own token: {TOO_FEW}" if own else ""


def _ways(seat: Seat, tokens: Sequence[int], judge: Judge, base: Array, found: list[Measure]) -> str:
    """One batch after other tokens; steps, turns and prompts beside it; the cause where one of them differs."""
    ways = {AFTER: SURVIVES, STEPS: NO_STEPS, TURN: NO_TURN, ONE: NO_TURN, DECODE: NO_PROMPT, SECOND: NO_TURN}
    for way, why in ways.items():
        rows = last_rows(seat, way.calls(tokens, len(tokens) - LAST))
        begin = len(tokens) - len(rows)
        if (apart := _apart(seat, way.means, base[begin:], rows, judge, found)).size:
            return f"{way.means}, position {begin + apart[0]} differs from one batch: {why}"
    return ""


def _beside(seat: Seat, tokens: Sequence[int], judge: Judge, base: Array, exact: bool, found: list[Measure]) -> str:
    """One batch with another sequence in it, of the same size and a shorter one, beside the batch alone; and a third
    sequence in the other's place, which may move no bit. The cause where it does.
    """
    step = 1 + seat.facts.vocab // 3
    others = tokens[::-1], tokens[: len(tokens) // 2], [(id + step) % seat.facts.vocab for id in tokens]
    one, short, two = (seat.score_beside(tokens, each) for each in others)
    for name, run in (("another", one), ("a shorter", short)):
        if (apart := _apart(seat, f"beside {name} sequence", base, run, judge, found)).size:
            return f"beside {name} sequence, position {apart[0]} differs from one alone: {NEIGHBOURS}"
    leaks = moved(one, two) & (exact or _beyond(one, two, judge))
    found.append(judge.measure("masks_neighbours", f"{seat.side} positions that a neighbour moves", float(leaks.sum())))
    return f"another sequence moves position {int(leaks.argmax())}: {NEIGHBOURS}" if leaks.any() else ""


def _apart(seat: Seat, name: str, base: Array, other: Array, judge: Judge, found: list[Measure]) -> Array:
    """Positions that differ by more than the limits of a position, or the ceilings, admit; they are counted."""
    ceiling = judge.contract.threshold("ceiling_cosine")
    low = [not ceiling.holds(float(each)) for each in compared(base, other).rows.cosine]
    apart = np.flatnonzero(_beyond(base, other, judge) | low)
    short = judge.short if apart.size and not any(low) else ""
    found.append(judge.measure("masks_apart", f"{seat.side} {name}: positions that differ", float(apart.size), short))
    return apart


def _with(tokens: Sequence[int], at: int, facts: Facts, step: int = 1) -> list[int]:
    """The tokens with another one at a place."""
    changed = list(tokens)
    while changed[at] in (tokens[at], facts.bos, facts.eos):
        changed[at] = (changed[at] + step * (1 + facts.vocab // 3)) % facts.vocab
        step += 1
    return changed


def _worst(base: Array, other: Array) -> float:
    return 1 - float(compared(base, other).rows.cosine_distance.max())


def _beyond(base: Array, other: Array, judge: Judge) -> Array:
    """Positions that differ by more than the limits of a position admit."""
    return np.array([each == "FAIL" for each in judge.verdicts(compared(base, other).rows, begin=1)])
