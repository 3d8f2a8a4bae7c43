"""What devices do not tell: races on shared memory between two barriers, and memory that nobody wrote.

Of each unit of shared memory the detector keeps who wrote it last and who read it since the block's last barrier. Two
accesses of different threads, one of them a write, and no barrier between them are a race, whatever the order in which
they happen to run here. Within a warp ``bar.warp.sync`` orders accesses; lockstep does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
NOBODY, SEVERAL, ATOMIC = -1, -2, -3


class Races:
    """The detector of one batch of blocks. Threads are numbered within the batch."""

    def __init__(
        self, blocks: int, threads: int, shared: int, grain: int, warp_barriers: bool,
        report: Callable[[str, int, int, int, int, int], None],
    ) -> None:  # fmt: skip
        units = shared // grain
        self.blocks, self.threads, self.grain, self.report = blocks, threads, grain, report
        self.writer = np.full((blocks, units), NOBODY, np.int32)
        self.reader = np.full((blocks, units), NOBODY, np.int32)
        self.written_at = np.zeros((blocks, units), np.int32)
        self.read_at = np.zeros((blocks, units), np.int32)
        self.epoch = np.zeros(blocks * threads, np.int32) if warp_barriers else None
        self.writer_epoch = np.zeros((blocks, units), np.int32) if warp_barriers else None
        self.reader_epoch = np.zeros((blocks, units), np.int32) if warp_barriers else None
        self.all: Array = np.arange(blocks * threads, dtype=np.int32).reshape(blocks, threads)

    def barrier(self, blocks: Array | None) -> None:
        """These blocks (None: all) pass a barrier: what was accessed before is ordered before what comes."""
        where = slice(None) if blocks is None else blocks
        self.writer[where] = NOBODY
        self.reader[where] = NOBODY

    def warp_barrier(self, mask: Array | None) -> None:
        """The lanes of a mask pass ``bar.warp.sync``."""
        if self.epoch is not None:
            lanes = slice(None) if mask is None else np.broadcast_to(mask, self.all.shape).reshape(-1)
            self.epoch[lanes] += 1

    def access(self, place: int, at: Array, size: int, mask: Array | None, kind: str) -> None:
        """A ``read``, ``write`` or ``atomic`` of words by their place in units of ``size`` within the batch."""
        who, at = self.all, np.broadcast_to(at, self.all.shape)
        if mask is not None:
            mask = np.broadcast_to(mask, who.shape)
            who, at = who[mask], at[mask]
        who, at = who.reshape(-1), at.reshape(-1)
        many = size // self.grain
        for part in range(many):
            self._unit(place, at * many + part if many > 1 else at, who, kind)

    def _ordered(self, other: Array, who: Array, epochs: Array | None, unit: Array) -> Array | bool:
        """Which accesses are ordered by a barrier of their common warp."""
        if self.epoch is None or epochs is None:
            return False
        lanes = self.threads
        same = (other >= 0) & (other // lanes == who // lanes) & (other % lanes // 32 == who % lanes // 32)
        ordered: Array = same & (epochs.reshape(-1).take(unit) < self.epoch.take(who))
        return ordered

    def _unit(self, place: int, unit: Array, who: Array, kind: str) -> None:
        writer, reader = self.writer.reshape(-1), self.reader.reshape(-1)
        last = writer.take(unit)
        bad = (last != NOBODY) & (last != who)
        if kind == "atomic":
            bad &= last != ATOMIC
        if bad.any():
            bad &= ~np.asarray(self._ordered(last, who, self.writer_epoch, unit))
            self._tell(kind, bad, place, self.written_at, unit, who, last, "write")
        if kind == "read":
            before = reader.take(unit)
            mixed = (before != NOBODY) & (before != who)
            if mixed.any():
                mixed &= ~np.asarray(self._ordered(before, who, self.reader_epoch, unit))
            reader[unit] = np.where(mixed, SEVERAL, who)
            lost = reader.take(unit) != who
            reader[unit[lost]] = SEVERAL
            self._note(self.read_at, self.reader_epoch, place, unit, who)
            return
        before = reader.take(unit)
        bad = (before != NOBODY) & (before != who)
        if bad.any():
            bad &= ~np.asarray(self._ordered(before, who, self.reader_epoch, unit))
            self._tell(kind, bad, place, self.read_at, unit, who, before, "read")
        if kind == "atomic":
            writer[unit] = ATOMIC
        else:
            writer[unit] = who
            lost = writer.take(unit) != who
            self._tell(kind, lost, place, None, unit, who, writer.take(unit), "write")
        self._note(self.written_at, self.writer_epoch, place, unit, who)

    def _note(self, places: Array, epochs: Array | None, place: int, unit: Array, who: Array) -> None:
        places.reshape(-1)[unit] = place
        if epochs is not None and self.epoch is not None:
            epochs.reshape(-1)[unit] = self.epoch.take(who)

    def _tell(
        self, kind: str, bad: Array, place: int, places: Array | None, unit: Array, who: Array, other: Array, was: str
    ) -> None:
        if bad.any():
            first = int(np.argmax(bad))
            at = int(unit[first])
            earlier = place if places is None else int(places.reshape(-1)[at])
            within = at % self.writer.shape[1] * self.grain
            self.report(f"{kind} after {was}", int(who[first]), place, int(other[first]), earlier, within)
