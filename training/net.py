"""The network under training: BitNet b1.58 with quantisation in the forward pass and straight-through gradients.

The graph is that of llama.cpp's `bitnet` architecture: RMS norms before and inside both halves of a layer
(`attn_sub_norm`, `ffn_sub_norm`), NEOX RoPE, grouped-query attention, SiLU(gate)·up, and an LM head tied to the token
embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
