"""The forward pass, all positions at once, in fp64 and beside it in f32: what separates the two is rounding alone.

x = embedding[token]
x += Wo · norm(attention(rope(Wq·a), rope(Wk·a), Wv·a)),  a = norm(x)       for each layer; W·a of quantised a
x += Wd · norm(act(Wg·b) * (Wu·b)),                       b = norm(x)
logits = head · norm(x)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kparity.model.gguf_file import GgufFile
from kparity.plain.file import Facts, Matrix, facts_of, matrix, opened, table, vector
from kparity.spec import Array

BLOCK = 256
F16_MAX = 65504.0
LARGE = 64 << 20
"""Bytes of a file from which on native kernels multiply: decoding weights to floats would take most of the time."""
HEAD_ROWS = 8192
"""Rows of the head that are converted to fp64 at a time."""

Product = Callable[["Stream", "Quantised"], Array]


@dataclass(frozen=True)
class Logits:
    """``logits`` fp64 [positions, vocab]; ``twin`` f32, the same pass with every float in f32."""

    name: str
    logits: Array
    twin_name: str
    twin: Array


@dataclass(frozen=True)
class Quantised:
    """Activations int8 [rows, k], with what they are multiplied by to be what they were, [rows, 1 or k / 256]."""

    q: Array
    scale: Array


@dataclass
class Stream:
    """One of the two passes: its floating-point type, and the activations [rows, width] between layers."""

    dtype: np.dtype[Any]
    x: Array

    def norm(self, x: Array, weight: Array, eps: float) -> Array:
        """x / sqrt(mean(x²) + eps) * weight (Zhang and Sennrich, 2019)."""
        mean = np.mean(x * x, axis=-1, keepdims=True, dtype=self.dtype)
        found: Array = x / np.sqrt(mean + self.dtype.type(eps)) * weight.astype(self.dtype)
        return found

    def quantised(self, x: Array, act: str) -> Quantised:
        """int8 per token: 127 / max(|x|, 1e-5), half to even (BitNet b1.58); or per 256 by -127 over the value of
        largest magnitude, as llama.cpp's Q8_K has it.
        """
        one = self.dtype.type
        if act == "token":
            factor = one(127) / np.maximum(np.abs(x).max(axis=1, keepdims=True), one(1e-5))
            return Quantised(np.clip(np.rint(x * factor), -128, 127).astype(np.int8), one(1) / factor)
        rows, k = x.shape
        padded = np.zeros((rows, -(-k // BLOCK) * BLOCK), self.dtype)
        padded[:, :k] = x
        blocks = padded.reshape(rows, -1, BLOCK)
        top = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], 2)
        factor = np.divide(one(-127), top, out=np.zeros_like(top), where=top != 0)
        scale = np.divide(one(1), factor, out=np.zeros_like(factor), where=top != 0)
        q = np.clip(np.rint(blocks * factor), -128, 127).astype(np.int8)
        return Quantised(q.reshape(rows, -1)[:, :k], scale[..., 0])

    def times(self, weights: Matrix, given: Quantised) -> Array:
        """W · a, [rows, n]: sums of ternary times int8 are integers below 2²⁴, exact in f32 in any order."""
        if given.scale.shape[1] == 1:
            sums = given.q.astype(weights.values.dtype) @ weights.values.T
            found: Array = sums.astype(self.dtype) * (given.scale * self.dtype.type(weights.scale))
            return found
        out = np.zeros((len(given.q), len(weights.values)), self.dtype)
        for at in range(given.scale.shape[1]):
            part = slice(at * BLOCK, (at + 1) * BLOCK)
            sums = given.q[:, part].astype(weights.values.dtype) @ weights.values[:, part].T
            out += sums.astype(self.dtype) * (given.scale[:, at : at + 1] * self.dtype.type(weights.scale))
        return out

    def rotated(self, x: Array, f: Facts) -> Array:
        """Split halves of the first ``rope_dim`` elements of each head, turned by position times frequency."""
        half = f.rope_dim // 2
        frequencies = np.asarray(f.frequencies).astype(np.float32)  # the table is f32 in every engine
        angle = np.arange(len(x)).astype(self.dtype)[:, None] * frequencies.astype(self.dtype)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        y, a, b = x.copy(), x[..., :half], x[..., half : 2 * half]
        y[..., :half], y[..., half : 2 * half] = a * cos - b * sin, b * cos + a * sin
        found: Array = y
        return found

    def attention(self, q: Array, k: Array, v: Array, f: Facts, kv: str) -> Array:
        """softmax(q·k / √d)·v over the positions up to each one's own; query head h reads key head h / (H / G)."""
        rows = len(q)
        q = self.rotated(q.reshape(rows, f.heads, f.head_dim), f)
        k = self.rotated(k.reshape(rows, f.kv_heads, f.head_dim), f)
        v = v.reshape(rows, f.kv_heads, f.head_dim)
        if kv == "f16":  # the cache holds halves
            k, v = (each.astype(np.float16).astype(self.dtype) for each in (k, v))
        later = np.triu(np.ones((rows, rows), np.bool_), 1)
        out = np.empty_like(q)
        for head in range(f.heads):
            group = head // (f.heads // f.kv_heads)
            scores = q[:, head] @ k[:, group].T * self.dtype.type(1 / np.sqrt(f.head_dim))
            scores[later] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, head] = weights / weights.sum(axis=1, keepdims=True) @ v[:, group]
        return out.reshape(rows, -1)

    def product(self, gate: Array, up: Array, f: Facts) -> Array:
        """act(gate) * up: SiLU, or relu² within the range of f16."""
        if f.act == "silu":
            small = np.exp(-np.abs(gate))
            return np.asarray(gate * np.where(gate >= 0, 1 / (1 + small), small / (1 + small)).astype(self.dtype) * up)
        found: Array = np.square(np.maximum(gate, 0)) * up
        return np.clip(found, -F16_MAX, F16_MAX) if f.clamp else found


def logits(
    path: Path | str | None,
    tokens: Sequence[int],
    *,
    act: str,
    kv: str,
    tick: Callable[[str], None] = lambda note: None,
) -> Logits:
    """Logits after each of the tokens of a sequence; raises BadModel for a file that cannot be read.

    ``act`` is the quantisation of activations (``token``, ``block256``), ``kv`` the type of the cache (``f16``,
    ``f32``); ``tick`` is told how far it is.
    """
    with opened(path) as file, np.errstate(all="ignore"):
        f = facts_of(file)
        rows = table(file, "token_embd")[np.asarray(tokens)]
        streams = [Stream(np.dtype(each), rows.astype(each)) for each in (np.float64, np.float32)]
        for layer in range(f.layers):
            _layer(file, f, f"blk.{layer}", streams, act, kv)
            tick(f"layer {layer + 1} of {f.layers}")
        weight = vector(file, "output_norm")
        normed = [stream.norm(stream.x, weight, f.eps) for stream in streams]
        head = table(file, "output" if "output.weight" in file.tensors else "token_embd")
        truth, twin = _heads(head, normed, tick)
    return Logits("plain fp64", truth, "plain f32", twin)


def _layer(file: GgufFile, f: Facts, at: str, streams: Sequence[Stream], act: str, kv: str) -> None:
    """One layer, of both passes."""

    def linear(name: str, given: Sequence[Quantised]) -> Iterator[Array]:
        multiply = _product(file, f"{at}.{name}")
        return (multiply(stream, each) for stream, each in zip(streams, given, strict=True))

    def normed(values: Sequence[Array], name: str) -> list[Quantised]:
        weight = vector(file, f"{at}.{name}")
        pairs = zip(streams, values, strict=True)
        return [stream.quantised(stream.norm(x, weight, f.eps), act) for stream, x in pairs]

    given = normed([stream.x for stream in streams], "attn_norm")
    q, k, v = (list(linear(name, given)) for name in ("attn_q", "attn_k", "attn_v"))
    mixed = [stream.attention(a, b, c, f, kv) for stream, a, b, c in zip(streams, q, k, v, strict=True)]
    for stream, out in zip(streams, linear("attn_output", normed(mixed, "attn_sub_norm")), strict=True):
        stream.x = stream.x + out
    given = normed([stream.x for stream in streams], "ffn_norm")
    gate, up = (list(linear(name, given)) for name in ("ffn_gate", "ffn_up"))
    inner = [stream.product(a, b, f) for stream, a, b in zip(streams, gate, up, strict=True)]
    for stream, out in zip(streams, linear("ffn_down", normed(inner, "ffn_sub_norm")), strict=True):
        stream.x = stream.x + out


def _product(file: GgufFile, name: str) -> Product:
    """W · a of a weight, for both passes."""
    if file.n_bytes > LARGE:
        from kparity.plain.native import product

        found = product(file, name)
        if found is not None:
            return found
    weights = matrix(file, name)
    return lambda stream, given: stream.times(weights, given)


def _heads(head: Array, normed: Sequence[Array], tick: Callable[[str], None]) -> list[Array]:
    """Logits of both passes, some rows of the head after the other."""
    found = [np.empty((len(x), len(head)), x.dtype) for x in normed]
    for row in range(0, len(head), HEAD_ROWS):
        part = head[row : row + HEAD_ROWS].astype(np.float32)
        for x, out in zip(normed, found, strict=True):
            out[:, row : row + HEAD_ROWS] = x @ part.astype(x.dtype).T
        tick(f"row {row} of {len(head)} of the head")
    return found
