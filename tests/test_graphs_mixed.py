"""Files whose embedding or head is ternary, and files some of whose linear layers are not."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kparity import contracts, plain
from kparity.backends.numpy import NumpyBackend
from kparity.device.adapter import Backend, Device
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.engine.resident import bound, everything, wrong_rows
from kparity.engines.registry import open_here
from kparity.errors import BadModel
from kparity.model import load_model
from kparity.model.writer import TINY, Entry, write
from kparity.receipts import derived, record
from kparity.receipts.probe import of_model
from kparity.receipts.rules.graph import graph
from tests.cli import run
from tests.gguf_files import altered, entry
from tests.test_graphs import GRAPHS, TOKENS, apart, scored

BITNET = replace(TINY, arch="bitnet")
TABLES = {
    "tq2_0": replace(BITNET, embedding="tq2_0"),
    "tq1_0 untied": replace(BITNET, embedding="tq1_0", untied=True),
    "q2_0": replace(GRAPHS["qwen3"], embedding="q2_0", type="q2_0"),
    "ptq1_0": replace(GRAPHS["llama"], embedding="ptq1_0", untied=True),
}
MIXED = {
    "bitnet": replace(BITNET, mixed="0.attn_v,1.ffn_down,1.attn_output"),
    "gate and up": replace(BITNET, mixed="0.ffn_gate,0.ffn_up,1.attn_q,1.attn_k,1.attn_v"),
    "llama": replace(GRAPHS["llama 3"], mixed="attn_q,0.ffn_gate"),
    "qwen3": replace(GRAPHS["qwen3"], mixed="0.ffn_down,attn_k"),
}
SPANS = {
    "llama of 64": replace(GRAPHS["llama"], type="q2_0", block_scales=True, embedding="q2_0", untied=True),
    "qwen3 of 128": replace(GRAPHS["qwen3"], type="ptq1_0", block_scales=True, mixed="0.attn_v"),
}
"""With a scale of its own for every 64 or 128 weights."""
ALL = TABLES | SPANS | {f"mixed {name}": spec for name, spec in MIXED.items()}


@pytest.mark.parametrize("name", ALL)
def test_the_plain_pass_is_the_specification_with_and_without_fusing(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", ALL[name])
    truth = plain.logits(path, TOKENS, act="token", kv="f16").logits
    found = [scored(path, NumpyBackend("f64"), fused=fused) for fused in (True, False)]
    assert np.array_equal(*found) and max(apart(found[0], truth)) < 1e-9


@pytest.mark.parametrize("name", ["q2_0", "mixed gate and up", "mixed llama", "qwen3 of 128"])
def test_every_backend_agrees(name: str, backend: Backend, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", ALL[name])
    truth = plain.logits(path, TOKENS, act="token", kv="f16").logits
    found = scored(path, backend)
    assert np.median(apart(found, truth)) < 1e-3 and max(apart(found, truth)) < 0.01


# --- ternary tables ---


@pytest.mark.parametrize("kind", ["tq2_0", "tq1_0", "q2_0", "q2_0_128", "pq2_0", "ptq1_0"])
def test_a_ternary_table_is_widened_exactly_by_both_readers(kind: str, tmp_path: Path) -> None:
    spec = replace(BITNET, embedding=kind)
    dense = load_model(write(tmp_path / "model.gguf", spec)).embedding()
    table, file = dense.array, dense.file
    assert table.dtype == np.float16 and table.shape == (300, 256) and set(np.unique(np.sign(table))) == {-1, 0, 1}
    rows = plain.weights.picked(file, dense.tensor, np.array([0, 17, 299]))
    np.testing.assert_array_equal(table[[0, 17, 299]].astype(np.float32), rows)
    part = np.empty((3, 256), np.float16)
    dense.read(16, part)
    np.testing.assert_array_equal(part, table[16:19])


@pytest.mark.parametrize(("scale", "fits"), [(32752.0, True), (32768.0, False)])
def test_plus_two_of_a_table_is_exact_or_refused(scale: float, fits: bool, tmp_path: Path) -> None:
    block = np.float16(scale).tobytes() + bytes([0xFF] * 16)
    head = entry("output.weight", (256, 300), 42, block * 4 * 300)
    model = load_model(altered(tmp_path, BITNET, tensors={"output.weight": head}))
    if fits:
        assert (model.head().array == 2 * scale).all()
        return
    with pytest.raises(BadModel, match=r"output\.weight: a weight of \+2 times its scale is beyond f16"):
        _ = model.head().array


def test_a_damaged_ternary_table_is_a_sentence(tmp_path: Path) -> None:
    head = entry("output.weight", (256, 300), 35, bytes([0xFF] * 64 + [0, 0x3C]) * 300)
    model = load_model(altered(tmp_path, BITNET, tensors={"output.weight": head}))
    with pytest.raises(BadModel, match=r"output\.weight: code 3 at row 0"):
        _ = model.head().array


# --- mixed files ---


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0", "Q6_K"])
def test_linear_layers_of_other_types(kind: str, tmp_path: Path) -> None:
    """Weights of gguf's own quantiser, activations as they are: what transformers computes, to rounding."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    name, values = "blk.1.ffn_up.weight", np.random.default_rng(1).normal(0, 0.06, (512, 256)).astype(np.float32)
    if kind == "Q6_K":  # gguf reads it, and does not write it: any bytes with an ordinary scale
        raw = np.random.default_rng(1).integers(0, 256, (512, 210), np.uint8)
        raw[:, 208:] = np.frombuffer(np.float16(1e-4).tobytes(), np.uint8)
    else:
        raw = quantize(values, GGMLQuantizationType[kind])
    made: dict[str, Entry | None] = {name: entry(name, (256, 512), GGMLQuantizationType[kind].value, raw.tobytes())}
    path = altered(tmp_path, BITNET, tensors=made)
    model = load_model(path)
    assert model.mixed == ((1, "ffn_up"),) and model.dense(1, "ffn_up").shape == (512, 256)
    truth = plain.logits(path, TOKENS, act="token", kv="f16").logits
    assert np.median(apart(scored(path, open_backend("cpu")), truth)) < 1e-3
    assert "blk.1.ffn_up: activations are not quantised" in run("model", "inspect", str(path)).stdout
    assert of_model(str(path)).mixed == {"blk.1.ffn_up": kind}
    follows(path)


@pytest.mark.parametrize("name", MIXED)
def test_transformers_has_the_same_numerics(name: str, transformers: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", MIXED[name])
    truth = plain.logits(path, TOKENS, act="token", kv="f32").logits
    found = open_here("transformers?threads=1", model=str(path)).score(TOKENS)
    assert np.median(apart(found, truth)) < 1e-4 and max(apart(found, truth)) < 1e-2


def test_all_that_lies_on_the_device_is_looked_at(tmp_path: Path) -> None:
    """Dense layers too: each is the file's, each is bound, and one weight that changes shows."""
    path = write(tmp_path / "model.gguf", MIXED["gate and up"])
    engine = Engine(load_model(path), open_backend("cpu"))
    engine.score(TOKENS)
    held = [
        each for each in everything(engine, load_model(path)) if not wrong_rows(engine.backend, each.buffer, each.rows)
    ]
    assert {each.name for each in held} >= {"ffn_gate of layer 0", "attn_v of layer 1", "attn_qkv of layer 0"}
    assert len(held) == len([*everything(engine, load_model(path))])
    assert all(len(buffers) == 1 for buffers in bound(engine).values())
    part = engine.weights.dense[0, "ffn_gate"].parts[0]
    array = engine.backend.download(part.buffer).copy()
    array[7, 9] += 1
    engine.backend.write(part.buffer, array)
    bad = {each.name: rows for each in everything(engine, load_model(path))
           if (rows := wrong_rows(engine.backend, each.buffer, each.rows))}  # fmt: skip
    assert bad == {"ffn_gate of layer 0": [7]}
    engine.close()


def test_a_mixed_file_is_probed_and_timed_and_its_receipt_tells_of_it(tmp_path: Path) -> None:
    path, out = write(tmp_path / "model.gguf", MIXED["gate and up"]), tmp_path / "bench.json"
    words = ("--pp", "8", "--tg", "0", "--seconds", "0.2", "--receipt", str(out))
    done = run("bench", "--model", str(path), "-b", "cpu", *words)
    assert done.returncode == 0, done.stderr
    predicate = msgspec.json.decode(out.read_bytes(), type=record.Statement).predicate
    assert predicate.model is not None and predicate.model.mixed["blk.0.ffn_gate"] == "F16"
    assert len(predicate.model.mixed) == 5 and [each.parity.verdict for each in predicate.runs] == ["PASS"]
    assert run("receipt", "verify", str(out)).returncode == 0
    limits = contracts.load(contracts.RECEIPT)
    for told in ({}, {"blk.0.ffn_gate": "TQ2_0"}, {"blk.7.ffn_gate": "F16"}, {"blk.0.ffn_gate": "F17"}):
        predicate.model.mixed = told
        assert {each.code for each in graph(predicate, limits)} <= {"RCPT-MODEL-SIZE", "RCPT-GRAPH", "RCPT-BANDWIDTH"}
        assert [*graph(predicate, limits)], told


def test_a_file_without_a_ternary_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"blk\.0\.attn_q\.weight is F16, expected a ternary type"):
        load_model(write(tmp_path / "model.gguf", replace(BITNET, type="f16")))


def test_a_scale_beside_a_layer_that_is_not_ternary_is_refused(tmp_path: Path) -> None:
    """One converter divides such a weight by it, another does not: what it means is not told."""
    beside = {"blk.0.attn_v.scale": entry("blk.0.attn_v.scale", (1,), 0, np.float32(2).tobytes())}
    with pytest.raises(BadModel, match=r"attn_v\.scale is no part"):
        load_model(altered(tmp_path, MIXED["bitnet"], tensors=beside))


# --- receipts ---


@pytest.mark.parametrize("name", ["llama", "qwen3", "tq2_0", *(f"mixed {each}" for each in MIXED)])
def test_a_receipt_follows_from_sizes_and_types(name: str, tmp_path: Path) -> None:
    follows(write(tmp_path / "model.gguf", {**GRAPHS, **ALL}[name]))


def follows(path: Path) -> None:
    """The launches and the bytes that a receipt is held against are those of the file's engine."""
    engine, told = Engine(load_model(path), NumpyBackend("f32")), of_model(str(path))
    device = Device("cpu", "x", "cpu", "", "", "", "")
    wanted = derived.kernels(told, device, None, "token", "f16")["step"]
    launched = (derived.without_dialect(each.kernel_id, "numpy") for each in engine.recorded(1).graph.launches)
    assert Counter(launched) == wanted
    least, most = derived.tensor_bytes(told)
    total = sum(each.n_bytes for each in engine.model.file.tensors.values())
    assert least <= total <= most and math.isclose(total, most, rel_tol=0.01)
    assert derived.weight_bytes(told) > 0
    engine.close()
