"""Architectures of files by name: what their graphs are made of, and what is missing here for those that do not run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Architecture:
    """The graph behind a name: activation of the feed-forward where no key says another, convention of RoPE, the norms
    of a layer beside ``attn_norm`` and ``ffn_norm``, and whether ``rope_freqs.weight`` divides the frequencies.
    """

    act: Literal["silu", "relu2"]
    rope: Literal["neox", "interleaved"]
    norms: tuple[str, ...] = ()
    factors: bool = False


_SUB = ("attn_sub_norm", "ffn_sub_norm")

ARCHITECTURES: Mapping[str, Architecture] = {
    "bitnet": Architecture("silu", "neox", _SUB),
    "bitnet-25": Architecture("relu2", "neox", _SUB),
    "bitnet-b1.58": Architecture("relu2", "neox", _SUB),
    "llama": Architecture("silu", "interleaved", factors=True),
    "qwen3": Architecture("silu", "neox", ("attn_q_norm", "attn_k_norm")),
}
"""SiLU in mainline ``bitnet``, relu² in the 2B-4T files of bitnet.cpp; ``llama`` files hold Q and K in pairs."""
ACTIVATIONS: Mapping[str, Literal["silu", "relu2"]] = {
    "silu": "silu", "swish": "silu", "relu2": "relu2", "relu^2": "relu2", "relu_squared": "relu2",
    "squared_relu": "relu2",
}  # fmt: skip
"""Names that ``hidden_activation`` has for what the engine computes."""

OTHERS: Mapping[str, str] = {
    "qwen2": "biases of q, k and v",
    "qwen35": "layers of a gated delta net, with a state in place of a cache",
    "qwen3moe": "a router and experts, and norms of each head of q and k",
    "maple": "a router and experts, and global layers without positions",
    "llama4": "a router and experts, and layers without positions",
    "falcon": "attention and feed-forward side by side, norms with biases, and fused q, k and v",
    "falcon-h1": "layers with a state-space model beside attention",
    "gemma3": "attention of a sliding window, norms behind each branch, and GELU",
    "phi3": "fused q, k and v, and fused gate and up",
    "mamba": "a state-space model in place of attention",
    "rwkv7": "a recurrence in place of attention",
}
"""What graphs that are known by name alone would need."""


def refusal(arch: str) -> str:
    """One sentence about an architecture that the engine does not run."""
    more = f"its graph needs {OTHERS[arch]}" if arch in OTHERS else "nothing is known of its graph"
    return f"architecture {arch!r} does not run here (known: {', '.join(ARCHITECTURES)}); {more}"
