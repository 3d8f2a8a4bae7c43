"""A server as an engine: ``http://HOST:PORT?probs=20&model=NAME&timeout=120``, llama.cpp's or one of OpenAI's kind.

A server tells the log-probabilities of the likeliest tokens and nothing else: ``Facts.gives`` says of how many, and
every other logit is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kparity.engines.base import DeviceRow, Engine, Facts, Spec
from kparity.engines.http_dialects import MOST, LlamaServer, dialect
from kparity.engines.http_wire import Wire
from kparity.errors import Unavailable
from kparity.host.text import printable
from kparity.ops.spec import Array

PROBS, MANY = 20, 2048
"""Tokens of a position that are asked for: what servers of OpenAI's kind allow; llama.cpp gives any number."""
TIMEOUT_S, MOST_S, CONTEXT = 120, 1 << 20, 1 << 20


class Http(Engine):
    """Whatever serves at an address: ``probs`` tokens of each position, ``timeout`` in seconds for an answer."""

    def __init__(self, spec: Spec, *, model: str, context: int) -> None:
        spec.only("probs", "model", "timeout", "vocab")
        timeout, probs = spec.number("timeout", TIMEOUT_S, 1, MOST_S), spec.number("probs", MANY, 1)
        wire = self.wire = Wire(spec, timeout)
        self.tokens: list[int] = []
        try:
            speaks = self.speaks = dialect(wire, model, spec.number("vocab", 1, 1, MOST))
            llama = isinstance(speaks, LlamaServer)
            self.probs = min(probs if llama or "probs" in spec.options else PROBS, speaks.vocab)
            start = self.speaks.tokenize("") if llama else []
            bos = start[0] if start else -1
            shown = speaks.after([max(bos, 0)], 1, self.probs, fresh=True)
        except BaseException:
            wire.close()
            raise
        told = int(np.isfinite(shown).sum())
        room = min(each for each in (context, speaks.context, CONTEXT) if each)
        self.facts = Facts(
            name=f"server {wire.url}", version=printable(speaks.version)[:80] or "unknown",
            model=printable(speaks.model[:200]), vocab=speaks.vocab, context=room, layers=0, width=speaks.width,
            bos=bos, add_bos=bos >= 0, devices=(DeviceRow(wire.url, "what serves there", "unknown", True),),
            numerics=f"of {wire.url}", gives=f"logprobs:{told}",
            weaknesses=(f"it tells {told} of {speaks.vocab} log-probabilities, and not what computes them",),
        )  # fmt: skip

    def tokenize(self, text: str) -> list[int]:
        """As ``Engine.tokenize``."""
        return self.speaks.tokenize(text)

    def reset(self) -> None:
        """As ``Engine.reset``."""
        self.tokens = []

    def score(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.score``: log-probabilities, NaN where none is told."""
        return self._after(tokens, len(tokens))

    def prefill(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.prefill``."""
        return np.asarray(self._after(tokens, 1)[0])

    def _after(self, tokens: Sequence[int], last: int) -> Array:
        """Feed tokens; what the server tells after each of the last ones."""
        self.check(tokens, len(self.tokens))
        fed = [*self.tokens, *tokens]
        found = self.speaks.after(fed, last, self.probs, fresh=not self.tokens)
        if self.facts.gives == f"logprobs:{self.facts.vocab}" and not np.isfinite(found).all():
            fewest = np.isfinite(found).sum(axis=1).min()
            why = f"it tells {fewest} of {self.facts.vocab} log-probabilities, where it told all"
            raise Unavailable(f"engine {self.speaks.spec.text}: {why}", "ask for fewer by ?probs=N", "KP-HTTP-UNTOLD")
        self.tokens = fed
        return found

    def close(self) -> None:
        """As ``Engine.close``."""
        self.wire.close()
