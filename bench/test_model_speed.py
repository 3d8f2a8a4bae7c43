"""The embedded model from tokens to logits: prefill of a prompt, and decode steps behind it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from kparity import contracts
from kparity.device.adapter import Backend
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.model import Model, load_model
from kparity.numerics.compare import cosine
from kparity.ops.spec import Array

STEPS = 8
"""Decode steps in a round."""
LONGEST = 136


@lru_cache(maxsize=1)
def model() -> Model:
    return load_model()


@lru_cache(maxsize=1)
def tokens() -> tuple[int, ...]:
    """A seeded text after BOS."""
    h = model().hparams
    drawn = np.random.default_rng(5).integers(0, h.vocab, LONGEST - 1)
    return (h.bos or 0, *(int(token) for token in drawn))


@lru_cache(maxsize=1)
def truth() -> Array:
    """Logits [LONGEST, vocab] of the reference backend."""
    engine = Engine(model(), open_backend("numpy"), context=LONGEST)
    return engine.score(tokens())


@pytest.fixture
def engine(kparity_backend: Backend) -> Engine:
    """Not closed: that would close the backend, which other tests use."""
    return Engine(model(), kparity_backend, context=LONGEST)


def wrong(logits: Array, position: int) -> str | None:
    """None, or how far the logits are from the reference's, by the probe's contract."""
    limit = contracts.load(contracts.PROBE).threshold("positions_cosine")
    found = cosine(logits, truth()[position])
    return None if limit.holds(found) else f"cosine with the reference is {found:.6f} at position {position}"


@pytest.mark.parametrize("length", [32, 128])
def test_prefill(benchmark: Any, engine: Engine, note: Any, length: int) -> None:
    def prompt() -> Array:
        engine.reset()
        return engine.prefill(tokens()[:length])

    logits = benchmark(prompt)
    note(wrong(logits, length - 1), f"prefill {length}", tokens=length, model=model().sha256)


@pytest.mark.parametrize("depth", [0, 128])
def test_decode(benchmark: Any, engine: Engine, note: Any, depth: int) -> None:
    engine.reset()
    if depth:
        engine.prefill(tokens()[:depth])

    def steps() -> Array:
        engine.rewind(depth)
        return [engine.step(token) for token in tokens()[depth : depth + STEPS]][-1]

    logits = benchmark(steps)
    note(wrong(logits, depth + STEPS - 1), f"decode behind {depth}, {STEPS} steps", tokens=STEPS, model=model().sha256)
