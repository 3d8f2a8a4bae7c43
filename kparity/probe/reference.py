"""The reference that a candidate is compared with: logits for one fixed token sequence, and exact integer truth."""

from __future__ import annotations

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
    """``logits`` [positions, vocab] f32 or fp64 for ``tokens``, by the engine called ``name``.

    ``twin`` are the logits of a second right implementation that rounds in another order (another instruction set, or
    f32 for fp64): what separates the two is the noise of this very model on these very tokens. It is never taken from
    a candidate.
    """

    name: str
    tokens: list[int]
    logits: Array
    twin: Array
    twin_name: str

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


def _numpy_backends() -> list[tuple[str, Backend]]:
    from kparity.backends.numpy import NumpyBackend

    return [("numpy f64", truth_backend()), ("numpy f32", NumpyBackend("f32"))]


def _cpu_backends() -> list[tuple[str, Backend]]:
    """The CPU backend, and again with the next best instruction set (or f32 numpy on a machine that has one only)."""
    from kparity.backends.cpu import CpuBackend, twin_isa
    from kparity.backends.numpy import NumpyBackend

    first = CpuBackend()
    best = twin_isa(first.isa)
    twin: Backend = NumpyBackend("f32") if best is None else CpuBackend(isa=best)
    return [("cpu", first), (f"cpu {best}" if best else "numpy f32", twin)]


def reference_backends(candidate: str) -> list[tuple[str, Backend]]:
    """Who judges a candidate, and that judge's twin: ``cpu``; for ``cpu`` and ``numpy`` themselves fp64 numpy.

    Where ``cpu`` cannot be opened, fp64 numpy takes its place.
    """
    if candidate in ("cpu", "numpy"):
        return _numpy_backends()
    try:
        return _cpu_backends()
    except (Unavailable, ImportError):
        return _numpy_backends()


def _logits(model: Model, backend: Backend, tokens: list[int], act: str, kv: str) -> Array:
    engine = Engine(model, backend, act=act, kv=kv, fused=False)  # not the graph that serves: it is judged, too
    try:
        if backend.name == "numpy":  # a batch: the specification is slow step by step
            return engine.score(tokens, rows=len(tokens))
        return np.stack([engine.step(token) for token in tokens])
    finally:
        engine.close()


def compute(model: Model, candidate: str, tokens: list[int], *, act: str, kv: str) -> Reference:
    """Run the reference engine and its twin over the tokens."""
    (name, backend), (twin_name, twin) = reference_backends(candidate)
    return Reference(
        name, tokens, _logits(model, backend, tokens, act, kv), _logits(model, twin, tokens, act, kv), twin_name
    )


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
