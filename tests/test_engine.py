"""Engines: steps, prefill, reset, context limits, the same graph on every backend, the same bits of every file type."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from kparity.backends.numpy import NumpyBackend
from kparity.device.adapter import Backend
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.errors import WrongInput
from kparity.model import load_model
from kparity.numerics import compare
from tests.gguf_files import TINY, write

TOKENS = [0, 300, 17, 901, 44, 5, 1200, 33, 8, 77, 640, 2, 19]
OF_TINY = [1, 40, 7, 250, 99, 3]
VARIANTS = [{"block_scales": True}, {"untied": True}, {"arch": "bitnet"}, {"arch": "bitnet-25"}]


@pytest.fixture(scope="module")
def model():
    return load_model(None)


@pytest.fixture
def engine(model):
    engine = Engine(model, open_backend("cpu"))
    yield engine
    engine.close()


def cosine(got: np.ndarray, wanted: np.ndarray) -> float:
    """The least of the positions."""
    return min(compare.cosine(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("act", ["token", "block256", "block32"])
@pytest.mark.parametrize("kv", ["f16", "f32"])
def test_cpu_agrees_with_fp64(model, act: str, kv: str) -> None:
    engine, truth = (Engine(model, backend, act=act, kv=kv) for backend in (open_backend("cpu"), NumpyBackend("f64")))
    wanted = truth.score(TOKENS, rows=len(TOKENS))
    assert cosine(np.stack([engine.step(token) for token in TOKENS]), wanted) > 0.999
    engine.close()


def logits(path, backend: Backend) -> np.ndarray:
    """Of steps, and of a prefill; the backend stays open."""
    model = load_model(path)
    engine = Engine(model, backend, context=32, chunk=4)
    steps = [engine.step(token) for token in OF_TINY]
    engine.reset()
    steps.append(engine.prefill(OF_TINY))
    engine.programs.clear()
    model.close()
    return np.stack(steps)


def test_file_types_give_the_same_bits(backend: Backend, tmp_path) -> None:
    specs = {kind: replace(TINY, type=kind, scale_tensors=True) for kind in ("tq2_0", "tq1_0", "i2_s")}
    first, *others = (logits(write(tmp_path / kind, spec), backend) for kind, spec in specs.items())
    assert np.isfinite(first).all() and np.ptp(first) > 0
    assert [np.array_equal(other, first) for other in others] == [True, True]


@pytest.mark.parametrize("change", VARIANTS)
def test_variants_of_the_graph_agree_with_fp64(change: dict, tmp_path) -> None:
    path = write(tmp_path / "model.gguf", replace(TINY, **change))
    assert cosine(logits(path, open_backend("cpu")), logits(path, NumpyBackend("f64"))) > 0.999


def test_relu2_and_silu_are_different_models(tmp_path) -> None:
    paths = [write(tmp_path / arch, replace(TINY, arch=arch)) for arch in ("bitnet", "bitnet-b1.58")]
    first, second = (logits(path, open_backend("cpu")) for path in paths)
    assert compare.cosine(first[-1], second[-1]) < 0.99


def test_a_head_larger_than_a_binding_is_split(tmp_path) -> None:
    path, backend = write(tmp_path / "model.gguf", TINY), open_backend("cpu")
    whole = logits(path, open_backend("cpu"))
    backend.info = msgspec.structs.replace(backend.info, max_binding=70_000)  # 300 rows of 512 bytes: three parts
    engine = Engine(load_model(path), backend, context=32, chunk=4)
    assert len(engine.weights.head) == 3
    assert np.array_equal(np.stack([engine.step(token) for token in OF_TINY]), whole[:-1])
    engine.close()


def test_prefill_and_score_give_the_logits_of_steps(engine) -> None:
    steps = np.stack([engine.step(token) for token in TOKENS])
    engine.reset()
    scored = engine.score(TOKENS, rows=5)
    engine.reset()
    last = engine.prefill(TOKENS)
    assert cosine([last, *scored], [steps[-1], *steps]) > 0.9999


@pytest.mark.parametrize("eager", [False, True])
def test_the_head_runs_for_the_end_of_a_prompt_alone(model, eager: bool) -> None:
    engine, whole = (Engine(model, open_backend("cpu"), chunk=chunk) for chunk in (4, len(TOKENS)))
    assert compare.cosine(engine.prefill(TOKENS, eager), whole.prefill(TOKENS)) > 0.9999

    def launched(op: str) -> int:
        return sum(count for name, count in engine.backend.dispatches.counts.items() if name.startswith(f"{op}_"))

    assert launched("dense_gemv") == launched("argmax") == 1
    assert launched("attention") == 4 * model.hparams.n_layer
    engine.close()
    whole.close()


def test_a_reset_forgets_everything(engine) -> None:
    first = engine.step(TOKENS[0])
    for token in TOKENS[1:]:
        engine.step(token)
    engine.reset()
    assert engine.position == 0
    assert np.array_equal(engine.step(TOKENS[0]), first)


def test_greedy_generation_is_the_argmax_of_steps(engine) -> None:
    ids = list(engine.generate(TOKENS[:4], 6))
    engine.reset()
    logits = engine.prefill(TOKENS[:4])
    expected = []
    for _ in range(6):
        expected.append(int(np.argmax(logits)))
        logits = engine.step(expected[-1])
    assert ids == expected[: len(ids)] and (len(ids) == 6 or expected[len(ids)] == engine.model.hparams.eos)


def test_the_context_is_a_limit_with_a_sentence(model) -> None:
    engine = Engine(model, open_backend("cpu"), context=8)
    engine.prefill(TOKENS[:8])
    with pytest.raises(WrongInput, match="9 tokens exceed the context of 8 positions"):
        engine.step(1)
    engine.reset()
    assert len(list(engine.generate(TOKENS[:5], 100))) <= 4
    engine.close()


def test_tokens_outside_the_vocabulary_and_empty_prompts_are_refused(engine) -> None:
    for token in (-1, 10**6):
        with pytest.raises(WrongInput, match="outside the vocabulary"):
            engine.step(token)
    for use in (lambda: engine.prefill([]), lambda: list(engine.generate([], 3))):
        with pytest.raises(WrongInput, match="no token"):
            use()


def test_a_step_stays_on_the_device(engine, monkeypatch) -> None:
    """Law 6: between token and logits nothing is uploaded but two i32 scalars, nothing downloaded but the result."""
    engine.step(TOKENS[0])
    moved: list[tuple[str, int]] = []
    backend = engine.backend
    for name in ("upload", "write", "download"):
        inner = getattr(backend, name)

        def spy(*args, _name=name, _inner=inner):
            moved.append((_name, args[0].nbytes))
            return _inner(*args)

        monkeypatch.setattr(backend, name, spy)
    engine.step(TOKENS[1])
    assert moved == [("write", 4), ("write", 4), ("download", 4 * engine.model.hparams.vocab)]
    moved.clear()
    engine.step_greedy(TOKENS[2])
    assert moved == [("write", 4), ("write", 4), ("download", 4)]
