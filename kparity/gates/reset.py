"""The gate ``reset``: nothing outlives a reset, and a step that is right once is right every time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kparity.gates.candidate import Candidate
from kparity.gates.prefill import prompted
from kparity.gates.verdict import Gate, Measure
from kparity.ops.spec import Array


def gate_reset(candidate: Candidate) -> Gate:
    """After all that traffic, round by round: reset, every token step by step, and in every third round every prompt
    with a step behind it, bit for bit what they gave at first.

    ``reset_compared`` counts the rows of logits, those of the first round included: a fault in any of them is seen, so
    n of them exclude a rate of 3 / n at 95 %.
    """
    engine, tokens, first = candidate.engine, candidate.reference.tokens, candidate.steps
    assert first is not None
    wrong, rows, where = 0, 0, ""

    def compare(again: Array, wanted: Array, names: Sequence[str]) -> None:
        nonlocal wrong, rows, where
        differs = again != wanted  # a NaN differs from itself: it fails closed
        rows += len(again)
        wrong += int(differs.sum())
        where = where or next((names[int(at)] for at in np.flatnonzero(differs.any(axis=1))), "")

    for number in range(1, candidate.repeat + 1):
        engine.reset()
        again = np.stack([engine.step(token) for token in tokens])
        compare(again, first, [f"at position {at} in round {number}" for at in range(len(tokens))])
        if candidate.prompts and number % 3 == 1:  # a prefill is dear, and of few rows
            lengths = list(candidate.prompts)
            again = np.stack([row for length in lengths for row in prompted(engine, tokens, length)])
            wanted = np.stack([row for length in lengths for row in candidate.prompts[length]])
            compare(
                again, wanted, [f"after a prefill of {length} in round {number}" for length in lengths for _ in "ab"]
            )
        if wrong:
            break
    compared = len(first) + 2 * len(candidate.prompts) + rows

    def failure(bad: Measure) -> tuple[str, str]:
        if bad.threshold == "reset_compared":
            return "KP-UNSUPPORTED", f"{compared} rows of logits were compared, the contract asks for {bad.limit:g}"
        return "KP-RESET", f"{wrong} of {rows * first.shape[1]} logits differ after a reset, first {where}"

    return candidate.judged("reset", {"reset_differences": wrong, "reset_compared": compared}, failure)
