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
from kparity.plain.weights import vector

SQUARED, SMOOTH = ("bitnet-25", "bitnet-b1.58"), ("bitnet", "llama", "qwen3")
"""Architectures with relu² (bitnet.cpp's graph) and with SiLU (llama.cpp's), where no key says another."""
PLAIN = ("llama", "qwen3")
"""Those without norms before the output and the down projection."""


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
    norms: tuple[str, ...]
    """The norms of a layer."""
    mixed: bool
    """Whether a linear layer is not ternary: its activations are not quantised."""
    factors: list[float]
    """By what the frequency of each pair is divided beside that, of ``rope_freqs.weight``; 1 without it."""
    frequencies: list[float]
    """Radians per position of each rotating pair, fp64 [rope_dim / 2]: theta^(-2i / rope_dim), divided by the linear
    factor (Su et al., 2021) and by ``factors``.
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
        raise BadModel(f"architecture {arch!r} has no graph here")
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
    scale, context = _stretch(file, str(arch), number), size("context_length")
    _refuse_others(number, head_dim, context)
    squared, factors = _squared(file, str(arch)), _factors(file, str(arch), rope_dim // 2)
    return Facts(
        act="relu2" if squared else "silu", clamp=int(squared),
        eps=float(number("attention.layer_norm_rms_epsilon")), theta=theta, rope_scale=scale, rope_dim=rope_dim,
        rope_mode="interleaved" if arch == "llama" else "neox", heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        width=width, ffn=size("feed_forward_length"), vocab=embedding.rows, layers=size("block_count"),
        context=context, norms=_norms(str(arch)), factors=factors, mixed=_mixed(file),
        frequencies=[math.exp(-2 * i / rope_dim * math.log(theta)) / scale / each for i, each in enumerate(factors)],
    )  # fmt: skip


def _refuse_others(number: Callable[..., float], head_dim: int, context: int) -> None:
    """Keys that ask for another pass than this one, and what they are where they do not."""
    usual: dict[str, tuple[float, ...]] = {
        "attention.scale": (0, head_dim**-0.5), "attn_logit_softcapping": (0,), "final_logit_softcapping": (0,),
        "attention.clamp_kqv": (0,), "attention.max_alibi_bias": (0,), "attention.temperature_scale": (0,),
        "logit_scale": (0, 1), "residual_scale": (0, 1), "embedding_scale": (0, 1), "rope.scaling.attn_factor": (0, 1),
    }  # fmt: skip
    for name, values in usual.items():
        if not any(math.isclose(number(name, 0), each, rel_tol=1e-6) for each in values):
            raise BadModel(f"{name} is {number(name):g}, which this pass does not heed")
    if 0 < number("attention.sliding_window", 0) < context:
        raise BadModel(f"a window of {number('attention.sliding_window'):g} positions, which this pass does not heed")


def _norms(arch: str) -> tuple[str, ...]:
    if arch not in PLAIN:
        return "attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm"
    return "attn_norm", *(("attn_q_norm", "attn_k_norm") if arch == "qwen3" else ()), "ffn_norm"


def _mixed(file: GgufFile) -> bool:
    layers = [each for each in file.tensors.values() if each.name.startswith("blk.") and each.rows > 1]
    return not all(each.type.ternary for each in layers)


def _squared(file: GgufFile, arch: str) -> bool:
    """Whether the gate goes through relu²: the key says so, or nothing but the name of the architecture does."""
    key = f"{arch}.hidden_activation"
    said = file.keys.get(key, "relu2" if arch in SQUARED else "silu")
    known = {"relu2": True, "relu^2": True, "relu_squared": True, "squared_relu": True, "silu": False, "swish": False}
    if not isinstance(said, str) or said.lower() not in known:
        raise BadModel(f"key {key} is {str(said)[:40]!r}, and this pass has {' and '.join(known)}")
    return known[said.lower()]


def _factors(file: GgufFile, arch: str, pairs: int) -> list[float]:
    """The table of Llama 3.1, which files of the architecture ``llama`` may have."""
    table = "rope_freqs.weight"
    if arch != "llama" or table not in file.tensors:
        return [1.0] * pairs
    found: list[float] = vector(file, table, pairs).tolist()
    if min(found) <= 0:
        raise BadModel(f"tensor {table}: {min(found)} divides no frequency")
    return found


def _stretch(file: GgufFile, arch: str, number: Callable[..., float]) -> float:
    """The factor of linear context scaling: positions are divided by it; 1 where there is none, or a factor of 0."""
    factor = float(number("rope.scaling.factor", number("rope.scale_linear", 0)))
    kind = file.keys.get(f"{arch}.rope.scaling.type", "linear" if factor else "none")
    if kind not in ("none", "linear"):
        raise BadModel(f"RoPE scaling of type {kind!r} is not supported")
    return factor if kind == "linear" and factor else 1.0
