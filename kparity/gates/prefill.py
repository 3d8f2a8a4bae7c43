"""The gate ``prefill``: prompts in batches against the same tokens step by step."""

from __future__ import annotations

import numpy as np

from kparity.gates.candidate import Candidate, Distance, noise_floor
from kparity.gates.verdict import Gate, Measure


def _prefill_lengths(chunk: int, count: int) -> list[int]:
    """Prompt lengths that end in a padded chunk, at the end of a chunk, one after it, and in a second one."""
    wanted = (chunk // 4 + 1, chunk, chunk + 1, 2 * chunk - 1)
    return sorted({length for length in wanted if 2 <= length < count})


def gate_prefill(candidate: Candidate) -> Gate:
    """Batched prefill against the candidate's own stepwise logits, and one step on the cache that it wrote."""
    engine, tokens = candidate.engine, candidate.reference.tokens
    assert candidate.steps is not None
    got, wanted, names = [], [], []
    for length in _prefill_lengths(engine.chunk, len(tokens)):
        engine.reset()
        got += [engine.prefill(tokens[:length]), engine.step(tokens[length])]
        wanted += [candidate.steps[length - 1], candidate.steps[length]]
        names += [f"after a prefill of {length}", f"one step after a prefill of {length}"]
    far = Distance.between(np.stack(got), np.stack(wanted))
    noise = (1 - far.median) / noise_floor(candidate)
    measures = [
        candidate.measure("prefill_cosine", far.cosine),
        candidate.measure("prefill_noise", noise),
        candidate.measure("prefill_norm", far.norm),
    ]

    def failure(bad: Measure) -> tuple[str, str]:
        reasons = {
            "prefill_cosine": f"cosine of prefill vs stepwise = {far.cosine:.6f} (< {bad.limit:g}) {names[far.low]}",
            "prefill_noise": f"median of 1 - cosine of prefill vs stepwise = {1 - far.median:.3g}: {noise:.1f} times "
            f"the noise of the reference itself (> {bad.limit:g})",
            "prefill_norm": f"norm ratio of prefill vs stepwise is off by {far.norm:.6f} (> {bad.limit:g}) "
            f"{names[far.high]}",
        }
        return "KP-PREFILL", reasons[bad.threshold]

    return candidate.judged("prefill", measures, failure)
