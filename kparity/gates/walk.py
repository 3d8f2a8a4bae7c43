"""Every token of a probe step by step, in rounds: what the first gave, and whether the others give the same bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kparity.ops.spec import Array

if TYPE_CHECKING:
    from kparity.engine import Engine


def prompt_lengths(chunk: int, count: int) -> list[int]:
    """Prompt lengths that end in a padded chunk, at the end of a chunk, one after it, and in a second one."""
    wanted = (chunk // 4 + 1, chunk, chunk + 1, 2 * chunk - 1)
    return sorted({length for length in wanted if 2 <= length < count})


def prompted(engine: Engine, tokens: Sequence[int], length: int) -> tuple[Array, Array]:
    """Logits after a prefill of ``length`` tokens on an empty cache, and after one step on what it wrote."""
    engine.reset()
    return engine.prefill(tokens[:length]), engine.step(tokens[length])


@dataclass
class Walk:
    """Rounds on one engine. They need no reference: a device that waits for it may begin with them."""

    engine: Engine
    tokens: list[int]
    steps: Array | None = None
    """Logits f32 [positions, vocab] of the first round."""
    best: list[int] = field(default_factory=list)
    """The ids that the device found largest in it."""
    rounds: int = 0
    """How often it was repeated."""
    rows: int = 0
    """Rows of logits that were held against those of before, bit for bit."""
    wrong: int = 0
    """Logits among them that differ."""
    where: str = ""
    """The first of those rows."""

    def round(self) -> None:
        """Reset, then every token; what the first round gave is kept, and what another one gives is held against it."""
        self.engine.reset()
        if self.steps is None:
            ran = [(self.engine.step(token), self.engine.best()) for token in self.tokens]
            self.steps, self.best = np.stack([logits for logits, _ in ran]), [best for _, best in ran]
            return
        self.rounds += 1
        for at, token in enumerate(self.tokens):
            self.hold(self.engine.step(token), self.steps[at], f"at position {at} in round {self.rounds}")

    def rounds_for(self, rows: float) -> int:
        """Rounds after which as many rows of logits were compared by steps alone, the first ones among them."""
        return math.ceil(rows / len(self.tokens)) - 1

    def hold(self, again: Array, wanted: Array, name: str) -> None:
        """A row of logits against what it was at first."""
        differs = int((again != wanted).sum())  # a NaN differs from itself: it fails closed
        self.rows, self.wrong = self.rows + 1, self.wrong + differs
        self.where = self.where or (name if differs else "")
