"""How two results are compared: the per-element bound decides, the aggregates are diagnostics.

Everything is computed in fp64 and fails closed: a NaN that truth does not have is an error without limit, a metric
over NaN is NaN (and a NaN meets no threshold), arrays of different lengths and empty arrays are refused.

One pass over both arrays gives all aggregates (``aggregates.py``). Where squares could leave the range of fp64
(norms above 1e150, or below 1e-100), the metrics are computed again in numpy from scaled values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kparity.errors import WrongInput
from kparity.numerics.aggregates import Pass, one_pass
from kparity.ops.spec import Array, ErrorBound


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Aggregates made of sums over two arrays, a and b: all NaN if either side holds a NaN or an infinity."""

    cosine: float = math.nan
    """0 if exactly one side is zero, 1 if both are. It cannot see a constant factor: ``norm_ratio`` can."""
    norm_ratio: float = math.nan
    """‖a‖ / ‖b‖: 1 if both are zero, infinite if only b is."""
    nmse: float = math.nan
    """Σ(a − b)² / Σb²: 0 if both are zero, infinite if only b is."""
    mse: float = math.nan
    """Σ(a − b)² / count; infinite where that is beyond fp64."""
    rmse: float = math.nan
    mean_error: float = math.nan
    """Σ(a − b) / count, signed: truncation shows here, rounding does not."""


def metrics(sums: Pass, a: Array, b: Array) -> Metrics:
    """The metrics of two float arrays of one shape from what ``one_pass`` found in them."""
    if not sums.finite:
        return Metrics()
    if not sums.safe:
        return _metrics_scaled(a, b)
    mse = sums.error_sq / a.size
    return Metrics(
        cosine=min(1.0, max(-1.0, sums.product / math.sqrt(sums.got_sq) / math.sqrt(sums.truth_sq))),
        norm_ratio=math.sqrt(sums.got_sq / sums.truth_sq),
        nmse=sums.error_sq / sums.truth_sq,
        mse=mse,
        rmse=math.sqrt(mse),
        mean_error=sums.signed / a.size,
    )


def _metrics_scaled(a: Array, b: Array) -> Metrics:
    """The same for finite arrays of any size, zeros included: what does not fit into fp64 is infinite."""
    left, right = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    with np.errstate(over="ignore"):
        difference = left - right
    (above, left), (below, right), (error, _) = (_polar(each) for each in (left, right, difference))
    if below == 0.0:
        ratio, relative = (1.0 if above == 0.0 else math.inf), (0.0 if error == 0.0 else math.inf)
        cosine = 1.0 if above == 0.0 else 0.0
    else:
        ratio, relative = above / below, error / below
        cosine = min(1.0, max(-1.0, float(left @ right)))
    rmse = error / math.sqrt(a.size)
    return Metrics(
        cosine=cosine,
        norm_ratio=ratio,
        nmse=relative * relative,
        mse=rmse * rmse,
        rmse=rmse,
        mean_error=float((difference / a.size).sum()),
    )


def _polar(a: Array) -> tuple[float, Array]:
    """Euclidean norm, without overflow of the squares, and the direction; a vector of zeros has none."""
    top = float(np.abs(a).max())
    if top in (0.0, math.inf):
        return top, a
    scaled = a / top
    length = math.sqrt(float(scaled @ scaled))
    return top * length, scaled / length


def _compared(a: npt.ArrayLike, b: npt.ArrayLike) -> Metrics:
    """The metrics of two arrays; WrongInput if their shapes differ or nothing is in them."""
    left, right = np.asarray(a), np.asarray(b)
    if left.shape != right.shape:
        raise WrongInput(f"cannot compare arrays of shapes {list(left.shape)} and {list(right.shape)}")
    if left.size == 0:
        raise WrongInput("cannot compare empty arrays: nothing was computed")
    left, right = (one if one.dtype.kind == "f" else one.astype(np.float64) for one in (left, right))
    return metrics(one_pass(left, right), left, right)


def cosine(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Cosine of the angle between two vectors, as ``Metrics`` has it."""
    return _compared(a, b).cosine


def norm_ratio(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """‖a‖ / ‖b‖, as ``Metrics`` has it."""
    return _compared(a, b).norm_ratio


@dataclass(frozen=True, kw_only=True)
class Comparison(Metrics):
    """What ``judge`` found about one output of one case."""

    case_id: str
    arg_name: str
    ok: bool
    wrong: int
    """Elements outside their limit."""
    count: int
    worst_index: tuple[int, ...]
    """Of the largest utilisation, then the largest error; the highest index of equal ones."""
    got_value: float
    want_value: float
    error: float
    """|got − want| of the worst element; infinite where a NaN or an infinity does not match."""
    limit: float
    utilisation: float
    """The largest error ÷ limit: above 1 is a failure, far below 1 everywhere is a loose bound."""
    nan_count: int
    """NaNs in the result, wanted or not."""
    inf_count: int
    """Infinities in the result, wanted or not."""
    max_abs: float
    """The largest |got − want| of all elements, by the rules of ``error``."""
    max_rel: float
    """The largest |got − want| / |want|: infinite where only want is 0, 0 where both are."""
    max_ulp: float
    """The largest distance in units of the last place of f32 and f16 outputs, to want rounded to that type; else 0."""
    derivation: str

    def __str__(self) -> str:
        at = ",".join(map(str, self.worst_index))
        return (
            f"{self.case_id} {self.arg_name}: {self.wrong} of {self.count} elements outside their bound, worst [{at}]: "
            f"got {self.got_value!r}, want {self.want_value!r}, error {self.error:.3g}, limit {self.limit:.3g} "
            f"({self.derivation}); {self.nan_count} NaN, {self.inf_count} inf, cosine {self.cosine:.9f}, "
            f"nmse {self.nmse:.3g}, mean error {self.mean_error:.3g}, max ULP {self.max_ulp:.6g}"
        )


def judge(case_id: str, arg_name: str, got: Array, truth: Array, bound: ErrorBound) -> Comparison:
    """Hold one output against truth, element by element; never passes on NaN, on a wrong shape or on nothing."""
    name, limit = f"{case_id} {arg_name}", None if bound.limit is None else np.asarray(bound.limit, np.float64)
    if got.shape != truth.shape:
        raise WrongInput(f"{name}: shape {list(got.shape)}, truth has {list(truth.shape)}")
    if got.size == 0:
        raise WrongInput(f"{name}: empty, nothing was computed")
    if got.dtype.kind != truth.dtype.kind:
        raise WrongInput(f"{name}: dtype {got.dtype}, truth has {truth.dtype}")
    if limit is not None and limit.shape != truth.shape:
        raise WrongInput(f"{name}: the limit has shape {list(limit.shape)}, truth {list(truth.shape)}")
    sums = one_pass(got, truth, limit, bits=limit is None)
    if sums.negative:
        raise WrongInput(f"{name}: the limit is negative somewhere")
    index = tuple(int(at) for at in np.unravel_index(sums.worst, got.shape))
    return Comparison(
        case_id=case_id, arg_name=arg_name, ok=not sums.wrong, wrong=sums.wrong, count=int(got.size), worst_index=index,
        got_value=float(got[index]), want_value=float(truth[index]), error=sums.error,
        limit=0.0 if limit is None else float(limit[index]), utilisation=sums.used,
        nan_count=sums.got_nan, inf_count=sums.got_inf,
        max_abs=sums.max_abs, max_rel=sums.max_rel, max_ulp=sums.max_ulp, derivation=bound.derivation,
        **vars(metrics(sums, got, truth)),
    )  # fmt: skip
