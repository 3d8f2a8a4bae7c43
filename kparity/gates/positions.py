"""The gate ``positions``: every step of a text against the reference."""

from __future__ import annotations

import numpy as np

from kparity.gates.candidate import Candidate, Distance, noise_floor, non_finite
from kparity.gates.verdict import Gate, Measure


def gate_positions(candidate: Candidate) -> Gate:
    """Teacher-forced decode, step by step: cosine and norm ratio at every position."""
    engine, reference = candidate.engine, candidate.reference
    count = len(reference.tokens)
    engine.reset()
    found = [(engine.step(token), engine.best()) for token in reference.tokens]
    steps = candidate.steps = np.stack([logits for logits, _ in found])
    candidate.best = [best for _, best in found]
    far = Distance.between(steps, reference.logits)
    floor = noise_floor(candidate)
    noise = (1 - far.median) / floor
    measures = [
        candidate.measure("positions_cosine", far.cosine),
        candidate.measure("positions_noise", noise),
        candidate.measure("positions_factor", far.factor),
        candidate.measure("positions_norm", far.norm),
        candidate.measure("positions_min", count),
    ]

    def failure(bad: Measure) -> tuple[str, str]:
        wrong = non_finite(steps)
        if wrong:
            return "KP-POS-NONFINITE", f"{wrong} over {count} positions"
        versus, limit = f"vs {reference.name}", f"{bad.limit:g}"
        reasons = {
            "positions_min": ("KP-UNSUPPORTED", f"{count} positions were probed, the contract asks for {limit}"),
            "positions_cosine": (
                "KP-POS-COSINE",
                f"cosine {versus} = {far.cosine:.6f} (< {limit}) at position {far.low}/{count}",
            ),
            "positions_noise": (
                "KP-POS-COSINE",
                f"median of 1 - cosine {versus} over {count} positions = {1 - far.median:.3g}: "
                f"{noise:.1f} times the noise of the reference itself (> {limit})",
            ),
            "positions_factor": (
                "KP-POS-NORM",
                f"logits {versus} carry a factor: median norm ratio is off by {far.factor:.6f} (> {limit})",
            ),
            "positions_norm": (
                "KP-POS-NORM",
                f"norm ratio {versus} is off by {far.norm:.6f} (> {limit}) at position {far.high}/{count}",
            ),
        }
        return reasons[bad.threshold]

    return candidate.judged("positions", measures, failure)
