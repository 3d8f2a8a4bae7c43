"""Whether an engine gives the same bits for the same tokens in other batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from kparity.ladder.record import Part
from kparity.ladder.stream import Seat
from kparity.ladder.ways import BESIDE, last_rows
from kparity.ops.spec import Array

SIZES = (1, 2, 3, 7, 8, 16, 32)
"""Tokens of a batch: alone, tails of small tiles, whole tiles."""


class Repeat(Part):
    """The same tokens in another run, held against one batch by a digest of each position's logits."""

    run: str
    positions: int
    different: int
    first: int
    """The first position whose bits differ; -1 where none does."""
    digest: str
    """SHA-256 of the digests of all positions."""

    @property
    def text(self) -> str:
        """For people."""
        same = f"{self.positions} positions bit for bit the same"
        return same if self.first < 0 else f"{self.different} of {self.positions} differ, the first is {self.first}"


def digests(logits: Array) -> list[str]:
    """Of each position's f32 logits."""
    return [hashlib.sha256(row.astype("<f4").tobytes()).hexdigest() for row in logits]


def _runs(seat: Seat, tokens: Sequence[int]) -> Iterator[tuple[str, Array]]:
    yield "again, after a reset", seat.fed(tokens)
    for size in SIZES:
        if size < len(tokens):
            pieces = [tokens[at : at + size] for at in range(0, len(tokens), size)]
            yield f"in batches of {size}", seat.fed(*pieces)
    yield "token by token", seat.stepped(tokens)
    if seat.facts.sequences > 1:
        yield BESIDE.means, last_rows(seat, BESIDE.calls(tokens))


def batch_invariant(seat: Seat, tokens: Sequence[int]) -> list[Repeat]:
    """One batch again, in batches of several sizes, and beside other tokens; raises EngineFailed."""
    base, found = digests(seat.fed(tokens)), list[Repeat]()
    for name, logits in _runs(seat, tokens):
        other = digests(logits)
        apart = [at for at, pair in enumerate(zip(base, other, strict=True)) if pair[0] != pair[1]]
        whole = hashlib.sha256("".join(other).encode()).hexdigest()
        found.append(
            Repeat(run=name, positions=len(base), different=len(apart), first=min(apart, default=-1), digest=whole)
        )
    return found
