"""The gate ``replay``: the recording that serves against its launches one by one."""

from __future__ import annotations

import numpy as np

from kparity.gates.candidate import Candidate
from kparity.gates.verdict import Gate


def gate_replay(candidate: Candidate, count: int = 2) -> Gate:
    """What was recorded (a graph, an encoder, a queue) against the same launches one by one with a wait after each.

    A launch that a recording lost, or two that overlap, differ from it; both run the same kernels on the same buffers.
    """
    engine, tokens = candidate.engine, candidate.reference.tokens
    assert candidate.steps is not None
    engine.reset()
    eager = [engine.step(token, eager=True) for token in tokens[:count]]
    recorded = [*candidate.steps[:count]]
    length = min(engine.chunk, len(tokens))
    engine.reset()
    eager.append(engine.prefill(tokens[:length], eager=True))
    if length in candidate.prompts:
        recorded.append(candidate.prompts[length][0])
    else:
        engine.reset()
        recorded.append(engine.prefill(tokens[:length]))
    wrong = np.stack(eager) != np.stack(recorded)
    names = [*(f"at position {at}" for at in range(count)), f"after a prefill of {length}"]
    rows = np.flatnonzero(wrong.any(axis=1))
    return candidate.judged(
        "replay",
        {"replay_differences": int(wrong.sum())},
        lambda bad: (
            "KP-REPLAY",
            f"{int(bad.value)} of {wrong.size} logits differ between the recording and its launches one by one, "
            f"first {names[rows[0]]}",
        ),
    )
