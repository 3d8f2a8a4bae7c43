"""One output against its facts: the finding of ``compare.judge``, the error ratio to the f32 peer, and the share of
f16 elements that are off by more than one unit of the last place.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np

from kparity.check.record import OutputRecord
from kparity.kernels.support import TINY
from kparity.numerics.aggregates import ordered
from kparity.numerics.compare import judge
from kparity.ops.spec import DTYPES, ROUNDOFF, Arg, Array, ErrorBound

SMALLEST = TINY / ROUNDOFF["f32"]


def rms(values: Array) -> float:
    """Root of the mean square; 0 of nothing."""
    flat = np.asarray(values, np.float64).ravel()
    top = float(np.abs(flat).max(initial=0.0))
    return top * math.sqrt(float(np.square(flat / top).mean())) if top else 0.0


def comparable(truth: Array) -> Array:
    """Where a ratio of errors says something: truth is finite, and not so small that a flushed intermediate (2^-126)
    weighs more than a rounding (u·|y|). Truth that is 0 counts: its error is a rounding of something larger.
    """
    size = np.abs(truth.astype(np.float64))
    mask: Array = np.isfinite(size) & ((size == 0.0) | (size >= SMALLEST))
    return mask


def expected(dtype: str, truth: Array, limit: Array) -> float:
    """The RMSE that a right f32 implementation may be expected to have, from the limit of its worst case.

    One rounding is uniform within ±u·|s| and has the standard deviation u·|s|/√3. The limit counts n roundings of
    Σ|s_k| <= limit/u altogether; independent ones give (u/√3)·√(Σ s_k²) <= √(max|s_k|·limit·u/3), and the largest
    partial result is taken as large as the result itself: √(limit·u·|y|/3). Never below the one rounding of the result,
    u·|y|/√3.
    """
    one = ROUNDOFF[dtype] * rms(truth)
    return math.sqrt(max(rms(limit), one) * one / 3.0)


def ulp_share(got: Array, truth: Array) -> float:
    """Share of f16 elements more than 1 ULP from truth rounded to f16; a NaN counts unless it is truth's."""
    with np.errstate(over="ignore"):
        want = truth.astype(np.float16)
    far = (np.abs(ordered(got) - ordered(want)) > 1) | np.isnan(got)
    return float(np.mean(far & ~(np.isnan(got) & np.isnan(want))))


def measured(where: str, arg: Arg, got: Array, truth: Array, bound: ErrorBound, peer: Array | None) -> OutputRecord:
    """Judge one output; ``peer`` is the f32 reference's, or None where a ratio of errors says nothing."""
    finding = judge(where, arg.name, got, truth, bound)
    same: dict[str, Any] = {
        each.name: getattr(finding, each.name) for each in fields(OutputRecord) if hasattr(finding, each.name)
    }
    exact, dtype = bound.limit is None, arg.dtype
    own, against = _errors_of_both(dtype, got, truth, bound.limit, peer) if dtype in ROUNDOFF else (0.0, None)
    return OutputRecord(**{
        **same, "name": arg.name, "dtype": dtype, "rung": "exact" if exact else "bound",
        "threshold": "exact_differences" if exact else "utilisation", "got": finding.got_value,
        "want": finding.want_value, "rmse": own, "peer_rmse": against,
        "peer_ratio": None if against is None else _ratio(own, against),
        "ulp_share": ulp_share(got, truth) if dtype == "f16" else None,
    })  # fmt: skip


def _errors_of_both(
    dtype: str, got: Array, truth: Array, limit: Array | None, peer: Array | None
) -> tuple[float, float | None]:
    """RMSE of the result, and of what it is held against; None where there is nothing to hold it against."""
    kept = comparable(truth) & np.isfinite(got)
    if limit is not None:
        kept &= np.isfinite(limit)  # elsewhere nothing but truth itself, or anything at all, is right
    want = truth[kept].astype(np.float64)
    own = rms(got[kept].astype(np.float64) - want)
    if peer is None or limit is None or not want.any() or _alike(want, dtype):
        return own, None
    theirs = peer[kept].astype(np.float64) - want
    return own, max(rms(theirs[np.isfinite(theirs)]), expected(dtype, want, limit[kept]))


def _alike(truth: Array, dtype: str) -> bool:
    """Whether several elements, but for zeros, are one number of the output's type: each repeats the same roundings, so
    that they are one sample of an error and no statistic.
    """
    with np.errstate(over="ignore"):
        sizes = np.abs(truth[truth != 0]).astype(DTYPES[dtype])
    return sizes.size > 1 and bool((sizes == sizes[0]).all())


def _ratio(error: float, against: float) -> float:
    if against == 0.0:
        return 0.0 if error == 0.0 else math.inf
    return error / against
