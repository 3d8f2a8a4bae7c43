"""Machine code read for what decides how fast a kernel of a memory's speed is: its loads, and where it waits for them.

``sass`` reads NVIDIA's listing and ``isa`` AMD's assembly into the same steps; ``measure`` walks them once, in the
order in which they stand: no branch is taken. So a loop counts as one pass, and what follows says nothing of a cache,
of how warps take turns, or of time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

_MATRIX = re.compile(r"\bIMMA\b|\bv_(?:mfma|wmma)_")
WIDE = 16
"""Bytes of the widest load of a lane."""


class Kind(Enum):
    """What a step is to the measures."""

    LOAD = "load"
    BARRIER = "barrier"
    SHARE = "store to shared memory"
    OTHER = "other"


@dataclass(frozen=True)
class Step:
    """One instruction: what it starts, and for which loads before it it waits."""

    text: str
    kind: Kind = Kind.OTHER
    bytes: int = 0
    """Of a load of global memory, for each lane; 0 otherwise."""
    streamed: bool = False
    """Whether a load is marked as one of data that is read once."""
    waits: frozenset[int] = frozenset()
    """The steps (numbers in the listing) of the loads that must have arrived before this one begins."""
    back: int | None = None
    """The step to which a branch backwards goes."""


@dataclass(frozen=True)
class Measures:
    """What one pass through an entry point shows."""

    in_flight: int
    """16-byte loads of the stream under way when one of them is waited for first."""
    stream: int
    """All 16-byte loads of the stream in one pass (of its loop, where it has one)."""
    kept: int
    """16-byte loads of the stream under way when the group first stores to shared memory."""
    rounds: int
    """Latencies in series: the longest chain of loads of global memory that ends with one of 16 bytes, each issued
    after the one before has been waited for."""
    late: int
    """Loads of global memory, outside of the loop, that are issued after the stream has first been waited for."""
    per_load: float
    """Instructions for each 16-byte load of the stream: of its loop, where it has one, else of the entry point."""
    barriers: int
    """Barriers of the group."""
    products: int = 0
    """Instructions of matrix cores."""


def loop_of(steps: Sequence[Step], wanted: Sequence[int]) -> range:
    """The smallest loop with the most of the wanted steps; all steps where none is in a loop."""
    best, most = range(len(steps)), 0
    for end, step in enumerate(steps):
        if step.back is None:
            continue
        loop = range(step.back, end + 1)
        held = sum(at in loop for at in wanted)
        if held > most or (held == most > 0 and len(loop) < len(best)):
            best, most = loop, held
    return best


def stream(steps: Sequence[Step]) -> list[int]:
    """The 16-byte loads that carry the stream: those that are marked, else those of a loop, else all."""
    wide = [at for at, step in enumerate(steps) if step.bytes >= WIDE]
    marked = [at for at in wide if steps[at].streamed]
    loop = loop_of(steps, wide)
    return marked or [at for at in wide if at in loop]


def measure(steps: Sequence[Step]) -> Measures:
    """The measures of one entry point."""
    wanted = stream(steps)
    loop = loop_of(steps, wanted)
    inside = [at for at in wanted if at in loop] or wanted
    first = next((at for at, step in enumerate(steps) if step.waits & set(wanted)), len(steps))
    arrived: set[int] = set()
    depth: dict[int, int] = {}
    kept: int | None = None
    for at, step in enumerate(steps):
        arrived |= step.waits
        if kept is None and step.kind is Kind.SHARE:
            kept = sum(each < at and each not in arrived for each in wanted)
        if step.bytes:
            depth[at] = 1 + max((depth[each] for each in arrived), default=0)
    looped = loop if len(loop) < len(steps) else range(0)
    return Measures(
        in_flight=sum(at < first for at in wanted),
        stream=len(inside),
        kept=kept or 0,
        rounds=max((depth[at] for at in depth if steps[at].bytes >= WIDE), default=0),
        late=sum(at > first and at not in looped for at in depth) if wanted else 0,
        per_load=round(len(loop) / len(inside), 1) if inside else 0.0,
        barriers=sum(step.kind is Kind.BARRIER for step in steps),
        products=sum(bool(_MATRIX.search(step.text)) for step in steps),
    )
