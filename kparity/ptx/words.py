"""Loads, stores and atomics of all lanes of a batch at once, within bounds and aligned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kparity.ptx.blocks import Blocks, readable
from kparity.ptx.copies import UNIT, Copy
from kparity.ptx.exchange import Exchange
from kparity.ptx.memory import WORDS, Root, Span
from kparity.ptx.opcodes import WINDOWS

Array = npt.NDArray[Any]


class Words(Blocks):
    """The part of a batch that touches memory."""

    def parameter(self, name: str, offset: int, dtype: str) -> Array:
        """A parameter, or the address of the memory that it is."""
        given = self.launch.params[name]
        data = given.address.to_bytes(8, "little") if isinstance(given, Span) else given
        return np.frombuffer(data, dtype, 1, offset).reshape(1, 1)

    def address_of(self, name: str, dtype: str) -> Array:
        """The address of a variable within its state space."""
        span = self.launch.variables.get(name)
        value = span.address if span else self.launch.program.kernel.variables[name].offset
        return np.full((1, 1), value, dtype)

    def load(
        self, place: int, space: str, origin: str | None, base: Array, offset: int, dtype: str, count: int,
        mask: Array | None,
    ) -> tuple[Array, ...] | Array:  # fmt: skip
        """``count`` neighbouring elements of every lane; what lanes outside of the mask get is not to be used."""
        size = int(dtype[1:]) * count
        root, at, space = self._find(place, space, origin, base, offset, size, mask, "read")
        self._untouched(place, at, size, mask, space, "read")
        if root.written is not None:
            self._unwritten(place, root, at, size, mask, space, origin)
        if self.races is not None and space == "shared":
            self.races.access(place, at, size, mask, "read")
        if self.exchange is not None and space == "global":
            self._unseen(self.exchange, place, root, at, size, mask, origin)
        if count == 1:
            return (root.typed(dtype).take(at),)
        words = root.typed(WORDS[size]).take(at)
        parts = words.view(dtype).reshape(*words.shape, count)
        return np.ascontiguousarray(np.moveaxis(parts, -1, 0))

    def store(
        self, place: int, space: str, origin: str | None, base: Array, offset: int, dtype: str,
        values: Sequence[Array], mask: Array | None,
    ) -> None:  # fmt: skip
        """The values of every lane of the mask; of lanes that write the same word one wins."""
        size = int(dtype[1:]) * len(values)
        root, at, space = self._find(place, space, origin, base, offset, size, mask, "write")
        self._untouched(place, at, size, mask, space, "write")
        if self.races is not None and space == "shared":
            self.races.access(place, at, size, mask, "write")
        arrays = (at, *values) if mask is None else (at, mask, *values)
        shape = np.broadcast_shapes(*(each.shape for each in arrays))
        if len(values) == 1:
            words = values[0]
        else:
            words = np.stack([np.broadcast_to(each, shape) for each in values], -1).view(WORDS[size])[..., 0]
        where = np.broadcast_to(at, self.shape)
        at = np.broadcast_to(at, shape)
        if mask is not None:
            lanes = np.broadcast_to(mask, shape)
            at, words = at[lanes], np.broadcast_to(words, shape)[lanes]
        root.typed(WORDS[size] if len(values) > 1 else dtype)[at] = words
        root.mark_words(at, size)
        if self.exchange is not None and space == "global":
            self.exchange.write(self.first, root, where, size, self._lanes(mask))

    def atomic(
        self, place: int, space: str, origin: str | None, base: Array, offset: int, dtype: str, operation: str,
        values: Sequence[Array], mask: Array | None,
    ) -> Array:  # fmt: skip
        """One lane after the other; gives what each found."""
        size = int(dtype[1:])
        root, at, space = self._find(place, space, origin, base, offset, size, mask, "write")
        self._untouched(place, at, size, mask, space, "atomic")
        if self.races is not None and space == "shared":
            self.races.access(place, at, size, mask, "atomic")
        if root.written is not None:
            self._unwritten(place, root, at, size, mask, space, origin)
        memory = root.typed(dtype).reshape(-1)
        found = np.zeros(self.shape, dtype)
        lanes = np.ones(self.shape, bool) if mask is None else np.broadcast_to(mask, self.shape)
        places = np.broadcast_to(at, self.shape)
        given = [np.broadcast_to(each, self.shape) for each in values]
        for lane in zip(*np.nonzero(lanes), strict=True):
            word = places[lane]
            found[lane] = memory[word]
            memory[word] = _combined(operation, memory[word], [each[lane] for each in given])
            if self.exchange is not None and space == "global":
                self.exchange.atomic(self.first + int(lane[0]), int(lane[1]))
        root.mark_words(places[lanes], size)
        return found

    def copy(
        self, place: int, target: tuple[str | None, Array, int], source: tuple[str | None, Array, int], size: int,
        given: Array | None, mask: Array | None,
    ) -> None:  # fmt: skip
        """``cp.async``: origin, base and offset of both ends. Of ``size`` bytes ``given`` are read (None: all), and the
        rest is zeros.
        """
        lanes, parts = self._lanes(mask), np.zeros((size // UNIT, *self.shape), f"u{UNIT}")
        for at in range(size // UNIT):
            origin, base, offset = source
            wanted = lanes if given is None else lanes & (given > UNIT * at)
            if wanted.any():
                found = self.load(place, "global", origin, base, offset + UNIT * at, f"u{UNIT}", 1, wanted)[0]
                parts[at] = np.where(wanted, found, 0)
        words = np.ascontiguousarray(np.moveaxis(parts, 0, -1)).view(WORDS[size])[..., 0]
        _, at_, _ = self._find(place, "shared", *target, size, mask, "copy")
        self._untouched(place, at_, size, mask, "shared", "copy")
        if self.races is not None:
            self.races.access(place, at_, size, mask, "write")
        assert self.copies is not None
        where = np.broadcast_to(at_, self.shape)
        if not self.copies.add(Copy(place, lanes, self.copies.committed.copy(), where, size, words)):
            raise self.fault(place, lanes, "several threads copy to the same bytes")

    def commit(self, mask: Array | None) -> None:
        """``cp.async.commit_group``."""
        assert self.copies is not None
        self.copies.committed += self._lanes(mask)

    def wait(self, pending: int | None, mask: Array | None) -> None:
        """``cp.async.wait_group`` for all but the last ``pending`` groups; ``wait_all`` where that is None."""
        assert self.copies is not None
        root = self.roots["shared"]
        for copy, done in self.copies.arrived(self._lanes(mask), pending):
            root.typed(WORDS[copy.size])[copy.at[done]] = copy.words[done]
            root.mark_words(copy.at[done], copy.size)
            if self.races is not None:
                self.races.access(copy.place, copy.at, copy.size, done, "write")

    def _untouched(self, place: int, at: Array, size: int, mask: Array | None, space: str, doing: str) -> None:
        """Raise where an access to shared memory meets bytes that a copy has not brought yet."""
        if self.copies is None or space != "shared" or not self.copies.under_way:
            return
        bad = self._lanes(mask) & self.copies.touched(at, size)
        if not bad.any():
            return
        first = int(np.broadcast_to(at, self.shape).reshape(-1)[int(np.argmax(bad))]) * size // UNIT
        unit = next(each for each in range(first, first + max(size // UNIT, 1)) if self.copies.taken[each])
        copy, lane = self.copies.to(unit)
        block, thread = divmod(lane, self.threads)
        whose = f"the copy of {self.thread(block, thread)} at {self.at(copy.place)}"
        raise self.fault(place, bad, f"{doing} of shared memory that {whose} is on its way to, and nobody waited for,")

    def fence(self, mask: Array | None) -> None:
        """A fence over the device."""
        if self.exchange is not None:
            self.exchange.fence(self.first, self._lanes(mask))

    def _lanes(self, mask: Array | None) -> Array:
        """The lanes of a mask, one by one."""
        return np.ones(self.shape, bool) if mask is None else np.broadcast_to(mask, self.shape)

    # Where a lane goes.

    def _find(
        self, place: int, space: str, origin: str | None, base: Array, offset: int, size: int, mask: Array | None,
        doing: str,
    ) -> tuple[Root, Array, str]:  # fmt: skip
        """The allocation, the place of every lane's word in it (in units of ``size``) and the state space."""
        if space == "generic":
            space, base = self._window(place, base, mask)
        if space in ("global", "const"):
            root, low, high, name = self._global(place, origin, base, offset, mask, doing)
            within = base + np.uint64((offset - root.base) % (1 << 64))
            within = within.view(np.int64)
        else:
            root, low, high, name = self._local(space, origin)
            within = base.astype(np.int64) + offset
        if mask is not None:  # lanes that are not here go where nothing is wrong
            within = np.where(mask, within, -(-low // size) * size)
        if within.min() < low or within.max() > high - size:
            bad = (within < low) | (within > high - size)
            bad = bad if mask is None else bad & mask
            if bad.any():
                seen = int(np.broadcast_to(within, bad.shape).reshape(-1)[int(np.argmax(bad))]) - low
                there = f"at byte {seen} of {name}, which has {high - low}"
                raise self.fault(place, bad, f"{doing} of {size} bytes {there}")
            within = np.zeros_like(within)  # nobody is here
        if size > 1:
            if np.bitwise_or.reduce(within, axis=None) & (size - 1):
                bad = (within & (size - 1)) != 0
                raise self.fault(place, bad, f"misaligned {doing} of {size} bytes in {name}")
            within = within >> (size.bit_length() - 1)
        if space == "shared":
            within = within + self.rows * (root.size // self.shape[0] // size)
        elif space == "local":
            within = within + self.numbers * (root.size // self.numbers.size // size)
        return root, within, space

    def _window(self, place: int, base: Array, mask: Array | None) -> tuple[str, Array]:
        """The state space of generic addresses; they must agree."""
        spaces = (base >> np.uint64(60)).astype(np.uint8)
        lanes = spaces if mask is None else np.broadcast_to(spaces, self.shape)[np.broadcast_to(mask, self.shape)]
        first = int(lanes.reshape(-1)[0])
        if (lanes != first).any():
            raise self.fault(place, spaces != first, "an access to several state spaces at once is not executed")
        name = next((name for name, window in WINDOWS.items() if window >> 60 == first), "global")
        return name, base - np.uint64(WINDOWS.get(name, 0))

    def _global(
        self, place: int, origin: str | None, base: Array, offset: int, mask: Array | None, doing: str
    ) -> tuple[Root, int, int, str]:
        span = self.spans.get(origin or "")
        if span is None:
            lanes = base if mask is None else np.broadcast_to(base, self.shape)[np.broadcast_to(mask, self.shape)]
            span = self._holding(int(lanes.reshape(-1)[0]) + offset)
        if span is None:
            bad = np.ones((1, 1), bool) if mask is None else mask
            raise self.fault(place, bad, f"{doing} at an address that is in no argument")
        return span.root, span.start, span.start + span.size, span.name

    def _holding(self, address: int) -> Span | None:
        """The argument or variable that an address lies in, or the nearest before it."""
        before = [each for each in self.spans.values() if each.address <= address]
        return max(before, key=lambda each: each.address, default=None)

    def _local(self, space: str, origin: str | None) -> tuple[Root, int, int, str]:
        """Bounds within the shared memory of a block, or the local memory of a thread."""
        kernel = self.launch.program.kernel
        variable = kernel.variables.get(origin or "")
        if variable is None or variable.space != space:
            return self.roots[space], 0, kernel.bytes_of(space), f"{space} memory"
        return self.roots[space], variable.offset, variable.offset + variable.size, readable(origin or "")

    def _unwritten(
        self, place: int, root: Root, at: Array, size: int, mask: Array | None, space: str, origin: str | None
    ) -> None:
        """Global memory that nobody wrote is a fault; of shared memory it is noted for ``machine.run_watched``."""
        bad = root.unwritten(at, size)
        if bad is None:
            return
        bad = np.broadcast_to(bad, self.shape) if mask is None else bad & mask
        if not bad.any():
            return
        if space == "shared":
            self.unwritten_shared.add(self.at(place))
            return
        span = self.spans.get(origin or "")
        raise self.fault(place, bad, f"read of {span.name if span else 'memory'} that nobody wrote")

    def _unseen(
        self, exchange: Exchange, place: int, root: Root, at: Array, size: int, mask: Array | None, origin: str | None
    ) -> None:  # fmt: skip
        """What another block wrote is read only where fences and an atomic say that it is there."""
        bad = exchange.unseen(self.first, root, at, size, self._lanes(mask))
        if bad is not None:
            span = self.spans.get(origin or "")
            name = span.name if span else "memory"
            raise self.fault(place, bad, f"read of {name} that another block wrote, and no fence and count say when,")


def _combined(operation: str, old: Any, given: Sequence[Any]) -> Any:
    """What an atomic leaves in memory."""
    value = given[0]
    if operation == "cas":
        return given[1] if old == value else old
    if operation in ("inc", "dec"):
        zero, one = old.dtype.type(0), old.dtype.type(1)
        if operation == "inc":
            return zero if old >= value else old + one
        return value if old == 0 or old > value else old - one
    return {
        "add": lambda: old + value, "min": lambda: min(old, value), "max": lambda: max(old, value),
        "exch": lambda: value, "and": lambda: old & value, "or": lambda: old | value, "xor": lambda: old ^ value,
    }[operation]()  # fmt: skip
