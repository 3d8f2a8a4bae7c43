"""Wrong engines that err seldom, late, behind a long prompt, or only where two share a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kparity.device.adapter import Backend, Buffer
from kparity.engine import Engine
from kparity.engine.graph import FusedGraph, Graph
from kparity.model import Model
from kparity.mutate.makers import wrong
from kparity.ops.spec import Array

RATE = 0.01
"""Of the steps that are wrong where it is by chance; at this rate a default probe is to see it."""
WRITES, LATE = 300, 800
"""Runs until a stray write, which a default probe reaches, and until what wears out, which only a soak does."""


@wrong()
class OneStepOfHundred(Engine):
    """One step in a hundred, by chance, has one logit wrong in its last bit: a race that is seldom lost."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.chance = np.random.default_rng(1)

    def _run(self, tokens: list[int], rows: int, *options: Any, **named: Any) -> Graph:
        graph = super()._run(tokens, rows, *options, **named)
        if rows == 1 and self.chance.random() < RATE:
            logits = self.backend.download(graph.logits).copy()
            logits.reshape(-1).view(np.int32)[7] ^= 1
            self.backend.write(graph.logits, logits)
        return graph


@wrong()
class ResetKeepsLongPrompts(Engine):
    """A reset behind a prompt of several chunks is lost: right for short ones."""

    _long = False

    def prefill(self, tokens: Sequence[int], eager: bool = False) -> Array:
        """Note how long it is."""
        self._long = len(tokens) > self.chunk
        return super().prefill(tokens, eager)

    def reset(self) -> None:
        """Forget every token, or none."""
        if not self._long:
            super().reset()
        self._long = False


@wrong()
class TurnLosesItsLastKey(Engine):
    """A second turn begins with the last key of the first one unwritten: an off-by-one where the cache is appended."""

    def prefill(self, tokens: Sequence[int], eager: bool = False) -> Array:
        """Lose the keys and values of the position before."""
        if self.position:
            for buffer in (buffer for pair in self.cache for buffer in pair):
                held = self.backend.download(buffer).copy()
                held[self.position - 1] = 0
                self.backend.write(buffer, held)
        return super().prefill(tokens, eager)


class Counted(Engine):
    """An engine of which ``runs`` are counted, those of engines beside it included."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.runs = [0]

    def _feed(self, graph: Graph, tokens: Sequence[int], rows: int) -> None:
        self.runs[0] += 1
        super()._feed(graph, tokens, rows)


@wrong()
class StrayWrite(Counted):
    """After 300 runs something else is written over a row of the embedding that no token of the probe reads."""

    def _feed(self, graph: Graph, tokens: Sequence[int], rows: int) -> None:
        super()._feed(graph, tokens, rows)
        if self.runs[0] == WRITES:
            part = self.weights.embedding[-1].buffer
            table = self.backend.download(part).copy()
            table[-1] = 0
            self.backend.write(part, table)


@wrong(soaks=True)
class WearsOut(Counted):
    """After 800 runs every token is taken for the first of the vocabulary: what only load shows."""

    def _feed(self, graph: Graph, tokens: Sequence[int], rows: int) -> None:
        super()._feed(graph, [0] * len(tokens) if self.runs[0] > LATE else tokens, rows)


@wrong(soaks=True)
class StagingShared(Engine):
    """Engines of a device share one staging buffer for tokens: what the second writes, the first one reads."""

    def beside(self) -> Engine:
        """One whose tokens and positions go where its neighbour's go."""
        other = super().beside()
        mine, theirs = self.recorded().graph, other.recorded().graph
        feed = other._feed

        def both(graph: Graph, tokens: Sequence[int], rows: int) -> None:
            feed(graph, tokens, rows)
            if graph is theirs:
                self.backend.write(mine.ids, np.asarray(tokens, np.int32))

        other._feed = both  # type: ignore[method-assign]
        return other


class OneScratch(FusedGraph):
    """A graph whose activations are those of every other graph of its device that has as many rows."""

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: str = "f32") -> Buffer:
        if name in ("ids", "pos", "last", "logits", "best"):
            return super()._buffer(name, shape, dtype)
        shelf: dict[tuple[Any, ...], Buffer] = vars(self.backend).setdefault("scratch", {})
        if (name, shape) not in shelf:
            shelf[name, shape] = self.backend.empty(shape, dtype)
        return shelf[name, shape]


@wrong(soaks=True)
def scratch_shared(model: Model, backend: Backend) -> Engine:
    """Engines of a device share their activations: right as long as no launch of one falls between two of another."""
    engine = Engine(model, backend)
    engine.graph_class = OneScratch
    return engine
