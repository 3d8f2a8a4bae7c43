"""An engine of another package, as tests install it: it answers, dies, or gives what no engine gives."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import numpy as np

from kparity.engines.base import DeviceRow, Engine, Facts, Spec
from kparity.ops.spec import Array

NOT_ONE = 7


class Mine(Engine):
    """Logits are ones; the place of its specification is what goes wrong."""

    def __init__(self, spec: Spec, *, model: str, context: int) -> None:
        self.place = spec.place
        self.facts = Facts(
            name="mine", version="1", model=model, vocab=4, context=9, layers=1, width=2, numerics="ones",
            devices=(DeviceRow("host", str(os.getpid()), "cpu", True),),
        )  # fmt: skip
        if spec.place == "facts":
            self.facts = {"name": "mine"}  # type: ignore[assignment]

    def tokenize(self, text: str) -> list[int]:
        return list(text) if self.place == "ids" else [1]  # type: ignore[arg-type]

    def reset(self) -> None:
        if self.place == "crash":
            print("driver: about to fall", file=sys.stderr, flush=True)
            os.abort()

    def prefill(self, tokens: Sequence[int]) -> Array:
        self.check(tokens, 0)
        return np.ones(4, np.float32)

    def step(self, token: int) -> Array:
        return np.ones(5, np.float32)

    def score(self, tokens: Sequence[int]) -> Array:
        return np.ones((len(tokens), 4), np.float32)

    def close(self) -> None: ...
