"""The gate ``reset``: nothing outlives a reset."""

from __future__ import annotations

import numpy as np

from kparity.gates.candidate import Candidate
from kparity.gates.verdict import Gate


def gate_reset(candidate: Candidate, count: int = 8) -> Gate:
    """After all that traffic: reset, and the first tokens again, bit for bit."""
    engine, tokens = candidate.engine, candidate.reference.tokens
    assert candidate.steps is not None
    engine.reset()
    again = np.stack([engine.step(token) for token in tokens[:count]])
    wrong = again != candidate.steps[:count]  # a NaN differs from itself: it fails closed
    rows = np.flatnonzero(wrong.any(axis=1))
    return candidate.judged(
        "reset",
        {"reset_differences": int(wrong.sum())},
        lambda bad: (
            "KP-RESET",
            f"{int(bad.value)} of {wrong.size} logits differ after a reset, first at position {rows[0]}",
        ),
    )
