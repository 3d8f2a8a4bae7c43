"""What a bisection says (``kparity schema bisect``): the way it went, and where it ended."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from kparity.ladder.record import Number, Part, Settings

Kind = Literal["nothing", "tokens", "kernel", "graph", "weights", "engine", "slot", "position"]
"""What is at fault: a kernel (wrong on its own inputs); the graph (a launch, its parameters or its buffers are not
those of the file); weights on the device; the engine around them (recording, positions, state); a slot of an engine
whose launches cannot be seen; or a position, where no more can be known.
"""
SCHEMA: Literal["kparity-bisect-v1"] = "kparity-bisect-v1"


class Way(Part):
    """A way of feeding the same tokens: what it is called, runs that it took, and its first bad position (-1: none)."""

    name: str
    runs: int
    first_bad: int
    verified: bool = False
    """The prefix that ends before that position is right, and the one that ends with it is wrong."""


class SlotError(Part):
    """A slot, computed from the other side's inputs, that does not follow from them."""

    key: str
    error: Number
    explained: Number
    worst_position: int


class Found(Part):
    """Where it ended. ``heals`` is whether the logits are right once the other side's values stand in that slot."""

    kind: Kind
    op: str
    sentence: str
    position: int = -1
    layer: int = -1
    slot: str = ""
    case: str = ""
    pattern: str = ""
    """What the wrong elements have in common."""
    heals: bool | None = None
    replay: str = ""
    """The folder with the one case that is wrong, for ``kparity check --replay``."""


class Bisection(Part):
    """The whole way. ``evaluations`` are passes over the tokens or a part of them, of either side."""

    form: Literal["kparity-bisect-v1"] = field(name="schema")
    kparity: str
    request: Settings
    exit_code: Annotated[int, Meta(ge=0, le=3)]
    found: Found
    ways: list[Way]
    slots: list[SlotError]
    evaluations: int
    tokens: int
    layers: int
    notes: list[str]
    seconds: float
