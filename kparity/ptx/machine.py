"""Runs a translated kernel: all threads of a batch of blocks at once, the lowest basic block first.

Threads that part are masks over the batch. The part that stands at the lowest place in the text runs next, so that
threads which parted meet again where the text does. A barrier holds the threads of a block until all that have not
ended are at the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kparity.ptx.lanes import Lanes
from kparity.ptx.memory import Fault, Root, Span, Spans
from kparity.ptx.sanitizer import Races
from kparity.ptx.text import Place
from kparity.ptx.translate import BasicBlock, Program
from kparity.ptx.words import Words

Array = npt.NDArray[Any]
Size = tuple[int, int, int]
THREADS = 1 << 14
"""Threads that run at once: an array of them is small enough for the caches, and large beside what a call costs."""
STEPS = 1 << 22
"""Basic blocks that one batch may run: a kernel whose blocks wait for each other never ends here."""


@dataclass(frozen=True)
class Options:
    """What is watched beside bounds, alignment, barriers and lanes, which always are."""

    sanitize: bool = False
    """Races on shared memory, and global memory that nobody wrote."""
    perturb: bool = False
    """Approximate instructions err as far as the PTX ISA lets them."""


@dataclass(frozen=True)
class LaunchOf:
    """One launch: the program, the grid, and the values of its parameters: spans of memory, or bytes."""

    program: Program
    grid: Size
    block: Size
    params: Mapping[str, Span | bytes]
    variables: Mapping[str, Span]
    """Variables of the module in global memory, and constants."""
    options: Options
    garbage: int
    """The byte that shared and local memory holds before anybody writes it."""
    where: Callable[[Place], str]
    """How a place in the source is told."""


class Batch(Words, Lanes):
    """Some blocks of a launch: what the functions of the basic blocks see as ``X``."""

    def __init__(self, launch: LaunchOf, first: int, blocks: int) -> None:
        self.launch, self.first, self.blocks = launch, first, blocks
        self.threads = int(np.prod(launch.block))
        self.shape = (blocks, self.threads)
        kernel = launch.program.kernel
        self.places = launch.program.places
        self.live = np.ones(self.shape, bool)
        self._special(launch)
        arguments = {name: each for name, each in launch.params.items() if isinstance(each, Span)}
        self.spans = Spans({**arguments, **launch.variables})
        self.roots = {space: self._own(kernel.bytes_of(space), space, launch.garbage) for space in ("shared", "local")}
        shared = kernel.bytes_of("shared")
        self.races = (
            Races(blocks, self.threads, shared, launch.program.grain, launch.program.warp_barriers, self.race)
            if launch.options.sanitize and shared else None
        )  # fmt: skip
        self.unwritten_shared: set[str] = set()

    def _own(self, size: int, space: str, garbage: int) -> Root:
        many = self.blocks * (self.threads if space == "local" else 1)
        root = Root(size * many, watched=self.launch.options.sanitize and space == "shared")
        root.bytes[:] = garbage
        return root

    def _special(self, launch: LaunchOf) -> None:
        def row(values: Array) -> Array:
            return values.astype(np.uint32).reshape(1, -1)

        x, y, _ = launch.block
        thread, block = np.arange(self.threads), np.arange(self.first, self.first + self.blocks)
        self.tid_x, self.tid_y, self.tid_z = row(thread % x), row(thread // x % y), row(thread // (x * y))
        gx, gy, _ = launch.grid
        places = (block % gx, block // gx % gy, block // (gx * gy))
        self.ctaid_x, self.ctaid_y, self.ctaid_z = (row(each).T for each in places)
        for name, sizes in (("ntid", launch.block), ("nctaid", launch.grid)):
            for axis, size in zip("xyz", sizes, strict=True):
                setattr(self, f"{name}_{axis}", row(np.array([size])))
        self.lane, self.warp = row(thread % 32), row(thread // 32)
        self.warps, self.warp_size = row(np.array([-(-self.threads // 32)])), row(np.array([32]))
        one = np.left_shift(np.uint64(1), (thread % 32).astype(np.uint64))
        self.lanemask_eq, self.lanemask_lt, self.lanemask_le = row(one), row(one - 1), row(2 * one - 1)
        self.lanemask_gt, self.lanemask_ge = ~self.lanemask_le, ~self.lanemask_lt
        self.rows = np.arange(self.blocks, dtype=np.int64).reshape(-1, 1)
        self.numbers = np.arange(self.blocks * self.threads, dtype=np.int64).reshape(self.shape)

    # What goes wrong.

    def thread(self, block: int, thread: int) -> str:
        """``thread 5 of block (3, 0, 0)``."""
        x, y, _ = self.launch.block
        gx, gy, _ = self.launch.grid
        number = self.first + block
        one_row = self.launch.block[1:] == (1, 1)
        name = thread if one_row else (thread % x, thread // x % y, thread // (x * y))
        return f"thread {name} of block {(number % gx, number // gx % gy, number // (gx * gy))}"

    def at(self, place: int) -> str:
        return self.launch.where(self.places[place])

    def fault(self, place: int, bad: Array, what: str) -> Fault:
        """The error of the first bad lane."""
        found = np.broadcast_to(bad, self.shape)
        block, thread = (int(each) for each in np.unravel_index(int(np.argmax(found)), self.shape))
        return Fault(f"{what} at {self.at(place)}, {self.thread(block, thread)}")

    def race(self, kind: str, who: int, place: int, other: int, earlier: int, unit: int) -> None:
        """Two accesses to shared memory without a barrier between them."""
        variables = self.launch.program.kernel.variables.items()
        name, start = next(
            ((name, v.offset) for name, v in variables if v.space == "shared" and v.offset <= unit < v.offset + v.size),
            ("shared memory", 0),
        )
        block, thread = divmod(who, self.threads)
        with_ = "several threads" if other == -2 else "an atomic" if other == -3 else f"thread {other % self.threads}"
        raise Fault(
            f"race on {readable(name)}[byte {unit - start}]: {kind}, no barrier between: "
            f"{self.thread(block, thread)} at {self.at(place)}, {with_} at {self.at(earlier)}"
        )

    def trap(self, place: int, mask: Array | None) -> None:
        """``trap``: the kernel gives up."""
        raise self.fault(place, np.ones((1, 1), bool) if mask is None else mask, "trap")

    # The run.

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
                    f"barrier divergence: {self.thread(block, there)} waits at {places[0]}, thread {missing} at "
                    f"{places[-1]}"
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


def readable(symbol: str) -> str:
    """``_ZZ5tgemvE6active`` → ``active``: the last name of a mangled symbol."""
    digits = symbol.rstrip("0123456789_") if symbol.startswith("_Z") else symbol
    for size in range(1, len(digits)):
        name, length = digits[-size:], digits[: len(digits) - size]
        if length.endswith(str(size)) and not length[: -len(str(size))].endswith(tuple("0123456789")):
            return name
    return symbol


def run(launch: LaunchOf) -> set[str]:
    """Every block of a launch, batch by batch; raises Fault. Gives the places that read shared memory which nobody
    wrote, where that is watched.
    """
    total, unwritten = int(np.prod(launch.grid)), set[str]()
    many = max(1, THREADS // int(np.prod(launch.block)))
    with np.errstate(all="ignore"):  # infinities, NaN and wrap-around are values here
        for first in range(0, total, many):
            batch = Batch(launch, first, min(many, total - first))
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
