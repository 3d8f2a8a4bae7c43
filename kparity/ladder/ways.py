"""Ways of feeding the same tokens, each of which serves somewhere: that only one of them is wrong, is a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kparity.ops.spec import Array

Calls = list[tuple[str, list[int]]]
"""Methods of an engine (``score``, ``score_beside``, ``prefill``, ``step``, ``reset``), with the tokens of each."""


class Feeds(Protocol):
    """What can be fed: an engine, or a seat of a comparison."""

    def reset(self) -> None:
        """Forget every token."""

    def score(self, tokens: Sequence[int]) -> Array:
        """Logits after each."""

    def score_beside(self, tokens: Sequence[int], neighbours: Sequence[int]) -> Array:
        """Logits after each, with another sequence in the batch."""

    def prefill(self, tokens: Sequence[int]) -> Array:
        """Logits after the last."""

    def step(self, token: int) -> Array:
        """Logits after it."""


@dataclass(frozen=True)
class Scenario:
    """A way to feed a prefix, from an engine that was reset: its name, and what is done."""

    name: str
    means: str
    cut: Callable[[list[int], int], Calls]
    """The tokens in pieces, of which a prompt has so many."""

    def calls(self, ids: Sequence[int], prompt: int = 0) -> Calls:
        """For a prefix of the tokens, half of them a prompt unless told otherwise."""
        tokens = list(ids)
        return [(how, some) for how, some in self.cut(tokens, prompt or len(tokens) // 2) if some or how == "reset"]


FIRST, LAST = 2, 2
"""Tokens of the first of two batches, and of the last of several prompts: the rest is for kernels of many rows."""


def _steps(tokens: Sequence[int]) -> Calls:
    return [("step", [each]) for each in tokens]


def _prompts(ids: list[int], _: int) -> Calls:
    """The last of them is short: what it does not see of those before weighs most there."""
    half = len(ids) // 2
    short = max(half, len(ids) - 2 * LAST)
    end = max(short, len(ids) - LAST)
    return [("prefill", ids[:half]), ("prefill", ids[half:short]), ("prefill", ids[short:end]), *_steps(ids[end:])]


BATCH = Scenario("batch", "in a batch", lambda ids, _: [("score", ids)])
STEPS = Scenario("steps", "token by token", lambda ids, _: _steps(ids))
PREFILL = Scenario("prefill", "a prompt as it serves", lambda ids, _: [("prefill", ids)])
DECODE = Scenario("decode", "a prompt, then steps", lambda ids, at: [("prefill", ids[:at]), *_steps(ids[at:])])
SECOND = Scenario("second turn", "prompt after prompt, then steps", _prompts)
AFTER = Scenario(
    "after a reset", "after other tokens and a reset",
    lambda ids, _: [("prefill", ids[:0:-1]), ("step", ids[:1]), ("reset", []), ("score", ids)],
)  # fmt: skip
TURN = Scenario("turn", "in two turns", lambda ids, _: [("score", ids[:FIRST]), ("score", ids[FIRST:])])
ONE = Scenario("one", "after one token", lambda ids, _: [("score", ids[:1]), ("score", ids[1:])])
BESIDE = Scenario("neighbours", "beside another sequence", lambda ids, _: [("score_beside", ids)])
EVERY = (BATCH, STEPS, PREFILL, DECODE, SECOND, AFTER, TURN, ONE, BESIDE)


def last_run(calls: Calls) -> tuple[Calls, Calls]:
    """What comes up to the last reset, and what follows it."""
    at = max((at for at, (method, _) in enumerate(calls) if method == "reset"), default=-1) + 1
    return calls[:at], calls[at:]


def tokens_of(calls: Calls) -> list[int]:
    """The tokens behind the last reset."""
    return [token for _, tokens in last_run(calls)[1] for token in tokens]


def fed(engine: Feeds, calls: Calls) -> Iterator[tuple[int, Array]]:
    """Feed an engine that is reset before; position and logits [vocab] of every row that the calls give behind the
    last reset.
    """
    engine.reset()
    before, after = last_run(calls)
    for method, tokens in before:
        _called(engine, method, tokens)
    at = 0
    for method, tokens in after:
        rows = _called(engine, method, tokens)
        at += len(tokens)
        yield from zip(range(at - len(rows), at), rows, strict=True)


def last_rows(engine: Feeds, calls: Calls) -> Array:
    """Logits [positions, vocab] of the last positions, of as many as follow each other without a gap."""
    found, before = list[Array](), -1
    for at, row in fed(engine, calls):
        found, before = [*(found if at == before + 1 else ()), row], at
    return np.stack(found)


def _called(engine: Feeds, method: str, tokens: Sequence[int]) -> Sequence[Array]:
    """Rows of logits."""
    if method == "reset":
        engine.reset()
        return []
    if method == "score":
        return list(engine.score(tokens))
    if method == "score_beside":
        return list(engine.score_beside(tokens, tokens[: len(tokens) // 2 : -1]))
    return [engine.prefill(tokens) if method == "prefill" else engine.step(tokens[0])]
