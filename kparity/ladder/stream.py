"""Engines side by side: each is asked for some rows, they are measured and dropped; who failed is known by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from kparity import contracts
from kparity.engines.base import Engine, Facts
from kparity.errors import DeviceFault, KparityError, Unavailable
from kparity.ladder.record import Top
from kparity.numerics.logits import (
    BINS,
    HALVES,
    Rows,
    compare_logits,
    error_histogram,
    error_map,
    half_octave,
    log_total,
    top_tokens,
)
from kparity.ops.spec import Array

T = TypeVar("T")
CONTRACT = "ladder-v1"
CHUNK, CHUNK_BYTES = 32, 16 << 20
"""Rows of logits of one call: at least so many, or as many as fit in these bytes."""


class EngineFailed(Exception):
    """An engine that could not do what it was asked, or died."""

    def __init__(self, side: str, doing: str, error: KparityError) -> None:
        super().__init__(f"the {side} failed in {doing}: {error}")
        self.side, self.error = side, error


class Seat:
    """An engine at its place in the comparison; ``seconds`` is what it has taken."""

    def __init__(self, side: str, spec: str, opener: Callable[[], Engine]) -> None:
        began = time.perf_counter()
        try:
            self.side, self.spec, self.opener, self.engine = side, spec, opener, opener()
        except (Unavailable, DeviceFault) as error:
            raise EngineFailed(side, f"opening {spec}", error) from None
        self.facts, self.seconds = self.engine.facts, time.perf_counter() - began
        self.centred = False
        """Whether the mean of each position is taken off, because a side of the comparison does not know it."""

    @property
    def whole(self) -> bool:
        """Whether the engine gives logits of the whole vocabulary, if only but for a constant in each position."""
        return self.facts.gives in ("logits", f"logprobs:{self.facts.vocab}")

    def lacks(self, rung: str) -> str:
        """Why the engine cannot take part in a rung; empty where it can."""
        if not self.whole and rung in ("masks", "first-logit", "positions"):
            return f"the {self.side} gives {self.facts.gives} alone, no whole logits"
        if self.facts.answers and rung in ("masks", "decode"):
            return f"the {self.side} holds what was computed before, and cannot be asked for anything else"
        return ""

    def shaped(self, logits: Array) -> Array:
        """Logits as they are compared; what the engine does not tell is less likely than what it tells."""
        if not self.whole:
            return np.where(np.isnan(logits), -np.inf, logits)
        mean = logits.mean(axis=-1, keepdims=True, dtype=np.float64).astype(logits.dtype) if self.centred else 0
        return np.asarray(logits - mean) if self.centred else logits

    def greedy(self, logits: Array) -> int:
        """The likeliest id of ``shaped`` logits [vocab]; -1 where they are not finite."""
        told = logits if self.whole else logits[logits > -np.inf]
        return int(logits.argmax()) if len(told) and np.isfinite(told).all() else -1

    def again(self) -> Seat:
        """The same engine once more, in a process of its own."""
        other = Seat(self.side, self.spec, self.opener)
        other.centred = self.centred
        return other

    def timed(self, doing: str, call: Callable[..., T], *arguments: Any) -> T:
        """Do something that takes the engine's time; an error is raised as EngineFailed."""
        began = time.perf_counter()
        try:
            return call(*arguments)
        except KparityError as error:
            raise EngineFailed(self.side, doing, error) from error
        finally:
            self.seconds += time.perf_counter() - began

    def tokenize(self, text: str) -> list[int] | None:
        """Ids of a text; None where the engine has no tokenizer."""
        if self.facts.answers:
            return list(self.facts.answers)
        try:
            return self.timed("tokenizing", self.engine.tokenize, text)
        except EngineFailed as failed:
            if isinstance(failed.error, (DeviceFault, Unavailable)):
                raise
            return None

    def reset(self) -> None:
        """Forget every token."""
        self.timed("reset", self.engine.reset)

    def score(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.score``."""
        return self.shaped(self.timed("a batch", self.engine.score, tokens))

    def score_beside(self, tokens: Sequence[int], neighbours: Sequence[int]) -> Array:
        """As ``Engine.score_beside``."""
        return self.shaped(self.timed("a batch of two sequences", self.engine.score_beside, tokens, neighbours))

    def prefill(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.prefill``."""
        return self.shaped(self.timed("prefill", self.engine.prefill, tokens))

    def step(self, token: int) -> Array:
        """As ``Engine.step``."""
        return self.shaped(self.timed("a step", self.engine.step, token))

    def fed(self, *pieces: Sequence[int]) -> Array:
        """Logits [tokens, vocab] of pieces, one batch each, on an empty cache: of few tokens, since all are kept."""
        self.reset()
        found = [self.score(piece) for piece in pieces if len(piece)]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def stepped(self, tokens: Sequence[int]) -> Array:
        """The same, token by token."""
        self.reset()
        return np.stack([self.step(token) for token in tokens])


def rows_of(facts: Facts, room: int = CHUNK_BYTES) -> int:
    """Rows that are asked for at a time, of so many bytes."""
    return max(CHUNK, room // (4 * facts.vocab))


def side_by_side(seats: Sequence[Seat], tokens: Sequence[int], rows: int = 0) -> Iterator[list[Array]]:
    """Logits of the same tokens from each, some rows at a time (0: as many as fit), the engines in turn."""
    rows = rows or rows_of(seats[0].facts)
    for seat in seats:
        seat.reset()
    for at in range(0, len(tokens), rows):
        yield [seat.score(tokens[at : at + rows]) for seat in seats]


class Tally:
    """What is kept of two streams of logits: a few numbers a position, and the shape of the errors; ``detailed``, the
    likeliest tokens too, and how errors go with the size of a logit.
    """

    def __init__(self, detailed: bool = False) -> None:
        self.detailed, self.tops, self.errors = detailed, list[Top | None](), np.zeros((HALVES, HALVES), np.int64)
        self.parts: list[Rows] = []
        self.shape = np.zeros(BINS, np.int64)
        """Counts of errors, each in units of the root mean square of its position, where that is more than the playbook
        admits: below it are the steps of f32, and not what flipped codes make.
        """
        self.shaped = 0
        """Positions that were counted."""

    def add(self, reference: Array, candidate: Array) -> Rows:
        """Measure some positions."""
        found = compare_logits(reference, candidate)
        least = contracts.load(CONTRACT).threshold("positions_mse").value
        for at, size in enumerate(found.rmse):
            if least < size * size < np.inf:
                self.shaped += 1
                self.shape += error_histogram(reference[at : at + 1], candidate[at : at + 1], float(size))
        if self.detailed:
            self.errors += error_map(reference, candidate)
            bad = found.reference_bad + found.candidate_bad
            self.tops += [None if lost else top(*both) for *both, lost in zip(reference, candidate, bad, strict=True)]
        self.parts.append(found)
        return found

    @property
    def halves(self) -> list[tuple[float, float, int]]:
        """``errors`` as the record has them, of what is finite."""
        there = zip(*np.nonzero(self.errors[: HALVES - 2, : HALVES - 2]), strict=True)
        return [
            (half_octave(int(size)), half_octave(int(error)), int(self.errors[size, error])) for size, error in there
        ]

    @property
    def rows(self) -> Rows:
        """Of all positions."""
        return Rows.joined(self.parts)


def top(reference: Array, candidate: Array) -> Top:
    """What is likeliest by finite logits [vocab] of both sides."""
    ids = list(dict.fromkeys(int(each) for side in (reference, candidate) for each in top_tokens(side)[:5]))
    told = [[float(side[each]) for each in ids] for side in (reference, candidate)]
    return Top(ids=ids, reference=told[0], candidate=told[1], totals=(log_total(reference), log_total(candidate)))


def compared(reference: Array, candidate: Array) -> Tally:
    """A tally of what is here whole."""
    tally = Tally()
    tally.add(reference, candidate)
    return tally


def tallied(reference: Seat, candidate: Seat, tokens: Sequence[int]) -> Tally:
    """A tally of two engines over tokens."""
    tally = Tally()
    for left, right in side_by_side((reference, candidate), tokens):
        tally.add(left, right)
    return tally
