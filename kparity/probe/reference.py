"""The reference that a candidate is compared with: logits for one fixed token sequence, and exact integer truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

import numpy as np

from kparity.adapter import Backend
from kparity.engine import Engine
from kparity.errors import KparityError, Unavailable
from kparity.model import Model
from kparity.spec import Array

SEED = 20240229
"""Seed of every random input of a probe."""


@dataclass(frozen=True)
class Reference:
    """``logits`` [positions, vocab] f32 or fp64 for ``tokens``, by the engine called ``name``."""

    name: str
    tokens: list[int]
    logits: Array

    @property
    def bos(self) -> Array:
        """Logits after the first token."""
        first: Array = self.logits[0]
        return first


def first_token(model: Model) -> int:
    """The token that begins a sequence: BOS, or id 0 for a model without one."""
    return 0 if model.hparams.bos is None else model.hparams.bos


def probe_tokens(model: Model, count: int) -> list[int]:
    """BOS and then text that the model's own tokenizer encodes; seeded random ids where there is too little of it.

    Text keeps activations where the model was trained; a model whose tokenizer cannot encode it still gets ``count``
    ids.
    """
    vocab = model.hparams.vocab
    try:
        text = resources.files("kparity").joinpath("data/heldout.txt").read_text(encoding="utf-8")[: count * 12]
        ids = [token for token in model.tokenizer.encode(text, bos=False) if 0 <= token < vocab]
    except (KparityError, FileNotFoundError):
        ids = []
    if len(set(ids)) < count // 4:  # an encoder that knows none of the text gives one id over and over
        ids = []
    filler = np.random.default_rng(SEED).integers(0, vocab, count)
    return [first_token(model), *ids, *(int(token) for token in filler)][:count]


def truth_backend() -> Backend:
    """The specification run in fp64."""
    from kparity.backends.numpy import NumpyBackend

    return NumpyBackend("f64")


def reference_backend(candidate: str) -> tuple[str, Callable[[], Backend]]:
    """Who judges a candidate: ``cpu``; the CPU backend itself, and the specification's own, are judged by fp64."""
    if candidate in ("cpu", "numpy"):
        return "numpy f64", truth_backend
    from kparity.registry import open_backend

    return "cpu", lambda: open_backend("cpu")


def compute(model: Model, candidate: str, tokens: list[int], *, act: str, kv: str) -> Reference:
    """Run the reference engine over the tokens. Where ``cpu`` cannot be opened, fp64 numpy takes its place."""
    name, opener = reference_backend(candidate)
    try:
        backend = opener()
    except Unavailable:
        name, backend = "numpy f64", truth_backend()
    engine = Engine(model, backend, act=act, kv=kv)
    try:
        if name == "cpu":
            logits = np.stack([engine.step(token) for token in tokens])
        else:
            logits = engine.score(tokens, rows=len(tokens))
    finally:
        engine.close()
    return Reference(name, tokens, logits)


def exact_activations(k: int, kp: int, rows: int) -> Array:
    """int8 activations [rows, kp] for the exact rung: random rows, one-hot rows at both ends and between, extremes.

    A one-hot row reads one column of the weights: any permutation of the layout shows in it.
    """
    rng = np.random.default_rng([SEED, k, rows])
    q = np.zeros((rows, kp), np.int8)
    q[:, :k] = rng.integers(-128, 128, (rows, k))
    columns = np.unique(np.concatenate([[0, k - 1], rng.integers(0, k, max(0, rows // 2 - 2))]))
    for row, column in enumerate(columns[: rows // 2]):
        q[row] = 0
        q[row, column] = 127 if row % 2 else -128
    if rows >= 8:
        q[-1, :k] = 127
        q[-2, :k] = -128
    return q
