"""A trace as an engine: ``recorded:DIR`` gives the logits that a trace has kept, and to no other tokens any."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from kparity.engines.base import Engine, Spec
from kparity.errors import WrongInput
from kparity.ops.spec import Array
from kparity.traces.files import load
from kparity.traces.slots import Key

LOGITS = Key.parse("logits")


class Recorded(Engine):
    """What was captured with ``--slots logits``: the facts are those of the engine that computed it, and ``answers``
    the tokens that were fed.
    """

    def __init__(self, spec: Spec, *, model: str, context: int) -> None:
        spec.only()
        if not spec.place:
            raise spec.wrong("no folder of a trace; write recorded:DIR")
        found = load(spec.place)
        begin, kept = found.begin, found.entries.get(LOGITS)
        tokens = begin.tokens if begin else []
        if not begin or not kept or not kept.rows or list(kept.positions) != list(range(len(tokens))):
            raise spec.wrong("it holds no logits of all of its positions; capture it with --slots logits")
        if kept.rows.width != begin.facts.vocab or not all(0 <= token < begin.facts.vocab for token in tokens):
            raise spec.wrong(f"its tokens and logits are not of a vocabulary of {begin.facts.vocab}; capture it again")
        kept.rows.verify()
        self.rows, self.at, facts = kept.rows, 0, begin.facts
        self.facts = replace(
            facts, name=f"recorded {facts.name}", answers=tuple(tokens), context=len(tokens), traces=False, sequences=1,
            weaknesses=(*facts.weaknesses, f"recorded at {begin.time}: it answers its {len(tokens)} tokens alone"),
        )  # fmt: skip

    def tokenize(self, text: str) -> list[int]:
        """Raises WrongInput: a trace has no tokenizer."""
        raise WrongInput(f"{self.facts.name}: a trace has no tokenizer; its own tokens are in its facts")

    def reset(self) -> None:
        """As ``Engine.reset``."""
        self.at = 0

    def score(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.score``; raises WrongInput for tokens that are not those of the trace."""
        self.check(tokens, self.at)
        for at, token in enumerate(tokens, self.at):
            if token != self.facts.answers[at]:
                raise WrongInput(
                    f"{self.facts.name}: token {at} of what was recorded is {self.facts.answers[at]}, not {token}; "
                    "a trace answers its own tokens alone"
                )
        found = self.rows.read(self.at, len(tokens))
        self.at += len(tokens)
        return np.asarray(found, np.float32)

    def close(self) -> None:
        """As ``Engine.close``; nothing is open."""
