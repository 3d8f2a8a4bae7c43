"""A launch, and some of its blocks that run together: special registers, memory, and how a fault is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kparity.ptx.copies import Copies
from kparity.ptx.exchange import Exchange
from kparity.ptx.memory import Fault, Root, Span
from kparity.ptx.sanitizer import ATOMIC, SEVERAL, Races
from kparity.ptx.text import Place
from kparity.ptx.translate import Program

Array = npt.NDArray[Any]
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Options:
    """What is watched beside bounds, alignment, barriers and lanes, which always are."""

    sanitize: bool = False
    """Races on shared memory, global memory that nobody wrote, and what another block wrote and no fence shows."""
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


def readable(symbol: str) -> str:
    """``_ZZ5tgemvE6active`` → ``active``: the last name of a mangled symbol, which its length stands before."""
    for text in (symbol, symbol.rstrip("0123456789_")) if symbol.startswith("_Z") else ():
        for size in range(1, len(text)):
            name, before = text[-size:], text[:-size]
            if before.endswith(str(size)) and not before[: -len(str(size))][-1:].isdigit():
                return name
    return symbol


class Blocks:
    """Some blocks of a launch: special registers, memory of their own, and how what goes wrong is told."""

    def __init__(self, launch: LaunchOf, first: int, blocks: int, exchange: Exchange | None = None) -> None:
        self.launch, self.first, self.blocks, self.exchange = launch, first, blocks, exchange
        self.threads = int(np.prod(launch.block))
        self.shape = (blocks, self.threads)
        kernel = launch.program.kernel
        self.places = launch.program.places
        self.live = np.ones(self.shape, bool)
        self._special(launch)
        arguments = {name: each for name, each in launch.params.items() if isinstance(each, Span)}
        self.spans = {**arguments, **launch.variables}
        self.roots = {space: self._own(kernel.bytes_of(space), space, launch.garbage) for space in ("shared", "local")}
        shared = kernel.bytes_of("shared")
        self.races = (
            Races(blocks, self.threads, shared, launch.program.grain, launch.program.warp_barriers, self.race)
            if launch.options.sanitize and shared else None
        )  # fmt: skip
        self.unwritten_shared: set[str] = set()
        self.copies = Copies(self.shape, self.roots["shared"].bytes.size) if launch.program.copies else None

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
        gx, gy, _ = self.launch.grid
        number = self.first + block
        return f"{self.neighbour(thread)} of block {(number % gx, number // gx % gy, number // (gx * gy))}"

    def neighbour(self, thread: int) -> str:
        """``thread 5``, or its three indices where a block has more than one row, in a block that is known."""
        x, y, _ = self.launch.block
        one_row = self.launch.block[1:] == (1, 1)
        return f"thread {thread if one_row else (thread % x, thread // x % y, thread // (x * y))}"

    def at(self, place: int) -> str:
        """A place in the source, by its number, in words."""
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
        met = {SEVERAL: "several threads", ATOMIC: "an atomic"}.get(other, self.neighbour(other % self.threads))
        raise Fault(
            f"race on {readable(name)}[byte {unit - start}]: {kind}, no barrier between: "
            f"{self.thread(block, thread)} at {self.at(place)}, {met} at {self.at(earlier)}"
        )

    def trap(self, place: int, mask: Array | None) -> None:
        """``trap``: the kernel gives up."""
        raise self.fault(place, np.ones((1, 1), bool) if mask is None else mask, "trap")
