"""The parent's side of an engine that runs in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from kparity.engines.base import Engine, Facts
from kparity.errors import DeviceFault, Unavailable, WrongInput
from kparity.ops.spec import Array
from kparity.process.worker import Worker, WorkerFailed

PIECE_BYTES = 64 << 20
"""Logits of one call."""


class Hosted:
    """The child's side: an engine whose answers are plain values or arrays."""

    def __init__(self, *, spec: str, **options: Any) -> None:
        from kparity.engines.registry import open_engine

        self.engine = open_engine(spec, **options)

    def facts(self) -> Any:
        """Of the engine."""
        return msgspec.to_builtins(self.engine.facts)

    def tokenize(self, text: str) -> list[int]:
        """As ``Engine.tokenize``."""
        return self.engine.tokenize(text)

    def reset(self) -> None:
        """As ``Engine.reset``."""
        self.engine.reset()

    def score(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.score``."""
        return self.engine.score(tokens)

    def step(self, token: int) -> Array:
        """As ``Engine.step``."""
        return self.engine.step(token)

    def close(self) -> None:
        """As ``Engine.close``."""
        self.engine.close()


class Remote(Engine):
    """Every call goes to the child; what it cannot do, or that it died, is raised here as one of kparity's errors."""

    def __init__(self, spec: str, **options: Any) -> None:
        self.spec, self.worker = spec, Worker(spec, "kparity.engines.remote:Hosted", {"spec": spec, **options})
        try:
            self._told(self.worker.opened)
            self.facts = msgspec.convert(self._call("facts"), Facts)
        except BaseException:
            self.worker.close()
            raise

    def _told(self, ask: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        try:
            return ask(*arguments, seconds=math.inf, **named)
        except WorkerFailed as failed:
            if failed.status == "unavailable":
                raise Unavailable(
                    f"{self.spec}: {failed.reason}", "see kparity explain " + failed.code, failed.code
                ) from None
            if failed.status == "died":
                raise DeviceFault(f"{self.spec}: {failed.reason}") from None
            raise WrongInput(f"{self.spec}: {failed.reason}") from None

    def _call(self, method: str, **named: Any) -> Any:
        return self._told(self.worker.call, method, **named)

    def tokenize(self, text: str) -> list[int]:
        """As ``Engine.tokenize``."""
        return list(self._call("tokenize", text=text))

    def reset(self) -> None:
        """As ``Engine.reset``."""
        self._call("reset")

    def score(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.score``, some of the tokens at a time."""
        rows = max(1, PIECE_BYTES // (4 * self.facts.vocab))
        pieces = [list(tokens[at : at + rows]) for at in range(0, len(tokens), rows)]
        return np.concatenate([self._call("score", tokens=piece) for piece in pieces])

    def step(self, token: int) -> Array:
        """As ``Engine.step``."""
        return np.asarray(self._call("step", token=token))

    def close(self) -> None:
        """End the child."""
        self.worker.close()
