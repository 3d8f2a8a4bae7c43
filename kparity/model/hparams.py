"""Hyper-parameters of a model, read from a file's keys and checked against each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kparity.errors import BadModel
from kparity.model.architectures import ACTIVATIONS, ARCHITECTURES, refusal
from kparity.model.unread import check_unread

MAX_LAYERS = 4096
MAX_SIZE = 1 << 24
"""Largest width, context or vocabulary that is taken for a real one."""

LLAMA3_PRE = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon_e", "falcon-h1", "pixtral", "midm-2.0", "lfm2")
"""Pre-tokenizer names of the Llama-3 family, whose prompts start with BOS unless the file says otherwise."""

_MISSING = object()


@dataclass(frozen=True)
class Hparams:
    """What the graph needs besides the weights; sizes in elements."""

    arch: str
    n_layer: int
    width: int
    ffn: int
    n_head: int
    n_kv: int
    head_dim: int
    rope_dim: int
    rope_mode: str
    theta: float
    rope_scale: float
    """Linear scaling: positions are divided by this."""
    eps: float
    context: int
    vocab: int
    act: str
    clamp: int
    """1 where the inner product of the feed-forward needs the f16-safe clamp (relu² has no upper limit)."""
    bos: int | None
    eos: int | None
    add_bos: bool
    rope_factors: tuple[float, ...] = ()
    """By what the frequency of each rotating pair is divided, of the file's table; none without one."""

    @property
    def q_dim(self) -> int:
        """Width of the concatenated query heads."""
        return self.n_head * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of the concatenated key (or value) heads."""
        return self.n_kv * self.head_dim


class Keys:
    """Typed access to a file's keys: a wrong type or range is a BadModel, as is a missing key without a default."""

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self._keys = keys

    def integer(self, name: str, low: int, high: int, default: Any = _MISSING) -> Any:
        """An integer from ``low`` to ``high``."""
        return self._get(name, default, int, f"an integer from {low} to {high}", lambda value: low <= value <= high)

    def number(self, name: str, low: float, high: float, default: Any = _MISSING) -> Any:
        """A finite number from ``low`` to ``high``."""
        expected = f"a number from {low:g} to {high:g}"
        value = self._get(name, default, (int, float), expected, lambda value: low <= value <= high)
        return value if value is None else float(value)

    def text(self, name: str, default: Any = _MISSING) -> Any:
        """A string."""
        return self._get(name, default, str, "a string")

    def flag(self, name: str, default: Any = _MISSING) -> Any:
        """A bool."""
        return self._get(name, default, bool, "a bool")

    def maybe_text(self, name: str) -> str | None:
        """The string that is stored; None where there is none, or something else."""
        value = self._keys.get(name)
        return value if isinstance(value, str) else None

    def _get(
        self, name: str, default: Any, kind: Any, expected: str, within: Callable[[Any], bool] = lambda value: True
    ) -> Any:
        if name not in self._keys:
            if default is _MISSING:
                raise BadModel(f"key {name} is missing")
            return default
        value = self._keys[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or not within(value):
            text = repr(value)
            raise BadModel(f"key {name} is {text if len(text) <= 40 else text[:37] + '...'}, expected {expected}")
        return value


def read_hparams(stored: Mapping[str, Any], embedding_rows: int) -> Hparams:
    """Hyper-parameters from keys; ``embedding_rows`` is the number of rows of ``token_embd.weight``."""
    keys = Keys(stored)
    arch = keys.text("general.architecture")
    if arch not in ARCHITECTURES:
        raise BadModel(refusal(arch))
    if keys.integer(f"{arch}.expert_count", 0, MAX_SIZE, 0):
        raise BadModel(f"{arch}.expert_count is not 0: a router and experts are needed, which no graph here has")
    width = keys.integer(f"{arch}.embedding_length", 1, MAX_SIZE)
    n_head = keys.integer(f"{arch}.attention.head_count", 1, MAX_SIZE)
    n_kv = keys.integer(f"{arch}.attention.head_count_kv", 1, MAX_SIZE, n_head)
    if n_head % n_kv:
        raise BadModel(f"{n_head} heads cannot share {n_kv} key-value heads evenly")
    head_dim = _head_dim(keys, arch, width, n_head)
    rope_dim = keys.integer(f"{arch}.rope.dimension_count", 2, head_dim, head_dim)
    if rope_dim % 2:
        raise BadModel(f"key {arch}.rope.dimension_count is {rope_dim}, expected an even number")
    vocab = keys.integer(f"{arch}.vocab_size", 1, MAX_SIZE, embedding_rows)
    if vocab != embedding_rows:
        raise BadModel(f"key {arch}.vocab_size is {vocab}, but token_embd.weight has {embedding_rows} rows")
    bos, eos, add_bos = special_tokens(keys, vocab)
    act = activation(keys, arch)
    context = keys.integer(f"{arch}.context_length", 1, MAX_SIZE)
    check_unread(stored, arch, head_dim, context)
    return Hparams(
        arch=arch, n_layer=keys.integer(f"{arch}.block_count", 1, MAX_LAYERS), width=width,
        ffn=keys.integer(f"{arch}.feed_forward_length", 1, MAX_SIZE), n_head=n_head, n_kv=n_kv, head_dim=head_dim,
        rope_dim=rope_dim, rope_mode=ARCHITECTURES[arch].rope,
        theta=keys.number(f"{arch}.rope.freq_base", 1.0, 1e12, 10000.0), rope_scale=_rope_scale(keys, arch),
        eps=keys.number(f"{arch}.attention.layer_norm_rms_epsilon", 0.0, 0.1),
        context=context, vocab=vocab,
        act=act, clamp=int(act == "relu2"), bos=bos, eos=eos, add_bos=add_bos,
    )  # fmt: skip


def activation(keys: Keys, arch: str) -> str:
    """What the feed-forward's gate goes through: ``hidden_activation`` of the file, or else what its architecture has;
    raises BadModel for another function.
    """
    stored = keys.text(f"{arch}.hidden_activation", None)
    if stored is None:
        return ARCHITECTURES[arch].act
    if stored.lower() not in ACTIVATIONS:
        raise BadModel(f"key {arch}.hidden_activation is {stored[:40]!r}, expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[stored.lower()]


def special_tokens(keys: Keys, vocab: int) -> tuple[int | None, int | None, bool]:
    """BOS, EOS and whether a prompt starts with BOS; where the file is silent, what llama-vocab.cpp assumes."""
    llama = keys.maybe_text("tokenizer.ggml.model") == "llama"
    bos = keys.integer("tokenizer.ggml.bos_token_id", 0, vocab - 1, 1 if llama and vocab > 2 else None)
    eos = keys.integer("tokenizer.ggml.eos_token_id", 0, vocab - 1, 2 if llama and vocab > 2 else None)
    usual = llama or keys.maybe_text("tokenizer.ggml.pre") in LLAMA3_PRE
    return bos, eos, keys.flag("tokenizer.ggml.add_bos_token", usual) and bos is not None


def _head_dim(keys: Keys, arch: str, width: int, n_head: int) -> int:
    stored = keys.integer(f"{arch}.attention.key_length", 1, MAX_SIZE, None)
    if stored is None and width % n_head:
        raise BadModel(f"{n_head} heads do not divide the width {width}, and {arch}.attention.key_length is missing")
    head_dim: int = width // n_head if stored is None else stored
    values = keys.integer(f"{arch}.attention.value_length", 1, MAX_SIZE, head_dim)
    if values != head_dim:
        raise BadModel(f"value heads of {values} beside key heads of {head_dim} are not supported")
    if head_dim % 2:
        raise BadModel(f"heads of {head_dim} cannot be rotated by pairs, expected an even size")
    return head_dim


def _rope_scale(keys: Keys, arch: str) -> float:
    """The linear factor (1 = none); ``rope.scale_linear`` is the older name of ``rope.scaling.factor``."""
    factor = keys.number(f"{arch}.rope.scaling.factor", 0.0, 1e6, None)
    if factor is None:
        factor = keys.number(f"{arch}.rope.scale_linear", 0.0, 1e6, None)
    kind = keys.text(f"{arch}.rope.scaling.type", "none" if factor is None else "linear")
    if kind not in ("none", "linear"):
        raise BadModel(f"RoPE scaling of type {kind!r} is not supported, only none and linear are")
    if kind == "none" or not factor:  # llama.cpp reads a factor of 0 as "not scaled"
        return 1.0
    if not math.isfinite(1.0 / factor):
        raise BadModel(f"RoPE is scaled by {factor:g}, expected a factor of ordinary size")
    return float(factor)
