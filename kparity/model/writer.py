"""Writes GGUF files with random ternary weights, by default of the shape of the 2B-4T model.

The same seed gives the same weights, and scales that f16 holds exactly, in every ternary type: the files are equivalent
and must give the same logits. Tensors are made and written one at a time, embeddings in parts.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kparity.kernels.support import SERVED, VOCABULARY
from kparity.model.architectures import ARCHITECTURES
from kparity.model.gguf_file import ALIGNMENT
from kparity.model.gguf_header import ARRAY, BOOL, SCALARS, STRING
from kparity.model.graph import FACTORS
from kparity.model.types import READABLE
from kparity.ops.spec import Array

I32, U32, F32 = 5, 4, 6
Key = tuple[str, int, Any]
"""Name, GGUF value type, value; for arrays (type 9) the value is (element type, elements)."""
TERNARY = ("tq1_0", "tq2_0", "i2_s", "q2_0", "q2_0_128", "pq2_0", "ptq1_0")
SMALL = {"q2_0": 64, "q2_0_128": 128, "pq2_0": 128, "ptq1_0": 128}
"""Of which the gguf package knows none, with the weights that a scale counts for."""
LINEAR = (*TERNARY, "f16")
"""Types of the linear layers of a file; f16 is for engines without ternary types, in comparisons of speed."""


@dataclass(frozen=True)
class Spec:
    """What to write; the defaults are BitNet-b1.58-2B-4T with four layers."""

    type: str = "tq2_0"
    arch: str = "bitnet-b1.58"
    layers: int = 4
    width: int = SERVED.width
    ffn: int = SERVED.ffn
    heads: int = SERVED.heads
    kv_heads: int = SERVED.kv_heads
    vocab: int = VOCABULARY
    context: int = 4096
    theta: float = SERVED.theta
    eps: float = 1e-5
    seed: int = 0
    ffn_gain: float = 1.0
    """R.m.s. of what ffn_gate and ffn_up give; from about 30 on relu² leaves the range of f16."""
    untied: bool = False
    """Write output.weight instead of leaving the head to the embedding."""
    scale_tensors: bool = False
    """Put half of every scale into a tensor ``.scale`` beside the weight."""
    block_scales: bool = False
    """A scale of its own for every block (not I2_S)."""
    key_length: int = 0
    """Size of a head; 0 for the width over the number of heads."""
    embedding: str = "f16"
    """Type of the embedding and of the head: f16, or a ternary one with a scale for each block."""
    mixed: str = ""
    """Linear layers that are f16, by the ends of their names, comma-separated: ``ffn_down,0.attn_v``."""
    rope_freqs: bool = False
    """Write the table that divides the frequencies of RoPE, as of Llama 3.1 (``llama`` only)."""

    @property
    def head_dim(self) -> int:
        """Size of a head."""
        return self.key_length or self.width // self.heads


TINY = Spec(layers=2, width=256, ffn=512, heads=4, kv_heads=2, vocab=300, context=128)
"""Small enough for a test, with blocks, groups and GQA as in the real one."""


@dataclass(frozen=True)
class Entry:
    """A tensor to write: ``shape`` in file order (row length first) and the function that makes its bytes."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    n_bytes: int
    make: Callable[[], Iterable[bytes]]

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], kind: str, make: Callable[[], Iterable[bytes]]) -> Entry:
        """A tensor of a type by its name."""
        stored = next(each for each in READABLE if each.name == kind.upper())
        return cls(name, shape, stored.id, stored.n_bytes(name, shape), make)


def encode(kind: str, weights: Array, scales: Array) -> bytes:
    """Weights i8 [N, K] and scales f32 [N, ceil(K/256)], or [N, K/span] for types of smaller spans, as the bytes of a
    tensor; kparity/model/decode.py has the layouts. TQ types store no scale for a block of zeros; I2_S has one scale
    for all (ValueError for several).
    Only the types of Q2_0's layout hold a weight of +2.
    """
    if kind == "i2_s":
        if not (scales == scales.flat[0]).all():
            raise ValueError("I2_S has one scale per tensor")
        codes = (weights.reshape(-1, 4, 32) + 1).astype(np.uint8) << np.array([6, 4, 2, 0], np.uint8)[:, None]
        packed: Array = np.bitwise_or.reduce(codes, axis=1)
        return packed.tobytes() + struct.pack("<f", float(scales.flat[0])) + bytes(28)
    if kind in SMALL:
        return _small_blocks(kind, weights, scales)
    values = weights * np.repeat(np.asarray(scales, np.float32), 256, axis=1)[:, : weights.shape[1]]
    if kind == "f16":
        return bytes(values.astype("<f2"))
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    encoded: Array = quantize(values, GGMLQuantizationType[kind.upper()])
    return encoded.tobytes()


def _small_blocks(kind: str, weights: Array, scales: Array) -> bytes:
    """Types with a scale for 64 or 128 weights, of which each gets that of its 256 where there are no more."""
    rows, k = weights.shape
    span = SMALL[kind]
    codes = (weights + 1).astype(np.uint8).reshape(rows, -1, span)
    if scales.shape[1] < k // span:
        scales = np.repeat(scales, 256 // span, axis=1)[:, : k // span]
    d = scales.astype("<f2")[:, :, None].view(np.uint8)
    if kind == "ptq1_0":
        runs = ((0, 16, 5), (80, 8, 5), (120, 2, 4))  # first weight, bytes, digits of each
        v = [codes[:, :, at : at + size * digits].reshape(rows, -1, digits, size) for at, size, digits in runs]
        powers = [(3 ** np.arange(4, 4 - each.shape[2], -1)).reshape(-1, 1) for each in v]
        numbers = [(each * power).sum(axis=2) for each, power in zip(v, powers, strict=True)]
        packed = [((number * 256 + 242) // 243).astype(np.uint8) for number in numbers]
        return np.concatenate([*packed, d], axis=2).tobytes()
    fours = codes.reshape(rows, -1, span // 4, 4) << np.array([0, 2, 4, 6], np.uint8)
    return np.concatenate([d, np.bitwise_or.reduce(fours, axis=3)], axis=2).tobytes()


def random_ternary(spec: Spec, name: str, rows: int, k: int, gain: float) -> tuple[Array, Array]:
    """Weights i8 [rows, k], −1, 0, +1 alike, and scales f32 [rows, ceil(k/span)], a span for each block of the type:
    outputs have the r.m.s. ``gain``.
    """
    rng = _rng(spec, name)
    weights = rng.integers(-1, 2, (rows, k), np.int8)
    scale = np.float16(gain / math.sqrt(k * 2 / 3))
    blocks = -(-k // SMALL.get(spec.type, 256))
    if spec.block_scales:
        factors = rng.uniform(0.5, 1.5, (rows, blocks))
        return weights, (factors * float(scale)).astype(np.float16).astype(np.float32)
    return weights, np.full((rows, blocks), scale, np.float32)


def tensors(spec: Spec) -> Iterator[Entry]:
    """All tensors in file order.

    Gains: projections that a norm or a softmax follows give values of about one. The branches of the residual stream
    add up to 16 times the embedding, or a tied head would only repeat the input token.
    """
    sigma = 3.0 / math.sqrt(spec.width)  # logits of r.m.s. 3
    branch = 16.0 * sigma / math.sqrt(2 * spec.layers)
    q, kv, w, f = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.width, spec.ffn
    more = ARCHITECTURES.get(spec.arch, ARCHITECTURES["bitnet"]).norms
    yield _dense(spec, "token_embd.weight", (w, spec.vocab), sigma)
    if spec.rope_freqs:
        yield Entry.of(FACTORS, (spec.head_dim // 2,), "f32", lambda: [llama3_factors(spec).tobytes()])
    for layer in range(spec.layers):
        blk = f"blk.{layer}"
        yield _norm(spec, f"{blk}.attn_norm", w)
        for name, rows in (("attn_q", q), ("attn_k", kv), ("attn_v", kv)):
            yield from _linear(spec, f"{blk}.{name}", rows, w, 1.0)
        for name, size in (("attn_q_norm", spec.head_dim), ("attn_k_norm", spec.head_dim), ("attn_sub_norm", q)):
            if name in more:
                yield _norm(spec, f"{blk}.{name}", size)
        yield from _linear(spec, f"{blk}.attn_output", w, q, branch)
        yield _norm(spec, f"{blk}.ffn_norm", w)
        yield from _linear(spec, f"{blk}.ffn_gate", f, w, spec.ffn_gain)
        yield from _linear(spec, f"{blk}.ffn_up", f, w, spec.ffn_gain)
        if "ffn_sub_norm" in more:
            yield _norm(spec, f"{blk}.ffn_sub_norm", f)
        # silu(gate)·up of two values of r.m.s. 1 has one of 0.6, which a norm behind it hides
        yield from _linear(spec, f"{blk}.ffn_down", w, f, branch if "ffn_sub_norm" in more else branch / 0.6)
    yield _norm(spec, "output_norm", w)
    if spec.untied:
        yield _dense(spec, "output.weight", (w, spec.vocab), sigma)


def llama3_factors(spec: Spec, factor: float = 8.0, low: float = 1.0, high: float = 4.0) -> Array:
    """By what Llama 3.1 divides the frequency of each pair, f32 [head_dim / 2], of a model that was trained on a
    quarter of the context: 1 where a turn takes less than ``1 / high`` of that, ``factor`` from ``1 / low`` of it on.
    """
    turn = 2 * np.pi * spec.theta ** (np.arange(0, spec.head_dim, 2) / spec.head_dim)
    share = np.clip((spec.context / 4 / turn - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - share) / factor + share), "<f4")


def _linear(spec: Spec, name: str, rows: int, k: int, gain: float) -> Iterator[Entry]:
    kind = "f16" if name.endswith(tuple(filter(None, spec.mixed.split(",")))) else spec.type
    split = 0.5 if spec.scale_tensors and kind != "f16" else 1.0

    def make() -> Iterator[bytes]:
        weights, scales = random_ternary(spec, f"{name}.weight", rows, k, gain)
        yield encode(kind, weights, scales * np.float32(split))

    yield Entry.of(f"{name}.weight", (k, rows), kind, make)
    if split != 1.0:
        yield Entry.of(f"{name}.scale", (1,), "f32", lambda: [struct.pack("<f", 1.0 / split)])


def _norm(spec: Spec, name: str, size: int) -> Entry:
    def make() -> Iterator[bytes]:
        values = 1.0 + 0.1 * _rng(spec, name).standard_normal(size, np.float32)
        yield values.astype("<f4").tobytes()

    return Entry.of(f"{name}.weight", (size,), "f32", make)


def _dense(spec: Spec, name: str, shape: tuple[int, int], sigma: float) -> Entry:
    def make() -> Iterator[bytes]:
        rng, step = _rng(spec, name), max(1, (1 << 22) // shape[0])
        for start in range(0, shape[1], step):
            rows = min(step, shape[1] - start)
            if spec.embedding != "f16":
                weights = rng.integers(-1, 2, (rows, shape[0]), np.int8)
                scales = np.full((rows, -(-shape[0] // 256)), np.float16(sigma * math.sqrt(1.5)), np.float32)
                yield encode(spec.embedding, weights, scales)
                continue
            values = rng.standard_normal((rows, shape[0]), np.float32) * np.float32(sigma)
            yield values.astype("<f2").tobytes()

    return Entry.of(name, shape, spec.embedding, make)


def _rng(spec: Spec, name: str) -> np.random.Generator:
    return np.random.default_rng([spec.seed, zlib.crc32(name.encode())])


def graph_keys(spec: Spec) -> list[Key]:
    """Hyper-parameters."""
    sizes = {
        "vocab_size": spec.vocab,
        "context_length": spec.context,
        "embedding_length": spec.width,
        "block_count": spec.layers,
        "feed_forward_length": spec.ffn,
        "attention.head_count": spec.heads,
        "attention.head_count_kv": spec.kv_heads,
        "rope.dimension_count": spec.head_dim,
    }
    if spec.key_length:
        sizes |= {"attention.key_length": spec.key_length, "attention.value_length": spec.key_length}
    return [
        *((f"{spec.arch}.{name}", U32, value) for name, value in sizes.items()),
        (f"{spec.arch}.attention.layer_norm_rms_epsilon", F32, spec.eps),
        (f"{spec.arch}.rope.freq_base", F32, spec.theta),
    ]


def keys(spec: Spec) -> list[Key]:
    """All keys of a model of random weights."""
    names = [("general.architecture", STRING, spec.arch), ("general.name", STRING, f"random {spec.arch} {spec.type}")]
    return [*names, *graph_keys(spec), *tokenizer_keys(spec.vocab)]


def byte_alphabet() -> list[str]:
    """The characters that stand for bytes in GPT-2 vocabularies: printable ones for themselves, others from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def tokenizer_keys(vocab: int) -> list[Key]:
    """BOS, EOS, the 256 bytes, a few merges, and numbered words up to the size of the vocabulary."""
    pairs = ["t h", "i n", "Ġ th", "Ġth e", "a n", "an d", "Ġ and"]
    merged = [pair.replace(" ", "") for pair in pairs]
    tokens = ["<|bos|>", "<|eos|>", *byte_alphabet(), *merged]
    if len(tokens) > vocab:
        raise ValueError(f"a vocabulary needs at least {len(tokens)} tokens")
    tokens += [f"Ġw{index}" for index in range(len(tokens), vocab)]
    return [
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "gpt-2"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (I32, [3, 3, *[1] * (len(tokens) - 2)])),
        ("tokenizer.ggml.merges", ARRAY, (STRING, pairs)),
        ("tokenizer.ggml.bos_token_id", U32, 0),
        ("tokenizer.ggml.eos_token_id", U32, 1),
        ("tokenizer.ggml.add_bos_token", BOOL, True),
    ]


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(value)
    if kind == ARRAY:
        element, items = value
        return struct.pack("<IQ", element, len(items)) + b"".join(_value(element, item) for item in items)
    return struct.pack("<" + SCALARS[kind], value)


def header(stored: Sequence[Key], entries: Sequence[Entry], version: int = 3) -> bytes:
    """Everything in front of the data, padded to the alignment."""
    parts = [struct.pack("<4sIQQ", b"GGUF", version, len(entries), len(stored))]
    parts += [_text(name) + struct.pack("<I", kind) + _value(kind, value) for name, kind, value in stored]
    offset = 0
    for entry in entries:
        rank = len(entry.shape)
        parts.append(_text(entry.name) + struct.pack(f"<I{rank}QIQ", rank, *entry.shape, entry.type_id, offset))
        offset += entry.n_bytes + _padding(entry.n_bytes)
    raw = b"".join(parts)
    return raw + bytes(_padding(len(raw)))


def _padding(size: int) -> int:
    return -size % ALIGNMENT


def write(path: str | Path, spec: Spec) -> Path:
    """Write a model of random weights and return its path."""
    return write_file(path, keys(spec), list(tensors(spec)))


def write_file(path: str | Path, stored: Sequence[Key], entries: Sequence[Entry], version: int = 3) -> Path:
    """Write any keys and tensors, a large one never as a whole."""
    target = Path(path)
    with target.open("wb") as stream:
        stream.writelines(pieces(stored, entries, version))
    return target


def pieces(stored: Sequence[Key], entries: Sequence[Entry], version: int = 3) -> Iterator[bytes]:
    """The bytes of a file."""
    yield header(stored, entries, version)
    for entry in entries:
        written = 0
        for piece in entry.make():
            written += len(piece)
            yield piece
        if written != entry.n_bytes:
            raise ValueError(f"{entry.name}: {written} bytes made, {entry.n_bytes} announced")
        yield bytes(_padding(written))
