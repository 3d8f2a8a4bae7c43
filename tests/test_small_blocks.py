"""Q2_0, PQ2_0 and PTQ1_0: a decoder written from the layouts' text, weight by weight; +2; spans of scales; sizes."""

from __future__ import annotations

import ctypes
import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kparity import _native, ops
from kparity.device import registry
from kparity.doctor import examine
from kparity.engine.weights import stacked_scales
from kparity.errors import BadModel, Unavailable
from kparity.model import load_model, writer
from kparity.model.decode import decode_ptq1_0, decode_q2_0
from kparity.model.tensors import NATIVE, Ternary, combine_scales
from kparity.model.writer import SMALL
from kparity.ops.packing import pack, unpack
from kparity.ops.spec import Array
from kparity.plain.weights import matrix

from .cli import run
from .gguf_files import TINY, Entry, Spec, altered, entry, write
from .test_gguf_hostile import refused

Q = "blk.1.attn_q.weight"
IDS = {"q2_0": (42, 18), "q2_0_128": (42, 34), "pq2_0": (142, 34), "ptq1_0": (143, 28)}
"""Id, and bytes of a block."""


def weight(kind: str, block: bytes, i: int) -> float:
    """Weight i of a block, by the text: Q2_0 is f16 d, then qs; byte i/4, bits 2·(i % 4), (code − 1)·d. PTQ1_0: qs[24]
    (five trits a byte: a run of 16 bytes, then one of 8), qh[2] (four trits), f16 d last; trit n of byte b is
    (((b · 3ⁿ) & 255) · 3) >> 8, less 1.
    """
    if kind != "ptq1_0":
        (d,) = struct.unpack("<e", block[:2])
        return float((block[2 + i // 4] >> 2 * (i % 4) & 3) - 1) * d
    (d,) = struct.unpack("<e", block[26:])
    if i < 80:
        n, b = i // 16, block[i % 16]
    elif i < 120:
        n, b = (i - 80) // 8, block[16 + (i - 80) % 8]
    else:
        n, b = (i - 120) // 2, block[24 + (i - 120) % 2]
    return float(((b * 3**n & 255) * 3 >> 8) - 1) * d


def plainly(kind: str, raw: bytes, rows: int, k: int) -> Array:
    """All weights [rows, k] times their scales."""
    span, size = SMALL[kind], IDS[kind][1]
    blocks = [raw[at : at + size] for at in range(0, len(raw), size)]
    return np.array([weight(kind, block, i) for block in blocks for i in range(span)]).reshape(rows, k)


def second(kind: str, raw: bytes, rows: int, k: int) -> tuple[Array, Array]:
    data = np.frombuffer(raw, np.uint8)
    return decode_ptq1_0("t", data, rows, k) if kind == "ptq1_0" else decode_q2_0(data, rows, k, SMALL[kind])


def bytes_of(kind: str, rows: int, k: int, seed: int = 0) -> bytes:
    """Any blocks of a kind: all codes, a scale of its own for each; of PTQ1_0 bytes that its encoder writes."""
    rng, (span, size) = np.random.default_rng(seed), (SMALL[kind], IDS[kind][1])
    blocks = rng.integers(0, 256, (rows * k // span, size), np.uint8)
    d = rng.uniform(0.01, 2, len(blocks)).astype("<f2")[:, None].view(np.uint8)
    if kind == "ptq1_0":
        v = rng.integers(0, 243, (len(blocks), 26))
        v[:, 24:] -= v[:, 24:] % 3
        blocks[:, :26], blocks[:, 26:] = (v * 256 + 242) // 243, d
    else:
        blocks[:, :2] = d
    return blocks.tobytes()


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize(("rows", "k"), [(1, 128), (3, 256), (2, 384), (5, 640)])
def test_three_decoders_agree_on_any_bytes(kind: str, rows: int, k: int) -> None:
    raw = bytes_of(kind, rows, k, rows)
    truth, (weights, scales) = plainly(kind, raw, rows, k), second(kind, raw, rows, k)
    np.testing.assert_array_equal(weights * np.repeat(scales.astype(np.float64), SMALL[kind], axis=1), truth)
    words, half, used, bad = getattr(_native, NATIVE[kind.upper()])(np.frombuffer(raw, np.uint8), rows, k, 2)
    assert bad == -1 and set(np.unique(weights)) == ({-1, 0, 1} if kind == "ptq1_0" else {-1, 0, 1, 2})
    np.testing.assert_array_equal(words, pack(weights))  # the tail of a row is padded with code 1
    np.testing.assert_array_equal(half.view("<f2"), scales)
    np.testing.assert_array_equal(used, weights.reshape(rows, -1, SMALL[kind]).any(axis=2))


@pytest.mark.parametrize("kind", SMALL)
def test_what_the_writer_encodes_is_what_the_text_decodes(kind: str) -> None:
    rng = np.random.default_rng(3)
    weights = rng.integers(-1, 2 if kind == "ptq1_0" else 3, (4, 512)).astype(np.int8)
    scales = rng.uniform(0.1, 1, (4, 2)).astype(np.float16).astype(np.float32)
    raw = writer.encode(kind, weights, scales)
    np.testing.assert_array_equal(plainly(kind, raw, 4, 512), weights * np.repeat(scales, 256, axis=1))


def test_llama_cpp_reads_q2_0_alike() -> None:
    folder = os.environ.get("KPARITY_LLAMACPP", "")
    if not Path(folder, "libggml-base.so").is_file():
        pytest.skip("KPARITY_LLAMACPP names no folder with libggml-base.so")
    library = ctypes.CDLL(str(Path(folder, "libggml-base.so")))
    raw, theirs = bytes_of("q2_0", 6, 448), np.empty((6, 448), np.float32)
    pointer = theirs.ctypes.data_as(ctypes.c_void_p)
    library.dequantize_row_q2_0(ctypes.c_char_p(raw), pointer, ctypes.c_int64(theirs.size))
    np.testing.assert_array_equal(theirs, plainly("q2_0", raw, 6, 448))


def test_bytes_of_ptq1_0_that_no_encoder_writes() -> None:
    for at, byte in ((3, 1), (20, 1), (25, 128)):
        raw = bytearray(bytes_of("ptq1_0", 2, 256))
        raw[28 * 3 + at] = byte
        *_, bad = _native.repack_ptq1_0(np.frombuffer(bytes(raw), np.uint8), 2, 256, 1)
        assert bad == 3
        with pytest.raises(BadModel, match=f"byte {byte} at row 1, block 1, offset {at} holds no ternary digits"):
            second("ptq1_0", bytes(raw), 2, 256)


# --- +2 ---


def test_plus_two_has_a_code() -> None:
    weights = np.random.default_rng(0).integers(-1, 3, (7, 300)).astype(np.int8)
    np.testing.assert_array_equal(unpack(pack(weights), 300), weights)


@pytest.mark.parametrize("name", registry.BUILTIN)
def test_plus_two_is_right_in_every_dialect(name: str) -> None:
    """The largest products that there are, +2 by -128 and +2 by 127, and random ones: int32 sums, bit for bit."""
    try:
        backend = registry.open_backend(name)
    except Unavailable as missing:
        pytest.skip(missing.reason)
    op, rng, m, n, k = ops.get("tgemv"), np.random.default_rng(1), 3, 65, 2560
    case = op.case(M=m, N=n, K=k, out="i32")
    weights = rng.integers(-1, 3, (n, k)).astype(np.int8)
    weights[:3] = 2
    q = rng.integers(-128, 128, (m, k)).astype(np.int8)
    q[0], q[1] = 127, -128
    inputs = [pack(weights), np.ones(1, np.float32), q, np.ones((m, 1), np.float32), q.sum(axis=1, dtype=np.int32)]
    try:
        if reason := backend.supports(op, case):
            pytest.skip(reason)
        buffers = [backend.upload(each) for each in (*inputs[:4], inputs[4].reshape(m, 1))]
        out = backend.empty((m, n), "i32")
        backend.record([backend.build(op, case).bind(*buffers, out)]).run()
        got = backend.download(out)
    finally:
        backend.close()
    np.testing.assert_array_equal(got, q.astype(np.int64) @ weights.T.astype(np.int64))


# --- spans of scales ---


@pytest.mark.parametrize(("block", "row"), [(64, [2, 2, 0, 2, 3, 3, 3, 3, 5]), (128, [2, 2, 3, 3, 5])])
def test_scales_that_are_equal_over_256_are_scales_of_256(block: int, row: list[int]) -> None:
    stored, used = np.array([row], np.float16), np.array([[value != 0 for value in row]])
    found, kind = combine_scales("t", stored, used, 0.5, block)
    assert kind == "block256" and found.tolist() == [[1.0, 1.5, 2.5]]
    stored[0, 1], used[0, 1] = 7, False  # of zeros
    assert combine_scales("t", stored, used, 0.5, block)[0].tolist() == [[1.0, 1.5, 2.5]]


@pytest.mark.parametrize(
    ("block", "row", "kind", "want"),
    [
        (64, [2, 2, 3, 0, 5], "block128", [2, 3, 5, 0]),  # a block of zeros has no say, and rows are padded
        (64, [2, 3, 3, 3, 5, 5], "block64", [2, 3, 3, 3, 5, 5, 0, 0]),
        (128, [2, 3, 5], "block128", [2, 3, 5, 0]),
    ],
)
def test_the_largest_span_within_which_no_scale_differs(block: int, row: list[int], kind: str, want: list[int]) -> None:
    stored, used = np.array([row, row], np.float16), np.array([[value != 0 for value in row]] * 2)
    found, name = combine_scales("t", stored, used, 1.0, block)
    assert name == kind and found.tolist() == [want, want]


def with_scales(kind: str, apart: int) -> Entry:
    """A matrix of the small model whose scale changes every ``apart`` blocks."""
    weights, _ = writer.random_ternary(TINY, Q, 256, 256, 1.0)
    raw = np.frombuffer(writer.encode(kind, weights, np.full((256, 1), 0.05, np.float32)), np.uint8).copy()
    blocks = raw.reshape(-1, IDS[kind][1])
    d = (0.05 + 0.01 * (np.arange(len(blocks)) // apart % 5)).astype("<f2")[:, None].view(np.uint8)
    if kind == "ptq1_0":
        blocks[:, 26:28] = d
    else:
        blocks[:, :2] = d
    return entry(Q, (256, 256), IDS[kind][0], blocks.tobytes())


@pytest.mark.parametrize(
    ("kind", "apart"), [(kind, at) for kind, own in SMALL.items() for at in (64, 128, 256) if at >= own]
)
def test_both_readers_take_scales_as_they_are(tmp_path: Path, kind: str, apart: int) -> None:
    model = load_model(altered(tmp_path, tensors={Q: with_scales(kind, apart // SMALL[kind])}))
    ours, (values, scales) = model.linear(1, "attn_q"), matrix(model.file, "blk.1.attn_q")
    assert ours.kind == f"block{apart}" and ours.wscale.shape == (256, 256 // apart)
    np.testing.assert_array_equal(np.repeat(ours.wscale, apart // SMALL[kind], axis=1), scales)
    np.testing.assert_array_equal(unpack(ours.words, 256), values)


def test_weights_one_below_the_other_have_the_smallest_spans() -> None:
    rng = np.random.default_rng(0)
    words = {rows: np.zeros((rows, 32), np.uint32) for rows in (1, 2, 3)}  # 320 weights, padded to 512
    one = Ternary(words[1], np.array([0.5], np.float32), "tensor", 1, 320)
    wide = Ternary(words[2], rng.random((2, 2), np.float32), "block256", 2, 320)
    narrow = Ternary(words[3], rng.random((3, 8), np.float32), "block64", 3, 320)
    kind, scales = stacked_scales([one, wide, narrow])
    assert kind == "block64" and scales.shape == (6, 8) and scales.dtype == np.float32
    np.testing.assert_array_equal(scales[0], np.full(8, 0.5))
    np.testing.assert_array_equal(scales[1:3], np.repeat(wide.wscale, 4, axis=1))
    np.testing.assert_array_equal(scales[3:], narrow.wscale)
    assert stacked_scales([one, one])[0] == "row" and stacked_scales([one, wide])[0] == "block256"


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["numpy", "cpu"])
@pytest.mark.parametrize("act", ["token", "block256", "block32"])
@pytest.mark.parametrize("kind", ["q2_0", "ptq1_0"])
def test_a_file_of_smaller_spans_runs(tmp_path: Path, kind: str, act: str, name: str) -> None:
    """Against the plain pass, which decodes by itself; 448 weights in a row of ffn_down are no multiple of 256."""
    path = write(tmp_path / "m.gguf", replace(TINY, type=kind, block_scales=True, ffn=448 if kind == "q2_0" else 384))
    found = {each.item: each for each in examine(path, 0).findings}
    assert found["spans"].verdict == "ok" and f"a scale for {SMALL[kind]} weights" in found["spans"].evidence
    assert found["kparity"].verdict == "ok"
    done = run("probe", "-b", name, "--act", act, "--model", str(path))
    assert done.returncode == 0, done.stderr
    shown = run("model", "inspect", str(path)).stdout
    assert [line.split()[4] for line in shown.splitlines() if line.startswith(kind.upper())] == [str(SMALL[kind])]


@pytest.mark.parametrize("kind", ["q2_0", "pq2_0"])
def test_a_file_with_plus_two_and_a_scale_for_every_block_runs(tmp_path: Path, kind: str) -> None:
    blocks = np.frombuffer(bytes_of(kind, 256, 256), np.uint8).reshape(-1, IDS[kind][1]).copy()
    d = np.random.default_rng(2).uniform(0.02, 0.06, len(blocks)).astype("<f2")
    blocks[:, :2] = d[:, None].view(np.uint8)
    path = altered(tmp_path, tensors={Q: entry(Q, (256, 256), IDS[kind][0], blocks.tobytes())})
    assert (unpack(load_model(path).linear(1, "attn_q").words, 256) == 2).mean() > 0.2
    done = run("probe", "-b", "cpu", "--model", str(path))
    assert done.returncode == 0, done.stderr


# --- files ---


@pytest.mark.parametrize("kind", SMALL)
def test_the_same_weights_give_the_same_logits(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "m.gguf", replace(TINY, type=kind))
    done = run("probe", "-b", "numpy,cpu", "--model", str(path), "--json", str(tmp_path / "p.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "p.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["accepted", "accepted"]


@pytest.mark.parametrize("kind", ["q2_0", "q2_0_128"])
def test_the_size_decides_between_those_of_one_id(tmp_path: Path, kind: str) -> None:
    model = load_model(write(tmp_path / "m.gguf", replace(TINY, type=kind)))
    assert model.file.tensors[Q].type.name == kind.upper()
    refused(altered(tmp_path, tensors={Q: entry(Q, (256, 256), 42, bytes(40 * 256))}), "Q2_0 (18432 bytes)")
    refused(altered(tmp_path, tensors={Q: entry(Q, (256, 256), 42, bytes(129 * 512))}), "an F8 of another project")


def test_a_last_tensor_tells_by_the_end_of_the_file(tmp_path: Path) -> None:
    for kind in ("q2_0", "q2_0_128"):
        spec = replace(TINY, type=kind)
        entries = sorted(writer.tensors(spec), key=lambda each: each.name == Q)
        path = writer.write_file(tmp_path / "m.gguf", writer.keys(spec), entries)
        assert load_model(path).file.tensors[Q].type.name == kind.upper()


@pytest.mark.parametrize("scale", [".scale", ".weight_scale"])
def test_a_scale_beside_a_weight_multiplies(tmp_path: Path, scale: str) -> None:
    name = f"blk.0.attn_q{scale}"
    beside = entry(name, (1,), 0, struct.pack("<f", 3.0))
    plain, scaled = load_model(write(tmp_path / "a.gguf", TINY)), load_model(altered(tmp_path, tensors={name: beside}))
    np.testing.assert_array_equal(scaled.linear(0, "attn_q").wscale, plain.linear(0, "attn_q").wscale * 3)
    assert (matrix(scaled.file, "blk.0.attn_q")[1] == matrix(plain.file, "blk.0.attn_q")[1] * 3).all()


def test_two_scales_beside_a_weight_are_refused(tmp_path: Path) -> None:
    both = {name: entry(name, (1,), 0, struct.pack("<f", 3.0)) for name in
            ("blk.0.attn_q.scale", "blk.0.attn_q.weight_scale")}  # fmt: skip
    refused(altered(tmp_path, tensors=both), "are both scales of one weight")


def odd_k() -> Spec:
    """Rows of 192 weights more than a multiple of 256: groups of I2_S run over the ends of rows."""
    return replace(TINY, type="i2_s", ffn=448)


def test_i2_s_of_any_k(tmp_path: Path) -> None:
    model = load_model(write(tmp_path / "m.gguf", odd_k()))
    for layer, name in ((0, "ffn_down"), (1, "ffn_gate")):
        ours, (values, scales) = model.linear(layer, name), matrix(model.file, f"blk.{layer}.{name}")
        np.testing.assert_array_equal(unpack(ours.words, ours.k), values)
        assert (scales == ours.wscale).all()
