"""The gate ``BOS``: one token."""

from __future__ import annotations

from kparity.gates.candidate import Candidate, non_finite
from kparity.gates.verdict import Gate
from kparity.numerics import compare


def gate_bos(candidate: Candidate) -> Gate:
    """One BOS token on a fresh cache: finite logits whose cosine with the reference reaches the threshold."""
    engine, reference = candidate.engine, candidate.reference
    engine.reset()
    logits = engine.step(reference.tokens[0])
    wrong = non_finite(logits)
    if wrong:
        return Gate(
            "BOS", "FAIL", [candidate.measure("bos_cosine", float("nan"))], "KP-BOS-NONFINITE", f"{wrong} at position 0"
        )
    measure = candidate.measure("bos_cosine", compare.cosine(logits, reference.bos))
    return candidate.judged(
        "BOS",
        [measure],
        lambda bad: (
            "KP-BOS-COSINE",
            f"cosine vs {reference.name} = {bad.value:.6f} (< {bad.limit:g}) at position 0/{len(reference.tokens)}",
        ),
    )
