"""Keys that change the graph and that nothing here reads: a file that has one is refused, unless it changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from kparity.errors import BadModel


def _zero(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) and value == 0


def _one(value: Any) -> bool:
    """1, or 0, which llama.cpp reads as "not there"."""
    return isinstance(value, (bool, int, float)) and value in (0, 1)


_OFF = "scores or logits that go through a tanh"
_NEEDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "attention.sliding_window_pattern": ("layers that see different positions", _one),
    "attention.layer_indices": ("layers without attention", lambda value: False),
    "attention.causal": ("scores of later positions", lambda value: value is True),
    "attention.clamp_kqv": ("queries, keys and values within a limit", _zero),
    "attention.max_alibi_bias": ("scores that lose by distance (ALiBi)", _zero),
    "attention.temperature_scale": ("queries that grow with their position", _zero),
    "attn_logit_softcapping": (_OFF, _zero),
    "final_logit_softcapping": (_OFF, _zero),
    "logit_scale": ("logits that are multiplied by it", _one),
    "residual_scale": ("outputs of blocks that are multiplied by it", _one),
    "embedding_scale": ("embeddings that are multiplied by it", _one),
    "use_parallel_residual": ("blocks side by side", lambda value: value is False),
    "rope.scaling.attn_factor": ("rotated queries and keys that are multiplied by it", _one),
    "rope.dimension_sections": ("positions in several dimensions", _zero),
    "leading_dense_block_count": ("layers of two kinds", _zero),
    "nextn_predict_layers": ("layers that predict several tokens", _zero),
}
"""Key, without its architecture → what its graph would need, and which values are as if it were not there."""


def check_unread(stored: Mapping[str, Any], arch: str, head_dim: int, context: int) -> None:
    """Raises BadModel for the first key that would change the results."""
    needs = {
        **_NEEDS,
        "attention.scale": (
            "scores that are multiplied by it, not by 1 / √head",
            lambda value: _usual(value, head_dim),
        ),
        "attention.sliding_window": (
            "layers that see the last positions alone",
            lambda value: _number(value) and (value <= 0 or value >= context),
        ),
    }
    for name, (what, neutral) in needs.items():
        key = f"{arch}.{name}"
        if key in stored and not neutral(stored[key]):
            told = repr(stored[key])
            short = told if len(told) <= 40 else told[:37] + "..."
            raise BadModel(f"key {key} is {short}: {what} are needed, which no graph here has")


def _usual(value: Any, head_dim: int) -> bool:
    """Whether scores are multiplied by 1 / √head_dim; llama.cpp reads 0 as that."""
    return _number(value) and (value == 0 or math.isclose(value, head_dim**-0.5, rel_tol=1e-6))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
