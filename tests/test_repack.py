"""Ternary layouts: golden bytes, two decoders that must agree, and the same weights in three types."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kparity import _native
from kparity.errors import BadModel
from kparity.model import Model, load_model
from kparity.model.decode import decode_i2_s, decode_tq1_0, decode_tq2_0
from kparity.model.tensors import NATIVE, combine_scales
from kparity.model.writer import TERNARY, encode
from kparity.ops.packing import pack, unpack
from kparity.ops.spec import Array
from kparity.plain.weights import matrix

from .cli import python
from .gguf_files import TINY, Spec, write

HALF_ONE = struct.pack("<e", 1.0)


def as_bytes(raw: bytes) -> Array:
    return np.frombuffer(raw, np.uint8)


def words_of(kind: str, raw: bytes, rows: int, k: int, threads: int = 0) -> Array:
    """The native repacking, which must find nothing to refuse."""
    if kind == "i2_s":
        return np.asarray(_native.repack_i2_s(as_bytes(raw)[: rows * k // 4], rows, k, threads))
    repack = getattr(_native, NATIVE[kind.upper()])
    words, _, _, bad = repack(as_bytes(raw), rows, k, threads)
    assert bad == -1
    return np.asarray(words)


def second(kind: str, raw: bytes, rows: int, k: int) -> tuple[Array, Array]:
    """The other decoder."""
    if kind == "i2_s":
        return decode_i2_s(as_bytes(raw), rows, k)
    decoder = decode_tq2_0 if kind == "tq2_0" else decode_tq1_0
    return decoder("t", as_bytes(raw), rows, k)


def golden_tq2_0() -> tuple[bytes, dict[int, int]]:
    """Byte 0: elements 0, 32, 64, 96 from the low bits; byte 33: elements 129, 161, 193, 225."""
    qs = bytearray([0b01010101] * 64)
    qs[0] = 0b10_00_01_10  # 0: +1, 32: 0, 64: −1, 96: +1
    qs[33] = 0b00_10_10_00  # 129: −1, 161: +1, 193: +1, 225: −1
    return bytes(qs) + HALF_ONE, {0: 1, 64: -1, 96: 1, 129: -1, 161: 1, 193: 1, 225: -1}


def golden_tq1_0() -> tuple[bytes, dict[int, int]]:
    """A byte of five zeros (digits 1 1 1 1 1 = 121) is ceil(121·256/243) = 128; of four (120), 127."""
    qs, qh = bytearray([128] * 48), bytearray([127] * 4)
    qs[3] = 256 * 202 // 243 + 1  # digits 2 1 1 1 1 = 202: element 3 is +1
    qs[33] = 256 * 40 // 243 + 1  # digits 0 1 1 1 1 = 40: element 161 is −1
    qs[47] = 256 * 122 // 243 + 1  # digits 1 1 1 1 2 = 122: element 160 + 4·16 + 15 = 239 is +1
    qh[2] = 256 * 201 // 243 + 1  # digits 2 1 1 1 (0) = 201: element 242 is +1
    return bytes(qs) + bytes(qh) + HALF_ONE, {3: 1, 161: -1, 239: 1, 242: 1}


def golden_i2_s() -> tuple[bytes, dict[int, int]]:
    """Byte 0: elements 0, 32, 64, 96 from the high bits; byte 33: elements 129, 161, 193, 225; code 3 is weight 0."""
    qs = bytearray([0b01010101] * 64)
    qs[0] = 0b10_00_01_11  # 0: +1, 32: −1, 64: 0, 96: 0
    qs[33] = 0b00_10_10_00  # 129: −1, 161: +1, 193: +1, 225: −1
    return bytes(qs) + struct.pack("<f", 1.0) + bytes(28), {0: 1, 32: -1, 129: -1, 161: 1, 193: 1, 225: -1}


@pytest.mark.parametrize("golden", [golden_tq2_0, golden_tq1_0, golden_i2_s])
def test_golden_bytes(golden) -> None:
    kind, (raw, nonzero) = golden.__name__.removeprefix("golden_"), golden()
    expected = np.zeros((1, 256), np.int8)
    for index, value in nonzero.items():
        expected[0, index] = value
    weights, scale = second(kind, raw, 1, 256)
    np.testing.assert_array_equal(weights, expected)
    assert float(np.asarray(scale).flat[0]) == 1.0
    np.testing.assert_array_equal(words_of(kind, raw, 1, 256), pack(expected))
    np.testing.assert_array_equal(encode(kind, expected, np.ones((1, 1), np.float32))[:52], zero_code_3(kind, raw)[:52])


def zero_code_3(kind: str, raw: bytes) -> bytes:
    """The golden I2_S bytes with code 3 written as the usual code of weight 0."""
    return bytes([0b10_00_01_01]) + raw[1:] if kind == "i2_s" else raw


@pytest.mark.parametrize("kind", ["tq1_0", "tq2_0"])
def test_decoders_agree_with_the_gguf_package(kind: str) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    rng = np.random.default_rng(1)
    weights, scales = rng.integers(-1, 2, (5, 512), np.int8), rng.random((5, 2)).astype(np.float16).astype(np.float32)
    raw = encode(kind, weights, scales)
    values = dequantize(as_bytes(raw).reshape(5, -1), GGMLQuantizationType[kind.upper()])
    np.testing.assert_array_equal(values, weights * np.repeat(scales, 256, axis=1))


sizes = st.tuples(st.integers(1, 9), st.integers(1, 5))


@settings(max_examples=60, deadline=None)
@given(size=sizes, seed=st.integers(0, 2**32), kind=st.sampled_from(["tq1_0", "tq2_0"]), threads=st.integers(0, 3))
def test_round_trip_of_blocks(size: tuple[int, int], seed: int, kind: str, threads: int) -> None:
    rows, blocks = size
    rng = np.random.default_rng(seed)
    weights = rng.integers(-1, 2, (rows, blocks * 256), np.int8)
    scales = rng.uniform(0.1, 1, (rows, blocks)).astype(np.float16).astype(np.float32)
    zero = rng.random(rows) < 0.2
    weights[zero], scales[zero] = 0, 0
    raw = encode(kind, weights, scales)
    decoded, stored = second(kind, raw, rows, blocks * 256)
    np.testing.assert_array_equal(decoded, weights)
    np.testing.assert_array_equal(stored, scales)
    np.testing.assert_array_equal(words_of(kind, raw, rows, blocks * 256, threads), pack(weights))


@settings(max_examples=80, deadline=None)
@given(groups=st.integers(1, 40), rows=st.integers(1, 12), seed=st.integers(0, 2**32), threads=st.integers(0, 3))
def test_round_trip_of_i2_s_groups_across_rows(groups: int, rows: int, seed: int, threads: int) -> None:
    """K of every remainder by 256, 128 and 16: groups straddle the ends of rows."""
    elements = groups * 128
    while elements % rows:
        rows -= 1
    k = elements // rows
    weights = np.random.default_rng(seed).integers(-1, 2, (rows, k), np.int8)
    raw = encode("i2_s", weights, np.full((rows, 1), 0.5, np.float32))
    decoded, scale = second("i2_s", raw, rows, k)
    np.testing.assert_array_equal(decoded, weights)
    assert scale == np.float32(0.5)
    words = words_of("i2_s", raw, rows, k, threads)
    np.testing.assert_array_equal(words, pack(weights))
    np.testing.assert_array_equal(unpack(words, k), weights)


@settings(max_examples=40, deadline=None)
@given(raw=st.binary(min_size=64, max_size=64), rows=st.sampled_from([1, 2, 4]))
def test_any_byte_is_i2_s(raw: bytes, rows: int) -> None:
    """Code 3 included."""
    weights, _ = decode_i2_s(as_bytes(raw + bytes(32)), rows, 256 // rows)
    words = _native.repack_i2_s(as_bytes(raw), rows, 256 // rows)
    np.testing.assert_array_equal(words, pack(weights))


@settings(max_examples=80, deadline=None)
@given(raw=st.binary(min_size=52, max_size=52), patch=st.integers(0, 51))
def test_both_decoders_refuse_the_same_tq1_0_blocks(raw: bytes, patch: int) -> None:
    """Random bytes nearly always include one of the values that no encoder writes; one random byte rarely does."""
    good = bytes([128] * 48 + [127] * 4)
    for codes in (raw, good[:patch] + raw[patch : patch + 1] + good[patch + 1 :]):
        block = as_bytes(codes + HALF_ONE)
        words, _, _, bad = _native.repack_tq1_0(block, 1, 256)
        try:
            weights, _ = decode_tq1_0("t", block, 1, 256)
        except BadModel:
            assert bad == 0
        else:
            assert bad == -1
            np.testing.assert_array_equal(words, pack(weights))


def test_native_refuses_sizes_that_do_not_fit() -> None:
    block = np.zeros(66, np.uint8)
    for rows, k in ((1, 512), (2, 256), (0, 256), (1, 0), (-1, 256), (1, 128)):
        with pytest.raises(ValueError, match="rows"):
            _native.repack_tq2_0(block, rows, k)
        with pytest.raises(ValueError, match="rows"):
            _native.repack_i2_s(block, rows, k)


def test_blocks_of_zeros_have_no_say_in_the_scale() -> None:
    used = np.array([[True, False], [True, True]])
    wscale, kind = combine_scales("t", np.array([[2, 0], [2, 2]], np.float16), used, 0.25)
    assert kind == "tensor"
    np.testing.assert_array_equal(wscale, np.array([0.5], np.float32))
    wscale, kind = combine_scales("t", np.array([[2, 0], [2, 3]], np.float16), used, 1.0)
    assert kind == "block256"
    np.testing.assert_array_equal(wscale, np.array([[2, 0], [2, 3]], np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_scale_that_is_no_scale(value: float) -> None:
    with pytest.raises(BadModel, match=r"tensor t: scale .* of block 1"):
        combine_scales("t", np.array([[1, value]], np.float16), np.array([[True, False]]), 1.0)


def layers_of(model: Model) -> list[tuple[int, str]]:
    return [(layer, name) for layer in range(model.hparams.n_layer) for name in ("attn_q", "attn_v", "ffn_down")]


def test_the_same_weights_in_three_types(tmp_path: Path) -> None:
    """Identical words and scales, so identical logits; with a separate scale tensor too."""
    for split in (False, True):
        models = [
            load_model(write(tmp_path / f"{kind}{split}.gguf", replace(TINY, type=kind, scale_tensors=split)))
            for kind in TERNARY
        ]
        for layer, name in layers_of(models[0]):
            first = models[0].linear(layer, name)
            for model in models:
                other = model.linear(layer, name)
                assert (other.kind, other.n, other.k) == ("tensor", first.n, first.k)
                np.testing.assert_array_equal(other.words, first.words)
                np.testing.assert_array_equal(other.wscale, first.wscale)
        for model in models:
            model.close()


READ = [
    *(replace(TINY, type=kind, scale_tensors=split) for kind in TERNARY for split in (False, True)),
    *(replace(TINY, type=kind, block_scales=True) for kind in ("tq1_0", "tq2_0")),
    replace(TINY, type="i2_s", width=192, ffn=320),  # K % 256 and K % 128 are 192 and 64
]


@pytest.mark.parametrize("spec", READ)
def test_both_readers_of_a_file_agree(tmp_path: Path, spec: Spec) -> None:
    model = load_model(write(tmp_path / "m.gguf", spec))
    for layer, name in layers_of(model):
        ternary = model.linear(layer, name)
        weights, scale = matrix(model.file, f"blk.{layer}.{name}")
        np.testing.assert_array_equal(ternary.words, pack(weights.astype(np.int8)))
        assert ternary.kind == ("block256" if spec.block_scales else "tensor")
        assert ternary.wscale.shape == ((ternary.n, ternary.k // 256) if spec.block_scales else (1,))
        assert (scale == ternary.wscale).all()


MEASURE = """
import sys
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.model import load_model

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

backend = open_backend(sys.argv[2])
before = peak()
Engine(load_model(sys.argv[1]), backend)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_no_weight_is_in_the_memory_of_a_host_twice(tmp_path: Path) -> None:
    """Of the file, 168 MB are the embedding, which is the head."""
    size = write(path := tmp_path / "m.gguf", replace(Spec(), layers=1, vocab=32768)).stat().st_size
    measured = {name: int(python(MEASURE, str(path), name)) for name in ("cpu", "numpy")}
    assert max(measured.values()) < 1.25 * size + (16 << 20), (size, measured)
