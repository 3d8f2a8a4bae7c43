"""How many bytes the memory of known devices delivers in a second, as their makers say it."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import msgspec

FILE = "bandwidths.json"
MAKERS = frozenset({"nvidia", "geforce", "amd", "radeon", "instinct", "tesla", "apple", "gpu", "the", "tm", "r"})
"""Words that tell devices of one maker from none of its others."""
NUMBERED = re.compile(r"[a-z]{0,2}\d+[a-z]?")
"""A word that names a device, as h100, l40s and 4090 do; a name without one is of too many."""
_WORD = re.compile(r"[a-z0-9.]+")


class Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device: 1e9 bytes per second, whose figure that is, and what drivers call it ``also``."""

    name: str
    gb_s: float
    source: str
    also: tuple[str, ...] = ()


@cache
def table() -> tuple[Known, ...]:
    """All devices that are known."""
    return msgspec.json.decode((files("kparity") / "data" / FILE).read_bytes(), type=tuple[Known, ...])


def of(device: str) -> Known | None:
    """The device of a name, however it is spelt: the one of just these words, else of those that have them all the one
    with the most bandwidth; None for a name that is in no row.
    """
    asked = _words(device)
    if not any(map(NUMBERED.fullmatch, asked)):
        return None
    spelt = [(_words(name), each) for each in table() for name in (each.name, *each.also)]
    same = [each for words, each in spelt if words == asked]
    some = same or [each for words, each in spelt if asked < words]
    return max(some, key=lambda each: each.gb_s, default=None)


def _words(name: str) -> frozenset[str]:
    return frozenset(_WORD.findall(name.lower())) - MAKERS
