"""An engine in a process of its own: what it does to its process costs the comparison a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np

from kparity.engines.base import Engine, Facts, Sink
from kparity.engines.registry import open_here, parsed
from kparity.errors import DeviceFault, Unavailable, WrongInput
from kparity.ops.spec import Array
from kparity.process.worker import Worker, WorkerFailed

PIECE_BYTES, BATCH = 128 << 20, 64
"""Logits of one call, and what its tokens are a multiple of: engines feed batches of that many, or of a divisor."""


class Hosted:
    """The child's side: an engine whose answers are plain values or arrays."""

    def __init__(self, **options: Any) -> None:
        self.engine = open_here(**options)

    def facts(self) -> Any:
        """Of the engine, as plain values."""
        return msgspec.to_builtins(self.engine.facts)

    def __getattr__(self, method: str) -> Any:
        return getattr(self.engine, method)


class Remote(Engine):
    """Every call goes to the child; what it cannot do, or that it died, is raised here as one of kparity's errors."""

    hosted: ClassVar[str] = "kparity.engines.remote:Hosted"
    """What the child makes."""

    def __init__(self, spec: str, *, model: str = "", context: int = 0) -> None:
        self.spec = parsed(spec)
        self.worker = Worker(spec, self.hosted, {"text": spec, "model": model, "context": context})
        try:
            self._told(self.worker.opened)
            self.facts = self._typed("facts", Facts)
        except BaseException:
            self.worker.close()
            raise

    def _told(self, ask: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        try:
            return ask(*arguments, seconds=math.inf, **named)
        except WorkerFailed as failed:
            name = f"engine {self.spec.text}: "
            told = name + failed.reason.removeprefix("unavailable: ").removeprefix(name)
            if failed.status == "unavailable":
                raise Unavailable(told, failed.remedy, failed.code) from None
            if failed.status == "died" or failed.code.startswith("KP-DEVICE"):
                raise DeviceFault(told, failed.code) from None
            raise WrongInput(told) from None

    def _typed(self, method: str, kind: Any, **named: Any) -> Any:
        """What the child returns, where it is of that kind."""
        try:
            return msgspec.convert(self._told(self.worker.call, method, **named), kind)
        except msgspec.ValidationError as problem:
            raise self.spec.wrong(f"its {method} is not what an engine gives ({problem})") from None

    def _logits(self, method: str, shape: tuple[int, ...], **named: Any) -> Array:
        found = self._told(self.worker.call, method, **named)
        if np.shape(found) != shape:
            raise self.spec.wrong(f"{method} gave {list(np.shape(found))}, expected logits {list(shape)}")
        return np.asarray(found)

    def tokenize(self, text: str) -> list[int]:
        """As ``Engine.tokenize``."""
        return list(self._typed("tokenize", list[int], text=text))

    def reset(self) -> None:
        """As ``Engine.reset``."""
        self._told(self.worker.call, "reset")

    def prefill(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.prefill``."""
        return self._logits("prefill", (self.facts.vocab,), tokens=list(tokens))

    def step(self, token: int) -> Array:
        """As ``Engine.step``."""
        return self._logits("step", (self.facts.vocab,), token=token)

    def score(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.score``, some of the tokens at a time."""
        rows = max(BATCH, PIECE_BYTES // (4 * self.facts.vocab) // BATCH * BATCH)
        pieces = [list(tokens[at : at + rows]) for at in range(0, len(tokens), rows)] or [[]]
        shapes = [(len(piece), self.facts.vocab) for piece in pieces]
        found = [self._logits("score", shape, tokens=piece) for piece, shape in zip(pieces, shapes, strict=True)]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def score_beside(self, tokens: Sequence[int], neighbours: Sequence[int]) -> Array:
        """As ``Engine.score_beside``."""
        shape = (len(tokens), self.facts.vocab)
        return self._logits("score_beside", shape, tokens=list(tokens), neighbours=list(neighbours))

    def trace(self, tokens: Sequence[int], slots: Sequence[str], sink: Sink) -> Array:
        """As ``Engine.trace``; what ``sink`` raises ends the child."""
        shape = (len(tokens), self.facts.vocab)
        return self._logits("trace", shape, tokens=list(tokens), slots=list(slots), sink=sink)

    def close(self) -> None:
        """End the child."""
        self.worker.close()


def open_engine(spec: str, *, model: str = "", context: int = 0) -> Remote:
    """Open an engine in a process of its own; arguments and errors as of ``registry.open_here``, and DeviceFault with
    the code KP-WORKER-DIED where the process died.
    """
    return Remote(spec, model=model, context=context)
