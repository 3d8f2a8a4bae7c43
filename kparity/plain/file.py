"""The second reader of a file's keys: what the forward pass needs to know, with defaults and checks of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kparity.errors import BadModel
from kparity.model.gguf_file import GgufFile

SQUARED, SMOOTH = ("bitnet-25", "bitnet-b1.58"), ("bitnet",)
"""Architectures with relu² (bitnet.cpp's graph) and with SiLU (llama.cpp's)."""


@dataclass(frozen=True)
class Facts:
    """What a graph of this file must be built with; sizes in elements."""

    act: str
    clamp: int
    """1 where the feed-forward's product is kept within the range of f16: relu² has no upper limit."""
    eps: float
    theta: float
    rope_scale: float
    rope_dim: int
    rope_mode: str
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    ffn: int
    vocab: int
    layers: int
    context: int
    frequencies: list[float]
    """Radians per position of each rotating pair, fp64 [rope_dim / 2]: theta^(-2i / rope_dim), divided by the linear
    factor (Su et al., 2021).
    """


@contextmanager
def opened(path: Path | str | GgufFile | None) -> Iterator[GgufFile]:
    """An open file, or one that stays open; raises BadModel, with the file's name, for one that is none and for
    whatever is found in it.
    """
    with nullcontext(path) if isinstance(path, GgufFile) else closing(GgufFile.open(path)) as file, file.naming():
        yield file


def facts(path: Path | str | GgufFile | None) -> Facts:
    """What a file says; raises BadModel where a key is missing or cannot be what it says."""
    with opened(path) as file:
        return facts_of(file)


def facts_of(file: GgufFile) -> Facts:
    """What an open file says."""
    arch, embedding = file.keys.get("general.architecture"), file.tensors.get("token_embd.weight")
    if arch not in (*SQUARED, *SMOOTH):
        raise BadModel(f"architecture {arch!r} is not a BitNet b1.58 model")
    if embedding is None:
        raise BadModel("tensor token_embd.weight is missing")

    def number(name: str, default: float | None = None) -> float:
        value: Any = file.keys.get(f"{arch}.{name}", default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise BadModel(f"key {arch}.{name} is {value!r}, expected a number")
        return value

    def size(name: str, default: float | None = None) -> int:
        value = number(name, default)
        if value != int(value) or value < 1:
            raise BadModel(f"key {arch}.{name} is {value!r}, expected a whole number of at least 1")
        return int(value)

    width, heads = size("embedding_length"), size("attention.head_count")
    kv_heads, head_dim = size("attention.head_count_kv", heads), size("attention.key_length", width / heads)
    rope_dim, theta = size("rope.dimension_count", head_dim), float(number("rope.freq_base", 10000.0))
    if heads % kv_heads or rope_dim % 2 or rope_dim > head_dim or theta < 1:
        raise BadModel(f"{heads} and {kv_heads} heads of {head_dim}, {rope_dim} of it turned by a base of {theta:g}")
    scale = _stretch(file, str(arch), number)
    squared = arch in SQUARED
    return Facts(
        act="relu2" if squared else "silu", clamp=int(squared),
        eps=float(number("attention.layer_norm_rms_epsilon")), theta=theta, rope_scale=scale, rope_dim=rope_dim,
        rope_mode="neox", heads=heads, kv_heads=kv_heads, head_dim=head_dim, width=width,
        ffn=size("feed_forward_length"), vocab=embedding.rows, layers=size("block_count"),
        context=size("context_length"),
        frequencies=[math.exp(-2 * i / rope_dim * math.log(theta)) / scale for i in range(rope_dim // 2)],
    )  # fmt: skip


def _stretch(file: GgufFile, arch: str, number: Callable[..., float]) -> float:
    """The factor of linear context scaling: positions are divided by it; 1 where there is none, or a factor of 0."""
    factor = float(number("rope.scaling.factor", number("rope.scale_linear", 0)))
    kind = file.keys.get(f"{arch}.rope.scaling.type", "linear" if factor else "none")
    if kind not in ("none", "linear"):
        raise BadModel(f"RoPE scaling of type {kind!r} is not supported")
    return factor if kind == "linear" and factor else 1.0
