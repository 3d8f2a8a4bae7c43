"""The second reader of a file's keys and weights: hyper-parameters as the forward pass needs them, and matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from kparity.errors import BadModel
from kparity.model import decode
from kparity.model.dense import load_matrix, load_vector
from kparity.model.gguf_file import GgufFile
from kparity.spec import Array

SQUARED = ("bitnet-25", "bitnet-b1.58")
"""Architectures with relu²; ``bitnet`` has SiLU (llama.cpp's and bitnet.cpp's graphs)."""


@dataclass(frozen=True)
class Facts:
    """What a graph of this file must be built with; sizes in elements."""

    act: str
    clamp: int
    """1 where the feed-forward's product is kept within the range of f16: relu² has no upper limit."""
    eps: float
    theta: float
    rope_scale: float
    rope_dim: int
    rope_mode: str
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    ffn: int
    vocab: int
    layers: int
    frequencies: list[float]
    """Radians per position of each rotating pair, fp64 [rope_dim / 2]: theta^(-2i / rope_dim), divided by the linear
    factor (Su et al., 2021).
    """


def path_of(path: Path | str | None) -> Path:
    """The file; without one, that of the embedded model."""
    return Path(str(files("kparity") / "data" / "embedded.gguf")) if path is None else Path(path)


@contextmanager
def opened(path: Path | str | None) -> Iterator[GgufFile]:
    """An open file; raises BadModel for one that is none."""
    file = GgufFile.open(path_of(path))
    try:
        yield file
    finally:
        file.close()


def facts(path: Path | str | None) -> Facts:
    """What a file says; raises BadModel where a key is missing or is no number."""
    with opened(path) as file:
        return facts_of(file)


def facts_of(file: GgufFile) -> Facts:
    """What an open file says."""
    arch = str(file.keys.get("general.architecture", ""))

    def number(name: str, default: float | None = None) -> float:
        value: Any = file.keys.get(f"{arch}.{name}", default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise BadModel(f"{file.path}: key {arch}.{name} is {value!r}, expected a number")
        return value

    width, heads = int(number("embedding_length")), int(number("attention.head_count"))
    head_dim = int(number("attention.key_length", width / heads))
    rope_dim = int(number("rope.dimension_count", head_dim))
    factor = number("rope.scaling.factor", number("rope.scale_linear", 0))
    linear = file.keys.get(f"{arch}.rope.scaling.type", "linear") == "linear"
    scale = float(factor) if linear and factor else 1.0
    theta = float(number("rope.freq_base", 10000.0))
    squared = arch in SQUARED
    return Facts(
        act="relu2" if squared else "silu", clamp=int(squared),
        eps=float(number("attention.layer_norm_rms_epsilon")), theta=theta, rope_scale=scale, rope_dim=rope_dim,
        rope_mode="neox", heads=heads, kv_heads=int(number("attention.head_count_kv", heads)), head_dim=head_dim,
        width=width, ffn=int(number("feed_forward_length")), vocab=file.tensors["token_embd.weight"].rows,
        layers=int(number("block_count")),
        frequencies=[math.exp(-2 * i / rope_dim * math.log(theta)) / scale for i in range(rope_dim // 2)],
    )  # fmt: skip


@dataclass(frozen=True)
class Matrix:
    """Ternary weights [n, k]: ``values`` f32 of -1, 0 and 1 with ``scale`` f32 for all of them; or, where blocks have
    scales of their own, fp64 with the scales multiplied in, and ``scale`` 1.
    """

    values: Array
    scale: np.float32


def matrix(file: GgufFile, name: str) -> Matrix:
    """The weights ``<name>.weight`` times ``<name>.scale``, by the second decoder (kparity/model/decode.py)."""
    tensor = file.tensors[f"{name}.weight"]
    k, n, kind = tensor.shape[0], tensor.rows, tensor.type.name
    file.advise(tensor, "WILLNEED")
    if kind == "I2_S":
        weights, stored = decode.decode_i2_s(file.data(tensor), n, k)
        scales = np.broadcast_to(stored, (n, 1))
    else:
        decoder = decode.decode_tq2_0 if kind == "TQ2_0" else decode.decode_tq1_0
        weights, scales = decoder(tensor.name, file.data(tensor), n, k)
    file.advise(tensor, "DONTNEED")
    beside = beside_of(file, name)
    if (scales == scales.flat[0]).all():
        return Matrix(weights.astype(np.float32), np.float32(scales.flat[0]) * beside)
    blocks = scales.astype(np.float32) * beside
    parts = weights.reshape(n, k // 256, 256) * blocks.astype(np.float64)[:, :, None]
    return Matrix(parts.reshape(n, k), np.float32(1))


def beside_of(file: GgufFile, name: str) -> np.float32:
    """The factor in the tensor ``<name>.scale``; 1 where there is none."""
    tensor = file.tensors.get(f"{name}.scale")
    found: np.float32 = np.float32(1 if tensor is None else load_vector(file, tensor)[0])
    return found


def vector(file: GgufFile, name: str) -> Array:
    """The weights of a norm, f32 [k]."""
    return load_vector(file, file.tensors[f"{name}.weight"])


def table(file: GgufFile, name: str) -> Array:
    """An embedding or a head [rows, k], f16 or f32."""
    return load_matrix(file, file.tensors[f"{name}.weight"])
