"""How two results are compared: the per-element bound decides, the aggregates are diagnostics.

Everything is computed in fp64 and fails closed: a NaN that truth does not have is an error without limit, a metric
over NaN is NaN (and a NaN meets no threshold), arrays of different lengths and empty arrays are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kparity.errors import WrongInput
from kparity.spec import Array, Bound


def _pair(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Array, Array]:
    """Both arrays flat in fp64; refuses what cannot be compared."""
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if left.shape != right.shape:
        raise WrongInput(f"cannot compare arrays of shapes {list(left.shape)} and {list(right.shape)}")
    if left.size == 0:
        raise WrongInput("cannot compare empty arrays: nothing was computed")
    return left.ravel(), right.ravel()


def _norm(a: Array) -> float:
    """Euclidean norm without overflow."""
    top = float(np.abs(a).max())
    return top * float(np.sqrt(np.square(a / top).sum())) if top else 0.0


def cosine(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Cosine of the angle between two vectors: 0 if exactly one of them is zero, 1 if both are.

    NaN if either holds a NaN or an infinity. It cannot see a constant factor; use ``norm_ratio`` beside it.
    """
    left, right = _pair(a, b)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return math.nan
    tops = float(np.abs(left).max()), float(np.abs(right).max())
    if 0.0 in tops:
        return 1.0 if tops == (0.0, 0.0) else 0.0
    left, right = left / tops[0], right / tops[1]
    found = float(left @ right) / math.sqrt(float(left @ left) * float(right @ right))
    return min(1.0, max(-1.0, found))


def norm_ratio(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """‖a‖ / ‖b‖: NaN if either is not finite, 1 if both are zero, infinite if only b is."""
    left, right = _pair(a, b)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return math.nan
    above, below = _norm(left), _norm(right)
    if below == 0.0:
        return 1.0 if above == 0.0 else math.inf
    return above / below


def nmse(a: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Σ(a − truth)² / Σtruth²: NaN if either is not finite, 0 if both are zero, infinite if only truth is."""
    left, right = _pair(a, truth)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return math.nan
    error, reach = _norm(left - right), _norm(right)
    if reach == 0.0:
        return 0.0 if error == 0.0 else math.inf
    return (error / reach) ** 2


def max_abs(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """The largest |a − b|: NaN if either holds a NaN; infinities are equal to themselves."""
    left, right = _pair(a, b)
    with np.errstate(invalid="ignore"):
        error = np.where(left == right, 0.0, np.abs(left - right))
    return float(error.max())


def max_ulp(a: Array, b: Array) -> float:
    """The largest distance in units of the last place of two f32 or two f16 arrays.

    NaN on either side gives NaN; an infinity that the other side does not have is infinitely far.
    """
    if a.dtype != b.dtype or a.dtype not in (np.float32, np.float16):
        raise WrongInput(f"max_ulp takes two f32 or two f16 arrays, got {a.dtype} and {b.dtype}")
    _pair(a, b)
    if np.isnan(a).any() or np.isnan(b).any():
        return math.nan
    if not np.array_equal(np.where(np.isinf(a), np.sign(a), 0), np.where(np.isinf(b), np.sign(b), 0)):
        return math.inf
    return float(np.abs(_ordered(a) - _ordered(b)).max())


def _ordered(a: Array) -> Array:
    """The bits of floats as integers in the order of their values; both zeros are 0."""
    bits = np.ascontiguousarray(a).view(np.int32 if a.dtype == np.float32 else np.int16).astype(np.int64)
    smallest = -(1 << 31) if a.dtype == np.float32 else -(1 << 15)
    found: Array = np.where(bits < 0, smallest - bits, bits)
    return found


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
class Finding:
    """What ``judge`` found about one output of one case."""

    case_id: str
    arg_name: str
    ok: bool
    wrong: int
    """Elements outside their limit."""
    count: int
    worst_index: tuple[int, ...]
    got_value: float
    want_value: float
    error: float
    """|got − want| of the worst element; infinite where a NaN or an infinity does not match."""
    limit: float
    utilisation: float
    """The largest error ÷ limit: above 1 is a failure, far below 1 everywhere is a loose bound."""
    nan_count: int
    """NaNs in the result, wanted or not."""
    cosine: float
    nmse: float
    derivation: str

    def __str__(self) -> str:
        at = ",".join(map(str, self.worst_index))
        return (
            f"{self.case_id} {self.arg_name}: {self.wrong} of {self.count} elements outside their bound, worst [{at}]: "
            f"got {self.got_value!r}, want {self.want_value!r}, error {self.error:.3g}, limit {self.limit:.3g} "
            f"({self.derivation}); {self.nan_count} NaN, cosine {self.cosine:.9f}, nmse {self.nmse:.3g}"
        )


def _errors(got: Array, truth: Array, limit: Array) -> Array:
    """|got − truth| element by element; NaN equals NaN only, an infinity itself only."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(got.astype(np.float64) - truth)
        # f32 and f16 overflow where fp64 does not: an infinity is right if truth or its neighbourhood is out of range.
        edge = (np.abs(truth) + limit).astype(got.dtype) if got.dtype.kind == "f" else truth
        overflow = np.isinf(got) & np.isinf(edge) & (np.sign(got) == np.sign(truth))
    error[(got == truth) | overflow] = 0.0
    got_nan, want_nan = np.isnan(got), np.isnan(truth)
    error[got_nan & want_nan] = 0.0
    error[got_nan ^ want_nan] = np.inf
    error[np.isnan(error)] = np.inf
    return error


def _bits_differ(got: Array, truth: Array) -> Array:
    """Where the bits of ``got`` are not those of truth in its dtype; any NaN is as good as another."""
    if got.dtype.kind != "f":
        unequal: Array = got.astype(np.int64) != truth.astype(np.int64)
        return unequal
    with np.errstate(over="ignore"):
        want = truth.astype(got.dtype)
    kind = {2: np.uint16, 4: np.uint32, 8: np.uint64}[got.dtype.itemsize]
    differ = np.ascontiguousarray(got).view(kind) != np.ascontiguousarray(want).view(kind)
    found: Array = differ & ~(np.isnan(got) & np.isnan(want))
    return found


def judge(case_id: str, arg_name: str, got: Array, truth: Array, bound: Bound) -> Finding:
    """Hold one output against fp64 truth, element by element; never passes on NaN, on a wrong shape or on nothing."""
    if got.shape != truth.shape:
        raise WrongInput(f"{case_id} {arg_name}: shape {list(got.shape)}, truth has {list(truth.shape)}")
    if got.size == 0:
        raise WrongInput(f"{case_id} {arg_name}: empty, nothing was computed")
    if got.dtype.kind != truth.dtype.kind:
        raise WrongInput(f"{case_id} {arg_name}: dtype {got.dtype}, truth has {truth.dtype}")
    if bound.limit is None:
        limit = np.zeros(got.shape)
    else:
        limit = np.asarray(bound.limit, np.float64)
        if limit.shape != truth.shape:
            raise WrongInput(
                f"{case_id} {arg_name}: the limit has shape {list(limit.shape)}, truth {list(truth.shape)}"
            )
        if (limit < 0).any():
            raise WrongInput(f"{case_id} {arg_name}: the limit is negative somewhere")
    want = truth.astype(np.float64)
    error = _errors(got, want, limit)
    if bound.limit is None:
        wrong = _bits_differ(got, truth)
        used = np.where(wrong, np.inf, 0.0)
        error = np.where(wrong, error, 0.0)
    else:
        # A limit of NaN admits equality alone, and no limit admits an infinite error.
        wrong = (~(error <= limit) | np.isinf(error)) & (error != 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            used = np.where(error == 0.0, 0.0, error / limit)
        used[np.isnan(used) | np.isinf(error)] = np.inf
    worst = int(np.lexsort((error.ravel(), used.ravel()))[-1])
    index = tuple(int(at) for at in np.unravel_index(worst, got.shape))
    return Finding(
        case_id,
        arg_name,
        ok=not wrong.any(),
        wrong=int(wrong.sum()),
        count=int(got.size),
        worst_index=index,
        got_value=float(got[index]),
        want_value=float(want[index]),
        error=float(error[index]),
        limit=float(limit[index]),
        utilisation=float(used[index]),
        nan_count=int(np.isnan(got).sum()),
        cosine=cosine(got, want),
        nmse=nmse(got, want),
        derivation=bound.derivation,
    )
