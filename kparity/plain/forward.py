"""The forward pass, all positions at once, in fp64 and beside it in f32: what separates the two is rounding alone.

x = embedding[token]
x += Wo · norm(attention(rope(Wq·a), rope(Wk·a), Wv·a)),  a = norm(x)       for each layer; W·a of quantised a
x += Wd · norm(act(Wg·b) * (Wu·b)),                       b = norm(x)
logits = head · norm(x)

llama and qwen3 lack the norms behind attention and product; qwen3 has rope(norm(Wq·a)) and rope(norm(Wk·a)), by head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kparity.errors import WrongInput
from kparity.model.gguf_file import GgufFile, TensorInfo
from kparity.ops.spec import Array
from kparity.plain.file import Facts, facts_of, opened
from kparity.plain.weights import BLOCK, Piece, find, head_of, picked, pieces, ternary, vector

F16_MAX = 65504.0
SMALL = 32
"""Activations of a scale of Q8_0."""
HEAD_TICK = 1 << 25
"""Weights of the head after which the caller hears that something goes on: a fraction of a second."""


@dataclass(frozen=True)
class Logits:
    """``logits`` fp64 [positions, vocab]; ``rounded`` f32, the same pass with every float in f32."""

    name: str
    logits: Array
    twin_name: str
    rounded: Array
    controls: Mapping[str, Array] = field(default_factory=dict)
    """f32 [few, vocab] of passes over the first positions that are wrong on purpose, by what is wrong."""


@dataclass(frozen=True)
class Quantised:
    """Activations int8 [rows, k], with what they are multiplied by to be what they were, [rows, 1] or
    [rows, k / block]; without quantisation ``q`` are the activations themselves.
    """

    q: Array
    scale: Array
    block: int = BLOCK
    """Activations of a scale, where a row has several."""


@dataclass(frozen=True)
class Span:
    """Tokens that follow each other behind ``start`` positions, whose keys and values are given."""

    start: int
    tokens: list[int]

    @property
    def end(self) -> int:
        """The position behind its last token."""
        return self.start + len(self.tokens)


Cache = tuple[Array, Array]
"""Keys and values, [positions, kv_heads, head_dim]."""
Past = Callable[[int, Array, Array], Cache]
"""What a cache holds before the spans, of a layer: from its number, and the layer's own keys and values."""


@dataclass
class Stream:
    """One of the two passes: its floating-point type, and the activations [rows, width] between layers. What may be
    wrong in an engine is a method of its own, and a subclass that is wrong there computes what such an engine would.
    """

    dtype: np.dtype[Any]
    x: Array
    layer: int = 0
    slot: str = ""
    """Where the pass is: the layer, and what is computed."""
    spans: Sequence[Span] = ()
    """Which of the rows follow each other, and at which positions; without any, all of them, from 0 on."""
    past: Cache | None = None
    """What the layer's cache holds before them."""

    def placed(self) -> Iterator[tuple[slice, int]]:
        """The rows of each span, those of the last to the end, and its first position."""
        at = 0
        for span in self.spans[:-1]:
            yield slice(at, at + len(span.tokens)), span.start
            at += len(span.tokens)
        yield slice(at, None), self.spans[-1].start if self.spans else 0

    def added(self, out: Array) -> None:
        """The residual stream after a block's output."""
        self.x = self.x + out

    def norm(self, x: Array, weight: Array, eps: float) -> Array:
        """x / sqrt(mean(x²) + eps) * weight (Zhang and Sennrich, 2019)."""
        mean = np.mean(x * x, axis=-1, keepdims=True, dtype=self.dtype)
        return np.asarray(x / np.sqrt(mean + self.dtype.type(eps)) * weight.astype(self.dtype))

    def quantised(self, x: Array, act: str) -> Quantised:
        """int8 per token: 127 / max(|x|, 1e-5), half to even (BitNet b1.58); or per 256 by -127 over the value of
        largest magnitude, as llama.cpp's Q8_K has it, or per 32 with a scale in f16, as its Q8_0; or not at all.
        """
        one = self.dtype.type
        if act == "none":
            return Quantised(x, np.ones((len(x), 1), self.dtype))
        if act == "token":
            factor = one(127) / np.maximum(np.abs(x).max(axis=1, keepdims=True), one(1e-5))
            return Quantised(np.clip(self.code(x * factor), -128, 127).astype(np.int8), one(1) / factor)
        rows, k = x.shape
        block = SMALL if act == "block32" else BLOCK
        padded = np.zeros((rows, -(-k // block) * block), self.dtype)
        padded[:, :k] = x
        blocks = padded.reshape(rows, -1, block)
        if act == "block32":
            largest = np.abs(blocks).max(axis=2, keepdims=True)
            q = np.clip(self.code(blocks * (one(127) / np.where(largest == 0, one(1), largest))), -128, 127)
            scale = (largest[..., 0] / one(127)).astype(np.float16).astype(self.dtype)
            return Quantised(q.astype(np.int8).reshape(rows, -1)[:, :k], scale, SMALL)
        top = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], 2)
        factor = np.divide(one(-127), top, out=np.zeros_like(top), where=top != 0)
        scale = np.divide(one(1), factor, out=np.zeros_like(factor), where=top != 0)
        q = np.clip(self.code(blocks * factor), -128, 127).astype(np.int8)
        return Quantised(q.reshape(rows, -1)[:, :k], scale[..., 0])

    def code(self, x: Array) -> Array:
        """Whole numbers of scaled activations, half to even."""
        return np.asarray(np.rint(x))

    def rotated(self, x: Array, f: Facts) -> Array:
        """Pairs of the first ``rope_dim`` elements of each head, turned by position times frequency."""
        frequencies = np.asarray(f.frequencies).astype(np.float32)  # the table is f32 in every engine
        places = np.concatenate([np.arange(len(x[rows])) + start for rows, start in self.placed()])
        angle = places.astype(self.dtype)[:, None] * frequencies.astype(self.dtype)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        first, second = halves(f)
        y, a, b = x.copy(), x[..., first], x[..., second]
        y[..., first], y[..., second] = a * cos - b * sin, b * cos + a * sin
        return np.asarray(y)

    def by_head(self, x: Array, weight: Array, f: Facts) -> Array:
        """The norm of each head of queries or keys, [rows, heads · head_dim]."""
        return self.norm(x.reshape(len(x), -1, f.head_dim), weight, f.eps).reshape(x.shape)

    def turned(self, x: Array, f: Facts) -> Array:
        """Queries or keys after RoPE, [rows, heads, head_dim]."""
        return self.rotated(x.reshape(len(x), -1, f.head_dim), f)

    def cached(self, x: Array, f: Facts, kv: str) -> Array:
        """Keys or values as the cache holds them, [rows, kv_heads, head_dim]."""
        x = x.reshape(len(x), f.kv_heads, f.head_dim)
        return x.astype(np.float16).astype(self.dtype) if kv == "f16" else x

    def hidden(self, rows: int) -> Array:
        """Which keys [rows, rows] a query does not see: those of later positions."""
        return np.triu(np.ones((rows, rows), np.bool_), 1)

    def groups(self, f: Facts) -> Array:
        """The head of the keys that each query head reads, [heads]."""
        return np.arange(f.heads) // (f.heads // f.kv_heads)

    def sharpness(self, f: Facts) -> float:
        """What scores are multiplied by."""
        return float(1 / np.sqrt(f.head_dim))

    def attention(self, q: Array, k: Array, v: Array, f: Facts) -> Array:
        """softmax(q·k / √d)·v over the positions up to each one's own; query head h reads key head h / (H / G)."""
        out, before, read = np.empty_like(q), [k[:0, 0], v[:0, 0]], -1
        for head, group in enumerate(self.groups(f)):
            if self.past and group != read:
                before, read = [each[:, group].astype(self.dtype) for each in self.past], group
            for rows, start in self.placed():
                (keys, values), (own, mine) = (each[:start] for each in before), (each[rows, group] for each in (k, v))
                scores = np.concatenate([q[rows, head] @ keys.T, q[rows, head] @ own.T], axis=1)
                scores *= self.dtype.type(self.sharpness(f))
                scores[:, start:][self.hidden(len(scores))] = -np.inf
                weights = np.exp(scores - scores.max(axis=1, keepdims=True))
                weights /= weights.sum(axis=1, keepdims=True)
                out[rows, head] = weights[:, :start] @ values + weights[:, start:] @ mine
        return out.reshape(len(q), -1)

    def product(self, gate: Array, up: Array, f: Facts) -> Array:
        """act(gate) * up: SiLU, or relu² within the range of f16."""
        if f.act == "silu":
            small = np.exp(-np.abs(gate))
            return np.asarray(gate * np.where(gate >= 0, 1 / (1 + small), small / (1 + small)).astype(self.dtype) * up)
        inner = np.square(np.maximum(gate, 0)) * up
        return np.asarray(np.clip(inner, -F16_MAX, F16_MAX) if f.clamp else inner)


def halves(f: Facts) -> tuple[slice, slice]:
    """The first and the second element of each pair that RoPE turns: halves that were split, or neighbours."""
    if f.rope_mode == "interleaved":
        return slice(0, f.rope_dim, 2), slice(1, f.rope_dim, 2)
    return slice(0, f.rope_dim // 2), slice(f.rope_dim // 2, f.rope_dim)


Show = Callable[[str, Sequence[Array]], None]
"""Takes an intermediate value under the name of its slot (``3.ffn_gate``), of both passes."""


Tensors = Mapping[str, TensorInfo]
Given = tuple[list[Array], list[Quantised]]
"""Activations before linear layers, of all passes: as they are, for dense weights, and quantised."""


@dataclass(frozen=True)
class Variation:
    """A pass that is wrong in one respect: other facts, other tensors under the names of a file's, another stream."""

    facts: Callable[[Facts], Facts] = lambda f: f
    tensors: Callable[[Tensors], Tensors] = lambda found: found
    stream: Callable[[np.dtype[Any], Array], Stream] = Stream


RIGHT = Variation()
"""Nothing is wrong."""


class WithoutRope(Stream):
    """Positions turn nothing."""

    def rotated(self, x: Array, f: Facts) -> Array:
        """As it was."""
        return x


class WithoutCache(Stream):
    """A position sees itself alone."""

    def hidden(self, rows: int) -> Array:
        """Every other position."""
        return ~np.eye(rows, dtype=np.bool_)


class WithoutFeedForward(Stream):
    """The feed-forward part adds nothing."""

    def product(self, gate: Array, up: Array, f: Facts) -> Array:
        """Zeros."""
        return np.zeros_like(gate)


CONTROLS: Mapping[str, type[Stream]] = {
    "without RoPE": WithoutRope, "without cache": WithoutCache, "without feed-forward": WithoutFeedForward,
}  # fmt: skip
"""Passes that whoever judges logits must be able to tell from the right one."""
CONTROLLED = 8
"""Positions of each."""


def logits(
    path: Path | str | GgufFile | None, tokens: Sequence[int], *, act: str, kv: str,
    tick: Callable[[str], None] = lambda note: None, show: Show = lambda slot, values: None, vary: Variation = RIGHT,
    spans: Sequence[Span] = (), past: Past | None = None, controlled: int = 0, twin: bool = True,
) -> Logits:  # fmt: skip
    """Logits after each of the tokens of a sequence, then after the last of each of ``spans``, which stand behind
    ``past``; raises BadModel for a file that cannot be read, WrongInput for tokens outside the vocabulary.

    ``act`` is the quantisation of activations (``token``, ``block256``, ``block32``, ``none``), ``kv`` the cache's type
    (``f16``, ``f32``); ``tick`` is told how far it is, ``show`` is given every intermediate value, ``vary`` says what
    is to be wrong. ``controlled`` is the number of positions of the passes of ``CONTROLS`` beside it. Without ``twin``
    there is no pass in f32, and nothing of it in the result.
    """
    rows = len(tokens) + len(spans)
    found = next(
        streamed(path, tokens, act=act, kv=kv, rows=rows, tick=tick, show=show, vary=vary, spans=spans, past=past,
                 controlled=controlled, twin=twin)
    )  # fmt: skip
    show("logits", [found.logits, found.rounded])
    return found


def streamed(
    path: Path | str | GgufFile | None, tokens: Sequence[int], *, act: str, kv: str, rows: int,
    tick: Callable[[str], None] = lambda note: None, show: Show = lambda slot, values: None, vary: Variation = RIGHT,
    spans: Sequence[Span] = (), past: Past | None = None, controlled: int = 0, twin: bool = True,
) -> Iterator[Logits]:  # fmt: skip
    """The same logits, ``rows`` positions at a time: of a large vocabulary all would take much memory."""
    with opened(path) as file:
        f, file = vary.facts(facts_of(file)), replace(file, tensors=dict(vary.tensors(file.tensors)))
        everything = [Span(0, list(tokens)), *spans]
        ids = np.concatenate([np.asarray(span.tokens, np.int64) for span in everything])
        if not len(ids) or ids.min() < 0 or ids.max() >= f.vocab:
            raise WrongInput(f"expected tokens from 0 to {f.vocab - 1}, and at least one")
        given = picked(file, find(file, "token_embd.weight", f.width, f.vocab), ids)
        types = (np.float64, np.float32) if twin else (np.float64,)
        streams = [vary.stream(np.dtype(each), given.astype(each)) for each in types]
        for stream in streams:
            stream.spans = everything
        wrong = CONTROLS if controlled else {}
        streams += [make(np.dtype(np.float32), given[:controlled].astype(np.float32)) for make in wrong.values()]
        normed = _normed(file, f, streams, act, kv, tick, show, past)
        lasts = np.cumsum([len(span.tokens) for span in everything])[1:] - 1
        if spans:
            normed[: len(types)] = [each[[*range(len(tokens)), *lasts]] for each in normed[: len(types)]]
        for at in range(0, len(tokens) + len(spans), rows):
            truth, *more = _heads(file, f, [each[at : at + rows] for each in normed], tick)
            rounded = more.pop(0) if twin else np.empty((0, f.vocab), np.float32)
            yield Logits("plain fp64", truth, "plain f32", rounded, dict(zip(wrong, more, strict=True)))


@np.errstate(all="ignore")  # what is not finite is for the gates to see
def _normed(
    file: GgufFile, f: Facts, streams: Sequence[Stream], act: str, kv: str, tick: Callable[[str], None], show: Show,
    past: Past | None,
) -> list[Array]:  # fmt: skip
    """What the head is given, of both passes, [positions, width]."""
    show("embd", [stream.x for stream in streams])
    for layer in range(f.layers):
        _layer(file, f, layer, streams, act, kv, show, past)
        tick(f"layer {layer + 1} of {f.layers}")
    _at(streams, f.layers, "output_norm")
    weight = vector(file, "output_norm.weight", f.width)
    normed = [stream.norm(stream.x, weight, f.eps) for stream in streams]
    show("result_norm", normed)
    return normed


def _at(streams: Sequence[Stream], layer: int, slot: str) -> None:
    """Tell the passes where they are."""
    for stream in streams:
        stream.layer, stream.slot = layer, slot


def _layer(
    file: GgufFile, f: Facts, layer: int, streams: Sequence[Stream], act: str, kv: str, show: Show, past: Past | None
) -> None:  # fmt: skip
    """One layer, of both passes."""

    def shown(slot: str, values: Sequence[Array]) -> list[Array]:
        show(f"{layer}.{slot}", values)
        return list(values)

    def both(slot: str, call: Callable[..., Any], *values: Sequence[Any]) -> list[Any]:
        """A call of each stream with its part of the values."""
        _at(streams, layer, slot)
        return [call(stream, *given) for stream, *given in zip(streams, *values, strict=True)]

    def linear(name: str, given: Given, rows: int) -> list[Array]:
        floats, quantised = given
        k, tensor = floats[0].shape[1], file.tensors.get(f"blk.{layer}.{name}.weight")
        if tensor and not tensor.type.ternary:
            return dense_products(file, find(file, tensor.name, k, rows), floats)
        return products(ternary(file, f"blk.{layer}.{name}", k, rows), streams, quantised, rows)

    def normed(values: Sequence[Array], name: str) -> Given:
        """What products are given: of values behind the norm of that name, where the model has it."""
        floats = list(values)
        if name in f.norms:
            weight = vector(file, f"blk.{layer}.{name}.weight", values[0].shape[1])
            floats = shown(name, both(name, lambda stream, x: stream.norm(x, weight, f.eps), values))
        return floats, both(name, lambda stream, x: stream.quantised(x, act), floats)

    def by_head(values: Sequence[Array], name: str) -> list[Array]:
        if name not in f.norms:
            return list(values)
        weight = vector(file, f"blk.{layer}.{name}.weight", f.head_dim)
        return shown(name, both(name, lambda stream, x: stream.by_head(x, weight, f), values))

    def added(values: Sequence[Array], slot: str) -> None:
        both(slot, lambda stream, out: stream.added(out), values)
        shown(slot, [stream.x for stream in streams])

    def turned(values: Sequence[Array], slot: str) -> list[Array]:
        found = both(slot, lambda stream, x: stream.turned(x, f), values)
        shown(slot, [x.reshape(len(x), -1) for x in found])
        return found

    def cached(values: Sequence[Array], slot: str) -> list[Array]:
        return shown(slot, both(slot, lambda stream, x: stream.cached(x, f, kv), values))

    given = normed([stream.x for stream in streams], "attn_norm")
    sizes = {"attn_q": f.heads, "attn_k": f.kv_heads, "attn_v": f.kv_heads}
    projected = [linear(name, given, count * f.head_dim) for name, count in sizes.items()]
    shown("qkv", [np.concatenate(each, axis=1) for each in zip(*projected, strict=True)])
    q, k = (by_head(each, f"attn_{name}_norm") for name, each in zip("qk", projected, strict=False))
    q, k = turned(q, "q_rope"), turned(k, "k_rope")
    keys, values = cached(k, "k_cache"), cached(projected[2], "v_cache")
    before = past(layer, keys[0], values[0]) if past else None
    for stream in streams:
        stream.past = before
    mixed = shown("attention", both("attention", lambda stream, *qkv: stream.attention(*qkv, f), q, keys, values))
    added(shown("attn_out", linear("attn_output", normed(mixed, "attn_sub_norm"), f.width)), "attn_residual")
    given = normed([stream.x for stream in streams], "ffn_norm")
    gate, up = (shown(name, linear(name, given, f.ffn)) for name in ("ffn_gate", "ffn_up"))
    slot = "ffn_silu_gate"
    shown(slot, both(slot, lambda stream, a: stream.product(a, np.ones_like(a), f), gate))
    slot = "ffn_swiglu_inner"
    inner = shown(slot, both(slot, lambda stream, *pair: stream.product(*pair, f), gate, up))
    added(shown("ffn_out", linear("ffn_down", normed(inner, "ffn_sub_norm"), f.width)), "output")


def dense_products(file: GgufFile, tensor: TensorInfo, given: Sequence[Array]) -> list[Array]:
    """W · a of all passes with a weight of an ordinary type: activations are not quantised."""
    found = [np.empty((len(x), tensor.rows), x.dtype) for x in given]
    for rows, weights in pieces(file, tensor):
        for x, out in zip(given, found, strict=True):
            out[:, rows] = x @ weights.astype(x.dtype, copy=False).T
    return found


def products(weights: Iterable[Piece], streams: Sequence[Stream], given: Sequence[Quantised], rows: int) -> list[Array]:
    """W · a of all passes, [positions, rows] each, every weight decoded once.

    Sums of ternary times int8 are integers below 2²⁴: exact in f32 in any order, and one product for all passes. They
    are scaled as each pass rounds, over the whole width or, where either side has scales within it, span by span.
    Activations that are not quantised are multiplied as each pass rounds.
    """
    found = [np.zeros((len(each.q), rows), stream.dtype) for stream, each in zip(streams, given, strict=True)]
    whole, ends = given[0].q.dtype == np.int8, np.cumsum([len(each.q) for each in given])[:-1]
    q = np.concatenate([each.q for each in given]).astype(np.float32)
    k = q.shape[1]
    for piece in weights:
        span = k // piece.scales.shape[1]
        step = min(span, given[0].block if given[0].scale.shape[1] > 1 else k)
        for start in range(0, k, step):
            part = slice(start, start + step)
            values = piece.values[:, part].T
            sums = np.split(q[:, part] @ values, ends) if whole else [each.q[:, part] @ values for each in given]
            for stream, each, out, integers in zip(streams, given, found, sums, strict=True):
                scale = (
                    _column(each.scale, start, each.block) * _column(piece.scales.astype(stream.dtype), start, span).T
                )
                out[:, piece.rows] += integers.astype(stream.dtype) * scale
    return found


def _column(scales: Array, start: int, span: int) -> Array:
    """The scales of what begins at ``start``, [rows, 1]; the only ones where there are no others."""
    at = start // span if scales.shape[1] > 1 else 0
    return scales[:, at : at + 1]


@np.errstate(all="ignore")
def _heads(file: GgufFile, f: Facts, normed: Sequence[Array], tick: Callable[[str], None]) -> list[Array]:
    """Logits of all passes, some rows of the head after the other: one product for truth, one for those in f32."""
    head = find(file, head_of(file).name, f.width, f.vocab)
    given = [normed[0], *([np.concatenate(normed[1:])] if len(normed) > 1 else ())]
    found = [np.empty((len(x), f.vocab), x.dtype) for x in given]
    silent = 0
    for rows, weights in pieces(file, head):
        for x, out in zip(given, found, strict=True):
            out[:, rows] = x @ weights.astype(x.dtype, copy=False).T
        silent += weights.size
        if silent >= HEAD_TICK or rows.stop == f.vocab:
            tick(f"row {rows.stop} of {f.vocab} of the head")
            silent = 0
    rounded = np.split(found[1], np.cumsum([len(x) for x in normed[1:-1]])) if len(found) > 1 else ()
    return [found[0], *rounded]
