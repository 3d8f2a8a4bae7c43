"""The BitNet b1.58 forward pass as a list of launches, written once for every backend.

    x → rmsnorm(attn_norm) → q, k, v → RoPE(q, k) → attention → rmsnorm(attn_sub_norm) → attn_output → + x
      → rmsnorm(ffn_norm) → act(gate)·up → rmsnorm(ffn_sub_norm) → ffn_down → + x          for each layer
    x → rmsnorm(output_norm) → head

Weights, the KV cache and all activations stay on the device. Rows of a padded chunk carry position -1: their keys are
not stored and nothing reads their results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kparity import ops
from kparity.device.adapter import Backend, Buffer, Kernel, Launch
from kparity.engine.weights import Weights, silent
from kparity.errors import WrongInput
from kparity.kernels.rope import frequencies
from kparity.model import Hparams
from kparity.ops.spec import Case, Value


@dataclass(frozen=True)
class Options:
    """How a model is run: activation quantisation, type and length of the KV cache, one launch for several ops."""

    act: str = "token"
    kv: str = "f16"
    context: int = 0
    fused: bool = True

    def __post_init__(self) -> None:
        if self.act not in ("token", "block256"):
            raise WrongInput(f"act is {self.act!r}, expected token or block256")
        if self.kv not in ("f16", "f32"):
            raise WrongInput(f"kv is {self.kv!r}, expected f16 or f32")


class Kernels:
    """Kernels of one backend, built once per case."""

    def __init__(self, backend: Backend, tick: Callable[[str], None] = silent) -> None:
        self.backend, self.tick = backend, tick
        self.built: dict[Case, Kernel] = {}

    def get(self, op_name: str, **params: Value) -> Kernel:
        """The kernel of an op at a case; raises WrongInput with the reason where the device cannot run it."""
        op = ops.get(op_name)
        case = op.case(**params)
        if case not in self.built:
            reason = self.backend.supports(op, case)
            if reason:
                raise WrongInput(f"{self.backend.name} cannot run {case.id}: {reason}")
            self.built[case] = self.backend.build(op, case)
            self.tick(f"{len(self.built)} kernels built")
        return self.built[case]


class Graph:
    """The launches of a forward pass over M rows, with the activations that they share.

    After a run ``logits`` holds [1, vocab] (the row that ``last`` names) or, with ``every_row``, [M, vocab]; ``best``
    holds the argmax of each of those rows.
    """

    def __init__(
        self,
        model: Hparams,
        kernels: Kernels,
        weights: Weights,
        cache: list[tuple[Buffer, Buffer]],
        options: Options,
        rows: int,
        every_row: bool = False,
    ) -> None:
        self.h, self.kernels, self.weights, self.cache, self.options = model, kernels, weights, cache, options
        self.rows, self.every_row = rows, every_row
        self.backend = kernels.backend
        self._pool: dict[str, Buffer] = {}
        out_rows = rows if every_row else 1
        self.ids, self.pos = self._buffer("ids", (rows,), "i32"), self._buffer("pos", (rows,), "i32")
        self.last = self._buffer("last", (1,), "i32")
        self.logits = self._buffer("logits", (out_rows, model.vocab))
        self.best = self._buffer("best", (out_rows,), "i32")
        self.freq = self.backend.upload(frequencies(model.theta, model.rope_dim, model.rope_scale))
        self.body = list(self._forward())
        """The launches without the head: all that a chunk needs which is not a prompt's last."""
        self.launches = [*self.body, *self._output(self._buffer("x", (rows, model.width)))]

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: str = "f32") -> Buffer:
        if name not in self._pool:
            self._pool[name] = self.backend.empty(shape, dtype)
        return self._pool[name]

    def _as(self, buffer: Buffer, *shape: int) -> Buffer:
        """The same memory under another shape."""
        return Buffer(buffer.handle, buffer.dtype, shape)

    def _forward(self) -> Iterator[Launch]:
        m, width = self.rows, self.h.width
        x, y = self._buffer("x", (m, width)), self._buffer("y", (m, width))
        yield from self._embed(x)
        for layer in range(self.h.n_layer):
            yield from self._attention(layer, x)
            yield self._add(x, self._buffer("projected", (m, width)), y)
            yield from self._feed_forward(layer, y)
            yield self._add(y, self._buffer("down", (m, width)), x)

    def _add(self, a: Buffer, b: Buffer, out: Buffer) -> Launch:
        return self.kernels.get("add", M=self.rows, D=self.h.width).bind(a, b, out)

    def _embed(self, x: Buffer) -> Iterator[Launch]:
        for part in self.weights.embedding:
            kernel = self.kernels.get(
                "embed", M=self.rows, V=self.h.vocab, D=self.h.width, dtype=self.weights.dtype[0],
                row0=part.row0, rows=part.rows,
            )  # fmt: skip
            yield kernel.bind(part.buffer, self.ids, x)

    def _norm(self, x: Buffer, key: str, out: Buffer) -> Launch:
        rows, width = x.shape
        kernel = self.kernels.get("rmsnorm", M=rows, D=width, eps=self.h.eps)
        return kernel.bind(x, self.weights.norms[key], out)

    def _quantise(self, x: Buffer) -> tuple[Launch, tuple[Buffer, Buffer, Buffer]]:
        kernel = self.kernels.get("act_quant", M=self.rows, K=x.shape[1], mode=self.options.act)
        names = [f"{arg.name}.{x.shape[1]}" for arg in kernel.args]
        q, scale, qsum = (self._buffer(n, a.shape, a.dtype) for n, a in zip(names[1:], kernel.args[1:], strict=True))
        return kernel.bind(x, q, scale, qsum), (q, scale, qsum)

    def _linear(self, layer: int, name: str, quantised: tuple[Buffer, Buffer, Buffer], out: Buffer) -> Launch:
        weight = self.weights.linears[layer, name]
        kernel = self.kernels.get(
            "tgemv", M=self.rows, N=weight.n, K=weight.k, wscale=weight.kind, ascale=self.options.act
        )
        return kernel.bind(weight.words, weight.wscale, *quantised, out)

    def _rope(self, x: Buffer, heads: int, out: Buffer) -> Launch:
        h = self.h
        kernel = self.kernels.get(
            "rope",
            M=self.rows,
            H=heads,
            D=h.head_dim,
            R=h.rope_dim,
            mode=h.rope_mode,
            theta=h.theta,
            scale=h.rope_scale,
        )
        shape = (self.rows, heads, h.head_dim)
        return kernel.bind(self._as(x, *shape), self.pos, self.freq, self._as(out, *shape))

    def _attention(self, layer: int, x: Buffer) -> Iterator[Launch]:
        h, m = self.h, self.rows
        width, kv_width = h.n_head * h.head_dim, h.n_kv * h.head_dim
        normed = self._buffer("normed", (m, h.width))
        yield self._norm(x, f"blk.{layer}.attn_norm.weight", normed)
        launch, quantised = self._quantise(normed)
        yield launch
        q, k, v = (
            self._buffer("q_out", (m, width)),
            self._buffer("k_out", (m, kv_width)),
            self._buffer("v_out", (m, kv_width)),
        )
        for name, out in (("attn_q", q), ("attn_k", k), ("attn_v", v)):
            yield self._linear(layer, name, quantised, out)
        q_turned, k_turned = self._buffer("q_turned", (m, width)), self._buffer("k_turned", (m, kv_width))
        yield self._rope(q, h.n_head, q_turned)
        yield self._rope(k, h.n_kv, k_turned)
        yield from self._attend(layer, q_turned, k_turned, v)
        mixed = self._buffer("mixed_normed", (m, width))
        yield self._norm(self._buffer("mixed", (m, width)), f"blk.{layer}.attn_sub_norm.weight", mixed)
        launch, quantised = self._quantise(mixed)
        yield launch
        yield self._linear(layer, "attn_output", quantised, self._buffer("projected", (m, h.width)))

    def _attend(self, layer: int, q: Buffer, k: Buffer, v: Buffer) -> Iterator[Launch]:
        h, m, length = self.h, self.rows, self.options.context
        kcache, vcache = self.cache[layer]
        store = self.kernels.get("kv_store", M=m, L=length, D=h.n_kv * h.head_dim, dtype=self.options.kv)
        yield store.bind(k, v, self.pos, kcache, vcache)
        yield self._attend_cache(layer, q)

    def _attend_cache(self, layer: int, q: Buffer) -> Launch:
        """Attention of rotated queries [M, H·D] over a layer's cache, into ``mixed``."""
        h, m, length = self.h, self.rows, self.options.context
        kcache, vcache = self.cache[layer]
        kernel = self.kernels.get("attention", M=m, L=length, H=h.n_head, G=h.n_kv, D=h.head_dim, dtype=self.options.kv)
        heads, cache = (m, h.n_head, h.head_dim), (length, h.n_kv, h.head_dim)
        out = self._buffer("mixed", (m, h.n_head * h.head_dim))
        lse = self._buffer("lse", (m, h.n_head))
        return kernel.bind(
            self._as(q, *heads),
            self._as(kcache, *cache),
            self._as(vcache, *cache),
            self.pos,
            self._as(out, *heads),
            lse,
        )

    def _feed_forward(self, layer: int, x: Buffer) -> Iterator[Launch]:
        h, m = self.h, self.rows
        normed = self._buffer("normed", (m, h.width))
        yield self._norm(x, f"blk.{layer}.ffn_norm.weight", normed)
        launch, quantised = self._quantise(normed)
        yield launch
        gate, up = self._buffer("gate", (m, h.ffn)), self._buffer("up", (m, h.ffn))
        yield self._linear(layer, "ffn_gate", quantised, gate)
        yield self._linear(layer, "ffn_up", quantised, up)
        inner, inner_normed = self._buffer("inner", (m, h.ffn)), self._buffer("inner_normed", (m, h.ffn))
        yield self.kernels.get("glu", M=m, D=h.ffn, act=h.act, clamp=h.clamp).bind(gate, up, inner)
        yield self._norm(inner, f"blk.{layer}.ffn_sub_norm.weight", inner_normed)
        launch, quantised = self._quantise(inner_normed)
        yield launch
        yield self._linear(layer, "ffn_down", quantised, self._buffer("down", (m, h.width)))

    def _output(self, x: Buffer) -> Iterator[Launch]:
        h, rows = self.h, self.rows if self.every_row else 1
        if self.rows > 1 and not self.every_row:
            row = self._buffer("last_row", (1, h.width))
            yield self.kernels.get("embed", M=1, V=self.rows, D=h.width, dtype="f32").bind(x, self.last, row)
            x = row
        normed = self._buffer("output_normed", (rows, h.width))
        yield self._norm(x, "output_norm.weight", normed)
        for part in self.weights.head:
            kernel = self.kernels.get(
                "dense_gemv", M=rows, N=h.vocab, K=h.width, dtype=self.weights.dtype[1], row0=part.row0, rows=part.rows
            )
            yield kernel.bind(part.buffer, normed, self.logits)
        yield self.kernels.get("argmax", M=rows, N=h.vocab).bind(self.logits, self.best)
