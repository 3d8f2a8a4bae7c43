"""The same forward pass in half the launches: what stands between two GEMVs is one op, as are RoPE and cache.

    norm_quant → tgemv(q|k|v) → rope_store → attention → norm_quant → tgemv(attn_output)
      → norm_quant(add) → tgemv(gate|up) → norm_quant(silu or relu2) → tgemv(ffn_down) → norm_quant(add) …

Every value is rounded as in ``kparity.engine.graph``; a right backend gives the same logits with either.
"""

from __future__ import annotations

from collections.abc import Iterator

from kparity.device.adapter import Buffer, Launch
from kparity.engine.graph import Graph

Quantised = tuple[Buffer, Buffer, Buffer]


class FusedGraph(Graph):
    """The launches of a forward pass over M rows, fused."""

    def _forward(self) -> Iterator[Launch]:
        m, width = self.rows, self.h.width
        x, y = self._buffer("x", (m, width)), self._buffer("y", (m, width))
        projected, down = self._buffer("projected", (m, width)), self._buffer("down", (m, width))
        yield from self._embed(x)
        for layer in range(self.h.n_layer):
            key = f"blk.{layer}.attn_norm.weight"
            if layer == 0:
                launch, quantised = self._norm_quant("none", (x,), key, width)
            else:
                launch, quantised = self._norm_quant("add", (y, down), key, width, x)
            yield launch
            yield from self._attention_fused(layer, quantised, projected)
            launch, quantised = self._norm_quant("add", (x, projected), f"blk.{layer}.ffn_norm.weight", width, y)
            yield launch
            yield from self._feed_forward_fused(layer, quantised, down)
        yield self._add(y, down, x)

    def _norm_quant(
        self, pre: str, inputs: tuple[Buffer, ...], key: str, width: int, h: Buffer | None = None
    ) -> tuple[Launch, Quantised]:
        clamp = self.h.clamp if pre in ("silu", "relu2") else 0
        kernel = self.kernels.get(
            "norm_quant", M=self.rows, D=width, pre=pre, clamp=clamp, eps=self.h.eps, mode=self.options.act
        )
        q, scale, qsum = (self._buffer(f"{arg.name}.{width}", arg.shape, arg.dtype) for arg in kernel.args[-3:])
        middle = () if h is None else (h,)
        return kernel.bind(*inputs, self.weights.norms[key], *middle, q, scale, qsum), (q, scale, qsum)

    def _attention_fused(self, layer: int, quantised: Quantised, projected: Buffer) -> Iterator[Launch]:
        h, m = self.h, self.rows
        heads = h.n_head + 2 * h.n_kv
        qkv, q = self._buffer("qkv", (m, heads * h.head_dim)), self._buffer("q_turned", (m, h.n_head * h.head_dim))
        yield self._linear(layer, "attn_qkv", quantised, qkv)
        kernel = self.kernels.get(
            "rope_store", M=m, H=h.n_head, G=h.n_kv, D=h.head_dim, R=h.rope_dim, L=self.options.context,
            mode=h.rope_mode, theta=h.theta, scale=h.rope_scale, dtype=self.options.kv,
        )  # fmt: skip
        kcache, vcache = self.cache[layer]
        yield kernel.bind(qkv, self.pos, self.freq, self._as(q, m, h.n_head, h.head_dim), kcache, vcache)
        yield self._attend_cache(layer, q)
        width = h.n_head * h.head_dim
        mixed = self._buffer("mixed", (m, width))
        launch, quantised = self._norm_quant("none", (mixed,), f"blk.{layer}.attn_sub_norm.weight", width)
        yield launch
        yield self._linear(layer, "attn_output", quantised, projected)

    def _feed_forward_fused(self, layer: int, quantised: Quantised, down: Buffer) -> Iterator[Launch]:
        h, m = self.h, self.rows
        gate_up, inner = self._buffer("gate_up", (m, 2 * h.ffn)), self._buffer("inner", (m, h.ffn))
        yield self._linear(layer, "ffn_gate_up", quantised, gate_up)
        key = f"blk.{layer}.ffn_sub_norm.weight"
        launch, quantised = self._norm_quant(h.act, (gate_up,), key, h.ffn, inner)
        yield launch
        yield self._linear(layer, "ffn_down", quantised, down)
