"""Copies to shared memory that go on by themselves (``cp.async``), and what must not be touched while they do.

PTX ISA, "Asynchronous copy": a copy is done when its thread has waited for its group (``cp.async.wait_group``,
``wait_all``), and others see it behind a barrier after that. Here the bytes arrive at the wait and not before, and
until then the place they go to is nobody's: whoever reads or writes it is at fault, its own thread included. Groups
are each thread's own, in order; a copy belongs to the group that its thread commits next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
UNIT = 4
"""Bytes of the smallest copy."""


@dataclass
class Copy:
    """One instruction."""

    place: int
    lanes: Array
    """Whose bytes have not arrived."""
    group: Array
    """Of each lane: how many groups it had committed before."""
    at: Array
    """Where they go, in units of ``size``."""
    size: int
    words: Array

    def units(self, lanes: Array) -> Array:
        """The units of memory that the bytes of some lanes go to."""
        many = self.size // UNIT
        found: Array = (self.at[lanes][:, None] * many + np.arange(many)).reshape(-1)
        return found


class Copies:
    """Those of a batch of blocks that are under way."""

    def __init__(self, shape: tuple[int, int], size: int) -> None:
        self.under_way: list[Copy] = []
        self.committed = np.zeros(shape, np.int64)
        """Groups of each thread."""
        self.taken = np.zeros(size // UNIT, bool)
        """Units of shared memory that bytes are on their way to."""

    def add(self, copy: Copy) -> bool:
        """A copy begins; whether no two of its lanes go to the same bytes."""
        units = copy.units(copy.lanes)
        self.under_way.append(copy)
        self.taken[units] = True
        return len(np.unique(units)) == len(units)

    def touched(self, at: Array, size: int) -> Array:
        """Which accesses, by their place in units of ``size``, meet bytes that are on their way."""
        first, last = at * size // UNIT, (at * size + size - 1) // UNIT
        found: Array = self.taken.take(first)
        for unit in range(1, max(size // UNIT, 1)):
            found = found | self.taken.take(np.minimum(first + unit, last))
        return found

    def to(self, unit: int) -> tuple[Copy, int]:
        """The copy that goes to a unit, and the number of its lane within the batch."""
        for copy in self.under_way:
            owners = np.flatnonzero(copy.lanes.reshape(-1))
            units = copy.units(copy.lanes).reshape(len(owners), -1)
            if (units == unit).any():
                return copy, int(owners[int(np.argmax((units == unit).any(axis=1)))])
        raise KeyError(unit)

    def arrived(self, lanes: Array, pending: int | None) -> Iterator[tuple[Copy, Array]]:
        """Lanes wait for all but their last ``pending`` groups (None: for all copies): copies, and whose are done."""
        for copy in self.under_way:
            done = copy.lanes & lanes
            if pending is not None:
                done &= copy.group < self.committed - pending
            if done.any():
                self.taken[copy.units(done)] = False
                copy.lanes = copy.lanes & ~done
                yield copy, done
        self.under_way = [copy for copy in self.under_way if copy.lanes.any()]
