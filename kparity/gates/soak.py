"""The gate ``soak``: two engines on one device, for as long as it is told, bit for bit what one gave alone at first."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from kparity.engine import Engine
from kparity.gates.candidate import Candidate
from kparity.gates.reference import SEED
from kparity.gates.verdict import Gate, Measure
from kparity.ops.spec import Array

STEPS = 8
"""Steps behind every prompt."""


def _walk(engine: Engine, tokens: list[int], length: int) -> Iterator[Array]:
    """Logits after a prompt on an empty cache, and after each of the steps behind it."""
    engine.reset()
    yield engine.prefill(tokens[:length])
    for token in tokens[length : length + STEPS]:
        yield engine.step(token)


def gate_soak(candidate: Candidate) -> Gate:
    """Prompts short and long with steps behind them, again and again: one engine alone, two in turn (started both
    before either is read), and the launches of both woven into one recording. It ends at the first difference.
    """
    engine, tokens = candidate.engine, candidate.reference.tokens
    other, rng, ends = engine.beside(), np.random.default_rng(SEED), time.monotonic() + candidate.soak
    most = len(tokens) - STEPS
    lengths = sorted({min(most, each) for each in (1, engine.chunk // 4 + 1, engine.chunk + 1, most)})
    first = {length: np.stack([*_walk(engine, tokens, length)]) for length in lengths}
    woven = engine.woven(other)
    wrong, rows, where = 0, 0, ""
    while not wrong and time.monotonic() < ends:
        pair = (engine, other) if rng.random() < 0.5 else (other, engine)
        chosen = [int(each) for each in rng.choice(lengths, 2)]
        way = ("alone", "in turn", "woven")[int(rng.integers(3))]
        if way == "alone":
            got = [np.stack([*_walk(pair[0], tokens, chosen[0])])]
        else:
            found = [(*(next(_walk(each, tokens, length)) for each, length in zip(pair, chosen, strict=True)),)]
            for at in range(STEPS):
                ids = [tokens[length + at] for length in chosen]
                if way == "woven" and pair[0] is other:
                    found.append(tuple(reversed(engine.step_beside(other, ids[1], ids[0], woven))))
                else:
                    found.append(pair[0].step_beside(pair[1], ids[0], ids[1], woven if way == "woven" else None))
            got = [np.stack(each) for each in zip(*found, strict=True)]
        for length, each in zip(chosen, got, strict=False):
            differs = each != first[length]  # a NaN differs from itself: it fails closed
            wrong, rows = wrong + int(differs.sum()), rows + len(each)
            steps = np.flatnonzero(differs.any(axis=1))
            where = where or (f"{steps[0]} steps behind a prompt of {length}, {way}" if len(steps) else "")

    def failure(bad: Measure) -> tuple[str, str]:
        if bad.threshold == "soak_compared":
            return (
                "KP-UNSUPPORTED",
                f"{rows} rows in {candidate.soak:g} s, the contract asks for {bad.limit:g}; soak longer",
            )
        return "KP-SOAK", f"{wrong} logits differ from those of an engine alone after {rows} rows, first {where}"

    return candidate.judged("soak", {"soak_differences": wrong, "soak_compared": rows}, failure)
