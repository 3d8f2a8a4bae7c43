"""The text of a sequence that comes token by token: whole characters, cut at stop sequences, with offsets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from kparity.model.tokenizer import Tokenizer

WINDOW = 16
"""Tokens of a prompt on which the text of the first token behind it may depend."""


class Words:
    """A tokenizer that names single tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.name, self.length = lru_cache(1 << 16)(self._name), lru_cache(1 << 16)(self._length)

    def _name(self, token: int) -> str:
        """The text of a token behind another; special tokens by their names."""
        once, twice = (self.tokenizer.decode([token] * times, skip_special=False) for times in (1, 2))
        return twice[len(once) :] or once

    def _length(self, token: int) -> int:
        """Characters that a token adds to a text; none for a special one."""
        once, twice = (self.tokenizer.decode([token] * times) for times in (1, 2))
        return len(twice) - len(once)


class Transcript:
    """The text behind a prompt. What could be the beginning of a stop sequence is held back until that is known; from
    the first stop sequence on nothing counts.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stops: Sequence[str], offset: int = 0) -> None:
        self._made = tokenizer, prompt, stops, offset
        self._stream, self.stops = tokenizer.stream(prompt), tuple(stops)
        self.tokens = list[int]()
        self.offsets = list[int]()
        self.stopped = False
        self._held, self._length = "", offset

    def anew(self) -> Transcript:
        """The same, of which nothing is written."""
        return Transcript(*self._made)

    def all_of(self, tokens: Sequence[int]) -> str:
        """The text of a whole sequence at which nobody looked before; not beside ``feed``."""
        tokenizer, prompt, *_ = self._made
        window = [*prompt[-WINDOW:]]
        self.tokens += tokens
        return tokenizer.decode([*window, *tokens])[len(tokenizer.decode(window)) :]

    def feed(self, token: int) -> str:
        """Text that is final; tokens behind a stop sequence are ignored."""
        if self.stopped:
            return ""
        self.tokens.append(token)
        self.offsets.append(self._length)
        return self._more(self._stream.feed(token))

    def finish(self) -> str:
        """What was held back."""
        if self.stopped:
            return ""
        text = self._more(self._stream.finish())
        rest, self._held = ("" if self.stopped else self._held), ""
        return text + rest

    def _more(self, text: str) -> str:
        self._length += len(text)
        self._held += text
        if not self.stops:
            text, self._held = self._held, ""
            return text
        found = [at for stop in self.stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)]
        keep = max(self._begun(stop) for stop in self.stops)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def _begun(self, stop: str) -> int:
        """Characters at the end of what is held that are the beginning of a stop sequence."""
        longest = min(len(stop) - 1, len(self._held))
        return next((size for size in range(longest, 0, -1) if self._held.endswith(stop[:size])), 0)
