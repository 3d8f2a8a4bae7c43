"""Defects that the plain pass can have: each is one thing changed, and what an engine that has it would compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from kparity.ops.spec import Array
from kparity.plain import RIGHT, Facts, Stream, Variation
from kparity.plain.forward import F16_MAX, Quantised, Tensors, halves

GATES: Mapping[str, Callable[[Array], Array]] = {
    "ReLU without its square": lambda g: np.maximum(g, 0),
    "the square without its ReLU": np.square,
    "the sigmoid without the gate": lambda g: np.asarray(1 / (1 + np.exp(-g))),
    "GELU": lambda g: np.asarray(g * (0.5 + 0.5 * np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3)))),
}
ACTS = {
    "token": "int8 per token",
    "block256": "int8 per block of 256",
    "block32": "int8 per block of 32",
    "none": "not at all",
}
NORMS = ("attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm", "output_norm")
"""Places before linear layers: each has a norm, or where the model has none, what is quantised there."""
READER = dict(zip(NORMS, ("qkv", "attn_output", "ffn_gate and ffn_up", "ffn_down"), strict=False))
"""The linear layers behind each place."""
PAIRS = {"neox": "split halves (NEOX)", "interleaved": "pairs side by side (interleaved)"}
OTHER_PAIRS = {"neox": "interleaved", "interleaved": "neox"}
TIMES = tuple(sign * step for step in (1.01, 1.1, 2.0, 8.0, 64.0) for sign in (1, -1))
"""By what a fitted value may be off: a factor, or its inverse where it is negative."""


@dataclass(frozen=True)
class Defect:
    """A pass that is wrong in one respect; ``act`` and ``kv`` are other options of the pass."""

    pattern: str
    cause: str
    vary: Variation = RIGHT
    act: str = ""
    kv: str = ""


@dataclass(frozen=True)
class Family:
    """Defects of one value, of which the likeliest is searched: from ``right`` on, and among ``known`` others."""

    pattern: str
    cause: str
    """With the value that fits as ``{}``."""
    right: float
    made: Callable[[float], Variation]
    known: tuple[float, ...] = ()

    def grid(self) -> list[float]:
        """Where the search begins."""
        near = [self.right * step if step > 0 else self.right / -step for step in TIMES]
        return sorted({*near, *self.known} - {self.right})


def wrong(**methods: Any) -> Variation:
    """A stream with other methods."""
    return Variation(stream=type("Wrong", (Stream,), methods))


def table(f: Facts, theta: float = 0.0, scale: float = 0.0, dim: int = 0) -> Facts:
    """With other frequencies of RoPE."""
    theta, scale, dim = theta or f.theta, scale or f.rope_scale, dim or f.rope_dim
    factors = np.resize(f.factors, dim // 2)
    found = [theta ** (-2 * i / dim) / scale / float(factor) for i, factor in enumerate(factors)]
    return replace(f, theta=theta, rope_scale=scale, rope_dim=dim, frequencies=found)


def misread(**facts: Any) -> Variation:
    """Facts that are not the file's."""
    return Variation(lambda f: replace(f, **facts))


def _pairs(self: Stream, x: Array, f: Facts) -> Array:
    """The other pairs than the file's: neighbours for split halves, or the other way round."""
    return Stream.rotated(self, x, replace(f, rope_mode=OTHER_PAIRS[f.rope_mode]))


def _half_backwards(half: int) -> Callable[[Stream, Array, Facts], Array]:
    """One element of each pair as if it turned the other way."""

    def rotated(self: Stream, x: Array, f: Facts) -> Array:
        found, part = Stream.rotated(self, x, f), halves(f)[half]
        found[..., part] = Stream.rotated(self, x, replace(f, frequencies=[-each for each in f.frequencies]))[..., part]
        return found

    return rotated


def _late(x: Array) -> Array:
    return np.concatenate([np.zeros_like(x[:1]), x[:-1]])


def _attending(change: Callable[..., tuple[Array, Array, Array]], **more: Any) -> Variation:
    """Attention to other queries, keys and values; a query without a key gives zeros."""

    def attention(self: Stream, q: Array, k: Array, v: Array, f: Facts) -> Array:
        return np.asarray(np.nan_to_num(Stream.attention(self, *change(q, k, v), f), nan=0.0))

    return wrong(attention=attention, **more)


def _hiding(first: int) -> Callable[..., Array]:
    """Keys from so many behind the query's own are hidden."""
    return lambda self, rows: np.triu(np.ones((rows, rows), np.bool_), first)


def _hole() -> Variation:
    """Positions begin at 1, behind a key and a value of zeros."""

    def attention(self: Stream, q: Array, k: Array, v: Array, f: Facts) -> Array:
        self.past = np.zeros_like(k[:1]), np.zeros_like(v[:1])
        return Stream.attention(self, q, k, v, f)

    return wrong(attention=attention, placed=lambda self: [(slice(0, None), 1)])


def _normed(pattern: str, cause: str, change: Callable[[Array, Array], tuple[Array, ...]]) -> Iterator[Defect]:
    """Norms of other inputs and gains, perhaps divided by what is third: all of them, and the last alone."""
    for which, slots in (("norms", (*NORMS, "attn_q_norm", "attn_k_norm")), ("the last norm", NORMS[-1:])):

        def norm(self: Stream, x: Array, w: Array, eps: float, slots: Sequence[str] = slots) -> Array:
            x, w, *by = change(x, w) if self.slot in slots else (x, w)
            mean = np.mean(np.square(by[0] if by else x), axis=-1, keepdims=True, dtype=self.dtype)
            return np.asarray(x / np.sqrt(mean + self.dtype.type(eps)) * w.astype(self.dtype))

        yield Defect(pattern, f"{which}: {cause}", wrong(norm=norm))


def _unnormed(slot: str) -> Variation:
    return wrong(norm=lambda self, x, w, eps: x if self.slot == slot else Stream.norm(self, x, w, eps))


def _gated(gate: Callable[[Array], Array]) -> Variation:
    return wrong(product=lambda self, g, u, f: np.clip(gate(g) * u, -F16_MAX, F16_MAX))


def _cut(self: Stream, x: Array, f: Facts, kv: str) -> Array:
    """Values of the cache whose lower bits are dropped."""
    exact = Stream.cached(self, x, f, "f32")
    near = exact.astype(np.float16)
    far = np.abs(near.astype(self.dtype)) > np.abs(exact)
    return np.where(far, np.nextafter(near, np.float16(0)), near).astype(self.dtype)


def _to_128(self: Stream, x: Array, act: str) -> Quantised:
    scale = np.maximum(np.abs(x).max(axis=1, keepdims=True), self.dtype.type(1e-5)) / self.dtype.type(128)
    return Quantised(np.clip(self.code(x / scale), -128, 127).astype(np.int8), scale)


def _scaled_again(power: int) -> Callable[[Stream, Array, str], Quantised]:
    """Codes with a power of their scale."""

    def quantised(self: Stream, x: Array, act: str) -> Quantised:
        found = Stream.quantised(self, x, act)
        return replace(found, scale=found.scale**power)

    return quantised


def scaled(times: float, slots: Sequence[str] = NORMS) -> Variation:
    """Linear layers whose outputs are multiplied by a factor: those behind some norms."""

    def quantised(self: Stream, x: Array, act: str) -> Quantised:
        found = Stream.quantised(self, x, act)
        return replace(found, scale=found.scale * self.dtype.type(times)) if self.slot in slots else found

    return wrong(quantised=quantised)


def fixed(f: Facts, act: str, kv: str) -> Iterator[Defect]:
    """Defects without a value, of a model with these facts."""
    yield from _feed_forward(f)
    yield from _rope(f)
    yield from _attention(f)
    for slot in (*f.norms, NORMS[-1]):
        yield Defect("norm-missing", f"the norm {slot} is left out", _unnormed(slot))
    yield from _normed("norm-gain", "the gain is not applied", lambda x, w: (x, np.ones_like(w)))
    yield from _normed("norm-gain", "the gain counts from 1", lambda x, w: (x, w + 1))
    told = "the deviation from the mean is taken (LayerNorm for RMSNorm)"
    yield from _normed("norm-mean", told, lambda x, w: (x - x.mean(axis=-1, keepdims=True), w))
    told = "the deviation from the mean divides, which is not taken off"
    yield from _normed("norm-mean", told, lambda x, w: (x, w, x - x.mean(axis=-1, keepdims=True)))
    for each in sorted({*ACTS} - {act}):
        told = f"activations are quantised {ACTS[each]}, the reference does it {ACTS[act]}"
        yield Defect("quantisation", told, act=each)
    if act == "token":
        yield Defect("quantisation", "the largest activation becomes 128, not 127", wrong(quantised=_to_128))
    for times, power in (("not applied", 0), ("applied twice", 2)):
        yield Defect("scale", f"the scale of activations is {times}", wrong(quantised=_scaled_again(power)))
    cut = wrong(code=lambda self, x: np.trunc(x))
    yield Defect("rounding", "codes of activations are cut off instead of rounded", cut)
    yield Defect("kv-type", f"the KV cache is not {kv}", kv="f32" if kv == "f16" else "f16")
    yield Defect("kv-type", "the KV cache is cut off to f16 instead of rounded", wrong(cached=_cut))
    yield Defect("scale", "all linear layers give zeros: their weights or activations are lost", scaled(0.0))
    bare = Variation(tensors=lambda t: {name: each for name, each in t.items() if not name.endswith("scale")})
    yield Defect("scale-tensor", "the tensors .scale beside the weights are not applied", bare)


def _feed_forward(f: Facts) -> Iterator[Defect]:
    other, names = {"silu": "relu2", "relu2": "silu"}[f.act], {"silu": "SiLU", "relu2": "the squared ReLU"}
    for name, vary in (
        (names[other], misread(act=other, clamp=int(other == "relu2"))),
        *((name, _gated(gate)) for name, gate in GATES.items()),
    ):
        yield Defect("activation", f"{name} where the file has {names[f.act]}", vary)
    exchanged = wrong(product=lambda self, g, u, f: Stream.product(self, u, g, f))
    yield Defect("gate-and-up", "gate and up are exchanged", exchanged)
    yield Defect("clamp", "products beyond the range of f16 are not limited alike", misread(clamp=1 - f.clamp))


def _rope(f: Facts) -> Iterator[Defect]:
    told = f"RoPE turns {PAIRS[OTHER_PAIRS[f.rope_mode]]} where the file means {PAIRS[f.rope_mode]}"
    yield Defect("rope-pairs", told, wrong(rotated=_pairs))
    backwards, still = [-each for each in f.frequencies], [0.0] * len(f.frequencies)
    yield Defect("rope-direction", "RoPE turns the other way", misread(frequencies=backwards))
    for half in (0, 1):
        told = f"the sine of the {('first', 'second')[half]} element of each pair has the wrong sign"
        yield Defect("rope-direction", told, wrong(rotated=_half_backwards(half)))
    yield Defect("rope-missing", "RoPE does not turn, or every row by one position", misread(frequencies=still))
    for dim in sorted({f.rope_dim // 2, f.head_dim} - {f.rope_dim}):
        told = f"RoPE turns {dim} elements of each head, the file says {f.rope_dim}"
        yield Defect("rope-dim", told, Variation(partial(table, dim=dim)))
    for dim in (f.rope_dim // 2, 2 * f.rope_dim):
        found = (2 * table(f, dim=dim).frequencies)[: f.rope_dim // 2]
        told = f"frequencies of RoPE are those of {dim} turning elements, the file says {f.rope_dim}"
        yield Defect("rope-table", told, misread(frequencies=found))
    if set(f.factors) != {1.0}:
        told = "the factors of rope_freqs do not divide the frequencies"
        yield Defect("rope-table", told, Variation(lambda f: table(replace(f, factors=[1.0]))))
    for last in (f.frequencies[-1] * f.theta ** (-2 / f.rope_dim), f.frequencies[0]):
        told = "each pair has the frequency of the next one"
        yield Defect("rope-table", told, misread(frequencies=[*f.frequencies[1:], last]))

    def turned(self: Stream, x: Array, f: Facts) -> Array:
        return x.reshape(len(x), -1, f.head_dim) if self.slot == "k_rope" else Stream.turned(self, x, f)

    def cached(self: Stream, x: Array, f: Facts, kv: str) -> Array:
        return Stream.cached(self, Stream.turned(self, x, f) if self.slot == "v_cache" else x, f, kv)

    yield Defect("rope-keys", "keys enter the cache before they turn", wrong(turned=turned))
    yield Defect("rope-values", "values are turned like keys", wrong(cached=cached))


def _attention(f: Facts) -> Iterator[Defect]:
    yield Defect("mask-more", "a query sees one key too many", wrong(hidden=_hiding(2)))
    yield Defect("mask-none", "a query of a batch sees all of the batch", wrong(hidden=_hiding(1 << 30)))
    strict = _attending(lambda *qkv: qkv, hidden=_hiding(0))
    yield Defect("mask-less", "a query does not see its own key: the mask is strict", strict)
    late = _attending(lambda q, k, v: (q, _late(k), _late(v)))
    yield Defect("kv-late", "keys and values go one position late: an empty key is seen first, the own one not", late)
    yield Defect("kv-hole", "an empty key lies before the first: positions begin at 1", _hole())
    yield Defect("kv-exchanged", "keys and values are exchanged", _attending(lambda q, k, v: (q, v, k)))
    lost = _attending(lambda q, k, v: (q, k, 0 * v))
    yield Defect("kv-missing", "no value reaches attention: none was stored, or none is read", lost)
    dealt = wrong(groups=lambda self, f: np.arange(f.heads) % f.kv_heads)
    yield Defect("gqa", "key heads are dealt out to query heads one by one, not by groups", dealt)
    order = np.argsort(np.arange(f.heads).reshape(-1, f.kv_heads).T.ravel())
    stacked = _attending(lambda q, k, v: (q[:, order], k, v))
    yield Defect("gqa", "query heads are stacked one by one for each key head, not by groups", stacked)
    first = _attending(lambda q, k, v: (q, k, np.repeat(v[:, :1], v.shape[1], 1)))
    yield Defect("gqa", "all values come from the first head", first)
    yield Defect("gqa", "heads of values are in reverse", _attending(lambda q, k, v: (q, k, v[:, ::-1])))
    early = _attending(lambda q, k, v: (q, np.concatenate([q[:, -1:], k[:, :-1]], axis=1), v))
    yield Defect("gqa", "keys are stored one head too early: the last query head is the first of them", early)


def families(f: Facts) -> Iterator[Family]:
    """Defects of a value."""
    bases, small = (1e4, 1e5, 5e5, 1e6, 5e6, 1e7), (1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
    yield Family("rope-theta", f"the base of RoPE is {{}}, the file says {f.theta:g}", f.theta,
                 lambda value: Variation(partial(table, theta=value)), bases)  # fmt: skip
    yield Family("rope-scale", f"the linear factor of RoPE is {{}}, the file says {f.rope_scale:g}", f.rope_scale,
                 lambda value: Variation(partial(table, scale=value)), (1.0,))  # fmt: skip
    yield Family("eps", f"eps of the norms is {{}}, the file says {f.eps:g}", f.eps,
                 lambda value: misread(eps=value), small)  # fmt: skip
    root = f.head_dim**0.5
    yield Family("softmax-scale", f"scores are multiplied by {{}}/√{f.head_dim}", 1.0,
                 lambda value: wrong(sharpness=lambda self, f: value / root),
                 (root, 1 / root, 1 / root**2))  # fmt: skip
    yield Family("embedding-scale", "embeddings are multiplied by {}", 1.0,
                 lambda value: Variation(stream=lambda dtype, x: Stream(dtype, x * dtype.type(value))),
                 (f.width**0.5, f.width**-0.5))  # fmt: skip
    yield Family("scale", "all linear layers are multiplied by {}", 1.0, scaled)
    for slot, of in READER.items():
        yield Family("scale", f"{of} is multiplied by {{}}", 1.0, partial(scaled, slots=(slot,)))


def layered(f: Facts) -> Iterator[Defect]:
    """Defects of one layer, or of all but one place."""
    last, first = (f.layers - 1, "output"), (0, "attn_residual")
    yield Defect("block-missing", "no block but the last is added to the stream", _adding(*last, 1, 1, (1, 0)))
    told = "the stream is not stored: it is lost behind the first block"
    yield Defect("residual", told, _adding(*first, 1, 1, (0, 1)))
    for at in range(f.layers):
        for slot, block in (("attn_residual", "attention"), ("output", "the feed-forward block")):
            for pattern, told, stream, times in (
                ("residual", f"the stream around {block} is not added back", 0, 1),
                ("block-missing", f"{block} is missing", 1, 0),
                ("residual", f"the output of {block} is subtracted from the stream around it", 1, -1),
            ):
                yield Defect(pattern, f"layer {at}: {told}", _adding(at, slot, stream, times))
    for at in range(1, f.layers):
        for slot in NORMS[:-1]:
            what = f"what {slot} gives" if slot in f.norms else f"what is quantised before {READER[slot]}"
            told = f"layer {at}: {what} is that of the layer before, it is not launched"
            yield Defect("block-missing", told, _quantised_before(at, slot))
        told = f"layer {at} attends to the cache of the layer before"
        yield Defect("cache-of-another-layer", told, _attending_before(at))
        told = f"layer {at}: attention gives what that of the layer before gave, it is not launched"
        yield Defect("block-missing", told, _attending_before(at, whole=True))
        told = f"layers {at - 1} and {at} change places"
        yield Defect("layers", told, Variation(tensors=partial(swapped, first=at - 1, second=at)))


def _adding(layer: int, slot: str, stream: int, block: int, elsewhere: tuple[int, int] = (1, 1)) -> Variation:
    """So many times the stream, and so many times the block, at one place."""

    def added(self: Stream, out: Array) -> None:
        times = (stream, block) if (self.layer, self.slot) == (layer, slot) else elsewhere
        self.x = times[0] * self.x + times[1] * out

    return wrong(added=added)


def _quantised_before(layer: int, slot: str) -> Variation:
    """Activations behind a norm that are those of the layer before."""

    def quantised(self: Any, x: Array, act: str) -> Quantised:
        found = Stream.quantised(self, x, act)
        if (self.layer, self.slot) == (layer, slot):
            return getattr(self, "before", found)
        if (self.layer, self.slot) == (layer - 1, slot):
            self.before = found
        return found

    return wrong(quantised=quantised)


def _attending_before(layer: int, whole: bool = False) -> Variation:
    """Keys and values of the layer before, or its queries too."""

    def attention(self: Any, q: Array, k: Array, v: Array, f: Facts) -> Array:
        before, self.before = getattr(self, "before", (q, k, v)), (q, k, v)
        queries, keys, values = before if self.layer == layer else (q, k, v)
        return Stream.attention(self, queries if whole else q, keys, values, f)

    return wrong(attention=attention)


def swapped(tensors: Tensors, first: int, second: int) -> Tensors:
    """With the tensors of two layers under each other's names."""
    names = {f"blk.{first}.": f"blk.{second}.", f"blk.{second}.": f"blk.{first}."}

    def renamed(name: str) -> str:
        start = next((each for each in names if name.startswith(each)), "")
        return names.get(start, "") + name.removeprefix(start)

    return {renamed(name): each for name, each in tensors.items()}
