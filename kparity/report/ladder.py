"""A climb of the ladder on the page: what it says, its positions for the script, errors beside sizes, greedy ids."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kparity.host.text import number, printable
from kparity.ladder.record import FAIL, NOT_RUN, PASS, Decoded, Document, Position, Rung, Tie
from kparity.report.section import Section, explained

METRICS: dict[str, tuple[str, Callable[[Position], float]]] = {
    "cosine": ("1 − cosine", lambda each: 1 - each.cosine_similarity),
    "l2": ("L2 distance", lambda each: each.l2_distance),
    "mse": ("MSE", lambda each: each.mse),
    "max_abs": ("largest |error|", lambda each: each.max_abs),
    "kl": ("KL, nats", lambda each: each.kl),
    "norm": ("|ln norm ratio|", lambda each: abs(math.log(each.norm_ratio)) if each.norm_ratio > 0 else math.inf),
}
"""Metric, as the limits call it → how people do, and its value at a position."""
SIDE, MARGIN, TITLE = 300, 40, 16
"""Of the drawing of errors beside sizes, of its axes, and of the word above one."""
MARKS = {"SAME": "=", "EXACT-TIE": "≈", "NEAR-TIE": "≈", "DIVERGED": "✗"}


@dataclass(frozen=True)
class Square:
    """Some logits in the drawing; ``shade`` is 1 to 7, by the logarithm of how many."""

    x: float
    y: float
    width: float
    height: float
    shade: int


@dataclass(frozen=True)
class Octave:
    """The errors of logits of one size, from ``size`` to twice that."""

    size: float
    count: int
    median: float
    most: float


@dataclass(frozen=True)
class Scatter:
    """|error| beside |logit|, both by their logarithm; ticks are powers of ten with their places."""

    squares: list[Square]
    octaves: list[Octave]
    across: list[tuple[str, float]]
    up: list[tuple[str, float]]
    equal: tuple[float, float, float, float]
    """Where an error is as large as its logit: x and y of both ends."""


@dataclass(frozen=True)
class Prompt:
    """Greedy ids of a prompt, step by step: the mark, and the tokens where they differ."""

    text: str
    tokens: int
    steps: list[tuple[Tie, str, str]]
    """Kind, mark, what both chose."""
    counts: dict[Tie, int]


@dataclass(frozen=True)
class Climb:
    """What the template draws."""

    found: Document
    reasons: list[str]
    """Of each rung."""
    scatter: Scatter | None
    prompts: list[Prompt]
    metrics: dict[str, str]


def section(file: str, found: Document) -> Section:
    """The section of a climb."""
    prompts = [_prompt(at, each, found) for at, each in enumerate(found.decode)]
    metrics = {name: title for name, (title, _) in METRICS.items()}
    title = f"{found.request.candidate} against {found.request.reference}"
    reasons = [_why(each) if each.reason else "" for each in found.rungs]
    shown = Climb(found, reasons, scatter(found.errors), prompts, metrics)
    return Section("ladder", file, title, found.verdict, meaning(found), shown, data(found))


def meaning(found: Document) -> tuple[str, str]:
    """Two sentences, of what was measured."""
    asked, ran = found.request, [each for each in found.rungs if each.verdict != NOT_RUN]
    names = f"{asked.candidate} does not give what {asked.reference} gives"
    if bad := next((each for each in ran if each.verdict == FAIL), None):
        count = found.metrics.token_count
        where = f", first at position {found.divergence_token} of {count}" if found.divergence_token >= 0 else ""
        cause = f"What was measured points to: {bad.cause}" if bad.cause else "Nothing that was measured names a cause"
        cause = explained(found.diagnosis) or cause
        side = f"; the {bad.side} is the side that is wrong" if bad.side else ""
        return f"{names}: the rung {bad.name} failed{where}: {_why(bad)}.", f"{cause}{side}."
    if found.verdict == PASS:
        steps = sum(len(each.steps) for each in found.decode)
        far = f"{len(found.positions)} positions and {steps} greedy ids"
        nearest = max((each for rung in ran for each in rung.measures), key=lambda each: each.used, default=None)
        told = f"Nearest to its limit is {nearest.text}" if nearest and nearest.used > 0 else "No measure has a limit"
        return (f"{asked.candidate} gave what {asked.reference} gives on every rung up to {ran[-1].name}: {far}.",
                f"{told}; what lies behind these positions, or in other texts, is not told.")  # fmt: skip
    open_ = next((each for each in ran if each.verdict != PASS), Rung(name="preflight", reason="nothing was run"))
    passed = ", ".join(each.name for each in ran if each.verdict == PASS)
    return (f"Nothing is decided: {open_.name}, {open_.reason or 'without a reason'}.",
            f"What passed stands for itself alone: {passed}." if passed else "No rung passed.")  # fmt: skip


def _why(rung: Rung) -> str:
    """The reason; that of a number as a sentence."""
    wrong = next((each for each in rung.measures if not each.holds and each.text == rung.reason), None)
    if wrong is None:
        return rung.reason or "without a number"
    bound = {"≤": "at most", "≥": "at least"}.get(wrong.sign, wrong.sign)
    value, limit = (number(float(each)) for each in (wrong.value, wrong.limit))
    return f"{wrong.of} is {value}, where {bound} {limit} may be ({wrong.basis})"


def data(found: Document) -> dict[str, Any]:
    """For the script: per position verdict and metrics, the likeliest tokens and how they are spelt."""
    told = found.tokens[0] if found.tokens else None
    fed = (told.reference or told.candidate or []) if told else []
    return {
        "positions": [each.position for each in found.positions],
        "verdicts": [each.verdict for each in found.positions],
        "ties": [each.tie for each in found.positions],
        "fed": fed[: len(found.positions)],
        "metrics": {name: [_short(of(each)) for each in found.positions] for name, (_, of) in METRICS.items()},
        "limits": {name: [_short(each) for each in pair] for name, pair in found.limits.items()},
        "tops": [_top(each) for each in found.positions],
        "pieces": {token: legible(text) for token, text in found.pieces.items()},
    }


def _top(position: Position) -> list[Any] | None:
    """Ids; then of each side logits and probabilities."""
    if not (top := position.top):
        return None
    sides = zip((top.reference, top.candidate), top.totals, strict=True)
    shares = [[_share(logit - total) for logit in side] for side, total in sides]
    logits = [[_short(each, 6) for each in side] for side in (top.reference, top.candidate)]
    return [top.ids, *logits, *shares]


def _share(log: float) -> float | None:
    return _short(math.exp(min(0.0, log))) if math.isfinite(log) else None


def _short(value: float, digits: int = 4) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def spelt(token: int, pieces: dict[str, str]) -> str:
    """An id with its text, where that is known."""
    return f"{token} {legible(pieces[str(token)])}" if str(token) in pieces else str(token)


def legible(piece: str) -> str:
    """A token as vocabularies spell it, with signs for space and line."""
    return printable(piece.replace("Ġ", "␣").replace("▁", "␣").replace("Ċ", "⏎"))


def _prompt(at: int, decoded: Decoded, found: Document) -> Prompt:
    prompts = found.request.prompts
    steps = []
    for kind, left, right in zip(decoded.steps, decoded.reference, decoded.candidate, strict=False):
        both = [spelt(each, found.pieces) for each in (left, right)]
        steps.append((kind, MARKS.get(kind, "?"), both[0] if left == right else " → ".join(both)))
    text = prompts[at] if at < len(prompts) else "all of the text"
    counts = {kind: decoded.steps.count(kind) for kind in dict.fromkeys(decoded.steps)}
    return Prompt(text, decoded.prompt_tokens, steps, counts)


def scatter(errors: Sequence[tuple[float, float, int]]) -> Scatter | None:
    """The drawing; None where there is no error of a logit that is not 0."""
    there = [each for each in errors if each[2] > 0 and min(each[:2]) > 0 and math.isfinite(max(each[:2]))]
    if not there:
        return None
    (left, right), (low, high) = (_span([each[at] for each in there]) for at in (0, 1))
    most = math.log(max(count for *_, count in there)) or 1.0

    def x(value: float) -> float:
        return MARGIN + SIDE * (math.log2(value) - left) / (right - left)

    def y(value: float) -> float:
        return SIDE * (high - math.log2(value)) / (high - low)

    squares = [
        Square(x(size), y(_next(error)), x(_next(size)) - x(size), y(error) - y(_next(error)),
               1 + round(6 * math.log(count) / most))
        for size, error, count in there
    ]  # fmt: skip
    begin, end = max(left, low), min(right, high)
    equal = (x(2.0**begin), y(2.0**begin), x(2.0**end), y(2.0**end)) if begin < end else (0.0, 0.0, 0.0, 0.0)
    return Scatter(squares, list(_octaves(there)), [(label, x(value)) for label, value in _ticks(left, right)],
                   [(label, y(value)) for label, value in _ticks(low, high) if y(value) > TITLE], equal)  # fmt: skip


def _span(values: Sequence[float]) -> tuple[int, int]:
    return math.floor(math.log2(min(values))), math.floor(math.log2(max(values))) + 1


def _next(value: float) -> float:
    """Where the next half of an octave begins."""
    return value * (1.5 if math.frexp(value)[0] == 0.5 else 4 / 3)


def _ticks(low: int, high: int) -> Iterator[tuple[str, float]]:
    tens = range(math.ceil(low * math.log10(2)), math.floor(high * math.log10(2)) + 1)
    for power in tens[:: 1 + len(tens) // 8]:
        yield f"1e{power}" if abs(power) > 2 else number(10.0**power), 10.0**power


def _octaves(errors: Sequence[tuple[float, float, int]]) -> Iterator[Octave]:
    sizes = sorted({math.floor(math.log2(size)) for size, *_ in errors})
    for power in sizes:
        mine = sorted((error, count) for size, error, count in errors if math.floor(math.log2(size)) == power)
        total, passed, median = sum(count for _, count in mine), 0, mine[-1][0]
        for error, count in mine:
            passed += count
            if 2 * passed >= total:
                median = error
                break
        yield Octave(2.0**power, total, median, _next(mine[-1][0]))
