"""How the logits of two engines differ at each position: distances, KL, the top tokens, a histogram of errors.

Logits come in chunks of positions; what is kept of a position is a few numbers, so a run needs the memory of one chunk.
All sums are in fp64, row by row on one thread: the bits of a result depend neither on threads nor on chunks. It fails
closed: a position with a NaN or an infinity on either side keeps its place with values that meet no limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from kparity.errors import WrongInput
from kparity.numerics.aggregates import one_pass
from kparity.numerics.compare import metrics
from kparity.numerics.statistics import quantile
from kparity.ops.spec import Array

TOP = 10
"""Tokens that are ranked at each position."""
BINS_PER_SIGMA = 8
FARTHEST_SIGMA = 8
"""Bins of errors reach so far to either side; what is beyond is counted in one more bin at each end."""
BINS = 2 * BINS_PER_SIGMA * FARTHEST_SIGMA + 3
HALVES = 512
"""Halves of octaves that f32 has, from denormals to NaN."""
_BLOCK = 256
"""Logits of which the largest one is looked at first."""
NOT_FINITE_REFERENCE, NOT_FINITE_CANDIDATE = -2, -1
"""The argmax of a row that is not finite: no token, and not equal to the other side's."""


@dataclass(frozen=True)
class Spread:
    """One measure over the positions. Quantiles are observed values; NaN if a position's value is NaN."""

    least: float
    median: float
    p99: float
    most: float
    mean: float


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What was measured at each position: arrays [n], fp64 where nothing else is said.

    Where a side is not finite, distances are infinite, shares are 0, and cosine, norm ratio, factor, mean error and
    that side's margin are NaN.
    """

    mse: Array
    """Σ(candidate − reference)² / vocab."""
    l2: Array
    """‖candidate − reference‖."""
    max_abs: Array
    mean_abs: Array
    mean_error: Array
    """Σ(candidate − reference) / vocab, signed."""
    cosine: Array
    """0 if exactly one side is zero, 1 if both are."""
    norm_ratio: Array
    """‖candidate‖ / ‖reference‖: 1 if both are zero, infinite if only the reference is."""
    factor: Array
    """The f that makes ‖candidate − f · reference‖ least; NaN if only the reference is zero."""
    kl: Array
    """KL(softmax(reference) ‖ softmax(candidate)) in nats, never negative."""
    top1: Array
    """1 if both sides have the same likeliest token, else 0; the lower id wins a tie."""
    top5: Array
    """Share of the reference's 5 likeliest tokens that are among the candidate's 5."""
    top10: Array
    reference_argmax: Array
    """int64; NOT_FINITE_REFERENCE if the row is not finite."""
    candidate_argmax: Array
    """int64; NOT_FINITE_CANDIDATE if the row is not finite."""
    reference_margin: Array
    """Largest logit less the second largest; infinite if there is one token only."""
    candidate_margin: Array
    reference_gap: Array
    """The reference's largest logit less its logit of the candidate's likeliest token; infinite where either side is
    not finite.
    """
    reference_bad: Array
    """int64: NaNs and infinities of the row."""
    candidate_bad: Array
    """int64: NaNs and infinities of the row."""

    def __len__(self) -> int:
        return len(self.mse)

    @property
    def rmse(self) -> Array:
        """√mse."""
        return np.asarray(np.sqrt(self.mse))

    @property
    def cosine_distance(self) -> Array:
        """1 − cosine; infinite where that is no number."""
        return np.nan_to_num(1.0 - self.cosine, nan=math.inf, posinf=math.inf)

    @property
    def log_norm_ratio(self) -> Array:
        """|ln(norm ratio)|; infinite where that is no number."""
        with np.errstate(divide="ignore"):
            return np.nan_to_num(np.abs(np.log(self.norm_ratio)), nan=math.inf, posinf=math.inf)

    @property
    def sigma(self) -> float:
        """Standard deviation of all errors of all positions; infinite if one is not finite."""
        if not np.isfinite(self.mse).all():
            return math.inf
        return math.sqrt(max(0.0, float(self.mse.mean()) - float(self.mean_error.mean()) ** 2))

    @classmethod
    def joined(cls, parts: Iterable[Rows]) -> Rows:
        """The rows of all chunks in their order; WrongInput if there are none."""
        chunks = list(parts)
        if not chunks:
            raise WrongInput("no logits to compare: nothing was computed")
        return cls(**{f.name: np.concatenate([getattr(chunk, f.name) for chunk in chunks]) for f in fields(cls)})

    def summary(self) -> dict[str, Spread]:
        """Name of a field, or of rmse, cosine_distance and log_norm_ratio -> its spread."""
        names = [f.name for f in fields(self) if not f.name.endswith("argmax")]
        return {name: spread(getattr(self, name)) for name in (*names, "rmse", "cosine_distance", "log_norm_ratio")}


def spread(values: npt.ArrayLike) -> Spread:
    """Least, median, p99, most and mean of at least one value."""
    found = np.asarray(values, np.float64)
    return Spread(
        float(found.min()), quantile(found, 0.5), quantile(found, 0.99), float(found.max()), float(found.mean())
    )


def compare_logits(reference: npt.ArrayLike, candidate: npt.ArrayLike) -> Rows:
    """Measures at each position of two matrices of logits [n, vocab], f32 or f64; WrongInput for other shapes.

    A chunk may be of any length; the time is below a millisecond a position of 128,256 tokens.
    """
    left, right = _pair(reference, candidate)
    work = np.empty((3, left.shape[1]))
    found = [_row(ref, cand, work) for ref, cand in zip(left, right, strict=True)]
    kinds = {f.name: np.int64 if f.name.endswith(("argmax", "bad")) else np.float64 for f in fields(Rows)}
    columns = zip(*found, strict=True)
    return Rows(**{name: np.array(column, kinds[name]) for name, column in zip(kinds, columns, strict=True)})


def error_histogram(reference: npt.ArrayLike, candidate: npt.ArrayLike, sigma: float) -> Array:
    """Counts int64 [BINS] of (candidate − reference) / sigma over logits [n, vocab]; chunks' histograms add up.

    Bins are 1/BINS_PER_SIGMA wide and the middle one is around 0; the outer ones hold all beyond FARTHEST_SIGMA, and
    the last one each NaN too. Any sigma above 0 serves if both histograms that are to be compared have the same.
    """
    if not 0 < sigma < math.inf:
        raise WrongInput(f"errors cannot be counted in units of {sigma}: give a finite standard deviation above 0")
    left, right = _pair(reference, candidate)
    total, edge, steps = np.zeros(BINS, np.int64), BINS // 2, np.empty(left.shape[1])
    for ref, cand in zip(left, right, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            np.subtract(cand, ref, out=steps, dtype=np.float64)
            np.multiply(steps, BINS_PER_SIGMA / sigma, out=steps)
        steps[np.isnan(steps)] = edge
        np.clip(np.rint(steps, out=steps), -edge, edge, out=steps)
        total += np.bincount(np.add(steps, edge, out=steps).astype(np.intp), minlength=BINS)
    return total


def error_map(reference: npt.ArrayLike, candidate: npt.ArrayLike) -> Array:
    """Counts int64 [HALVES, HALVES] of |reference| and |candidate - reference| over logits [n, vocab], in f32, whose
    first bits say the half of an octave; ``half_octave`` gives where one begins. Chunks' maps add up.
    """
    total = np.zeros(HALVES * HALVES, np.int64)
    for ref, cand in zip(*_pair(reference, candidate), strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            both = (np.abs(each).astype(np.float32) for each in (ref, cand - ref))
        size, error = (each.view(np.uint32) >> np.uint32(22) for each in both)
        total += np.bincount(size * np.uint32(HALVES) + error, minlength=HALVES * HALVES)
    return total.reshape(HALVES, HALVES)


def half_octave(at: int) -> float:
    """The smallest f32 of the half of an octave ``at``; 0 for the first, infinite from HALVES - 2 on."""
    return float(np.array([min(at, HALVES - 2) << 22], np.uint32).view(np.float32)[0])


def log_total(logits: Array) -> float:
    """ln Σ exp of finite logits [vocab]."""
    top = float(logits.max())
    return top + math.log(float(np.exp(logits - top, dtype=np.float64).sum()))


def bhattacharyya(a: Array, b: Array) -> float:
    """Bhattacharyya coefficient of two histograms of the same bins: 1 for the same shares, 0 for no bin in common."""
    totals = float(a.sum()), float(b.sum())
    if a.shape != b.shape or 0.0 in totals:
        raise WrongInput("two histograms of the same bins are compared, each with at least one count")
    return min(1.0, float(np.sqrt((a / totals[0]) * (b / totals[1])).sum()))


def sigma_ratio(candidate: Rows, control: Rows) -> float:
    """Standard deviation of the candidate's errors ÷ the control's: 1 if both are 0, infinite if only the control's is
    0 or either is not finite.
    """
    above, below = candidate.sigma, control.sigma
    if above == below == 0.0:
        return 1.0
    return above / below if below > 0.0 and math.isfinite(above + below) else math.inf


def _pair(reference: npt.ArrayLike, candidate: npt.ArrayLike) -> tuple[Array, Array]:
    """Both matrices in C order as f32 or f64."""
    left, right = (
        np.ascontiguousarray(one, None if one.dtype in (np.float32, np.float64) else np.float64)
        for one in (np.asarray(reference), np.asarray(candidate))
    )
    if left.ndim != 2 or left.shape != right.shape:
        raise WrongInput(
            f"logits [n, vocab] of one shape are compared; the reference has {list(left.shape)}, "
            f"the candidate {list(right.shape)}"
        )
    if left.size == 0:
        raise WrongInput(f"logits of shape {list(left.shape)} are empty: nothing was computed")
    return left, right


def _row(reference: Array, candidate: Array, work: Array) -> tuple[float, ...]:
    """The values of one position, in the order of the fields of ``Rows``; overwrites work [3, vocab] (fp64)."""
    sums = one_pass(candidate, reference)
    bad = sums.truth_nan + sums.truth_inf, sums.got_nan + sums.got_inf
    ranks = [None if lost else top_tokens(logits) for logits, lost in zip((reference, candidate), bad, strict=True)]
    tokens = (
        NOT_FINITE_REFERENCE if ranks[0] is None else int(ranks[0][0]),
        NOT_FINITE_CANDIDATE if ranks[1] is None else int(ranks[1][0]),
        _margin(reference, ranks[0]),
        _margin(candidate, ranks[1]),
    )
    if ranks[0] is None or ranks[1] is None:
        return *[math.inf] * 4, *[math.nan] * 4, math.inf, 0.0, 0.0, 0.0, *tokens, math.inf, *bad
    gap = float(reference[ranks[0][0]]) - float(reference[ranks[1][0]])
    found = metrics(sums, candidate, reference)
    mean_abs, divergence = _whole_row(reference, candidate, work)
    overlaps = (_overlap(ranks[0], ranks[1], k) for k in (1, 5, TOP))
    return (
        found.mse, found.rmse * math.sqrt(reference.size), sums.max_abs, mean_abs, found.mean_error,
        found.cosine, found.norm_ratio, found.cosine * found.norm_ratio, divergence, *overlaps, *tokens, gap, *bad,
    )  # fmt: skip


def _whole_row(reference: Array, candidate: Array, work: Array) -> tuple[float, float]:
    """Mean |error|, and KL in nats: the mean of −error under the reference's softmax, and the logs of both sums.

    Rounding leaves about 1e-16 of the largest logit in it. Infinite where an error is beyond fp64. In place, since
    fresh memory of this size costs more than all that is computed.
    """
    weights, error, more = work
    with np.errstate(over="ignore", invalid="ignore"):
        np.subtract(candidate, reference, out=error, dtype=np.float64)
        mean_abs = float(np.abs(error, out=more).mean())
        tops = float(reference.max()), float(candidate.max())
        np.exp(np.subtract(reference, tops[0], out=weights, dtype=np.float64), out=weights)
        np.exp(np.subtract(candidate, tops[1], out=more, dtype=np.float64), out=more)
        total = float(weights.sum())
        normal = (tops[1] - tops[0]) + math.log(float(more.sum()) / total)
        divergence = normal - float(np.multiply(weights, error, out=more).sum()) / total
    return mean_abs, max(0.0, divergence) if math.isfinite(divergence) else math.inf


def top_tokens(logits: Array) -> Array:
    """Ids int64 of the TOP largest of finite logits [vocab], or of all if there are fewer; the lower id wins a tie."""
    ids = np.arange(logits.size)
    whole = logits.size // _BLOCK * _BLOCK
    if whole >= TOP * _BLOCK:
        # As many blocks reach this value, so no smaller logit is among the largest.
        least = np.partition(logits[:whole].reshape(-1, _BLOCK).max(axis=1), -TOP)[-TOP]
        ids = np.flatnonzero(logits >= least)
    return np.asarray(ids[np.argsort(-logits[ids], kind="stable")[:TOP]])


def _margin(logits: Array, ranks: Array | None) -> float:
    if ranks is None:
        return math.nan
    return float(logits[ranks[0]]) - float(logits[ranks[1]]) if len(ranks) > 1 else math.inf


def _overlap(a: Array, b: Array, k: int) -> float:
    """Share of the first k of a, or of all if there are fewer, that are among the first k of b."""
    return len(set(a[:k].tolist()) & set(b[:k].tolist())) / min(k, len(a))
