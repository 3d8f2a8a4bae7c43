"""Evaluation of the written file: its weights dequantised by the `gguf` package, in a forward pass written apart.

It shares no code with the network under training, so a mistake in packing, in tensor names or in the graph shows as a
perplexity that differs from the one at the end of the training curve.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from tokenizers import Tokenizer
from torch import Tensor

from training.net import Shape
from training.text import BOS_ID, EOS_ID

PROMPTS = ("In the beginning", "And the LORD said unto", "Blessed are", "The sword of", "Then Jesus answered")

LAYER_TENSORS = (
    *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_sub_norm", "attn_output"),
    *("ffn_norm", "ffn_gate", "ffn_up", "ffn_sub_norm", "ffn_down"),
)

Tensors = dict[str, Tensor]


def read_tensors(path: Path) -> Tensors:
    """All tensors of the file in float32, rows first."""
    return {t.name: torch.from_numpy(np.array(dequantize(t.data, t.tensor_type))) for t in GGUFReader(path).tensors}


def _norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * gain


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x [length, inputs] quantised to int8 per token, times weightᵀ."""
    unit = x.abs().amax(-1, keepdim=True).clamp(min=1e-5) / 127.0
    return ((x / unit).round().clamp(-128, 127) @ weight.T) * unit


def _rotate(x: Tensor, theta: float) -> Tensor:
    """NEOX RoPE on x [length, heads, head], positions 0, 1, …, by complex multiplication of x[i] + j·x[i + head/2]."""
    length, _, head = x.shape
    rate = theta ** (-torch.arange(head // 2) * 2 / head)
    turn = torch.polar(torch.ones(length, head // 2), torch.arange(length)[:, None] * rate)[:, None]
    turned = torch.complex(x[..., : head // 2].contiguous(), x[..., head // 2 :].contiguous()) * turn
    return torch.cat([turned.real, turned.imag], dim=-1)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention: q [length, heads, head], k and v [length, kv_heads, head] → [length, heads · head]."""
    length, heads, head = q.shape
    group = heads // k.shape[1]
    mask = torch.full((length, length), -math.inf).triu(1)
    mixed = []
    for h in range(heads):
        scores = q[:, h] @ k[:, h // group].T / math.sqrt(head) + mask
        mixed.append(scores.softmax(-1) @ v[:, h // group])
    return torch.cat(mixed, dim=-1)


def forward(tensors: Tensors, shape: Shape, tokens: list[int]) -> Tensor:
    """Logits [length, vocab] at every position of `tokens`."""
    x = tensors["token_embd.weight"][tokens]
    for layer in range(shape.layers):
        w = {name: tensors[f"blk.{layer}.{name}.weight"] for name in LAYER_TENSORS}
        h = _norm(x, w["attn_norm"], shape.eps)
        q, k, v = (_product(h, w[name]).view(len(tokens), -1, shape.head) for name in ("attn_q", "attn_k", "attn_v"))
        mixed = _attend(_rotate(q, shape.theta), _rotate(k, shape.theta), v)
        x = x + _product(_norm(mixed, w["attn_sub_norm"], shape.eps), w["attn_output"])
        h = _norm(x, w["ffn_norm"], shape.eps)
        gate, up = _product(h, w["ffn_gate"]), _product(h, w["ffn_up"])
        x = x + _product(_norm(gate * gate.sigmoid() * up, w["ffn_sub_norm"], shape.eps), w["ffn_down"])
    return _norm(x, tensors["output_norm.weight"], shape.eps) @ tensors["token_embd.weight"].T


def perplexity(tensors: Tensors, shape: Shape, tokenizer: Tokenizer, chapters: list[str]) -> dict[str, float]:
    """Perplexity per token and bits per byte, in windows of the context length that each begin with `<s>`."""
    nats, tokens = 0.0, 0
    for chapter in chapters:
        ids = tokenizer.encode(chapter, add_special_tokens=False).ids
        for begin in range(0, len(ids), shape.context):
            target = ids[begin : begin + shape.context]
            log_p = forward(tensors, shape, [BOS_ID, *target[:-1]]).log_softmax(-1)
            nats -= float(log_p[torch.arange(len(target)), target].double().sum())
            tokens += len(target)
    octets = sum(len(chapter.encode()) for chapter in chapters)
    return {
        "perplexity": round(math.exp(nats / tokens), 4),
        "nats_per_token": round(nats / tokens, 5),
        "bits_per_byte": round(nats / math.log(2) / octets, 4),
        "tokens": tokens,
        "bytes": octets,
    }


def continuations(tensors: Tensors, shape: Shape, tokenizer: Tokenizer, count: int = 48) -> dict[str, str]:
    """Greedy continuations of a few prompts, at most `count` tokens each."""
    texts = {}
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt).ids
        given = len(ids)
        while len(ids) < given + count and ids[-1] != EOS_ID:
            ids.append(int(forward(tensors, shape, ids)[-1].argmax()))
        texts[prompt] = tokenizer.decode(ids[given:])
    return texts
