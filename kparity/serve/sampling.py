"""The next token of a row of logits, and the log-probabilities that are told of it."""

from __future__ import annotations

import numpy as np

from kparity.ops.spec import Array
from kparity.serve.messages import Told


def logprobs(logits: Array) -> Array:
    """log softmax in f64 of f32 logits [vocab]: what the model says, before any temperature."""
    z = logits.astype(np.float64)
    z -= z.max()
    return np.asarray(z - np.log(np.exp(z).sum()))


def told(row: Array, token: int, top: int) -> Told:
    """Of log-probabilities [vocab]: that of a token, and the ``top`` largest, ties by id."""
    top = min(top, len(row))
    if top <= 0:
        return Told(float(row[token]))
    if top == 1:
        best = int(row.argmax())
        return Told(float(row[token]), (best,), (float(row[best]),))
    least = np.partition(row, -top)[-top]
    some = np.flatnonzero(row >= least)
    some = some[np.argsort(-row[some], kind="stable")][:top]
    return Told(float(row[token]), tuple(some.tolist()), tuple(row[some].tolist()))


def drawn(logits: Array, temperature: float, top_p: float, rng: np.random.Generator) -> int:
    """A token by the softmax of logits / temperature, of the fewest likeliest ones that have ``top_p`` together
    (nucleus sampling, arXiv 1904.09751); ties by id, one number of ``rng`` a token.
    """
    z = (logits.astype(np.float64) - logits.max()) / temperature
    p = np.exp(z)
    if top_p >= 1:
        order, rising = None, np.cumsum(p)
    else:
        order = np.argsort(-p, kind="stable")
        rising = np.cumsum(p[order])
        rising = rising[: int(np.searchsorted(rising, top_p * rising[-1])) + 1]
    at = min(int(np.searchsorted(rising, rng.random() * rising[-1], side="right")), len(rising) - 1)
    return at if order is None else int(order[at])
