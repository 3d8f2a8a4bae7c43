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


def _arrays(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Array, Array]:
    """Both as arrays of floats; refuses what cannot be compared."""
    left, right = np.asarray(a), np.asarray(b)
    if left.shape != right.shape:
        raise WrongInput(f"cannot compare arrays of shapes {list(left.shape)} and {list(right.shape)}")
    if left.size == 0:
        raise WrongInput("cannot compare empty arrays: nothing was computed")
    left, right = (one if one.dtype.kind == "f" else one.astype(np.float64) for one in (left, right))
    return left, right


def _pair(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Array, Array]:
    """Both arrays flat in fp64."""
    left, right = _arrays(a, b)
    return left.astype(np.float64).ravel(), right.astype(np.float64).ravel()


def _norm(a: Array) -> float:
    """Euclidean norm without overflow of the squares."""
    top = float(np.abs(a).max())
    return top * float(np.sqrt(np.square(a / top).sum())) if 0.0 < top < math.inf else top


@dataclass(frozen=True)
class _Metrics:
    cosine: float = math.nan
    norm_ratio: float = math.nan
    nmse: float = math.nan
    mse: float = math.nan
    rmse: float = math.nan
    mean_error: float = math.nan


def _metrics(found: Pass, a: Array, b: Array) -> _Metrics:
    """The aggregates of a pass: all NaN if either side holds a NaN or an infinity."""
    if not found.finite:
        return _Metrics()
    if not found.safe:
        return _metrics_scaled(a, b)
    mse = found.error2 / a.size
    return _Metrics(
        cosine=min(1.0, max(-1.0, found.product / math.sqrt(found.got2) / math.sqrt(found.truth2))),
        norm_ratio=math.sqrt(found.got2 / found.truth2),
        nmse=found.error2 / found.truth2,
        mse=mse,
        rmse=math.sqrt(mse),
        mean_error=found.signed / a.size,
    )


def _metrics_scaled(a: Array, b: Array) -> _Metrics:
    """The same for finite arrays of any size, zeros included: what does not fit into fp64 is infinite."""
    left, right = _pair(a, b)
    with np.errstate(over="ignore"):
        difference = left - right
    above, below, error = _norm(left), _norm(right), _norm(difference)
    if below == 0.0:
        ratio, relative = (1.0 if above == 0.0 else math.inf), (0.0 if error == 0.0 else math.inf)
    else:
        ratio, relative = above / below, error / below
    rmse = error / math.sqrt(a.size)
    return _Metrics(
        cosine=_cosine_scaled(left, right),
        norm_ratio=ratio,
        nmse=relative * relative,
        mse=rmse * rmse,
        rmse=rmse,
        mean_error=float((difference / a.size).sum()),
    )


def _cosine_scaled(left: Array, right: Array) -> float:
    tops = float(np.abs(left).max()), float(np.abs(right).max())
    if 0.0 in tops:
        return 1.0 if tops == (0.0, 0.0) else 0.0
    left, right = left / tops[0], right / tops[1]
    found = float(left @ right) / math.sqrt(float(left @ left) * float(right @ right))
    return min(1.0, max(-1.0, found))


@dataclass(frozen=True)
class Summary:
    """The aggregates of two float arrays ``a`` and ``b``: diagnostics without a limit.

    With a NaN on either side every metric is NaN; with an infinity those made of sums are.
    """

    count: int
    cosine: float
    """0 if exactly one side is zero, 1 if both are."""
    norm_ratio: float
    """‖a‖ / ‖b‖."""
    mse: float
    """Σ(a − b)² / count; infinite where that is beyond fp64."""
    rmse: float
    nmse: float
    """Σ(a − b)² / Σb²."""
    mean_error: float
    """Σ(a − b) / count, signed: truncation shows here, rounding does not."""
    max_abs: float
    """The largest |a − b|; an infinity equals itself and is infinitely far from all else."""
    max_rel: float
    """The largest |a − b| / |b|, infinite where only b is 0."""
    max_ulp: float
    """In units of the last place of two f32 or two f16 arrays, NaN for other pairs."""
    worst_index: tuple[int, ...]
    """Where |a − b| is largest (a NaN against a number is infinitely far); the highest index of equal ones."""
    nan_counts: tuple[int, int]
    inf_counts: tuple[int, int]


def summary(a: npt.ArrayLike, b: npt.ArrayLike) -> Summary:
    """Every aggregate of two float arrays in one pass; WrongInput if their shapes differ or nothing is in them."""
    left, right = _arrays(a, b)
    found = one_pass(left, right)
    metrics = _metrics(found, left, right)
    numbers = not (found.got_nan or found.truth_nan)
    floats = left.dtype == right.dtype and left.dtype in (np.float32, np.float16)
    return Summary(
        count=left.size,
        cosine=metrics.cosine,
        norm_ratio=metrics.norm_ratio,
        mse=metrics.mse,
        rmse=metrics.rmse,
        nmse=metrics.nmse,
        mean_error=metrics.mean_error,
        max_abs=found.max_abs if numbers else math.nan,
        max_rel=found.max_rel if numbers else math.nan,
        max_ulp=found.max_ulp if numbers and floats else math.nan,
        worst_index=tuple(int(at) for at in np.unravel_index(found.worst, left.shape)),
        nan_counts=(found.got_nan, found.truth_nan),
        inf_counts=(found.got_inf, found.truth_inf),
    )


def cosine(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Cosine of the angle between two vectors: 0 if exactly one of them is zero, 1 if both are.

    NaN if either holds a NaN or an infinity. It cannot see a constant factor; use ``norm_ratio`` beside it.
    """
    return summary(a, b).cosine


def norm_ratio(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """‖a‖ / ‖b‖: NaN if either is not finite, 1 if both are zero, infinite if only b is."""
    return summary(a, b).norm_ratio


def nmse(a: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Σ(a − truth)² / Σtruth²: NaN if either is not finite, 0 if both are zero, infinite if only truth is."""
    return summary(a, truth).nmse


def max_abs(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """The largest |a − b|: NaN if either holds a NaN; infinities are equal to themselves."""
    return summary(a, b).max_abs


def max_ulp(a: Array, b: Array) -> float:
    """The largest distance in units of the last place of two f32 or two f16 arrays.

    NaN on either side gives NaN; an infinity that the other side does not have is infinitely far.
    """
    if a.dtype != b.dtype or a.dtype not in (np.float32, np.float16):
        raise WrongInput(f"max_ulp takes two f32 or two f16 arrays, got {a.dtype} and {b.dtype}")
    return summary(a, b).max_ulp


def _log_softmax(logits: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        top = logits.max(axis=-1, keepdims=True)
        shifted = logits - top
        found: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def kl(logits_p: npt.ArrayLike, logits_q: npt.ArrayLike) -> Array:
    """KL(p ‖ q) in nats at each position, from logits [..., V]; shape [...].

    A token at −inf has probability 0. A position with NaN, +inf, or no token at all on either side is NaN; one where q
    excludes a token of p is infinite.
    """
    _pair(logits_p, logits_q)
    p, q = (_log_softmax(np.asarray(logits, np.float64)) for logits in (logits_p, logits_q))
    bad = np.isnan(p).any(axis=-1) | np.isnan(q).any(axis=-1)
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q))
        total = np.maximum(terms.sum(axis=-1), 0.0)
    found: Array = np.where(bad, math.nan, total)
    return found


def top_k_overlap(logits_p: npt.ArrayLike, logits_q: npt.ArrayLike, k: int) -> Array:
    """Share of p's k likeliest tokens that are among q's, at each position of logits [..., V]; the lower id wins a tie.

    A position with a NaN is NaN.
    """
    _pair(logits_p, logits_q)
    p, q = np.asarray(logits_p, np.float64), np.asarray(logits_q, np.float64)
    if not 1 <= k <= p.shape[-1]:
        raise WrongInput(f"top_k_overlap: k is {k}, expected 1 to {p.shape[-1]}")
    tops = [np.argsort(-logits, axis=-1, kind="stable")[..., :k] for logits in (p, q)]
    shared = (tops[0][..., :, None] == tops[1][..., None, :]).any(axis=-1).sum(axis=-1) / k
    bad = np.isnan(p).any(axis=-1) | np.isnan(q).any(axis=-1)
    found: Array = np.where(bad, math.nan, shared)
    return found


@dataclass(frozen=True)
class Comparison:
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
    cosine: float
    nmse: float
    mse: float
    """Σ(got − want)² / count; this, cosine, nmse, rmse and mean_error are NaN if either side is not finite."""
    rmse: float
    mean_error: float
    """Σ(got − want) / count, signed."""
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


def _checked_limit(name: str, truth: Array, bound: ErrorBound) -> Array | None:
    if bound.limit is None:
        return None
    limit = np.asarray(bound.limit, np.float64)
    if limit.shape != truth.shape:
        raise WrongInput(f"{name}: the limit has shape {list(limit.shape)}, truth {list(truth.shape)}")
    return limit


def judge(case_id: str, arg_name: str, got: Array, truth: Array, bound: ErrorBound) -> Comparison:
    """Hold one output against truth, element by element; never passes on NaN, on a wrong shape or on nothing."""
    name = f"{case_id} {arg_name}"
    if got.shape != truth.shape:
        raise WrongInput(f"{name}: shape {list(got.shape)}, truth has {list(truth.shape)}")
    if got.size == 0:
        raise WrongInput(f"{name}: empty, nothing was computed")
    if got.dtype.kind != truth.dtype.kind:
        raise WrongInput(f"{name}: dtype {got.dtype}, truth has {truth.dtype}")
    limit = _checked_limit(name, truth, bound)
    found = one_pass(got, truth, limit, bits=limit is None)
    if found.negative:
        raise WrongInput(f"{name}: the limit is negative somewhere")
    metrics = _metrics(found, got, truth)
    index = tuple(int(at) for at in np.unravel_index(found.worst, got.shape))
    return Comparison(
        case_id,
        arg_name,
        ok=not found.wrong,
        wrong=found.wrong,
        count=int(got.size),
        worst_index=index,
        got_value=float(got[index]),
        want_value=float(truth[index]),
        error=found.error,
        limit=0.0 if limit is None else float(limit[index]),
        utilisation=found.used,
        nan_count=found.got_nan,
        inf_count=found.got_inf,
        cosine=metrics.cosine,
        nmse=metrics.nmse,
        mse=metrics.mse,
        rmse=metrics.rmse,
        mean_error=metrics.mean_error,
        max_abs=found.max_abs,
        max_rel=found.max_rel,
        max_ulp=found.max_ulp,
        derivation=bound.derivation,
    )
