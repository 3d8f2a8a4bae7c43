"""What a burn-in keeps: a row of a round, and where the next one begins."""

from __future__ import annotations

import base64
import builtins
from typing import Literal

import msgspec

Bucket = Literal["exact", "prefix-only", "no-match", "v1-unreachable", "v2-unreachable", "both-unreachable"]
BUCKETS: tuple[Bucket, ...] = (
    "exact", "prefix-only", "no-match", "v1-unreachable", "v2-unreachable", "both-unreachable",
)  # fmt: skip
Fault = Literal[
    "", "connect", "timeout", "http", "bad-json", "bad-form", "error-body", "truncated", "too-large", "empty"
]
"""Why a side gave no reply; ``empty`` is a reply without a byte, and in a bucket as any other."""
Mode = Literal["greedy", "seeded", "aa"]
"""Temperature 0; another temperature with one seed for both; one server against itself."""

Tie = Literal["none", "exact-tie", "near-tie", "unexplained"]
"""What a no-match is by its margin; none without one."""


class Side(msgspec.Struct, omit_defaults=True):
    """What one server answered. Times in milliseconds from the request on: to the whole reply, and to its first byte;
    ``text`` has a � for what is no UTF-8, and then ``raw`` the bytes in base64.
    """

    ms: float
    first_ms: float | None = None
    bytes: int = 0
    text: str = ""
    raw: str = ""
    fault: Fault = ""
    why: str = ""
    status: int = 0
    finish: str = ""
    prompt_tokens: int | None = None
    tokens: int | None = None
    model: str = ""
    fingerprint: str = ""

    @property
    def reached(self) -> bool:
        """Whether there is a reply."""
        return self.fault in ("", "empty")

    @property
    def reply(self) -> builtins.bytes:
        """Its bytes."""
        return base64.b64decode(self.raw) if self.raw else self.text.encode()


class Row(msgspec.Struct):
    """A round. ``time`` is the wall clock's, ISO 8601 in UTC; ``elapsed`` the seconds that the burn-in has run in all,
    of a clock that nobody sets; ``clock`` the seconds by which the wall clock jumped since the round before.
    ``prompt`` is an index, ``digest`` the start of the SHA-256 of what was asked, ``prefix`` the bytes that both
    replies begin with.

    Where log-probabilities were told: ``margin``, in nats, is by how much a side preferred its own token to the other's
    where they part (the larger of both; at least that much, where one told only what it likes best), ``noise`` the
    largest difference of such margins before that place. ``tie`` is judged by the noise of v1 against itself that was
    known then; the statistics of a log judge again, by all of it.
    """

    round: int
    time: str
    elapsed: float
    prompt: int
    digest: str
    kind: str
    asked: str
    mode: Mode
    bucket: Bucket
    prefix: int
    v1: Side
    v2: Side
    margin: float | None = None
    noise: float | None = None
    tie: Tie = "none"
    clock: float = 0.0


class Settled(msgspec.Struct):
    """A part of a row, which is read of every row when a log is opened."""

    round: int
    elapsed: float
    prompt: int
    bucket: Bucket
    mode: Mode
    noise: float | None = None


class State(msgspec.Struct):
    """Where a burn-in stands: written after each row, so a row ahead of it counts. ``halted`` says why it may not go
    on, ``prompts`` is the digest of all of them.
    """

    rounds: int = 0
    next_prompt: int = 0
    elapsed: float = 0.0
    halted: str = ""
    prompts: str = ""
    v1: str = ""
    v2: str = ""
