"""All aggregates of two arrays in one pass: counts, extremes, the worst element, and the sums of the metrics.

The native pass (``csrc/compare.cpp``) needs no memory of the arrays' size and gives the same bits with any number of
threads and on every instruction set. ``pass_numpy`` is its twin, written apart: it is the statement of the rules, the
test of the native one, and serves where the native module or a dtype is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from kparity.ops.spec import Array

_NATIVE_DTYPES = {np.dtype(name) for name in ("f2", "f4", "f8", "i1", "i4", "i8", "u4")}
_SAFE_SQUARES = (1e-200, 1e300)
"""Sums of squares in which neither overflow nor underflow can have hidden anything."""


@dataclass(frozen=True)
class Pass:
    """What one pass finds: counts, extremes, the worst element, and the sums that metrics are made of."""

    got_nan: int
    truth_nan: int
    got_inf: int
    truth_inf: int
    wrong: int
    negative: int
    """Limits below zero."""
    worst: int
    """Flat index of the largest (used, error); the highest index of equal ones."""
    used: float
    error: float
    max_abs: float
    max_rel: float
    max_ulp: float
    got_sq: float
    """Σ got²."""
    truth_sq: float
    product: float
    """Σ got · truth."""
    error_sq: float
    """Σ (got − truth)²."""
    signed: float
    """Σ (got − truth)."""

    @property
    def finite(self) -> bool:
        """Whether neither array holds a NaN or an infinity."""
        return not (self.got_nan or self.truth_nan or self.got_inf or self.truth_inf)

    @property
    def safe(self) -> bool:
        """Whether the sums of squares hold what they should."""
        low, high = _SAFE_SQUARES
        exact = self.error_sq == 0.0 and self.max_abs == 0.0
        return all(low <= x <= high for x in (self.got_sq, self.truth_sq)) and (exact or low <= self.error_sq <= high)


@cache
def _native() -> Any:
    """The native module, or None where the package was installed without it."""
    try:
        from kparity import _native as module
    except ImportError:
        return None
    return module


def one_pass(got: Array, truth: Array, limit: Array | None = None, *, bits: bool = False) -> Pass:
    """All aggregates of two arrays of one shape; with a limit, or with ``bits``, elements are held against truth."""
    native = _native()
    if native is None or not {got.dtype, truth.dtype} <= _NATIVE_DTYPES:
        return pass_numpy(got, truth, limit, bits=bits)
    limits = None if limit is None else np.ascontiguousarray(limit)
    return Pass(**native.compare(np.ascontiguousarray(got), np.ascontiguousarray(truth), limits, bits))


def _errors(got: Array, truth: Array, limit: Array | None) -> Array:
    """|got − truth| element by element; NaN equals NaN only, an infinity itself only."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(got.astype(np.float64) - truth.astype(np.float64))
    equal = got == truth
    if limit is not None and got.dtype.kind == "f":
        # f32 and f16 overflow where fp64 does not: an infinity is right if truth or its neighbourhood is out of range.
        with np.errstate(invalid="ignore", over="ignore"):
            edge = (np.abs(truth.astype(np.float64)) + limit).astype(got.dtype)
        equal |= np.isinf(got) & np.isinf(edge) & (np.sign(got) == np.sign(truth))
    error[equal] = 0.0
    got_nan, want_nan = np.isnan(got), np.isnan(truth)
    error[got_nan & want_nan] = 0.0
    error[got_nan ^ want_nan] = np.inf
    error[np.isnan(error)] = np.inf
    return error


def _bits_differ(got: Array, truth: Array) -> Array:
    """Where the bits of ``got`` are not those of truth in its dtype; any NaN is as good as another."""
    if got.dtype.kind != "f":
        return np.asarray(got.astype(np.int64) != truth.astype(np.int64))
    with np.errstate(over="ignore"):
        want = truth.astype(got.dtype)
    kind = {2: np.uint16, 4: np.uint32, 8: np.uint64}[got.dtype.itemsize]
    differ = np.ascontiguousarray(got).view(kind) != np.ascontiguousarray(want).view(kind)
    return np.asarray(differ & ~(np.isnan(got) & np.isnan(want)))


def _share(error: Array, size: Array) -> Array:
    """error ÷ size: 0 for no error however small the size, infinite where that is no number."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = np.where(error == 0.0, 0.0, error / size)
    share[np.isnan(share) | np.isinf(error)] = np.inf
    return share


def _ulps(got: Array, truth: Array, error: Array) -> float:
    """Largest distance in units of the last place of f32 and f16: 0 where there is no error, and for other types."""
    if got.dtype not in (np.float32, np.float16):
        return 0.0
    with np.errstate(over="ignore"):
        want = truth.astype(got.dtype)
    far = np.abs(ordered(got) - ordered(want)).astype(np.float64)
    far[~(np.isfinite(got) & np.isfinite(want))] = np.inf
    far[error == 0.0] = 0.0
    return float(far.max())


def ordered(a: Array) -> Array:
    """The bits of floats as integers in the order of their values; both zeros are 0."""
    bits = np.ascontiguousarray(a).view(np.int32 if a.dtype == np.float32 else np.int16).astype(np.int64)
    smallest = -(1 << 31) if a.dtype == np.float32 else -(1 << 15)
    return np.where(bits < 0, smallest - bits, bits)


def pass_numpy(got: Array, truth: Array, limit: Array | None, *, bits: bool) -> Pass:
    """The twin of the native pass: the same rules, plainly, with arrays in between."""
    want = truth.astype(np.float64)
    if bits:
        limit = np.zeros(got.shape)
    error = _errors(got, truth, limit)
    extremes = float(error.max()), float(_share(error, np.abs(want)).max()), _ulps(got, truth, error)
    if bits:
        wrong = _bits_differ(got, truth)
        used = np.where(wrong, np.inf, 0.0)
        error = np.where(wrong, error, 0.0)
    elif limit is not None:
        # A limit of NaN admits equality alone, and no limit admits an infinite error.
        wrong = (~(error <= limit) | np.isinf(error)) & (error != 0.0)
        used = _share(error, limit)
    else:
        wrong, used = np.zeros(got.shape, bool), np.zeros(got.shape)
    worst = int(np.lexsort((error.ravel(), used.ravel()))[-1])
    left, right = got.astype(np.float64).ravel(), want.ravel()
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        difference = left - right
        sums = left @ left, right @ right, left @ right, difference @ difference, difference.sum()
    return Pass(
        int(np.isnan(got).sum()), int(np.isnan(truth).sum()), int(np.isinf(got).sum()), int(np.isinf(truth).sum()),
        int(wrong.sum()), 0 if limit is None else int((limit < 0).sum()), worst,
        float(used.flat[worst]), float(error.flat[worst]), *extremes, *map(float, sums),
    )  # fmt: skip
