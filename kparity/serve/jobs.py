"""A sequence that somebody waits for, and what they are told of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from kparity.serve.messages import Ask, Wrote


class Again(msgspec.Struct, frozen=True):
    """The sequence begins anew, on another backend: nobody has seen anything of it."""


class Late(msgspec.Struct, frozen=True):
    """What may be waited for a request is over."""


class Lost(msgspec.Struct, frozen=True):
    """The sequence is over, and what was told of it is in doubt."""

    why: str


News: TypeAlias = Wrote | Again | Late | Lost


@dataclass(eq=False)
class Job:
    """A sequence that somebody waits for; what becomes of it goes into ``inbox``, which several may share."""

    ask: Ask
    index: int
    inbox: asyncio.Queue[tuple[Job, News]]
    shown: bool = False
    """Whether the client has seen a part of it, so that it cannot begin anew."""
    batch: int = 0
    """Sequences of one request have one number."""

    def put(self, news: News) -> None:
        """Tell who waits."""
        self.inbox.put_nowait((self, news))
