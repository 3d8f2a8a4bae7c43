"""The gate ``turns``: a second turn on a filled cache, and neighbours in a batch."""

from __future__ import annotations

import numpy as np

from kparity.engine import Engine
from kparity.gates.candidate import Candidate, Distance
from kparity.gates.reference import SEED
from kparity.gates.verdict import Gate, Measure
from kparity.ops.spec import Array


def _neighboured(engine: Engine, tokens: list[int], length: int) -> Array:
    """One step after a prefill of ``length`` tokens that shared their chunk with others, which are then forgotten."""
    vocab = engine.model.hparams.vocab
    others = np.random.default_rng(SEED).integers(0, vocab, engine.chunk - length % engine.chunk)
    engine.reset()
    engine.prefill([*tokens[:length], *(int(token) for token in others)])
    engine.rewind(length)
    return engine.step(tokens[length])


def _held(engine: Engine, rows: int) -> list[Array]:
    """Bytes of the first keys and values of every layer."""
    backend, found = engine.backend, []
    for buffer in (buffer for pair in engine.cache for buffer in pair):
        view = backend.view(buffer, 0, (rows, *buffer.shape[1:]))
        found.append(backend.download(buffer if view is None else view)[:rows].copy().view(np.uint8))
    return found


def gate_turns(candidate: Candidate) -> Gate:
    """A prompt beside other tokens, then a second turn: a prefill across the boundary of a chunk, and a step. It leaves
    the keys and values that it finds as they are.
    """
    engine, tokens, steps = candidate.engine, candidate.reference.tokens, candidate.steps
    assert steps is not None
    length = engine.chunk // 4 + 1
    beside = _neighboured(engine, tokens, length)
    start, end = length + 1, min(length + 1 + engine.chunk, len(tokens) - 1)
    found = _held(engine, start)
    second = [engine.prefill(tokens[start:end]), engine.step(tokens[end])]
    rewritten = sum(int((then != now).sum()) for then, now in zip(found, _held(engine, start), strict=True))
    far = Distance.between(np.stack([beside, *second]), steps[[length, end - 1, end]])
    names = (
        f"one step after a prefill of {length} beside other tokens",
        f"after a second prefill of {end - start} at position {start}",
        f"one step after a second prefill of {end - start} at position {start}",
    )

    def failure(bad: Measure) -> tuple[str, str]:
        if bad.threshold == "turns_rewritten":
            return "KP-TURNS", f"a second turn changes {rewritten} bytes of the keys and values before it"
        return "KP-TURNS", far.reason(bad, "vs stepwise", names, end=" in a second turn")

    return candidate.judged("turns", {**far.values("turns", candidate), "turns_rewritten": rewritten}, failure)
