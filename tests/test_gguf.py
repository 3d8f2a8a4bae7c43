"""Good files: what a model says about itself, ordinary tensors, the digest, and ``kparity model inspect``."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from kparity.errors import UnknownName, WrongInput
from kparity.model import Model, digest, load_model, tensors
from kparity.model.inspection import norm_statistics
from kparity.plain.weights import matrix

from .gguf_files import STRING, TINY, U32, Spec, altered, entry


def build(path: Path, spec: Spec = TINY, **changes: Any) -> Model:
    """A small model, ``altered``."""
    return load_model(altered(path, spec, **changes))


# --- hyper-parameters ---


def test_hyper_parameters(tmp_path: Path) -> None:
    for arch, act, clamp in (("bitnet", "silu", 0), ("bitnet-25", "relu2", 1), ("bitnet-b1.58", "relu2", 1)):
        h = build(tmp_path, replace(TINY, arch=arch)).hparams
        assert (h.arch, h.act, h.clamp, h.rope_mode) == (arch, act, clamp, "neox")
    assert (h.n_layer, h.width, h.ffn, h.n_head, h.n_kv, h.head_dim, h.rope_dim) == (2, 256, 512, 4, 2, 64, 64)
    assert (h.context, h.vocab, h.theta, h.rope_scale) == (128, 300, 500000.0, 1.0)
    assert (h.bos, h.eos, h.add_bos) == (0, 1, True)
    assert h.eps == pytest.approx(1e-5)


def test_missing_optional_keys(tmp_path: Path) -> None:
    gone = [".vocab_size", ".rope.dimension_count", ".rope.freq_base"]
    gone += [f"tokenizer.ggml.{name}" for name in ("bos_token_id", "eos_token_id", "add_bos_token")]
    h = build(tmp_path, keys=dict.fromkeys(gone)).hparams
    assert (h.vocab, h.rope_dim, h.theta) == (300, 64, 10000.0)
    assert (h.bos, h.eos, h.add_bos) == (None, None, False)


def test_head_dimension_of_its_own(tmp_path: Path) -> None:
    """attention.key_length instead of width / heads: 8 heads of 64 on a width of 256 make queries of 512."""
    rows, replaced = {"attn_q": 512, "attn_k": 128, "attn_v": 128}, {}
    for layer in range(TINY.layers):
        for name, n in rows.items():
            key = f"blk.{layer}.{name}.weight"
            replaced[key] = entry(key, (256, n), 35, bytes([0x55] * 64 + [0, 0x3C]) * n)
        out, norm = f"blk.{layer}.attn_output.weight", f"blk.{layer}.attn_sub_norm.weight"
        replaced[out] = entry(out, (512, 256), 35, bytes([0x55] * 64 + [0, 0x3C]) * 512)
        replaced[norm] = entry(norm, (512,), 0, np.ones(512, "<f4").tobytes())
    sizes = {".attention.head_count": 8, ".attention.key_length": 64, ".attention.value_length": 64}
    model = build(tmp_path, keys={name: (U32, size) for name, size in sizes.items()}, tensors=replaced)
    assert (model.hparams.head_dim, model.hparams.q_dim) == (64, 512)
    assert model.linear(0, "attn_q").words.shape == (512, 16)


# --- tensors ---


def test_tied_and_untied_heads(tmp_path: Path) -> None:
    tied = build(tmp_path)
    assert tied.tied and tied.head().tensor is tied.embedding().tensor and tied.head().tied
    array = tied.head().array
    assert (array.dtype, array.shape) == (np.float16, (300, 256))
    copy = array.copy()
    tied.close()
    np.testing.assert_array_equal(array, copy)  # it outlives the file
    untied = build(tmp_path, replace(TINY, untied=True))
    assert not untied.tied and not untied.head().tied and untied.head().tensor.name == "output.weight"
    assert not np.array_equal(untied.head().array, untied.embedding().array)


@pytest.mark.parametrize(("type_name", "tolerance"), [("F32", 0), ("BF16", 2**-8), ("Q8_0", 0.01), ("Q6_K", 0)])
def test_ordinary_types(tmp_path: Path, type_name: str, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    values = np.random.default_rng(0).standard_normal((300, 256)).astype(np.float32)
    kind = GGMLQuantizationType[type_name]
    raw = values
    if type_name == "Q6_K":  # the package only decodes it: blocks of quants ql, qh, 16 scales, d
        raw = np.random.default_rng(1).integers(0, 256, (300, 210), np.uint8)
        raw[:, 208:] = np.full(300, 0.01, "<f2").view(np.uint8).reshape(300, 2)
        values = dequantize(raw, kind)
    elif type_name != "F32":
        raw = quantize(values, kind)
    name = "token_embd.weight"
    model = build(tmp_path, tensors={name: entry(name, (256, 300), int(kind), raw.tobytes())})
    array = model.embedding().array
    assert array.dtype == np.float32 and array.flags.c_contiguous and array.shape == (300, 256)
    np.testing.assert_allclose(array, values, rtol=tolerance, atol=tolerance * 4)
    monkeypatch.setattr(tensors, "_CHUNK", 100 * 256)
    model.embedding().read(7, some := np.empty((250, 256), np.float32))
    np.testing.assert_array_equal(some, array[7:257])


def test_norms(tmp_path: Path) -> None:
    name = "blk.1.attn_norm.weight"
    for type_id, dtype in ((0, "<f4"), (1, "<f2")):
        values = np.linspace(0.5, 1.5, 256).astype(dtype)
        vector = build(tmp_path, tensors={name: entry(name, (256,), type_id, values.tobytes())}).vector(name)
        assert vector.dtype == np.float32
        np.testing.assert_array_equal(vector, values.astype(np.float32))


def test_separate_scales_multiply(tmp_path: Path) -> None:
    tripled = build(tmp_path).linear(0, "attn_q").wscale * np.float32(3.0)
    name = "blk.0.attn_q.scale"
    scaled = build(tmp_path, tensors={name: entry(name, (1,), 0, np.float32(3.0).tobytes())})
    np.testing.assert_array_equal(scaled.linear(0, "attn_q").wscale, tripled)
    assert (matrix(scaled.file, "blk.0.attn_q")[1] == tripled).all()


def test_wrong_questions(tmp_path: Path) -> None:
    model = build(tmp_path)
    with pytest.raises(UnknownName, match="did you mean 'attn_q'"):
        model.linear(0, "attn_qq")
    with pytest.raises(WrongInput, match="layers 0 to 1"):
        model.linear(2, "attn_q")
    with pytest.raises(UnknownName):
        model.vector("blk.0.no_norm.weight")


def test_the_embedded_model() -> None:
    model = load_model()
    assert model.hparams.arch == "bitnet"
    assert model.tokenizer.encode("In the beginning")[0] == model.hparams.bos
    assert model.inspect()["suspect"] == []


# --- digest ---


def test_digest_of_a_large_file_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digest, "_LARGE", 10)
    monkeypatch.setattr(digest, "_SETTLED_S", -1.0)
    file = tmp_path / "file"
    file.write_bytes(b"a" * 100)
    first, times = digest.file_sha256(file), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_bytes(b"b" * 100)
    os.utime(file, ns=times)
    second = digest.file_sha256(file)
    assert second != first, "the same size, inode and time of modification, and other bytes"
    monkeypatch.setattr(digest, "sha256_of", lambda *_: "0" * 64)
    assert digest.file_sha256(file) == second
    os.utime(file, ns=(1, 1))
    assert digest.file_sha256(file) == "0" * 64, "another modification time is another file"
    for entry_file in (tmp_path / "cache").rglob("sha256/*"):
        entry_file.write_text("damaged")
    assert digest.file_sha256(file) == "0" * 64


# --- inspection ---


SUSPECT = {"NaN": np.nan, "all weights are zero": 0.0, "√width": 16.0, "1/√width": 1 / 16.0, "far above 1": 1000.0,
           "far below 1": 1e-4, "stored as w − 1": np.tile([0.2, -0.2], 128)}  # fmt: skip


def test_norms_are_sane_or_suspect_for_a_reason() -> None:
    for reason, weights in SUSPECT.items():
        statistics = norm_statistics(np.full(256, weights, np.float32), 256)
        assert statistics["verdict"] == "SUSPECT" and reason in statistics["reason"]
    spread = np.random.default_rng(0).normal(1.0, 0.2, 2560)
    for scale in (0.05, 0.5, 1.0, 3.0):
        assert norm_statistics((scale * spread).astype(np.float32), 2560)["verdict"] == "OK"


def test_inspect_command(tmp_path: Path) -> None:
    from kparity.cli.model import model

    name = "blk.1.ffn_norm.weight"
    hostile = {"general.name": (STRING, "\x1b[31m[bold]red")}
    bad = entry(name, (256,), 0, np.zeros(256, "<f4").tobytes())
    path = build(tmp_path, keys=hostile, tensors={name: bad}).path
    shown = CliRunner().invoke(model, ["inspect", str(path)], catch_exceptions=False)
    assert shown.exit_code == 0 and "\x1b" not in shown.output
    for text in ("[bold]red", name, "SUSPECT", "all weights are zero", "theta 500000", "bos", "context", "300 × 256",
                 "TQ2_0", "norms: 8 OK, 1 SUSPECT"):  # fmt: skip
        assert text in shown.output
    result = CliRunner().invoke(model, ["inspect", str(path), "--json"], catch_exceptions=False)
    report = json.loads(result.output)
    assert report["suspect"] == [name]
    assert report["hparams"]["context"] == 128
    assert {row["type"] for row in report["types"]} == {"TQ2_0", "F16", "F32"}


def test_inspect_shows_a_vector_that_is_not_finite(tmp_path: Path) -> None:
    name = "output_norm.weight"
    values = np.ones(256, "<f4")
    values[3] = np.inf
    model = build(tmp_path, tensors={name: entry(name, (256,), 0, values.tobytes())})
    assert model.inspect()["suspect"] == [name]
    with pytest.raises(WrongInput, match="element 3 is inf"):
        model.vector(name)


def test_writer_is_read_by_the_gguf_package(tmp_path: Path) -> None:
    from gguf import GGUFReader

    for version in (2, 3):
        model = build(tmp_path, version=version)
        assert model.file.version == version
        assert {tensor.name for tensor in GGUFReader(model.path).tensors} == set(model.file.tensors)
