"""Perplexity: exp of the mean negative log-likelihood of a text's tokens, in windows; and of two that read the same.

Every window of ``window`` positions begins ``stride`` tokens behind the one before it, on an empty cache. A token is
scored once, in the first window that has it; the first of all has nothing before it and is not scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kparity.errors import WrongInput

BLOCK, RESAMPLES = 16, 10_000
"""Tokens that are resampled together, because neighbours depend on each other; samples."""


def windows(count: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Begin and end of each window over ``count`` tokens, and the first token that is scored in it. Raises WrongInput
    for a stride that would leave tokens out.
    """
    if not 0 < stride < window:
        raise WrongInput(f"stride {stride} does not lie between 0 and the window of {window} positions")
    scored, begin = 1, 0
    while scored < count:
        end = min(begin + window, count)
        yield begin, end, scored
        scored, begin = end, begin + stride


def perplexity(nll: npt.ArrayLike) -> float:
    """exp(mean) of negative log-likelihoods in nats, infinite where that is beyond every float."""
    mean = float(np.mean(np.asarray(nll, np.float64)))
    return math.exp(mean) if mean < 700 else math.inf if mean == mean else math.nan


def difference(before: npt.ArrayLike, after: npt.ArrayLike, seed: int = 0) -> tuple[float, float, float]:
    """Perplexity of ``after`` minus that of ``before``, with the 95 % interval of a paired bootstrap: the same blocks
    of ``BLOCK`` neighbouring tokens are drawn from both; infinite where a likelihood is not finite. Raises WrongInput
    where these are not the same tokens.
    """
    pair = np.stack([np.asarray(side, np.float64).ravel() for side in _same(before, after)])  # [2, tokens]
    n, delta = pair.shape[1], perplexity(pair[1]) - perplexity(pair[0])
    if not np.isfinite(pair).all():
        return delta, -math.inf, math.inf
    starts = np.arange(0, n, BLOCK)
    sums, sizes = np.add.reduceat(pair, starts, axis=1), np.diff([*starts, n])
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(starts), size=(RESAMPLES, len(starts)))
    means = sums[:, drawn].sum(axis=2) / sizes[drawn].sum(axis=1)  # [2, samples]
    with np.errstate(over="ignore"):
        found = np.exp(np.minimum(means[1], 700)) - np.exp(np.minimum(means[0], 700))
    low, high = np.quantile(found, [0.025, 0.975])
    return delta, float(low), float(high)


def _same(before: npt.ArrayLike, after: npt.ArrayLike) -> tuple[npt.ArrayLike, npt.ArrayLike]:
    sizes = np.size(before), np.size(after)
    if sizes[0] != sizes[1] or not sizes[0]:
        raise WrongInput(f"{sizes[0]} and {sizes[1]} tokens were scored: perplexities are compared on the same tokens")
    return before, after
