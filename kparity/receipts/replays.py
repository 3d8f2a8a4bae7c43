"""The recorded programs that a run replays, as a receipt counts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REPLAYS = {
    "steps": "launches_per_step",
    "prefill_chunks": "launches_per_chunk",
    "headless_steps": "launches_per_headless_step",
    "headless_chunks": "launches_per_headless_chunk",
}
"""Field of ``graph`` that says how often a program ran → field of ``graph`` and of each kernel with its launches.

A step feeds one token, a chunk several; without the head is every part of a prompt but the last, whose logits alone are
read.
"""


def dispatches(graph: Mapping[str, Any], kernel: Mapping[str, Any]) -> int:
    """How often the replays of a graph launch a kernel."""
    return int(sum(graph[times] * kernel[launches] for times, launches in REPLAYS.items()))
