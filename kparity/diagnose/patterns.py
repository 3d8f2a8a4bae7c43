"""Patterns of two engines of which nothing is known but logits: where, along what and for which ids they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from msgspec.structs import replace

from kparity.diagnose.seen import FITTED, HELD_OUT, Seen, Way
from kparity.ladder import masks
from kparity.ladder.decode import DIVERGED, decoded
from kparity.ladder.record import FAIL, Finding
from kparity.ladder.stream import EngineFailed, compared
from kparity.ladder.ways import BATCH, BESIDE, DECODE, ONE, SECOND, STEPS, TURN
from kparity.ops.spec import Array

JUMP = 5.0
"""A difference jumps where it is so many times that of any position before; it grows where it becomes so many times."""
SLOPE = 4.0
"""Standard errors by which a slope must exceed that of the floor, or a factor 1."""
CLOSE = 0.95
"""Cosine below which a difference is no matter of rounding (the playbook's)."""
DOUBTED = 0.5
"""Confidence in where something is lost, if its likeliest cause was ruled out."""
ONCE = 0.8
"""By how much less one position says than several, and a factor of each position than one of all."""
ALONE, SUSPECTS, FEW, STILL = 12, 2048, 0.05, 1e-3
"""Tokens that are fed one by one; ids whose places are looked for; share of the ids that are few; of their spread by
which logits move at a position."""
TILES = (8, 16, 32, 64, 128, 256)
"""Elements or positions that are computed together: tiles, chunks, ring buffers."""
OF_MASKS = {
    masks.NEIGHBOURS: "neighbours", masks.TOO_FEW: "mask", "the mask": "mask", "causal mask": "mask",
}  # fmt: skip
"""What the rung ``masks`` found of one side alone → its pattern, where no other engine is needed."""
RANDOM = "two runs of the same thing differ: sampling for argmax, or memory that nobody wrote"
EARLY = {
    "preflight_layers": ("fallback", "layers are not on the device that was asked for"),
    "masks_repeated": ("P7-random", "a second process gives other bits: no order of additions, or unwritten memory"),
    "masks_shapes": ("shapes", "both sides have other shapes, or a cache that is too short"),
}
"""Threshold that does not hold → its pattern and cause."""


def early(seen: Seen) -> Iterator[Finding]:
    """What ends a comparison before there are logits."""
    for each in seen.rung.measures:
        if each.threshold in EARLY and not each.holds:
            yield seen.finding(*EARLY[each.threshold], seen.rung.reason or each.text, 0.95)


def tokens(seen: Seen) -> Iterator[Finding]:
    """P1 and P2: texts whose ids differ."""
    each = next((each for each in seen.climb.tokens if each.first_difference >= 0), None)
    if seen.rung.name != "tokens" or each is None:
        return
    left, right, cause = each.reference or [], each.candidate or [], seen.rung.cause
    shifted = len(left) == len(right) and len({b - a for a, b in zip(left, right, strict=True)} - {0}) == 1
    sure = 0.6 if "another tokenizer" in cause else 0.95
    evidence = f"{seen.rung.reason} ({len(left)} and {len(right)} ids)"
    yield seen.finding("P2-offset" if shifted else "P1-ids", cause, evidence, sure, next=seen.rung.next)


def alone(seen: Seen) -> Iterator[Finding]:
    """What the rung ``masks`` saw of one side alone."""
    pattern = next((name for text, name in OF_MASKS.items() if text in seen.rung.cause), "")
    if seen.rung.name == "masks" and pattern:
        evidence = f"{seen.rung.reason}: it was held against itself"
        yield seen.finding(pattern, seen.rung.cause, evidence, 0.8, side=seen.rung.side)


def unmasked(seen: Seen, found: list[Finding]) -> list[Finding]:
    """Findings, in which a mask that is off by one is not blamed if that mask was simulated and explains nothing."""
    suspects = ((masks.TOO_MANY, "mask-more", "batch", "a kernel reads beyond its row"),
                (masks.TOO_FEW, "mask-less", "blind", "keys, values or attention are lost"))  # fmt: skip
    for text, mask, pattern, why in suspects:
        if text in seen.rung.cause and mask in seen.ruled_out:
            said = seen.rung.cause.partition(":")[0]
            told = seen.finding(pattern, f"{said}, and no such mask does that: {why}", "", DOUBTED)
            return [replace(told, evidence=each.evidence, side=each.side) if each.pattern == "mask" else each
                    for each in found]  # fmt: skip
    return found


def ties(seen: Seen) -> Iterator[Finding]:
    """Greedy ids that differ where both are right within noise."""
    steps = [kind for each in seen.climb.decoded for kind in each.steps]
    tied = sum("TIE" in kind for kind in steps)
    if tied and DIVERGED not in steps and seen.rung.verdict != FAIL:
        told = "all ids that differ lie within the measured noise of the largest logit: no defect"
        yield seen.finding("ties", told, f"{tied} ties of {len(steps)} ids, none diverged", 0.9, defect=False)


def greedy(seen: Seen) -> Iterator[Finding]:
    """P2, P7 and the place, of engines that tell no whole logits: ids that diverge, and the same prompt again."""
    at = next((at for at, each in enumerate(seen.climb.decoded) if DIVERGED in each.steps), -1)
    if seen.rung.name != "decode" or at < 0 or seen.whole:
        return
    first, steps = seen.climb.decoded[at], seen.climb.settings.max_tokens
    again = decoded(seen.reference, seen.candidate, seen.climb.starts[at], steps, seen.judge.noise)
    pairs = zip(first.reference, first.candidate, first.steps, strict=True)
    offsets, place = {right - left for left, right, kind in pairs if kind == DIVERGED}, first.steps.index(DIVERGED)
    evidence = f"prompt {at + 1}, id {place}: {first.candidate[place]} for {first.reference[place]}"
    if again.candidate != first.candidate:
        yield seen.finding("P7-random", RANDOM, f"{evidence}; other ids on a second run", 0.95)
    elif len(offsets) == 1 and first.steps.count(DIVERGED) > 1:
        told = f"ids are shifted by {offsets.pop():+d}: an offset of the vocabulary"
        yield seen.finding("P2-offset", told, f"{evidence}; so are {first.steps.count(DIVERGED)} ids", 0.9)
    else:
        pattern, told = ("steps", "an id of a single step diverges") if place else ("prefill", "the first id diverges")
        yield seen.finding(pattern, told, f"{evidence}; the same on a second run", 0.5)


def repeats(seen: Seen) -> Iterator[Finding]:
    """P7 and reset: the same tokens again, and in an engine that nothing was fed to yet."""
    way = seen.subject

    def apart(one: Array, two: Array) -> Array:
        beyond = seen.bad(compared(one, two).rows, way.begin or 1) & masks.moved(one, two)
        return np.flatnonzero(beyond) + way.begin

    suspected = seen.rung.name == "masks" and any(each in seen.rung.cause for each in (masks.SURVIVES, masks.UNSTEADY))
    if not suspected and not apart(seen.run(way.fed), seen.run(way.fed)).size:
        return
    with seen.fresh() as seat:
        first, second = (seen.run(way.fed, seat) for _ in range(2))
    with seen.fresh() as seat:
        other = seen.run(way.fed, seat)
    if (where := apart(first, other)).size:
        evidence = f"{way.name}, in two new processes: {where.size} positions differ, the first is {where[0]}, by up to"
        yield seen.finding("P7-random", RANDOM, f"{evidence} {float(np.nanmax(np.abs(first - other))):.3g}", 0.95)
    elif (where := apart(first, second)).size:
        right = not apart(seen.truth[way.begin :], first).size
        start = f"{way.name}, a new process is {'right' if right else 'wrong'}"
        told = f"{start}, and after a reset position {where[0]} differs"
        cause = "state survives a reset"
        if way.fed == BATCH and not apart(seen.reference.fed([*seen.ids, *seen.ids])[len(seen.ids) :], second).size:
            cause = "a reset leaves the cache as it is"
            told += ": the logits are those of the reference without one"
        yield seen.finding("reset", cause, told, 0.95 if right else 0.5)


def not_finite(seen: Seen) -> Iterator[Finding]:
    """NaN and infinity, with side, way and position."""
    for way in seen.ways:
        sides = ((seen.candidate.side, way.rows.candidate_bad, way.logits),
                 (seen.reference.side, way.rows.reference_bad, seen.truth[way.begin :]))  # fmt: skip
        for side, bad, logits in sides:
            if bad.any():
                at = int(np.flatnonzero(bad)[0])
                nans = int(np.isnan(logits[at]).sum())
                evidence = f"{way.name}, {int((bad > 0).sum())} of {len(bad)} positions, the first is {at + way.begin}"
                kinds = f"{nans} NaN and {int(bad[at]) - nans} infinities of {logits.shape[1]} logits"
                told = f"logits of the {side} are NaN or infinite"
                yield seen.finding("nan", told, f"{evidence}: {kinds}", 0.99, side=side)
                return


def only(seen: Seen) -> Iterator[Finding]:
    """The ways of feeding in which the candidate is wrong, where it is right in others."""
    wrong, right = ([way for way in seen.ways if way.bad.any() == bad] for bad in (True, False))
    ways = {way.fed for way in wrong}
    if not wrong or not right or {BATCH, STEPS} <= ways:  # what is wrong in both is hidden in the others
        return
    pattern, cause = next((name, cause) for name, cause, holds in (
        ("prefill", "a prompt as it is served is wrong, the same tokens otherwise are right",
         {DECODE} <= ways <= {DECODE, SECOND}),
        ("neighbours", "what else is in the batch changes the result", ways == {BESIDE}),
        ("steps", "single steps are wrong, batches are right", STEPS in ways),
        ("batch", "batches are wrong, single steps are right", BATCH in ways),
        ("turn", "what is fed on a filled cache is wrong", True),
    ) if holds)  # fmt: skip
    told = "; ".join(f"{way.name} wrong from {way.first} on" for way in wrong)
    yield seen.finding(pattern, cause, f"{told}; right {', '.join(way.name for way in right)}", 0.9)


def gain(seen: Seen) -> Iterator[Finding]:
    """P3: a constant factor, by regression at each position; or a constant that is added."""
    rows, begin = seen.subject.rows, seen.subject.begin
    factor = rows.factor
    if len(factor) < 2 or not np.isfinite(factor).all():
        return
    alike = bool(np.median(rows.cosine) > CLOSE)  # a factor of 0 explains whatever is small
    mean, error = float(factor.mean()), float(factor.std(ddof=1) / np.sqrt(len(factor)))
    scaled = seen.explained(seen.truth * mean)
    moved = seen.explained(seen.truth[begin:] + rows.mean_error[:, None], begin)
    if alike and scaled.confidence and abs(mean - 1) > SLOPE * error:
        interval = f"factor {mean:.5g} ± {2 * error:.2g} over {len(factor)} positions (95 %)"
        told = f"the logits are those of the reference times {mean:.4f}"
        yield seen.finding("P3-gain", told, f"{interval}; {scaled.text}", scaled.confidence)
    elif alike and (own := seen.explained(seen.truth[begin:] * factor[:, None], begin)).confidence:
        told = "the logits are those of the reference times a factor, another one at each position: the last norm"
        interval = f"factors from {factor.min():.5g} to {factor.max():.5g}"
        yield seen.finding("P3-gain", told, f"{interval}; {own.text}", ONCE * own.confidence)
    if moved.confidence:
        told = "a constant is added to all logits of a position: log-probabilities for logits"
        evidence = f"{rows.mean_error[0]:.4g} at position {begin}; {moved.text}"
        yield seen.finding("P3-gain", told, evidence, moved.confidence)


def outputs(seen: Seen) -> Iterator[Finding]:
    """P2 and layout: the same logits under other ids."""
    way, vocab = seen.subject, seen.truth.shape[1]
    truth = seen.truth[way.begin :]
    if not (np.isfinite(way.logits).all() and np.isfinite(truth).all()):
        return
    values, counts = np.unique((way.logits.argmax(axis=1) - truth.argmax(axis=1)) % vocab, return_counts=True)
    by, often = int(values[counts.argmax()]), f"{counts.max()} of {len(truth)} positions"
    if by and (found := seen.explained(np.roll(seen.truth, by, axis=1))).confidence:
        told = f"ids are shifted by {by - vocab * (by > vocab // 2):+d}: an offset of the vocabulary"
        yield seen.finding("P2-offset", told, f"so is the likeliest at {often}; {found.text}", found.confidence)
        return
    of = matched(truth, way.logits)
    away = np.flatnonzero(of != np.arange(vocab))
    if away.size and (found := seen.explained(seen.truth[:, of])).confidence:
        some = ", ".join(f"those of {of[at]} stand at {at}" for at in away[:3])
        told = f"{away.size} ids have each other's logits: rows of the head in another order"
        yield seen.finding("layout", told, f"{some}; {found.text}", found.confidence)
        return
    halves = [_apart(truth[part], way.logits[part]) for part in (FITTED, HELD_OUT)]
    ids = np.intersect1d(halves[0], halves[1])
    changed = truth.copy()
    changed[:, ids] = way.logits[:, ids]
    moved = np.abs(way.logits - truth)[:, ids].max(axis=1, initial=0) > STILL * truth.std()
    if len(ids) <= vocab * FEW and moved.mean() > 0.9:
        found = seen.explained(changed, way.begin)
        if found.noise and found.confidence:
            some = ", ".join(map(str, ids[:3]))
            told = f"the logits of {len(ids)} ids alone differ ({some}): rows of the head"
            yield seen.finding("layout", told, f"{way.name}: {found.text}", found.confidence)


def _apart(truth: Array, other: Array) -> Array:
    """Ids whose logits [positions, vocab] are no longer those of the other side."""
    return np.flatnonzero(np.square(other - truth).mean(axis=0) > 0.1 * np.square(truth).mean(axis=0))


def matched(truth: Array, other: Array) -> Array:
    """For each id the one whose logits [positions, vocab] over all positions are nearest to its own on the other side:
    [vocab], each once; itself where they are near enough, or where there is no such order.
    """
    of = np.arange(truth.shape[1])
    suspects = _apart(truth, other)[:SUSPECTS]
    if len(truth) < 4 or len(suspects) < 2:
        return of
    left, right = truth[:, suspects].T.astype(np.float64), other[:, suspects].T.astype(np.float64)
    apart = np.square(right).sum(axis=1)[:, None] - 2 * right @ left.T + np.square(left).sum(axis=1)
    nearest = apart.argmin(axis=1)
    if len(set(nearest.tolist())) == len(nearest):
        of[suspects] = suspects[nearest]
    return of


@dataclass(frozen=True)
class Try:
    """What the reference gives for something else, at the positions from ``at`` on."""

    pattern: str
    cause: str
    run: Callable[[], Array]
    at: int = 0


def inputs(seen: Seen) -> Iterator[Finding]:
    """Another input, or another moment: what the reference gives for it is what the candidate gives."""
    ids, facts, way, feed = seen.ids, seen.reference.facts, seen.subject, seen.reference.fed
    first, bos = way.first, facts.bos
    tries = [
        Try("late", "logits are those of the step before", lambda: seen.truth[:-1], 1),
        *(Try("input", f"the ids that are embedded are shifted by {by:+d}",
              partial(feed, [(each + by) % facts.vocab for each in ids])) for by in (1, -1, 2, -2, 3, -3)),
        Try("input", "the first token is not fed", lambda: feed(ids[1:]), 1),
        Try("blind", "each position sees its own token alone",
            lambda: np.concatenate([feed([each]) for each in ids[:ALONE]])),
    ]  # fmt: skip
    if bos >= 0:
        tries.append(Try("input", f"a BOS ({bos}) of its own is put before what is fed", lambda: feed([bos, *ids])[1:]))
    if first > 0:
        twice = [*ids[:first], ids[first - 1]]
        tries += [
            Try("anew", f"position {first} begins anew: what came before it is lost", lambda: feed(ids[first:]), first),
            Try("input", f"at position {first} the token before is fed again", lambda: feed(twice)[first:], first),
        ]
    for each in tries:
        try:
            changed = each.run()
        except EngineFailed:  # more than the context, or not what was recorded
            continue
        if each.at + len(changed) > way.begin and (found := seen.explained(changed, each.at, whole=False)).confidence:
            stretch = f"{way.name}, positions {max(each.at, way.begin)} to {each.at + len(changed) - 1}"
            bad = way.bad[max(each.at - way.begin, 0) :][: len(changed)]
            sure = found.confidence * (ONCE if bad.sum() <= 1 else 1)
            yield seen.finding(each.pattern, each.cause, f"{stretch}: {found.text}", sure)


def profile(seen: Seen) -> Iterator[Finding]:
    """P4, P5, P6: where along the positions both sides differ."""
    way = seen.subject
    start, l2 = way.first, way.rows.l2
    at = start - way.begin
    turned = way.fed in (TURN, ONE, SECOND)  # which jump where a turn begins
    if start < 1 or len(l2) < 6 or not np.isfinite(l2).all() or turned:
        return
    if way.bad[at:].mean() > 0.5:
        if at > 3 and l2[at] > JUMP * l2[max(0, at - 8) : at].max():
            yield from _jump(seen, way)
            return
        if start < 4 and way.begin == 0:
            told = f"right at position 0, wrong from {start} on: KV update, RoPE or mask"
            evidence = f"{way.name}: L2 {l2[0]:.3g} at position 0, {l2[start]:.3g} at {start}"
            yield seen.finding("P6-second", told, evidence, 0.5)
        yield from _growth(seen, way)


def _jump(seen: Seen, way: Way) -> Iterator[Finding]:
    """P5, by prompts of as many tokens as were right, of one more and of two more."""
    start, l2, again = way.first, way.rows.l2, list[bool]()
    for size in range(start, min(start + 3, len(seen.ids) + 1)):
        pair = [seat.stepped(seen.ids[:size])[-1:] if way.fed == STEPS else seat.fed(seen.ids[:size])[-1:]
                for seat in (seen.reference, seen.candidate)]  # fmt: skip
        again.append(bool(seen.bad(compared(*pair).rows, size - 1)[0]))
    words = ", ".join(f"{start + more} tokens {'wrong' if bad else 'right'}" for more, bad in enumerate(again))
    at = start - way.begin
    evidence = f"{way.name}: L2 at most {l2[:at].max():.3g} before {start}, {l2[at]:.3g} there"
    evidence += f"; the last of prompts run anew: {words}"
    if all(again):
        yield seen.finding("batch", "the last row of a batch is wrong, wherever it ends: padding", evidence, 0.85)
        return
    size = max((each for each in TILES if start % each == 0), default=0)
    where = f"{start} is a multiple of {size}: a chunk, a tile or a ring buffer" if size else "KV index or stride"
    sure = 0.85 if again == [False, True, True] else 0.5
    yield seen.finding("P5-jump", f"right up to position {start - 1}, wrong from {start} on; {where}", evidence, sure)


def _growth(seen: Seen, way: Way) -> Iterator[Finding]:
    """P4: the slope of ln L2 over the positions, against the floor's own."""
    values, floor = np.log(np.maximum(way.rows.l2[1:], 1e-30)), (0.0, 0.0)
    slope, error = sloped(values)
    if seen.judge.floor is not None:
        floor = sloped(np.log(np.maximum(seen.judge.floor.widest.rows.l2[1 : len(values) + 1], 1e-30)))
    times = float(np.exp(slope * len(values)))
    if slope - max(floor[0], 0.0) > SLOPE * np.hypot(error, floor[1]) and times > JUMP:
        fit = float(np.corrcoef(np.arange(len(values)), values)[0, 1] ** 2)
        evidence = f"{way.name}: {np.expm1(slope):.2%} ± {2 * error:.2%} a position, the floor {np.expm1(floor[0]):.2%}"
        told = "the difference grows with the position: RoPE base or scale, or mask"
        more = f"{times:.3g} times over {len(values)} positions, R² {fit:.2f}"
        yield seen.finding("P4-growth", told, f"{evidence}; {more}", 0.6 * fit)


def sloped(values: Array) -> tuple[float, float]:
    """Slope of a line through values at 0, 1, 2 …, and its standard error; no slope where there are fewer than 4."""
    if len(values) < 4:
        return 0.0, 0.0
    at = np.arange(len(values)) - (len(values) - 1) / 2
    slope = float(at @ values / (at @ at))
    left = values - values.mean() - slope * at
    return slope, float(np.sqrt(left @ left / (len(values) - 2) / (at @ at)))


def spread(seen: Seen) -> Iterator[Finding]:
    """P8: a difference everywhere, without a trend, that moves the five likeliest; a large one is no rounding."""
    rows, bad = seen.subject.rows, seen.subject.bad
    slope, error = sloped(np.log(np.maximum(rows.l2, 1e-30)))
    overlap = float(rows.top5.mean())
    cosine = float(np.median(rows.cosine))
    if bad.mean() > 0.5 and overlap < 0.95 and np.isfinite(rows.l2).all() and abs(slope) < SLOPE * error:
        pattern, told = (
            ("P8-quantisation", "(de)quantisation, or few of the weights; an F16 control tells") if cosine > CLOSE else
            ("weights", "embedding, activation function or layout of weights")
        )  # fmt: skip
        evidence = f"top-5 overlap {overlap:.1%} of {len(rows)} positions, cosine {cosine:.4f} at the median"
        yield seen.finding(pattern, f"a difference at most positions without a trend: {told}", evidence, 0.3)


ALWAYS = {
    "shapes and devices": early, "ids of texts": tokens, "one side alone": alone, "greedy ids": greedy, "ties": ties,
}  # fmt: skip
WHOLE = {
    "repeats and resets": repeats, "NaN and infinity": not_finite, "ways of feeding": only, "constant factor": gain,
    "ids of the output": outputs, "ids and moments of the input": inputs, "profile over positions": profile,
}  # fmt: skip
"""What is tried, by name; those of ``WHOLE`` need whole logits of both sides."""
