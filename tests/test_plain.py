"""The plain forward pass: against the specification's engine, and alone in its process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kparity import plain
from kparity.backends.numpy import NumpyBackend
from kparity.engine import Engine
from kparity.errors import BadModel, WrongInput
from kparity.model import load_model
from kparity.numerics import compare
from kparity.plain import weights
from tests.cli import python
from tests.gguf_files import F32, STRING, TINY, U32, altered, write

TOKENS = [int(each) for each in np.random.default_rng(5).integers(0, TINY.vocab, 40)]
MODELS = {
    "silu": {"arch": "bitnet"},
    "relu2": {"arch": "bitnet-b1.58"},
    "tq1_0": {"type": "tq1_0"},
    "i2_s": {"type": "i2_s"},
    "block-scales": {"block_scales": True},
    "scale-tensors": {"scale_tensors": True},
    "untied": {"untied": True},
    "eps": {"eps": 0.02, "theta": 500000.0},
    "block-scales-beside": {"block_scales": True, "scale_tensors": True, "type": "tq1_0"},
    "peaks": {"ffn_gain": 30.0},
}


def apart(a: np.ndarray, b: np.ndarray) -> list[float]:
    """1 - cosine of each position."""
    return [1 - compare.cosine(one, other) for one, other in zip(a, b, strict=True)]


def furthest(path: Path, act: str, kv: str) -> tuple[float, float]:
    """Largest 1 - cosine of a position between the plain pass and the fp64 engine, and between its twin and that."""
    found = plain.logits(path, TOKENS, act=act, kv=kv)
    engine = Engine(load_model(path), NumpyBackend("f64"), act=act, kv=kv, fused=False)
    wanted = engine.score(TOKENS, rows=len(TOKENS))
    assert found.logits.dtype == np.float64 and found.rounded.dtype == np.float32
    return max(apart(found.logits, wanted)), max(apart(found.rounded, wanted))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("act", "kv"), [("token", "f16"), ("block256", "f32"), ("block32", "f16")])
def test_it_computes_what_the_specification_does(name: str, act: str, kv: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", dataclasses.replace(TINY, **MODELS[name]))
    distance, rounded = furthest(path, act, kv)
    assert distance < 1e-9 and 1e-16 < rounded < 0.05, "the f32 pass rounds, and no more than that"


@pytest.mark.parametrize("kind", ["tq1_0", "tq2_0", "i2_s"])
def test_the_size_of_a_piece_changes_no_sum(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "model.gguf", dataclasses.replace(TINY, type=kind, scale_tensors=True))
    whole = plain.logits(path, TOKENS, act="token", kv="f16").logits
    monkeypatch.setattr(weights, "PIECE", 1)  # as few rows as there can be
    pieces = plain.logits(path, TOKENS, act="token", kv="f16").logits
    assert max(apart(whole, pieces)) < 1e-12
    rows = [each.logits for each in plain.streamed(path, TOKENS, act="token", kv="f16", rows=3)]
    assert [len(each) for each in rows[:2]] == [3, 3] and max(apart(whole, np.concatenate(rows))) < 1e-12


@pytest.mark.parametrize(("kind", "block", "n_bytes"), [("Q8_0", 32, 34), ("Q6_K", 256, 210), ("BF16", 1, 2)])
def test_ordinary_types_are_decoded_as_gguf_does(kind: str, block: int, n_bytes: int) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    data = np.random.default_rng(1).integers(0, 256, (6, 512 // block * n_bytes), np.uint8)
    at = {"Q8_0": 1, "Q6_K": 209}.get(kind)
    if at is not None:
        data[:, at::n_bytes] &= 0xBB  # the high byte of an f16 scale: finite, whatever the other bits are
    else:
        data[:, 1::2] &= 0xBF
    wanted = dequantize(data, GGMLQuantizationType[kind]).reshape(-1)
    assert np.isfinite(wanted).all() and np.ptp(wanted) > 0
    assert np.array_equal(weights.DENSE[kind](data.reshape(-1)).reshape(-1), wanted)


@pytest.mark.parametrize(
    ("kind", "factor", "wanted"),
    [("linear", 4.0, 4.0), ("none", 4.0, 1.0), ("linear", 0.0, 1.0), ("", 2.0, 2.0), ("", 0.0, 1.0), ("old", 8.0, 8.0)],
)
def test_positions_are_divided_by_the_linear_factor(kind: str, factor: float, wanted: float, tmp_path: Path) -> None:
    keys: dict[str, Any] = {".rope.scale_linear" if kind == "old" else ".rope.scaling.factor": (F32, factor)}
    path = altered(tmp_path, keys=keys | ({".rope.scaling.type": (STRING, kind)} if kind in ("linear", "none") else {}))
    assert plain.facts(path).rope_scale == wanted == load_model(path).hparams.rope_scale
    assert plain.facts(path).frequencies[0] == 1 / wanted
    assert furthest(path, "token", "f16")[0] < 1e-9


def test_it_is_alone() -> None:
    """What a candidate's host code does wrong must not be at hand where the reference is computed."""
    code = (
        "import sys; from kparity import plain; plain.logits(None, [1, 2], act='token', kv='f16'); plain.facts(None);"
        "print([name for name in sys.modules if name.startswith('kparity') or name.split('.')[0] in"
        " ('wgpu', 'pyopencl', 'cupy', 'torch')])"
    )
    loaded = set(eval(python(code)))
    assert "kparity.plain.forward" in loaded
    shared = (
        *("engine", "kernels", "backends", "device", "ops.assemble", "ops.packing", "_native"),
        *("model.hparams", "model.model", "model.tensors", "model.graph"),
    )
    assert [name for name in loaded if name.startswith(tuple(f"kparity.{each}" for each in shared))] == []
    assert [name for name in loaded if not name.startswith("kparity")] == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (".attention.head_count", None, r"attention\.head_count is None, expected a number"),
        (".attention.head_count", (U32, 0), "expected a whole number of at least 1"),
        (".attention.head_count_kv", (U32, 3), "4 and 3 heads"),
        (".rope.dimension_count", (U32, 66), "heads of 64, 66 of it turned"),
        (".rope.scaling.type", (STRING, "yarn"), "RoPE scaling of type 'yarn' is not supported"),
        (".attention.layer_norm_rms_epsilon", (F32, float("nan")), "is nan, expected a number"),
    ],
)
def test_what_a_key_cannot_be_is_one_sentence(name: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=rf"model\.gguf: .*{message}"):
        plain.facts(altered(tmp_path, keys={name: value}))


def test_what_is_missing_of_another_shape_or_no_token_is_one_sentence(tmp_path: Path) -> None:
    for error, tokens, changes, message in (
        (BadModel, TOKENS, {"tensors": {"blk.1.ffn_norm.weight": None}},
         r"model\.gguf: tensor blk\.1\.ffn_norm\.weight is missing"),
        (BadModel, TOKENS, {"keys": {".feed_forward_length": (U32, 768)}},
         r"blk\.0\.ffn_gate\.weight has the shape \[256, 512\], expected 768 rows"),
        *((WrongInput, tokens, {}, "expected tokens from 0 to 299") for tokens in ([], [-1], [TINY.vocab])),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            plain.logits(altered(tmp_path, **changes), tokens, act="token", kv="f16")
