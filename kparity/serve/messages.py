"""What the process that holds the device is asked and says: typed records, one JSON object a line."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kparity.probe.messages import Request
from kparity.process.messages import Done, Failed, Message, Name, Stage, Text, Tick

MOST_TOP = 2048
"""Likeliest tokens that are told of a position."""
Ids = Annotated[tuple[int, ...], msgspec.Meta(max_length=1 << 20)]
End = Literal["", "stop", "length"]


class Opening(msgspec.Struct, frozen=True):
    """Open the first backend of a list that is accepted, and serve ``parallel`` sequences side by side at most."""

    order: list[str]
    forced: str
    request: Request
    identity: list[int]
    """Of the model's file, as the parent opened it."""
    cached: bool
    beyond_proof: bool
    canary: int | None
    canary_seconds: float
    parallel: int
    receipt: str = ""
    """The file for what is found, and for that the command line and the time at which it began."""
    command: tuple[str, ...] = ()
    begun: str = ""


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """A sequence: ``tokens`` are fed, then up to ``most`` are generated and fed, ``room`` positions in all."""

    id: int
    tokens: list[int]
    most: int
    room: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top: int = -1
    """Likeliest tokens that are told with each token; -1 for no log-probability at all."""
    echo: bool = False
    """Whether the log-probabilities of the prompt are told, too."""
    quiet: bool = False
    """Whether nobody looks at a part of it before it is over."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """This sequence is long enough, or (not ``wanted``) nobody waits for it any more."""

    id: int
    wanted: bool


class Told(msgspec.Struct, frozen=True, array_like=True):
    """Of one token: its log-probability, and the likeliest in its place, the largest first."""

    logprob: Annotated[float, msgspec.Meta(le=0)]
    ids: Annotated[tuple[int, ...], msgspec.Meta(max_length=MOST_TOP)] = ()
    logprobs: Annotated[tuple[float, ...], msgspec.Meta(max_length=MOST_TOP)] = ()


class Verdict(Message, frozen=True):
    """What became of a backend that was tried."""

    backend: Name
    status: Name
    code: Name = ""
    reason: Text = ""


class Line(Message, frozen=True, tag="line"):
    """For standard error."""

    text: Text


class Serving(Message, frozen=True, tag="serving"):
    """A backend serves ``room`` positions. ``proved`` is the last one up to which it was proved, -1 for none, and
    ``canary`` the runs between two known steps, 0 for none.
    """

    backend: Name
    label: Text
    proved: int
    room: int
    canary: int
    verdicts: Annotated[list[Verdict], msgspec.Meta(max_length=1000)]


class Wrote(Message, frozen=True, tag="wrote"):
    """Some more of a sequence; ``end`` says why it is over. With an end come no more, and a known step was right since
    the last token.
    """

    id: int
    tokens: Ids = ()
    told: Annotated[tuple[Told, ...], msgspec.Meta(max_length=1 << 20)] = ()
    prompt: Annotated[tuple[Told, ...], msgspec.Meta(max_length=1 << 20)] = ()
    end: End = ""


class Checked(Message, frozen=True, tag="checked"):
    """Known steps that were right so far."""

    times: int


class Nothing(Message, frozen=True, tag="nothing"):
    """No backend may serve, or the input is wrong (``status`` 2): the sentence for people."""

    reason: Text
    status: int


Said = Stage | Tick | Line | Serving | Wrote | Checked | Nothing | Failed | Done
