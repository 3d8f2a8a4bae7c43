"""A sequence on its engine: its prompt piece by piece, then token by token."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from kparity.engine import Engine
from kparity.engine.graph import Graph
from kparity.errors import DeviceFault, WrongInput
from kparity.ops.spec import Array
from kparity.serve.messages import Ask, End, Told
from kparity.serve.sampling import drawn, logprobs, told

NONFINITE = "KP-POS-NONFINITE"


@dataclass
class Running:
    """A sequence on its engine, and what of it was not told yet."""

    ask: Ask
    engine: Engine
    tokens: list[int] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    prompt: list[Told] = field(default_factory=list)
    end: End = ""
    told_at: float = 0.0

    def __post_init__(self) -> None:
        self.work = self._work()
        if self.ask.quiet:
            self.told_at = time.monotonic()

    @cached_property
    def rng(self) -> np.random.Generator:
        """By which tokens are drawn, where they are."""
        return np.random.default_rng(self.ask.seed)

    def _work(self) -> Generator[None, None, None]:
        """A piece of the prompt, or a token, at a time."""
        ask, engine = self.ask, self.engine
        engine.reset()
        row, choice = None, -1
        if ask.echo:
            for row in self._scored():  # noqa: B007 - the last one counts
                yield
        else:
            for graph in engine.fed(ask.tokens):
                if engine.position == len(ask.tokens):  # at once: a canary may run on these buffers meanwhile
                    row, choice = self._read(graph)
                yield
        made = 0
        while made < ask.most:
            token = self._chosen(row, choice)
            if token == engine.model.hparams.eos:
                self.end = "stop"
                return
            self.tokens.append(token)
            if ask.top >= 0:
                assert row is not None
                self.told.append(told(logprobs(row), token, ask.top))
            made += 1
            if made == ask.most or engine.position >= ask.room:
                break
            yield
            row, choice = self._read(engine.run_step(token))
        self.end = "length"

    def _read(self, graph: Graph) -> tuple[Array | None, int]:
        """The logits of the last position where they are needed, and the device's own choice where that counts."""
        engine, greedy = self.engine, self.ask.temperature == 0
        choice = engine.best_of(graph) if greedy else -1
        return (None if greedy and self.ask.top < 0 else finite(engine, engine.row_of(graph))), choice

    def _chosen(self, row: Array | None, choice: int) -> int:
        if self.ask.temperature == 0:
            return choice if row is None or choice >= 0 else int(row.argmax())
        assert row is not None
        return drawn(row, self.ask.temperature, self.ask.top_p, self.rng)

    def _scored(self) -> Iterator[Array]:
        """Feed the prompt with the log-probability of each of its tokens, the first excepted; the last row."""
        tokens, chunk = self.ask.tokens, self.engine.chunk
        for at in range(0, len(tokens), chunk):
            piece = tokens[at : at + chunk]
            rows = finite(self.engine, scored(self.engine, piece))
            for row, following in zip(rows, tokens[at + 1 : at + chunk + 1], strict=False):
                self.prompt.append(told(logprobs(row), following, max(self.ask.top, 0)))
            yield rows[-1]


def finite(engine: Engine, logits: Array) -> Array:
    """The logits; raises DeviceFault where one is not finite."""
    if not np.isfinite(logits).all():
        raise DeviceFault(f"the logits before position {engine.position} are not finite", NONFINITE)
    return logits


def scored(engine: Engine, tokens: list[int]) -> Array:
    """Logits [len(tokens), vocab]; step by step on a device that has no head for several rows at once."""
    begun = engine.position
    try:
        return engine.score(tokens)
    except WrongInput:
        engine.rewind(begun)
        return np.stack([engine.step(token) for token in tokens])
