"""What lanes of a warp exchange: shuffles, votes, reductions; and whether the lanes that are named are there."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kparity.ptx.words import Words

Array = npt.NDArray[Any]
WARP = 32


@lru_cache(maxsize=256)
def sources(kind: str, amount: int, clamp: int, threads: int) -> tuple[Array, Array]:
    """Thread → the thread it reads, and whether that is within its segment; PTX ISA, ``shfl.sync``."""
    thread = np.arange(threads)
    lane = thread % WARP
    segment, limit = clamp >> 8 & 31, clamp & 31
    last = (lane & segment) | (limit & ~segment)
    first = lane & segment
    amount &= 31
    if kind == "up":
        source = lane - amount
        valid = source >= last
    elif kind == "down":
        source = lane + amount
        valid = source <= last
    elif kind == "bfly":
        source = lane ^ amount
        valid = source <= last
    else:
        source = first | (amount & ~segment)
        valid = source <= last
    return thread - lane + np.where(valid, source, lane), valid.reshape(1, -1)


class Lanes(Words):
    """The part of a batch in which lanes meet."""

    def _per_warp(self, value: Array, fill: Any) -> Array:
        """``(blocks, warps, 32)`` of an array of lanes; the last warp is filled up."""
        blocks, threads = self.shape
        full = np.broadcast_to(value, self.shape)
        if missing := -threads % WARP:
            full = np.concatenate([full, np.full((blocks, missing), fill, value.dtype)], axis=1)
        return full.reshape(blocks, -1, WARP)

    def _members(self, place: int, members: Array, mask: Array | None, what: str) -> None:
        """Raise unless every lane that a member mask names, and that has not ended, is here, and itself in its mask."""
        everyone = int(members.flat[0]) if members.size == 1 else -1
        if mask is None and everyone == 0xFFFFFFFF:
            return
        named = np.broadcast_to((members >> self.lane) & np.uint32(1) != 0, self.shape)
        here = np.ones(self.shape, bool) if mask is None else np.broadcast_to(mask, self.shape)
        if (here & ~named).any():
            raise self.fault(place, here & ~named, f"{what} by a lane that its member mask does not name")
        wanted = self._per_warp(members if members.size > 1 else np.broadcast_to(members, self.shape), 0)
        mine = np.where(self._per_warp(here, False), wanted, np.uint32(0))
        union = np.bitwise_or.reduce(mine, axis=-1, keepdims=True)
        bits = (union >> np.arange(WARP, dtype=np.uint32)) & np.uint32(1) != 0
        absent = bits & ~self._per_warp(here, True) & self._per_warp(self.live, False)
        if absent.any():
            flat = absent.reshape(self.shape[0], -1)[:, : self.shape[1]]
            raise self.fault(place, flat, f"{what} without a lane that its member mask names")

    def shuffle(
        self, place: int, kind: str, value: Array, amount: Array, clamp: Array, members: Array, mask: Array | None
    ) -> tuple[Array, Array]:
        """The value of another lane, and whether there was one."""
        self._members(place, members, mask, "a shuffle")
        threads = self.shape[1]
        if amount.size == 1 and clamp.size == 1:
            source, valid = sources(kind, int(amount.flat[0]), int(clamp.flat[0]), threads)
            there = np.minimum(source, threads - 1)
            result = value if value.shape[1] == 1 else value.take(there, axis=1)
            gone = source >= threads
            absent = gone[None, :] if gone.any() else None
            if mask is not None:
                here = np.broadcast_to(mask, self.shape)
                missing = here & ~here.take(there, axis=1)
                absent = missing if absent is None else absent | missing
        else:
            amounts, clamps = np.broadcast_to(amount, self.shape), np.broadcast_to(clamp, self.shape)
            there, valid = np.empty(self.shape, np.int64), np.empty(self.shape, bool)
            for a, c in {*zip(amounts.flat, clamps.flat, strict=True)}:
                which = (amounts == a) & (clamps == c)
                source, fits = sources(kind, int(a), int(c), threads)
                there[which] = np.broadcast_to(source, self.shape)[which]
                valid[which] = np.broadcast_to(fits, self.shape)[which]
            here = np.ones(self.shape, bool) if mask is None else np.broadcast_to(mask, self.shape)
            absent = here & (there >= threads)
            there = np.minimum(there, threads - 1)
            absent |= here & ~np.take_along_axis(here, there, axis=1)
            result = np.take_along_axis(np.broadcast_to(value, self.shape), there, axis=1)
        if absent is not None and absent.any():
            raise self.fault(place, absent, "a shuffle reads a lane that is not there")
        return result, valid

    def vote(self, place: int, kind: str, value: Array, members: Array, mask: Array | None) -> Array:
        """``ballot``, ``all``, ``any`` or ``uni`` of a predicate."""
        self._members(place, members, mask, "a vote")
        here = self._per_warp(np.ones((1, 1), bool) if mask is None else mask, False)
        if mask is None and self.shape[1] % WARP:
            here = self._per_warp(np.ones(self.shape, bool), False)
        yes = self._per_warp(value, False) & here
        if kind == "ballot":
            bits = np.where(yes, np.left_shift(np.uint32(1), np.arange(WARP, dtype=np.uint32)), np.uint32(0))
            return self._spread(np.bitwise_or.reduce(bits, axis=-1))
        some, every = np.asarray(yes.any(-1)), np.asarray((yes | ~here).all(-1))
        return self._spread({"any": some, "all": every, "uni": every | ~some}[kind])

    def reduce(self, place: int, operation: str, value: Array, members: Array, mask: Array | None) -> Array:
        """``redux.sync``."""
        self._members(place, members, mask, "a reduction")
        limits = np.iinfo(value.dtype)
        neutral = {"min": limits.max, "max": limits.min, "and": limits.max if limits.min == 0 else -1}.get(operation, 0)
        ufunc = {
            "add": np.add, "min": np.minimum, "max": np.maximum,
            "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
        }[operation]  # fmt: skip
        given = np.broadcast_to(value, self.shape)
        if mask is not None:
            given = np.where(mask, given, value.dtype.type(neutral))
        return self._spread(ufunc.reduce(self._per_warp(given, neutral), axis=-1, dtype=value.dtype))

    def _bytes(self, registers: tuple[Array, ...], signed: bool) -> Array:
        """``(blocks, warps, 8 g, 4 t, registers, 4)``: the integers of 8 bits that lanes 4g + t hold, as f32."""
        held = np.stack([self._per_warp(each, 0) for each in registers], axis=-1)
        blocks, warps = held.shape[:2]
        shape = (blocks, warps, 8, 4, len(registers), 4)
        return held.astype("<u4").view("i1" if signed else "u1").reshape(shape).astype(np.float32)

    def matrix(
        self, place: int, a: tuple[Array, ...], b: tuple[Array, ...], c: tuple[Array, ...], signed_a: bool,
        signed_b: bool, mask: Array | None,
    ) -> tuple[Array, ...]:  # fmt: skip
        """``mma.sync.m16n8k32`` of integers of 8 bits: the four registers of the sums, which wrap around.

        Registers 0 and 2 of ``a`` are row g, 1 and 3 row g + 8; 0 and 1 are columns 4t on, 2 and 3 columns 16 + 4t on.
        Those of ``b`` are column g and the same k; those of ``c`` rows g and g + 8 of columns 2t and 2t + 1.
        """
        self._whole_warps(place, mask, "a matrix product")
        left, right = self._bytes(a, signed_a), self._bytes(b, signed_b)
        blocks, warps = left.shape[:2]
        # a register is (k half, row half); rows: row half, g; columns: k half, t, byte
        rows = left.reshape(blocks, warps, 8, 4, 2, 2, 4).transpose(0, 1, 5, 2, 4, 3, 6).reshape(blocks, warps, 16, 32)
        columns = right.transpose(0, 1, 4, 3, 5, 2).reshape(blocks, warps, 32, 8)
        product = (rows @ columns).astype(np.int64)  # 32 products below 2^16: exact in f32
        quads = product.reshape(blocks, warps, 2, 8, 4, 2).transpose(2, 5, 0, 1, 3, 4).reshape(4, blocks, warps * WARP)
        return tuple(quads[at].astype(np.uint32) + each for at, each in enumerate(c))

    def rows_of_matrices(
        self, place: int, origin: str | None, base: Array, offset: int, count: int, mask: Array | None
    ) -> tuple[Array, ...]:
        """``ldmatrix``: lane 8i + r gives the address of row r of matrix i, 16 bytes; lane 4r + c gets its part c."""
        self._whole_warps(place, mask, "a load of matrices")
        asking = self._lanes(mask) & (self.lane < 8 * count)
        words = self.load(place, "shared", origin, base, offset, "u4", 4, asking)
        rows = np.stack([self._per_warp(np.broadcast_to(each, self.shape), 0) for each in words], axis=-1)
        lane = np.arange(WARP)
        found = (rows[:, :, 8 * at + lane // 4, lane % 4] for at in range(count))
        return tuple(np.ascontiguousarray(each).reshape(self.shape[0], -1)[:, : self.shape[1]] for each in found)

    def _whole_warps(self, place: int, mask: Array | None, what: str) -> None:
        """Raise unless the lanes that are here are whole warps."""
        self._members(place, np.array([[0xFFFFFFFF]], np.uint32), mask, what)
        here = self.live if mask is None else np.broadcast_to(mask, self.shape)
        full = self._per_warp(here, False).all(axis=-1)
        partly = here & ~self._spread(np.asarray(full))
        if partly.any():
            raise self.fault(place, partly, f"{what} in a warp that is not full")

    def active(self, mask: Array | None) -> Array:
        """``activemask``: the lanes that run together here."""
        here = self._per_warp(np.ones(self.shape, bool) if mask is None else mask, False)
        bits = np.where(here, np.left_shift(np.uint32(1), np.arange(WARP, dtype=np.uint32)), np.uint32(0))
        return self._spread(np.bitwise_or.reduce(bits, axis=-1))

    def warp_barrier(self, place: int, members: Array, mask: Array | None) -> None:
        """``bar.warp.sync``."""
        self._members(place, members, mask, "a warp barrier")
        if self.races is not None:
            self.races.warp_barrier(mask)

    def _spread(self, per_warp: Array) -> Array:
        """A value of every warp, for each of its lanes."""
        return np.repeat(per_warp, WARP, axis=1)[:, : self.shape[1]]
