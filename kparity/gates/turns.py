"""The gate ``turns``: a second turn on a filled cache, and neighbours in a batch."""

from __future__ import annotations

import numpy as np

from kparity.engine import Engine
from kparity.gates.candidate import Candidate, Distance
from kparity.gates.reference import SEED
from kparity.gates.verdict import Gate
from kparity.ops.spec import Array


def _neighboured(engine: Engine, tokens: list[int], length: int) -> Array:
    """One step after a prefill of ``length`` tokens that shared their chunk with others, which are then forgotten."""
    vocab = engine.model.hparams.vocab
    others = np.random.default_rng(SEED).integers(0, vocab, engine.chunk - length % engine.chunk)
    engine.reset()
    engine.prefill([*tokens[:length], *(int(token) for token in others)])
    engine.rewind(length)
    return engine.step(tokens[length])


def gate_turns(candidate: Candidate) -> Gate:
    """A prompt beside other tokens, then a second turn: a prefill across the boundary of a chunk, and a step."""
    engine, tokens, steps = candidate.engine, candidate.reference.tokens, candidate.steps
    assert steps is not None
    length = engine.chunk // 4 + 1
    beside = _neighboured(engine, tokens, length)
    start, end = length + 1, min(length + 1 + engine.chunk, len(tokens) - 1)
    second = [engine.prefill(tokens[start:end]), engine.step(tokens[end])]
    far = Distance.between(np.stack([beside, *second]), steps[[length, end - 1, end]])
    names = (
        f"one step after a prefill of {length} beside other tokens",
        f"after a second prefill of {end - start} at position {start}",
        f"one step after a second prefill of {end - start} at position {start}",
    )
    return candidate.judged(
        "turns",
        far.values("turns", candidate),
        lambda bad: ("KP-TURNS", far.reason(bad, "vs stepwise", names, end=" in a second turn")),
    )
