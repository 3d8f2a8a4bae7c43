"""A mutator that knows the values of JSON: it bends numbers, texts, types, keys and places, one document a line."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

NUMBERS = (
    0, 1, -1, 2, 255, 1 << 31, 1 << 53, (1 << 63) - 1, 1 << 63, 1 << 64, 10**400, -(10**400), 0.5, -0.0, 1e-320, 1e308,
    -1e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
TEXTS = (
    "", " ", "0", "nan", "1e400", "-", "\x00", "\x1b[2J", "[/]", "[red]", "\u202e", "\ud800", "\U0001f600", "a\nb",
    "../../x", "/dev/zero", "1970-01-01T00:00:00Z", "9" * 5000, "f" * 64, "x" * 70_000,
)  # fmt: skip
DEEP = 1200
"""Levels of a value that is nested too deeply."""
Place = tuple[Any, Any]
"""A list or dict of the tree, and an index or key of it."""


def _place(draw: random.Random, whole: list[Any]) -> Place:
    """Some place of a tree, each branch as likely as its neighbours, however large they are."""
    holder, key = whole, 0
    while isinstance(value := holder[key], dict | list) and value and draw.random() < 0.9:
        holder, key = value, draw.choice([*value] if isinstance(value, dict) else range(len(value)))
    return holder, key


def _other(draw: random.Random, value: Any) -> Any:
    """A value in the place of another one, mostly of its type."""
    if draw.random() < 0.2:
        value = draw.choice((None, True, 0, "", [], {}))
    if isinstance(value, bool) or value is None:
        return draw.choice((None, True, False))
    if isinstance(value, int | float):
        near = (value + 1, value - 1, -value, value * 2) if abs(value) < 1e300 else (value,)
        return draw.choice((*NUMBERS, *near))
    if isinstance(value, str):
        at = draw.randrange(len(value) + 1)
        return draw.choice(
            (*TEXTS, value[:at], value[at:], value[:at] + draw.choice(TEXTS) + value[at:], value.upper())
        )
    return value


def _bend(draw: random.Random, whole: list[Any]) -> None:
    """One change at a place: the value, its presence, or what another place has."""
    (holder, key), (there, its), way = _place(draw, whole), _place(draw, whole), draw.random()
    if way < 0.6:
        holder[key] = _other(draw, holder[key])
    elif way < 0.75:
        holder[key] = copy.deepcopy(there[its])
    elif way < 0.85:
        del holder[key]
    elif way < 0.97:
        again = copy.deepcopy(holder[key])
        if isinstance(holder, list):
            holder.insert(draw.randrange(len(holder) + 1), again)
        else:
            holder[draw.choice(("more", "", key.upper(), str(its)))] = again
    else:
        for _ in range(DEEP):
            holder[key] = [holder[key]]


def _bent(draw: random.Random, line: bytes) -> bytes:
    """A document with some changes; raises ValueError or RecursionError for what is none that can be changed."""
    whole = [json.loads(line)]
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if whole:
            _bend(draw, whole)
    text = json.dumps(whole[0] if whole else None, separators=(",", ":"), ensure_ascii=draw.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def mutator(plain: Callable[[bytes, int], bytes]) -> Callable[[bytes, int, int], bytes]:
    """A mutator for libFuzzer: mostly some values of one line, now and then its lines, or whatever ``plain`` does."""

    def mutate(data: bytes, limit: int, seed: int) -> bytes:
        draw = random.Random(seed)
        lines = data.split(b"\n")
        at, way = draw.randrange(len(lines)), draw.random()
        try:
            if way < 0.1:
                return plain(data, limit)
            if way < 0.2 and len(lines) > 1:
                line = lines.pop(at)
                lines[at // 2 : at // 2] = draw.choice(([], [line], [line, line]))
            else:
                lines[at] = _bent(draw, lines[at])
        except (ValueError, RecursionError):
            return plain(data, limit)
        return b"\n".join(lines)[:limit]

    return mutate
