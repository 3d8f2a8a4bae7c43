"""The plain forward pass: against the specification's engine, and alone in its process."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kparity import compare, plain
from kparity.backends.numpy import NumpyBackend
from kparity.bench.gguf_writer import TINY, write
from kparity.engine import Engine
from kparity.errors import BadModel
from kparity.model import load_model
from kparity.plain import forward

TOKENS = [int(each) for each in np.random.default_rng(5).integers(0, TINY.vocab, 40)]
MODELS = {
    "silu": {"arch": "bitnet"},
    "relu2": {"arch": "bitnet-b1.58"},
    "tq1_0": {"type": "tq1_0"},
    "i2_s": {"type": "i2_s"},
    "block-scales": {"block_scales": True},
    "scale-tensors": {"scale_tensors": True},
    "untied": {"untied": True},
    "eps": {"eps": 0.02, "theta": 1e6},
}


def furthest(path: Path, act: str, kv: str) -> tuple[float, float]:
    """Largest 1 - cosine of a position between the plain pass and the fp64 engine, and between the two plain ones."""
    found = plain.logits(path, TOKENS, act=act, kv=kv)
    engine = Engine(load_model(path), NumpyBackend("f64"), act=act, kv=kv, fused=False)
    wanted = engine.score(TOKENS, rows=len(TOKENS))
    assert found.logits.dtype == np.float64 and found.twin.dtype == np.float32
    apart = [1 - compare.cosine(a, b) for a, b in zip(found.logits, wanted, strict=True)]
    twins = [1 - compare.cosine(a, b) for a, b in zip(found.twin, wanted, strict=True)]
    return max(apart), max(twins)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("act", "kv"), [("token", "f16"), ("block256", "f32")])
def test_it_computes_what_the_specification_does(name: str, act: str, kv: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", dataclasses.replace(TINY, **MODELS[name]))
    apart, twins = furthest(path, act, kv)
    assert apart < 1e-9 and 1e-16 < twins < 0.05, "the twin rounds, and no more than that"


@pytest.mark.parametrize("act", ["token", "block256"])
def test_native_products_change_no_bit(act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "model.gguf", dataclasses.replace(TINY, scale_tensors=True))
    before = plain.logits(path, TOKENS, act=act, kv="f16")
    monkeypatch.setattr(forward, "LARGE", 0)
    after = plain.logits(path, TOKENS, act=act, kv="f16")
    assert np.array_equal(before.logits, after.logits) and np.array_equal(before.twin, after.twin)


def test_it_is_alone() -> None:
    """What a candidate's host code does wrong must not be at hand where the reference is computed."""
    code = (
        "import sys; from kparity import plain; plain.logits(None, [1, 2], act='token', kv='f16'); plain.facts(None);"
        "print([name for name in sys.modules if name.startswith('kparity') or name.split('.')[0] in"
        " ('wgpu', 'pyopencl', 'cupy', 'torch')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(done.stdout))
    assert "kparity.plain.forward" in loaded
    shared = ("graph", "fused", "engine", "ops", "kernels", "backends", "model.hparams", "model.model", "registry")
    assert [name for name in loaded if name.startswith(tuple(f"kparity.{each}" for each in shared))] == []
    assert [name for name in loaded if not name.startswith("kparity")] == []


def test_a_missing_key_is_one_sentence(tmp_path: Path) -> None:
    from kparity.bench import gguf_writer

    kept = [key for key in gguf_writer.keys(TINY) if not key[0].endswith("head_count")]
    path = gguf_writer.write_file(tmp_path / "model.gguf", kept, list(gguf_writer.tensors(TINY)))
    with pytest.raises(BadModel, match=r"attention\.head_count is None, expected a number"):
        plain.facts(path)
