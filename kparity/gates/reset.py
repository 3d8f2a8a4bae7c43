"""The gate ``reset``: nothing outlives a reset, and a step that is right once is right every time."""

from __future__ import annotations

from kparity.gates.candidate import Candidate
from kparity.gates.verdict import Gate
from kparity.gates.walk import prompted

PROMPTS = 5
"""Rounds after which prompts come again: a prefill is dear, and of few rows."""


def gate_reset(candidate: Candidate) -> Gate:
    """Round by round: reset, every token step by step, and in every fifth round every prompt with a step behind it, bit
    for bit what they gave at first. Rounds may have run while the reference was awaited; the last follows all that
    traffic.

    ``reset_compared`` counts the steps, those of the first round included: a fault in any of them is seen, so n of them
    exclude a rate of 3 / n at 95 %. Prompts are too few to say so.
    """
    engine, tokens, first, walk = candidate.engine, candidate.reference.tokens, candidate.steps, candidate.walk
    assert first is not None and walk is not None
    prompts = len(candidate.prompts)
    for number in range(1, candidate.rounds(walk) + 1):
        for length, wanted in candidate.prompts.items() if number % PROMPTS == 1 else ():
            for again, row in zip(prompted(engine, tokens, length), wanted, strict=True):
                walk.hold(again, row, f"after a prefill of {length} in round {number}")
            prompts += 1
        if walk.rounds < number:
            walk.round()
        if walk.wrong:
            break
    rows = len(first) + 2 * len(candidate.prompts) + walk.rows
    values = {"reset_differences": walk.wrong, "reset_compared": rows - prompts}
    reason = f"{walk.wrong} of {walk.rows * first.shape[1]} logits differ after a reset, first {walk.where}"
    return candidate.judged("reset", values, lambda bad: ("KP-RESET", reason))
