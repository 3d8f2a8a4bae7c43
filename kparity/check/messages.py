"""What a sweep's worker is asked and says."""

from __future__ import annotations

from typing import Any

import msgspec

from kparity.process.messages import Done, Message, Text


class UnitRequest(msgspec.Struct, frozen=True):
    """A case on a backend with kinds of input; ``number`` is its place in the sweep."""

    number: int
    backend: str
    op: str
    params: dict[str, Any]
    kinds: tuple[str, ...]
    replay: str = ""
    """The folder that holds the inputs of its one kind; empty where the seed makes them."""


class SweepRequest(msgspec.Struct, frozen=True):
    """Units of work, in order."""

    seed: int
    units: list[UnitRequest]
    dump: str = ""
    """The folder that takes what failed (``kparity.check.dump``); empty for none."""


class Begun(Message, frozen=True, tag="begin"):
    """A unit begins."""

    unit: int


class Missing(Message, frozen=True, tag="unavailable"):
    """The unit's backend does not open here."""

    unit: int
    reason: Text


class Checked(Message, frozen=True, tag="record"):
    """One kind of input of a unit (``Record.as_dict``)."""

    unit: int
    record: dict[str, Any]


class Ended(Message, frozen=True, tag="end"):
    """A unit is done."""

    unit: int


Said = Begun | Missing | Checked | Ended | Done
