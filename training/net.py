"""What is trained, and on what: the King James Bible in tokens, and a BitNet b1.58 network.

The text is in the public domain. It is taken from a file with one verse per line in the shape
`Ge1:1 In the beginning …`, which is what the `bible` program of Debian's `bible-kjv` package prints with
`bible -f gen1:1-rev22:21`.

The network has quantisation in its forward pass and straight-through gradients. The graph is that of llama.cpp's
`bitnet` architecture: RMS norms before and inside both halves of a layer (`attn_sub_norm`, `ffn_sub_norm`), NEOX RoPE,
grouped-query attention, SiLU(gate)·up, and an LM head tied to the token embedding.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

BOS, EOS = "<s>", "</s>"
BOS_ID, EOS_ID = 0, 1

# Story, poetry, proverb, prophecy, gospel and letter; none has a near-verbatim twin elsewhere, as Psalm 14 has in 53.
HELD_OUT = (
    *("Ge24", "Ruth2", "1Sm17", "Job38", "Psa104", "Prv16"),
    *("Eccl9", "Isa55", "Jonah1", "John9", "Acts27", "Rom12"),
)

SOURCE = {
    "text": "King James Bible, one verse per line without references",
    "package": "Debian bible-kjv-text 4.38",
    "command": "bible -f gen1:1-rev22:21",
    "licence": "public domain (published in 1611)",
    "held_out_chapters": list(HELD_OUT),
}

_VERSE = re.compile(r"^(\d?[A-Za-z]+\d+):(\d+) (.+)$")


@dataclass(frozen=True)
class Corpus:
    """Chapters for training and held-out chapters; each is a string with one verse per line."""

    train: list[str]
    held_out: list[str]

    @classmethod
    def read(cls, path: Path | None) -> Corpus:
        """The chapters of a file of verses, or of what `bible` prints, without references; held-out ones apart."""
        if path is not None:
            text = path.read_text(encoding="ascii")
        elif shutil.which("bible") is None:
            raise SystemExit(
                "no text: give --text FILE, or install the program that prints it: apt-get install bible-kjv"
            )
        else:
            text = subprocess.check_output(
                ["bible", "-f", "gen1:1-rev22:21"], stdin=subprocess.DEVNULL, encoding="ascii"
            )
        chapters: dict[str, list[str]] = {}
        for line in text.splitlines():
            match = _VERSE.match(line)
            if match is None:
                raise SystemExit(f"not a verse: {line[:60]!r}")
            chapters.setdefault(match[1], []).append(match[3].strip() + "\n")
        missing = [name for name in HELD_OUT if name not in chapters]
        if missing:
            raise SystemExit(f"held-out chapters not in the text: {missing}")
        train = ["".join(verses) for name, verses in chapters.items() if name not in HELD_OUT]
        return cls(train, ["".join(chapters[name]) for name in HELD_OUT])

    def train_tokenizer(self, size: int) -> Tokenizer:
        """A byte-level BPE tokenizer of `size` tokens, `<s>` = 0 and `</s>` = 1 first; `encode` puts `<s>` in front.

        The split pattern is that of GPT-2, which llama.cpp knows as the pre-tokenizer `gpt-2`.
        """
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=[BOS, EOS], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )  # fmt: skip
        tokenizer.train_from_iterator(self.train, trainer)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)])
        return tokenizer


@dataclass(frozen=True)
class TokenStream:
    """All chapters as one array of ids, `</s>` after each; `starts` are the positions where a verse begins."""

    ids: np.ndarray  # [n] int64
    starts: np.ndarray  # [verses] int64

    @classmethod
    def build(cls, tokenizer: Tokenizer, chapters: list[str]) -> TokenStream:
        """Verses are tokenised one at a time: a verse never shares a token with the next."""
        pieces: list[list[int]] = []
        for chapter in chapters:
            pieces += [
                verse.ids
                for verse in tokenizer.encode_batch(chapter.splitlines(keepends=True), add_special_tokens=False)
            ]
            pieces[-1] = [*pieces[-1], EOS_ID]
        lengths = np.array([len(piece) for piece in pieces])
        return cls(np.concatenate(pieces), np.cumsum(lengths) - lengths)

    def batch(self, rng: np.random.Generator, count: int, length: int) -> tuple[Tensor, Tensor]:
        """`count` windows that begin at a verse: inputs [count, length] with `<s>` in front, and their next tokens."""
        usable = self.starts[self.starts <= len(self.ids) - length]
        begin = rng.choice(usable, count)
        target = self.ids[begin[:, None] + np.arange(length)]
        source = np.concatenate([np.full((count, 1), BOS_ID), target[:, :-1]], axis=1)
        return torch.from_numpy(source), torch.from_numpy(target)


def windows(ids: Sequence[int], length: int) -> Iterator[tuple[list[int], list[int]]]:
    """Pieces of at most `length` ids, each with `<s>` in front, and their next tokens."""
    for begin in range(0, len(ids), length):
        target = list(ids[begin : begin + length])
        yield [BOS_ID, *target[:-1]], target


@dataclass(frozen=True)
class Shape:
    """Hyper-parameters; widths and lengths in elements."""

    vocab: int = 1536
    width: int = 256
    ffn: int = 768
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    context: int = 512
    theta: float = 10000.0
    eps: float = 1e-5

    @property
    def head(self) -> int:
        """Elements in one attention head."""
        return self.width // self.heads


def ternary(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Absmean quantisation (BitNet b1.58, eq. 1-3): codes in {-1, 0, 1} and the scale, both in float32.

    The scale is rounded to half precision, because the file stores it so. (A compiler may drop that rounding in
    training; its relative effect is below 2^-11.)
    """
    scale = weight.abs().mean().clamp(min=1e-5).half().float()
    return (weight / scale).round().clamp(-1, 1), scale


class _TernaryProduct(torch.autograd.Function):
    """y = (codes(x) · codes(w)ᵀ) · scale / s; the gradient takes both roundings for the identity (straight through).

    bfloat16 holds the codes of both sides exactly, so only the accumulator's rounding differs from integer arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        w, scale = ternary(weight)
        s = 127.0 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)  # per token
        q, w = (x * s).round().clamp(-128, 127).bfloat16(), w.bfloat16()
        ctx.save_for_backward(q, s, w, scale)
        return (q @ w.t()).float() * (scale / s)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        q, s, w, scale = ctx.saved_tensors
        g = grads[0]
        grad_x = (g.bfloat16() @ w).float() * scale
        grad_w = ((g / s).bfloat16().flatten(0, -2).t() @ q.flatten(0, -2)).float()
        return grad_x, grad_w


class TernaryLinear(nn.Module):
    """A linear layer without bias: shadow weights [outputs, inputs] in float32, ternary in use."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., inputs] → [..., outputs]."""
        return _TernaryProduct.apply(x, self.weight)


def rope_angles(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin [length, head / 2] of position · theta^(-2i / head)."""
    inverse = shape.theta ** (-torch.arange(0, shape.head, 2, dtype=torch.float64) / shape.head)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * inverse
    return angle.cos().float(), angle.sin().float()


class Layer(nn.Module):
    """One layer; module names are the tensor names of the GGUF file after `blk.N.`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv = shape.head * shape.kv_heads
        self.attn_norm = nn.RMSNorm(shape.width, shape.eps)
        self.attn_q = TernaryLinear(shape.width, shape.width)
        self.attn_k = TernaryLinear(shape.width, kv)
        self.attn_v = TernaryLinear(shape.width, kv)
        self.attn_sub_norm = nn.RMSNorm(shape.width, shape.eps)
        self.attn_output = TernaryLinear(shape.width, shape.width)
        self.ffn_norm = nn.RMSNorm(shape.width, shape.eps)
        self.ffn_gate = TernaryLinear(shape.width, shape.ffn)
        self.ffn_up = TernaryLinear(shape.width, shape.ffn)
        self.ffn_sub_norm = nn.RMSNorm(shape.ffn, shape.eps)
        self.ffn_down = TernaryLinear(shape.ffn, shape.width)

    def _attention(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            product(x).view(batch, length, -1, self.shape.head).transpose(1, 2)
            for product in (self.attn_q, self.attn_k, self.attn_v)
        )
        turned = []
        for low, high in (q.chunk(2, dim=-1), k.chunk(2, dim=-1)):  # NEOX: the pairs (x[i], x[i + head/2])
            turned.append(torch.cat([low * cos - high * sin, low * sin + high * cos], dim=-1).bfloat16())
        mixed = F.scaled_dot_product_attention(*turned, v.bfloat16(), is_causal=True, enable_gqa=True)
        return mixed.float().transpose(1, 2).reshape(batch, length, -1)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [batch, length, width] → the same shape."""
        x = x + self.attn_output(self.attn_sub_norm(self._attention(self.attn_norm(x), cos, sin)))
        h = self.ffn_norm(x)
        return x + self.ffn_down(self.ffn_sub_norm(F.silu(self.ffn_gate(h)) * self.ffn_up(h)))


class Net(nn.Module):
    """The whole model."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab, shape.width)
        nn.init.normal_(self.token_embd.weight, std=0.02)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, shape.eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [batch, length] int64 → logits [batch, length, vocab]."""
        cos, sin = rope_angles(self.shape, tokens.shape[1])
        x = self.token_embd(tokens)
        for layer in self.blk:
            x = layer(x, cos, sin)
        hidden = self.output_norm(x).bfloat16()
        return (hidden @ self.token_embd.weight.bfloat16().t()).float()

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats per token."""
        return F.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())
