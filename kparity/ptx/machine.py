"""Runs a translated kernel: all threads of a batch of blocks at once, the lowest basic block first.

Threads that part are masks over the batch. The part that stands at the lowest place in the text runs next, so that
threads which parted meet again where the text does. A barrier holds the threads of a block until all that have not
ended are at the same one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kparity.ptx.blocks import LaunchOf
from kparity.ptx.exchange import Exchange
from kparity.ptx.flow import BasicBlock
from kparity.ptx.lanes import Lanes
from kparity.ptx.memory import Fault, Span

Array = npt.NDArray[Any]
THREADS = 1 << 14
"""Threads that run at once: an array of them is small enough for the caches, and large beside what a call costs."""
STEPS = 1 << 22
"""Basic blocks that one batch may run: a kernel whose blocks wait for each other never ends here."""


class Batch(Lanes):
    """Blocks that run together: what the functions of the basic blocks see as ``X``."""

    def run(self) -> None:
        """All threads to their end; raises Fault."""
        blocks = self.launch.program.blocks
        registers: list[Any] = [None] * self.launch.program.registers
        pending: dict[int, Array | None] = {0: None}
        waiting: dict[int, Array] = {}
        for _ in range(STEPS):
            if not pending:
                if not waiting:
                    return
                pending, waiting = self._released(waiting), {}
            at = min(pending)
            mask = pending.pop(at)
            block = blocks[at]
            condition = self._step(block, registers, mask)
            if block.kind in ("next", "goto"):
                self._join(pending, block.after if block.kind == "next" else block.target, mask)
            elif block.kind == "barrier":
                if mask is None and not pending and not waiting:
                    self._pass(None)
                    pending[block.after] = None
                else:
                    here = waiting.get(block.after)
                    mine = np.ones(self.shape, bool) if mask is None else np.broadcast_to(mask, self.shape)
                    waiting[block.after] = mine if here is None else here | mine
            else:
                self._parted(pending, block, mask, condition)
        name = self.launch.program.kernel.name
        raise Fault(f"{name} does not end: {STEPS} basic blocks were run for {self.blocks} blocks of the grid")

    def _step(self, block: BasicBlock, registers: list[Any], mask: Array | None) -> Any:
        assert block.run is not None
        try:
            return block.run(registers, mask, self)
        except (AttributeError, TypeError) as error:
            raise Fault(f"a register is read before it is written ({error})") from error

    def _join(self, pending: dict[int, Array | None], at: int, mask: Array | None) -> None:
        """Threads arrive at a block; where these are all threads of the batch, the mask is None."""
        if mask is not None and at in pending:
            other = pending[at]
            mask = None if other is None else mask | other
        pending[at] = None if mask is not None and mask.all() else mask

    def _parted(self, pending: dict[int, Array | None], block: BasicBlock, mask: Array | None, condition: Any) -> None:
        """A branch or an exit: who goes where. An unconditional exit has no condition."""
        taken = np.ones((1, 1), bool) if condition is None else ~condition if block.negated else condition
        for target, going in ((block.target, taken), (block.after, ~taken)):
            lanes = going if mask is None else mask & going
            if not lanes.any():
                continue
            if target >= 0:
                self._join(pending, target, lanes)
            else:
                self.live &= ~lanes

    def _released(self, waiting: dict[int, Array]) -> dict[int, Array | None]:
        """Everybody waits: blocks whose threads are all at one barrier go on."""
        free: dict[int, Array | None] = {}
        for at, here in waiting.items():
            whole = (here == self.live).all(axis=1) & here.any(axis=1)
            split = here.any(axis=1) & ~whole
            if split.any():
                block = int(np.argmax(split))
                places = [self._barrier_place(each) for each in sorted(waiting) if waiting[each][block].any()]
                there = int(np.argmax(here[block]))
                missing = int(np.argmax(self.live[block] & ~here[block]))
                raise Fault(
                    f"barrier divergence: {self.thread(block, there)} waits at {places[0]}, "
                    f"{self.neighbour(missing)} at {places[-1]}"
                )
            self._pass(whole)
            free[at] = None if whole.all() and self.live.all() else here & whole[:, None]
        return free

    def _barrier_place(self, after: int) -> str:
        block = next(each for each in self.launch.program.blocks if each.kind == "barrier" and each.after == after)
        return self.launch.where(block.code[-1].place)

    def _pass(self, blocks: Array | None) -> None:
        if self.races is not None:
            self.races.barrier(blocks)
        if self.exchange is not None:
            self.exchange.barrier(self.first, np.ones(self.blocks, bool) if blocks is None else blocks)


def run(launch: LaunchOf) -> set[str]:
    """Every block of a launch, batch by batch; raises Fault. Gives the places that read shared memory which nobody
    wrote, where that is watched.
    """
    total, threads, unwritten = int(np.prod(launch.grid)), int(np.prod(launch.block)), set[str]()
    many = max(1, THREADS // threads)
    exchange = Exchange(total, threads) if launch.options.sanitize and launch.program.exchanges else None
    with np.errstate(all="ignore"):  # infinities, NaN and wrap-around are values here
        for first in range(0, total, many):
            batch = Batch(launch, first, min(many, total - first), exchange)
            batch.run()
            unwritten |= batch.unwritten_shared
    return unwritten


def run_watched(launch: LaunchOf) -> None:
    """``run``; where shared memory was read that nobody wrote, once more on other garbage. Raises Fault where the
    results differ: what is read there decides. Where they do not, it was multiplied by 0, or dropped.
    """
    roots = {span.root.base: span.root for span in launch.params.values() if isinstance(span, Span)}
    before = {base: root.bytes.copy() for base, root in roots.items()}
    places = run(launch)
    if places:
        results = {base: root.bytes.copy() for base, root in roots.items()}
        for base, root in roots.items():
            root.bytes[:] = before[base]
        run(replace(launch, garbage=launch.garbage ^ 0x80))
        if any((root.bytes != results[base]).any() for base, root in roots.items()):
            raise Fault(f"results depend on shared memory that nobody wrote, read at {', '.join(sorted(places))}")
