"""Ways of feeding the same tokens, each of which serves somewhere: that only one of them is wrong, is a finding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from kparity.ops.spec import Array

Calls = list[tuple[str, list[int]]]
"""Methods of an engine with the tokens that each is given: ``score``, ``prefill``, ``step``, ``reset``."""


class Feeds(Protocol):
    """What can be fed: an engine, or a seat of a comparison."""

    def reset(self) -> None:
        """Forget every token."""

    def score(self, tokens: Sequence[int]) -> Array:
        """Logits after each."""

    def prefill(self, tokens: Sequence[int]) -> Array:
        """Logits after the last."""

    def step(self, token: int) -> Array:
        """Logits after it."""


@dataclass(frozen=True)
class Scenario:
    """A way to feed a prefix, from an engine that was reset."""

    name: str
    means: str

    def calls(self, ids: Sequence[int]) -> Calls:
        """For a prefix of the tokens."""
        tokens, steps = list(ids), [("step", [each]) for each in ids]
        half, most = len(tokens) // 2, len(tokens) * 3 // 4
        parts = {
            "batch": [("score", tokens)],
            "steps": steps,
            "prefill": [("prefill", tokens)],
            "decode": [("prefill", tokens[:half]), *steps[half:]],
            "second turn": [("prefill", tokens[:half]), ("prefill", tokens[half:most]), *steps[most:]],
            "after a reset": [("prefill", tokens[::-1]), ("reset", []), ("score", tokens)],
        }[self.name]
        return [(method, some) for method, some in parts if some or method == "reset"]


SCENARIOS = (
    Scenario("batch", "all tokens in batches"),
    Scenario("steps", "token by token"),
    Scenario("prefill", "a prompt as it serves"),
    Scenario("decode", "single steps behind a prompt"),
    Scenario("second turn", "a second prompt behind the first, then steps"),
    Scenario("after a reset", "after another prompt and a reset"),
)


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


def _called(engine: Feeds, method: str, tokens: Sequence[int]) -> Sequence[Array]:
    """Rows of logits."""
    if method == "reset":
        engine.reset()
        return []
    if method == "score":
        return list(engine.score(tokens))
    return [engine.prefill(tokens) if method == "prefill" else engine.step(tokens[0])]
