"""The same weights as TQ2_0, TQ1_0 and I2_S: the same logits, bit for bit, on every backend."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from kparity.backends.numpy import NumpyBackend
from kparity.device.adapter import Backend
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.model import load_model
from kparity.numerics import compare
from tests.gguf_files import TINY, write

TOKENS = [1, 40, 7, 250, 99, 3]


class Borrowed(Engine):
    """An engine on a backend that other tests go on using."""

    def close(self) -> None:
        self.programs.clear()


def logits(path, backend: Backend, **options) -> np.ndarray:
    model = load_model(path)
    engine = Borrowed(model, backend, context=32, chunk=4, **options)
    steps = [engine.step(token) for token in TOKENS]
    engine.reset()
    steps.append(engine.prefill(TOKENS))
    engine.close()
    model.close()
    return np.stack(steps)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    return {
        kind: write(folder / f"{kind}.gguf", dataclasses.replace(TINY, type=kind, scale_tensors=True))
        for kind in ("tq2_0", "tq1_0", "i2_s")
    }


def test_formats_give_the_same_bits(backend: Backend, files) -> None:
    found = {kind: logits(path, backend) for kind, path in files.items()}
    assert np.isfinite(found["tq2_0"]).all() and np.ptp(found["tq2_0"]) > 0
    for kind in ("tq1_0", "i2_s"):
        assert np.array_equal(found[kind], found["tq2_0"]), kind


@pytest.mark.parametrize(
    "change", [{"block_scales": True}, {"untied": True}, {"arch": "bitnet"}, {"arch": "bitnet-25"}]
)
def test_variants_of_the_graph_agree_with_fp64(change: dict, tmp_path) -> None:
    path = write(tmp_path / "model.gguf", dataclasses.replace(TINY, **change))
    got, truth = logits(path, open_backend("cpu")), logits(path, NumpyBackend("f64"))
    assert min(compare.cosine(a, b) for a, b in zip(got, truth, strict=True)) > 0.999


def test_relu2_and_silu_are_different_models(tmp_path) -> None:
    models = (dataclasses.replace(TINY, arch=arch) for arch in ("bitnet", "bitnet-b1.58"))
    first, second = (logits(write(tmp_path / "model.gguf", spec), open_backend("cpu")) for spec in models)
    assert compare.cosine(first[-1], second[-1]) < 0.99


def test_a_head_larger_than_a_binding_is_split(tmp_path, monkeypatch) -> None:
    path = write(tmp_path / "model.gguf", TINY)
    whole = logits(path, open_backend("cpu"))
    backend = open_backend("cpu")
    backend.info = msgspec.structs.replace(backend.info, max_binding=70_000)  # 300 rows of 512 bytes: three parts
    model = load_model(path)
    engine = Engine(model, backend, context=32, chunk=4)
    assert len(engine.weights.head) == 3
    assert np.array_equal(np.stack([engine.step(token) for token in TOKENS]), whole[:-1])
