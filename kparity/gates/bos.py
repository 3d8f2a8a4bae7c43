"""The gate ``BOS``: one token."""

from __future__ import annotations

from kparity.gates.candidate import Candidate, non_finite
from kparity.gates.verdict import Gate, Measure
from kparity.numerics import compare


def gate_bos(candidate: Candidate) -> Gate:
    """One BOS token on a fresh cache: finite logits whose cosine with the reference reaches the threshold."""
    engine, reference, first = candidate.engine, candidate.reference, candidate.walked().steps
    if first is None:
        engine.reset()
        logits = engine.step(reference.tokens[0])
    else:
        logits = first[0]  # no cache is as fresh as that of the first step
    candidate.steps = logits[None]  # all there is of a probe that ends here
    wrong = non_finite(logits)

    def failure(bad: Measure) -> tuple[str, str]:
        if wrong:
            return "KP-BOS-NONFINITE", f"{wrong} at position 0"
        at = f"at position 0/{len(reference.tokens)}"
        return "KP-BOS-COSINE", f"cosine vs {reference.name} = {bad.value:.6f} (< {bad.limit:g}) {at}"

    return candidate.judged("BOS", {"bos_cosine": compare.cosine(logits, reference.bos)}, failure)
