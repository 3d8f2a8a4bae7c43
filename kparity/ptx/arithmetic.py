"""What the arithmetic instructions compute, on arrays: one rounding where PTX has one, in PTX's four directions.

Sources of the definitions: PTX ISA, instructions for integer arithmetic, floating point, data movement and conversion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

NAN32, NAN16 = np.uint32(0x7FFFFFFF), np.uint16(0x7FFF)
"""The NaN that arithmetic gives; PTX keeps no payload."""
TINY32 = 2.0**-125
"""Below it the results of f32 have fewer than 24 bits, or a neighbour that has."""
LOW, TIE = np.int64((1 << 29) - 1), np.int64(1 << 28)
"""The bits of an f64 that an f32 has not, and those of a number in the middle of two f32."""


def canonical(value: Array) -> Array:
    """Every NaN as the one of PTX: where a result of arithmetic becomes bits."""
    wrong = value != value
    if not wrong.any():
        return value
    nan = {4: NAN32.view(np.float32), 8: np.uint64(0x7FFFFFFFFFFFFFFF).view(np.float64)}[value.dtype.itemsize]
    return np.where(wrong, nan, value)


def flushed(value: Array) -> Array:
    """``.ftz``: subnormals as zeros of their sign."""
    small = np.abs(value) < np.float32(2.0**-126)
    flat: Array = np.where(small, np.copysign(np.float32(0), value), value) if small.any() else value
    return flat


def saturated(value: Array) -> Array:
    """``.sat`` of a float: within 0 and 1, NaN as +0."""
    one = value.dtype.type(1)
    result: Array = np.where(value > 0, np.minimum(value, one), value.dtype.type(0))
    return result


def _error_of_sum(a: Array, b: Array, total: Array) -> Array:
    """What ``a + b`` lost when it was rounded to ``total``, exactly (Knuth's two-sum)."""
    part = total - a
    error: Array = (a - (total - part)) + (b - part)
    return error


def narrowed(high: Array, low: Array | float, mode: str) -> Array:
    """f32 of the exact ``high + low`` of f64, where ``|low|`` is at most half an ulp of ``high``; rounded once."""
    near = high.astype(np.float32)
    rest = (high - near) + low
    if mode == "rn":
        # Rounded to odd in f64, which has more than two bits more than an f32: then the second rounding is right.
        odd = (high.view(np.int64) & 1) == 1
        toward = np.nextafter(high, np.where(low > 0, np.inf, -np.inf))
        return np.where((low != 0) & ~odd & np.isfinite(high), toward, high).astype(np.float32)
    if mode == "rz":
        near_zero = np.where(near > 0, rest < 0, rest > 0)
        step = np.where(near_zero, np.nextafter(near, np.float32(0)), near)
        return np.where(np.isfinite(high), step, near)
    down = mode == "rm"
    beyond = rest < 0 if down else rest > 0
    to = np.float32(-np.inf if down else np.inf)
    return np.where(beyond & np.isfinite(high), np.nextafter(near, to), near)


def fma(a: Array, b: Array, c: Array, mode: str = "rn") -> Array:
    """``a * b + c`` of f32, rounded once.

    The product of two f32 is exact in f64, and the sum is rounded to 53 bits. The second rounding, to 24, goes wrong
    only where that sum is a tie between two f32, or where the result is subnormal: those are done again.
    """
    product = np.multiply(a, b, dtype=np.float64)
    total = product + c
    if mode != "rn":
        exact = narrowed(total, _error_of_sum(product, c.astype(np.float64), total), mode)
        zero = (total == 0) & ((product != 0) | (c != 0))  # an exact difference of 0 has the sign of the direction
        return np.where(zero, np.float32(-0.0 if mode == "rm" else 0.0), exact)
    result = total.astype(np.float32)
    doubtful = (total.view(np.int64) & LOW) == TIE
    small = np.abs(total) < TINY32
    if small.any():
        doubtful |= small & (total != 0)
    if doubtful.any():
        p, s = product if product.shape == total.shape else np.broadcast_to(product, total.shape), total
        other = np.broadcast_to(c, total.shape)[doubtful].astype(np.float64)
        p, s = p[doubtful], s[doubtful]
        result[doubtful] = narrowed(s, _error_of_sum(p, other, s), "rn")
    return result


def directed(operation: np.ufunc, a: Array, b: Array, mode: str) -> Array:
    """Sum, difference or product of f32 in a rounding direction."""
    if mode == "rn":
        result: Array = operation(a, b)
        return result
    if operation is np.multiply:
        return narrowed(np.multiply(a, b, dtype=np.float64), 0.0, mode)
    return fma(a, np.ones((1, 1), np.float32), b if operation is np.add else -b, mode)


def extreme(a: Array, b: Array, largest: bool, keep_nan: bool = False) -> Array:
    """``max`` or ``min`` of floats: the number beside a NaN (``.NaN``: the NaN), and −0 below +0."""
    result = (np.fmax if largest else np.fmin)(a, b)
    bits = np.dtype(f"u{a.dtype.itemsize}")
    zeros = (a == 0) & (b == 0)
    if zeros.any():
        joined = (np.bitwise_and if largest else np.bitwise_or)(a.view(bits), b.view(bits)).view(a.dtype)
        result = np.where(zeros, joined, result)
    return np.where((a != a) | (b != b), a.dtype.type(np.nan), result) if keep_nan else result


def dp4a(a: Array, b: Array, c: Array, signed_a: bool, signed_b: bool) -> Array:
    """The dot product of four bytes, added to ``c``, modulo 2^32."""
    left = np.ascontiguousarray(a).view(np.int8 if signed_a else np.uint8).reshape(*a.shape, 4)
    right = np.ascontiguousarray(b).view(np.int8 if signed_b else np.uint8).reshape(*b.shape, 4)
    products = np.multiply(left, right, dtype=np.int32).view(np.uint32)
    total: Array = c + products[..., 0] + products[..., 1] + products[..., 2] + products[..., 3]
    return total


def high_part(a: Array, b: Array) -> Array:
    """The upper half of a product of 32 or 64 bits, of either sign."""
    if a.dtype.itemsize == 4:
        wide = np.dtype("i8" if a.dtype.kind == "i" else "u8")
        upper: Array = (np.multiply(a, b, dtype=wide) >> wide.type(32)).astype(a.dtype)
        return upper
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = a.view(np.uint64), b.view(np.uint64)
    x0, x1, y0, y1 = x & mask, x >> half, y & mask, y >> half
    middle = x1 * y0 + (x0 * y0 >> half)
    other = x0 * y1 + (middle & mask)
    high = x1 * y1 + (middle >> half) + (other >> half)
    if a.dtype.kind == "i":
        high = high - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    result: Array = high.view(a.dtype)
    return result


def divided(a: Array, b: Array, remainder: bool = False) -> Array:
    """Quotient (towards 0) or remainder (of the dividend's sign) of integers; all ones where the divisor is 0."""
    if a.dtype.kind == "u":
        result = (np.remainder if remainder else np.floor_divide)(a, b)
    elif remainder:
        result = np.fmod(a, b)
    else:
        quotient = np.floor_divide(a, b)
        inexact = (quotient * b != a) & ((a < 0) != (b < 0))
        result = quotient + inexact.astype(a.dtype)
    return np.where(b == 0, ~a.dtype.type(0), result)


def shifted(value: Array, by: Array, left: bool) -> Array:
    """A shift; ``by`` above the width gives zeros, or the sign."""
    amount = np.minimum(by, np.uint32(64)).astype(value.dtype)
    result: Array = (np.left_shift if left else np.right_shift)(value, amount)
    return result


def funnel(low: Array, high: Array, by: Array, left: bool, clamp: bool) -> Array:
    """``shf``: 32 of the 64 bits of ``high:low``, shifted."""
    amount = np.minimum(by, np.uint32(32)) if clamp else by & np.uint32(31)
    both = high.astype(np.uint64) << np.uint64(32) | low
    amount = amount.astype(np.uint64)
    moved: Array = ((both << amount) >> np.uint64(32) if left else both >> amount).astype(np.uint32)
    return moved


def inserted(field: Array, into: Array, at: Array, count: Array) -> Array:
    """``bfi``: ``count`` low bits of ``field`` in ``into`` from bit ``at`` on."""
    at, count = at & np.uint32(0xFF), count & np.uint32(0xFF)
    ones = ~shifted(np.full((1, 1), -1, into.dtype.str.replace("u", "i")).view(into.dtype), count, True)
    mask = shifted(np.where(count >= into.dtype.itemsize * 8, ~into.dtype.type(0), ones), at, True)
    return (shifted(field, at, True) & mask) | (into & ~mask)


def extracted(value: Array, at: Array, count: Array) -> Array:
    """``bfe``: ``count`` bits from bit ``at`` on, filled with the field's own sign where the type has one."""
    bits = value.dtype.itemsize * 8
    at = np.minimum(at & np.uint32(0xFF), np.uint32(bits))
    count = np.minimum(count & np.uint32(0xFF), np.uint32(bits))
    end = np.minimum(at + count, np.uint32(bits))
    raised = shifted(value, np.uint32(bits) - end, True)
    field = shifted(raised, np.uint32(bits) - end + at, False)
    if value.dtype.kind == "i":  # from beyond the last bit on there is nothing but the sign
        field = np.where(at >= bits, value >> value.dtype.type(bits - 1), field)
    return np.where(count == 0, value.dtype.type(0), field)


def permuted(a: Array, b: Array, selector: Array) -> Array:
    """``prmt``: four of the eight bytes of ``b:a``; bit 3 of a nibble spreads the byte's sign."""
    both = b.astype(np.uint64) << np.uint64(32) | a
    result = np.zeros((1, 1), np.uint32)
    for at in range(4):
        nibble = selector >> np.uint32(4 * at)
        byte = (both >> ((nibble & np.uint32(7)) * np.uint32(8)).astype(np.uint64)).astype(np.uint32) & np.uint32(0xFF)
        sign = np.where(byte >> np.uint32(7), np.uint32(0xFF), np.uint32(0))
        result = result | np.where(nibble & np.uint32(8), sign, byte) << np.uint32(8 * at)
    return result


def counted(value: Array, what: str) -> Array:
    """``popc``, ``clz`` and ``brev`` of 32 or 64 bits."""
    bits = np.unpackbits(np.ascontiguousarray(value).view(np.uint8), bitorder="little")
    rows = bits.reshape(*value.shape, value.dtype.itemsize * 8)
    result: Array
    if what == "popc":
        result = rows.sum(-1, dtype=np.uint32)
    elif what == "clz":
        leading = rows[..., ::-1].argmax(-1).astype(np.uint32)
        result = np.where(value == 0, np.uint32(rows.shape[-1]), leading)
    else:
        turned = np.packbits(rows[..., ::-1], axis=-1, bitorder="little")
        result = np.ascontiguousarray(turned).view(value.dtype)[..., 0]
    return result


def logic3(a: Array, b: Array, c: Array, table: Array) -> Array:
    """``lop3``: every bit by a table of eight."""
    number, result = int(table.flat[0]), np.zeros((1, 1), np.uint32)
    for at in range(8):
        if number >> at & 1:
            result = result | (a if at & 4 else ~a) & (b if at & 2 else ~b) & (c if at & 1 else ~c)
    return result


def clipped(value: Array, dtype: str) -> Array:
    """``cvt.sat`` between integers."""
    own, other = np.iinfo(value.dtype), np.iinfo(dtype)
    result: Array = np.clip(value, max(own.min, other.min), min(own.max, other.max)).astype(dtype)
    return result


ROUNDINGS = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def to_integer(value: Array, mode: str, dtype: str) -> Array:
    """A float rounded to an integer, limited to its type's range; NaN gives 0, or the top bit where 64 bits are met."""
    target = np.dtype(dtype)
    limits = np.iinfo(target)
    rounded: Array = ROUNDINGS[mode](value.astype(np.float64))
    large, lost = rounded >= float(limits.max), rounded != rounded
    inside = np.where(large | lost, 0.0, np.maximum(rounded, float(limits.min))).astype(target)
    result = np.where(large, target.type(limits.max), inside)
    if 8 in (value.dtype.itemsize, target.itemsize):
        result = np.where(lost, np.array(1 << 8 * target.itemsize - 1, f"u{target.itemsize}").view(target), result)
    return result


def from_integer(value: Array, mode: str) -> Array:
    """f32 of an integer, rounded once."""
    if value.dtype.itemsize == 8:  # ``opcodes`` gives it to the nearest only
        nearest: Array = value.astype(np.float32)
        return nearest
    return narrowed(value.astype(np.float64), 0.0, mode)


def half_of(value: Array) -> Array:
    """The bits of f16 of an f32 (or f64), to nearest even."""
    bits = value.astype(np.float16).view(np.uint16)
    wrong = value != value
    return np.where(wrong, NAN16, bits) if wrong.any() else bits


def bfloat_of(value: Array) -> Array:
    """The bits of bf16 of an f32, to nearest even."""
    bits = value.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    result: Array = np.where(value != value, NAN16, rounded.astype(np.uint16))
    return result


_EXACT: dict[str, Callable[..., Array]] = {
    "ex2": np.exp2, "lg2": np.log2, "rcp": lambda x: 1.0 / x, "sqrt": np.sqrt, "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "div": np.divide, "div_full": np.divide,
}  # fmt: skip
ULPS = {"ex2": 2, "rcp": 1, "div": 2, "div_full": 2}
RELATIVE = {"sqrt": 2.0**-23, "rsqrt": 2.0**-22.9, "tanh": 2.0**-11, "lg2": 2.0**-22}
ABSOLUTE = {"sin": 2.0**-20.5, "cos": 2.0**-20.5}
"""The largest errors that the PTX ISA documents, in ulp, relative and absolute; of lg2 it is absolute from 0.5 to 2."""


def error_limit(name: str, x: Array, exact: Array) -> Array:
    """The documented error of an approximate instruction at ``x``, whose exact value is given."""
    size = np.where((x > 0.5) & (x < 2), 1.0, np.abs(exact)) if name == "lg2" else np.abs(exact)
    if name in ULPS:
        size = np.spacing(size.astype(np.float32)).astype(np.float64)
    scale = {**ULPS, **RELATIVE, **ABSOLUTE}[name]
    limit: Array = np.full(exact.shape, scale) if name in ABSOLUTE else scale * size
    return limit


@dataclass(frozen=True)
class Approximations:
    """The approximate instructions: the f64 value, rounded; with ``perturb``, moved by the documented error less what
    the rounding may take, up or down as a hash of its bits says. Code that hopes for more than that does not pass then.
    """

    perturb: bool = False

    def __call__(self, name: str, *values: Array) -> Array:
        """f32 of one of the functions of f32."""
        exact = _EXACT[name](*(value.astype(np.float64) for value in values))
        result = exact.astype(np.float32)
        if self.perturb:
            odd = result.view(np.uint32) * np.uint32(2654435761) >> np.uint32(31)
            limit = error_limit(name, values[0], exact)
            rounding = np.spacing((np.abs(exact) + limit).astype(np.float32)).astype(np.float64) / 2
            size = np.maximum(limit - rounding, 0)
            moved = exact + np.where(odd, size, -size)
            special = (exact == 0) | ~np.isfinite(exact) | (np.abs(exact) < 2.0**-126)
            result = np.where(special, result, moved.astype(np.float32))
        if name == "div":  # nothing but 0 (of inf: NaN) where the divisor is above 2^126
            large = (np.abs(values[1]) > 2.0**126) & np.isfinite(values[1])
            result = np.where(large, np.where(np.isinf(values[0]), np.float32(np.nan), np.float32(0)), result)
        return result
