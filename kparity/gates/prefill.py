"""The gate ``prefill``: prompts in batches against the same tokens step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kparity.engine import Engine
from kparity.gates.candidate import Candidate, Distance
from kparity.gates.verdict import Gate
from kparity.ops.spec import Array


def _prefill_lengths(chunk: int, count: int) -> list[int]:
    """Prompt lengths that end in a padded chunk, at the end of a chunk, one after it, and in a second one."""
    wanted = (chunk // 4 + 1, chunk, chunk + 1, 2 * chunk - 1)
    return sorted({length for length in wanted if 2 <= length < count})


def prompted(engine: Engine, tokens: Sequence[int], length: int) -> tuple[Array, Array]:
    """Logits after a prefill of ``length`` tokens on an empty cache, and after one step on what it wrote."""
    engine.reset()
    return engine.prefill(tokens[:length]), engine.step(tokens[length])


def gate_prefill(candidate: Candidate) -> Gate:
    """Batched prefill against the candidate's own stepwise logits, and one step on the cache that it wrote."""
    engine, tokens = candidate.engine, candidate.reference.tokens
    assert candidate.steps is not None
    got, wanted, names = list[Array](), list[Array](), list[str]()
    for length in _prefill_lengths(engine.chunk, len(tokens)):
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
