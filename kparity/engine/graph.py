"""The forward pass as a list of launches, written once for every backend and every architecture that runs.

    x → norm_quant(attn_norm) → q, k, v → RoPE and cache → attention → norm_quant(attn_sub_norm) → attn_output
      → norm_quant(+ x, ffn_norm) → gate, up → norm_quant(act(gate)·up, ffn_sub_norm) → ffn_down → + x   for each layer
    x → rmsnorm(output_norm) → head

Without sub-norms (llama, qwen3) what stands there is quantised as it is; norms of the heads of q and k (qwen3) come
before RoPE.

``Graph`` launches every op by itself. ``FusedGraph`` has half the launches: what stands between two GEMVs is one op, as
are RoPE and cache, and weights that read the same activations are one GEMV; where the model has a norm too few or too
many for that, its launches are those of ``Graph``. A decode step on a GPU has fewer still: a GEMV norms what it reads.
Every value is rounded alike; a right backend gives the same logits with either.

Weights, the KV cache and all activations stay on the device. Rows of a padded chunk carry position -1: their keys are
not stored and nothing reads their results.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from kparity import ops
from kparity.device.adapter import Backend, Buffer, Kernel, Launch
from kparity.engine.weights import READERS, Part, Weights, silent
from kparity.errors import WrongInput
from kparity.kernels.rope import frequencies
from kparity.model import Hparams
from kparity.ops.spec import ACTS, Case, Value

NORMED_K = 4096
"""Longest row that every group of a product norms for itself: reading it again must be cheap beside the weights."""

Quantised = tuple[Buffer, Buffer, Buffer]
"""int8 activations, their scales and their sums."""


@dataclass(frozen=True)
class Given:
    """What products read: int8 activations where a weight is ternary; the f32 ones [M, K] where one is not; or, where
    the product does that itself, what is normed: what comes before, arguments of norm_quant but its last three.
    """

    quantised: Quantised | None
    x: Buffer | None = None
    normed: tuple[str, tuple[Buffer, ...]] | None = None


Prepared = Generator[Launch, None, Given]


@dataclass(frozen=True)
class Options:
    """How a model is run: activation quantisation, type and length of the KV cache, one launch for several ops."""

    act: str = "token"
    kv: str = "f16"
    context: int = 0
    fused: bool = True

    def __post_init__(self) -> None:
        if self.act not in ACTS:
            raise WrongInput(f"act is {self.act!r}, expected one of {', '.join(ACTS)}")
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
        self, model: Hparams, kernels: Kernels, weights: Weights, cache: list[tuple[Buffer, Buffer]], options: Options,
        rows: int, every_row: bool = False,
    ) -> None:  # fmt: skip
        self.h, self.kernels, self.weights, self.cache, self.options = model, kernels, weights, cache, options
        self.rows, self.every_row = rows, every_row
        self.backend = kernels.backend
        self._pool: dict[str, Buffer] = {}
        out_rows = rows if every_row else 1
        self.ids, self.pos = self._buffer("ids", (rows,), "i32"), self._buffer("pos", (rows,), "i32")
        self.last = self._buffer("last", (1,), "i32")
        self.logits = self._buffer("logits", (out_rows, model.vocab))
        self.best = self._buffer("best", (out_rows,), "i32")
        self.freq = self.backend.upload(frequencies(model.theta, model.rope_dim, model.rope_scale, model.rope_factors))
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
        h, m = self.h, self.rows
        x, y, inner = (self._buffer(*one) for one in (("x", (m, h.width)), ("y", (m, h.width)), ("inner", (m, h.ffn))))
        for part in self.weights.embedding:
            kernel = self.kernels.get(
                "embed", M=m, V=h.vocab, D=h.width, dtype=self.weights.dtype[0], row0=part.row0, rows=part.rows
            )
            yield kernel.bind(part.buffer, self.ids, x)
        down: tuple[Buffer, ...] = ()
        for layer in range(h.n_layer):
            at = f"blk.{layer}"
            before = ("add", (y, *down)) if layer else ("none", (x,))
            given = yield from self._norm_quant(*before, f"{at}.attn_norm.weight", h.width, x if layer else None)
            projections = yield from self._products(layer, "attn_qkv", given)
            projections = yield from self._head_norms(layer, projections)
            yield from self._attend(layer, projections)
            mixed = (self._buffer("mixed", (m, h.q_dim)),)
            given = yield from self._norm_quant("none", mixed, f"{at}.attn_sub_norm.weight", h.q_dim)
            projected = yield from self._products(layer, "attn_output", given)
            given = yield from self._norm_quant("add", (x, *projected), f"{at}.ffn_norm.weight", h.width, y)
            gate_up = yield from self._products(layer, "ffn_gate_up", given)
            given = yield from self._norm_quant(h.act, gate_up, f"{at}.ffn_sub_norm.weight", h.ffn, inner)
            down = yield from self._products(layer, "ffn_down", given)
        yield self._add(y, *down, x)

    def _add(self, *buffers: Buffer) -> Launch:
        return self.kernels.get("add", M=self.rows, D=self.h.width).bind(*buffers)

    def _norm_quant(
        self, pre: str, inputs: tuple[Buffer, ...], key: str, width: int, h: Buffer | None = None
    ) -> Prepared:
        """``pre`` of the inputs into ``h`` (``none`` takes them as they are), its norm where the model has one there,
        and the int8 codes of that where a ternary weight reads them.
        """
        if pre == "add" and h is not None:
            yield self._add(*inputs, h)
        elif h is not None:
            yield self.kernels.get("glu", M=self.rows, D=width, act=pre, clamp=self.h.clamp).bind(*inputs, h)
        x = inputs[0] if h is None else h
        if key in self.weights.norms:
            normed = self._buffer(f"normed.{width}", (self.rows, width))
            yield self._norm(x, key, normed)
            x = normed
        return (yield from self._given(key, x))

    def _kinds(self, key: str) -> tuple[bool, bool]:
        """Whether ternary weights, and whether dense ones, read what stands at the place of a norm."""
        _, layer, place, _ = key.split(".")
        return self.weights.kinds(int(layer), READERS[place])

    def _given(self, key: str, x: Buffer) -> Prepared:
        """What products at the place of a norm read, of its output or of what lies there without one."""
        return Given((yield from self._quantise(x)) if self._kinds(key)[0] else None, x)

    def _norm(self, x: Buffer, key: str, out: Buffer) -> Launch:
        kernel = self.kernels.get("rmsnorm", M=x.shape[0], D=x.shape[1], eps=self.h.eps)
        return kernel.bind(x, self.weights.norms[key], out)

    def _quantise(self, x: Buffer) -> Generator[Launch, None, Quantised]:
        kernel = self.kernels.get("act_quant", M=self.rows, K=x.shape[1], mode=self.options.act)
        quantised = self._quantised(kernel, x.shape[1])
        yield kernel.bind(x, *quantised)
        return quantised

    def _quantised(self, kernel: Kernel, width: int) -> Quantised:
        """Where a kernel puts its last three outputs."""
        q, scale, qsum = (self._buffer(f"{arg.name}.{width}", arg.shape, arg.dtype) for arg in kernel.args[-3:])
        return q, scale, qsum

    def _products(
        self, layer: int, name: str, given: Given
    ) -> Generator[Launch, None, tuple[Buffer, ...]]:  # fmt: skip
        """The GEMVs of weights that read the same activations, and where their outputs are, f32 [M, N]."""
        outputs = []
        for part in self.weights.gemvs(layer, name):
            if dense := self.weights.dense.get((layer, part)):
                assert given.x is not None
                outputs.append(self._buffer(f"{part}.out", (self.rows, dense.n)))
                yield from self._dense(dense.parts, dense.dtype, given.x, outputs[-1])
                continue
            weight = self.weights.linears[layer, part]
            shape: dict[str, Value] = {"M": self.rows, "N": weight.n, "K": weight.k, "wscale": weight.kind}
            outputs.append(self._buffer(f"{part}.out", (self.rows, weight.n)))
            if given.normed:
                pre, read = given.normed
                kernel = self.kernels.get("norm_tgemv", **shape, pre=pre, eps=self.h.eps)
            else:
                assert given.quantised is not None
                kernel, read = self.kernels.get("tgemv", **shape, ascale=self.options.act), given.quantised
            yield kernel.bind(weight.words, weight.wscale, *read, outputs[-1])
        return tuple(outputs)

    def _head_norms(
        self, layer: int, projections: tuple[Buffer, ...]
    ) -> Generator[Launch, None, tuple[Buffer, ...]]:  # fmt: skip
        """q, k and v, with the norms of each head of q and k where the model has them."""
        found = list(projections)
        for at, name in enumerate(("attn_q_norm", "attn_k_norm")):
            if (key := f"blk.{layer}.{name}.weight") in self.weights.norms:
                x, out = found[at], self._buffer(f"{name}.out", found[at].shape)
                heads = x.shape[0] * x.shape[1] // self.h.head_dim, self.h.head_dim
                yield self._norm(self._as(x, *heads), key, self._as(out, *heads))
                found[at] = out
        return tuple(found)

    def _store(self, layer: int, projections: tuple[Buffer, ...]) -> Generator[Launch, None, Buffer]:
        """q and k turned by position, k and v put into the cache; where the turned q is, f32 [M, H·D]."""
        h, turned = self.h, []
        for name, x, heads in zip("qk", projections, (h.n_head, h.n_kv), strict=False):
            kernel = self.kernels.get(
                "rope", M=self.rows, H=heads, D=h.head_dim, R=h.rope_dim,
                mode=h.rope_mode, theta=h.theta, scale=h.rope_scale,
            )  # fmt: skip
            turned.append(self._buffer(f"{name}_turned", x.shape))
            shape = (self.rows, heads, h.head_dim)
            yield kernel.bind(self._as(x, *shape), self.pos, self.freq, self._as(turned[-1], *shape))
        store = self.kernels.get("kv_store", M=self.rows, L=self.options.context, D=h.kv_dim, dtype=self.options.kv)
        yield store.bind(turned[1], projections[2], self.pos, *self.cache[layer])
        return turned[0]

    def _attend(self, layer: int, projections: tuple[Buffer, ...]) -> Iterator[Launch]:
        """q, k and v, put to use: into the cache, and ``mixed`` out of it."""
        yield self._attend_cache(layer, (yield from self._store(layer, projections)))

    def _attend_cache(self, layer: int, q: Buffer) -> Launch:
        """Attention of rotated queries [M, H·D] over a layer's cache, into ``mixed``."""
        h, m, length = self.h, self.rows, self.options.context
        kernel = self.kernels.get("attention", M=m, L=length, H=h.n_head, G=h.n_kv, D=h.head_dim, dtype=self.options.kv)
        cache = (self._as(part, length, h.n_kv, h.head_dim) for part in self.cache[layer])
        return kernel.bind(self._as(q, m, h.n_head, h.head_dim), *cache, self.pos, *self._mixed())

    def _mixed(self) -> tuple[Buffer, Buffer]:
        """Where attention puts its outputs."""
        h, m = self.h, self.rows
        mixed, lse = self._buffer("mixed", (m, h.q_dim)), self._buffer("lse", (m, h.n_head))
        return self._as(mixed, m, h.n_head, h.head_dim), lse

    def _output(self, x: Buffer) -> Iterator[Launch]:
        h, rows = self.h, self.rows if self.every_row else 1
        if self.rows > 1 and not self.every_row:
            row = self._buffer("last_row", (1, h.width))
            yield self.kernels.get("embed", M=1, V=self.rows, D=h.width, dtype="f32").bind(x, self.last, row)
            x = row
        normed = self._buffer("output_normed", (rows, h.width))
        yield self._norm(x, "output_norm.weight", normed)
        yield from self._dense(self.weights.head, self.weights.dtype[1], normed, self.logits)
        yield self.kernels.get("argmax", M=rows, N=h.vocab).bind(self.logits, self.best)

    def _dense(self, parts: list[Part], dtype: str, x: Buffer, out: Buffer) -> Iterator[Launch]:
        """Products f32 [M, N] of activations f32 [M, K] with a matrix in parts."""
        m, n, k = *out.shape, x.shape[1]
        for part in parts:
            kernel = self.kernels.get("dense_gemv", M=m, N=n, K=k, dtype=dtype, row0=part.row0, rows=part.rows)
            yield kernel.bind(part.buffer, x, out)


class FusedGraph(Graph):
    """The launches of a forward pass over M rows, fused."""

    def _norm_quant(
        self, pre: str, inputs: tuple[Buffer, ...], key: str, width: int, h: Buffer | None = None
    ) -> Prepared:
        if key not in self.weights.norms or self._kinds(key)[1] or (pre != "add" and len(inputs) > 1):
            return (yield from super()._norm_quant(pre, inputs, key, width, h))
        if self._normed_by_the_product(pre, key):
            return Given(None, normed=(pre, (*inputs, self.weights.norms[key], *(() if h is None else (h,)))))
        clamp = self.h.clamp if pre in ("silu", "relu2") else 0
        kernel = self.kernels.get(
            "norm_quant", M=self.rows, D=width, pre=pre, clamp=clamp, eps=self.h.eps, mode=self.options.act
        )
        quantised = self._quantised(kernel, width)
        yield kernel.bind(*inputs, self.weights.norms[key], *(() if h is None else (h,)), *quantised)
        return Given(quantised)

    @property
    def step(self) -> bool:
        """Whether it is the step of a GPU, which waits for launches more than for anything that they compute."""
        return self.rows == 1 and not self.every_row and self.backend.dialect == "gpu"

    def _normed_by_the_product(self, pre: str, key: str) -> bool:
        """Whether the one product that reads a norm computes it: each of its groups, where that is cheap."""
        _, layer, place, _ = key.split(".")
        parts = self.weights.gemvs(int(layer), READERS[place])
        if not self.step or pre not in ("none", "add") or len(parts) > 1 or self.options.act != "token":
            return False
        weight = self.weights.linears[int(layer), parts[0]]
        return weight.kind in ("tensor", "row") and weight.k % 4 == 0 and weight.k <= NORMED_K

    def _store(self, layer: int, projections: tuple[Buffer, ...]) -> Generator[Launch, None, Buffer]:
        if len(projections) > 1:
            return (yield from super()._store(layer, projections))
        h, q = self.h, self._buffer("q_turned", (self.rows, self.h.q_dim))
        heads = self._as(q, self.rows, h.n_head, h.head_dim)
        yield self._roped("rope_store").bind(*projections, self.pos, self.freq, heads, *self.cache[layer])
        return q

    def _attend(self, layer: int, projections: tuple[Buffer, ...]) -> Iterator[Launch]:
        if not self.step or len(projections) > 1:
            yield from super()._attend(layer, projections)
            return
        kernel = self._roped("rope_attention")
        yield kernel.bind(*projections, self.pos, self.freq, *self.cache[layer], *self._mixed())

    def _roped(self, name: str) -> Kernel:
        """An op that turns what lies in a row of q, k and v side by side."""
        h = self.h
        return self.kernels.get(
            name, M=self.rows, H=h.n_head, G=h.n_kv, D=h.head_dim, R=h.rope_dim, L=self.options.context,
            mode=h.rope_mode, theta=h.theta, scale=h.rope_scale, dtype=self.options.kv,
        )  # fmt: skip
