"""The gate ``positions``: every step of a text against the reference."""

from __future__ import annotations

from kparity.gates.candidate import Candidate, Distance, non_finite
from kparity.gates.verdict import Gate, Measure


def gate_positions(candidate: Candidate) -> Gate:
    """Teacher-forced decode, step by step: cosine and norm ratio at every position."""
    reference = candidate.reference
    count = len(reference.tokens)
    walk = candidate.walked()
    if walk.steps is None:
        walk.round()
    assert walk.steps is not None
    steps = candidate.steps = walk.steps
    candidate.best = walk.best
    far = Distance.between(steps, reference.logits)
    values = {**far.values("positions", candidate), "positions_factor": far.factor, "positions_min": count}

    def failure(bad: Measure) -> tuple[str, str]:
        wrong, versus = non_finite(steps), f"vs {reference.name}"
        if wrong:
            return "KP-POS-NONFINITE", f"{wrong} over {count} positions"
        if bad.threshold == "positions_min":
            return "KP-UNSUPPORTED", f"{count} positions were probed, the contract asks for {bad.limit:g}"
        if bad.threshold == "positions_factor":
            off = f"median norm ratio is off by {far.factor:.6f} (> {bad.limit:g})"
            return "KP-POS-NORM", f"logits {versus} carry a factor: {off}"
        places = [f"at position {at}/{count}" for at in range(count)]
        code = "KP-POS-NORM" if bad.threshold == "positions_norm" else "KP-POS-COSINE"
        return code, far.reason(bad, versus, places, f" over {count} positions")

    return candidate.judged("positions", values, failure)
