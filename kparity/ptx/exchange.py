"""What blocks of one launch tell each other through global memory: who may read what another block has written.

The interpreter has one memory, in which every write is seen at once; on a device it is seen when fences say so. Here
blocks meet at atomics on global memory: the later one may read what the earlier one wrote, if the writer fenced
between its write and the atomic, and the reader between the atomic and its read. A barrier of the block hands a fence
on, either way. Everything else that is read of another block is a fault, whatever the order in which blocks run here.
It is watched where a kernel has such atomics.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kparity.ptx.memory import Root

Array = npt.NDArray[Any]
UNIT = 4
"""Bytes of which it keeps who wrote them last."""
NEVER = 0


class Exchange:
    """The detector of one launch. Threads and blocks are numbered within the grid; times are counts of events."""

    def __init__(self, blocks: int, threads: int) -> None:
        self.threads, self.clock = threads, NEVER
        self.fenced = np.zeros((blocks, threads), np.int64)
        """When each thread fenced last."""
        self.handed = np.zeros((blocks, threads), np.int64)
        """The last barrier before that."""
        self.released = np.zeros((blocks, threads), np.int64)
        """What each thread wrote before may be read, by those who come to the atomic later."""
        self.barred, self.met = np.zeros(blocks, np.int64), np.zeros(blocks, np.int64)
        """When each block passed a barrier last, and an atomic."""
        self.by = np.zeros(blocks, np.int64)
        """Which of its threads did."""
        self._written: dict[int, tuple[Array, Array]] = {}

    def _now(self) -> int:
        self.clock += 1
        return self.clock

    def _of(self, root: Root) -> tuple[Array, Array]:
        """Of each unit of an allocation: the thread that wrote it last, from 1 on, and when."""
        if root.base not in self._written:
            units = -(-len(root.bytes) // UNIT)
            self._written[root.base] = np.zeros(units, np.int64), np.zeros(units, np.int64)
        return self._written[root.base]

    def barrier(self, first: int, which: Array) -> None:
        """Blocks of a batch, which begins at block ``first``, pass a barrier."""
        self.barred[first : first + len(which)][which] = self._now()

    def fence(self, first: int, lanes: Array) -> None:
        """Lanes of a batch fence, over the device or more."""
        rows = slice(first, first + len(lanes))
        self.fenced[rows][lanes] = self._now()
        self.handed[rows][lanes] = np.broadcast_to(self.barred[rows, None], lanes.shape)[lanes]

    def atomic(self, block: int, thread: int) -> None:
        """One thread does an atomic on global memory."""
        own = self.fenced[block]
        others = np.maximum(np.where(own < self.barred[block], own, NEVER), self.handed[block, thread])
        others[thread] = own[thread]
        self.released[block] = np.maximum(self.released[block], others)
        self.met[block], self.by[block] = self._now(), thread

    def write(self, first: int, root: Root, at: Array, size: int, lanes: Array) -> None:
        """Lanes write words, by their place in units of ``size``."""
        who, when = self._of(root)
        numbers = (first * self.threads + np.arange(lanes.size, dtype=np.int64)).reshape(lanes.shape)[lanes] + 1
        now, places = self._now(), at[lanes] * size
        for part in range(0, size, UNIT):
            who[(places + part) // UNIT], when[(places + part) // UNIT] = numbers, now

    def unseen(self, first: int, root: Root, at: Array, size: int, lanes: Array) -> Array | None:
        """The lanes that read what another block wrote, and might not see it on a device; None where there is none."""
        if root.base not in self._written:
            return None
        who, when = self._of(root)
        blocks = np.broadcast_to(first + np.arange(len(lanes))[:, None], lanes.shape)
        bad = np.zeros(lanes.shape, bool)
        for part in range(0, size, UNIT):
            unit = (at * size + part) // UNIT
            writer = np.broadcast_to(who[unit], lanes.shape) - 1
            foreign = lanes & (writer >= 0) & (writer // self.threads != blocks)
            if foreign.any():
                from_, time = writer[foreign], np.broadcast_to(when[unit], lanes.shape)[foreign]
                bad[foreign] |= ~self._ordered(from_, time, blocks[foreign], np.nonzero(foreign)[1])
        return bad if bad.any() else None

    def _ordered(self, writer: Array, time: Array, block: Array, thread: Array) -> Array:
        """Whether threads of blocks see what other threads wrote at a time."""
        theirs, met, barred, by = writer // self.threads, self.met[block], self.barred[block], self.by[block]
        released = self.released[theirs, writer % self.threads] > time
        later = (met > self.met[theirs]) & (self.met[theirs] > time)
        own = (self.fenced[block, thread] > met) & ((thread == by) | (barred > met))
        handed = (self.fenced[block, by] > met) & (barred > self.fenced[block, by])
        seen: Array = released & later & (own | handed)
        return seen
