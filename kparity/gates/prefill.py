"""The gate ``prefill``: prompts in batches against the same tokens step by step."""

from __future__ import annotations

import numpy as np

from kparity.gates.candidate import Candidate, Distance
from kparity.gates.verdict import Gate
from kparity.gates.walk import prompt_lengths, prompted
from kparity.ops.spec import Array


def gate_prefill(candidate: Candidate) -> Gate:
    """Batched prefill against the candidate's own stepwise logits, and one step on the cache that it wrote."""
    engine, tokens = candidate.engine, candidate.reference.tokens
    assert candidate.steps is not None
    got, wanted, names = list[Array](), list[Array](), list[str]()
    for length in prompt_lengths(engine.chunk, len(tokens)):
        candidate.prompts[length] = prompted(engine, tokens, length)
        got += candidate.prompts[length]
        wanted += [candidate.steps[length - 1], candidate.steps[length]]
        names += [f"after a prefill of {length}", f"one step after a prefill of {length}"]
    far = Distance.between(np.stack(got), np.stack(wanted))
    return candidate.judged(
        "prefill",
        far.values("prefill", candidate),
        lambda bad: ("KP-PREFILL", far.reason(bad, "of prefill vs stepwise", names)),
    )
