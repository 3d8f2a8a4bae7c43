"""Damaged and hostile files: one sentence of BadModel, never another exception, never much memory."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from contextlib import closing
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kparity.errors import BadModel
from kparity.model import load_model
from kparity.model.graph import LINEARS, norm_names, norms_of
from kparity.model.writer import TERNARY, header, keys, tensors, write_file
from kparity.plain.weights import matrix

from .gguf_files import ARRAY, BOOL, F32, I32, STRING, TINY, U32, U64, altered, entry, write

SMALL = replace(TINY, layers=1, ffn=256)


def read_all(path: Path) -> None:
    """Everything that a probe and an inspection read."""
    with closing(load_model(path)) as model:
        for layer, name in product(range(model.hparams.n_layer), LINEARS):
            ternary = model.linear(layer, name)
            weights, scale = matrix(model.file, f"blk.{layer}.{name}")
            assert weights.shape == (ternary.n, ternary.k)
            assert (scale == ternary.wscale).all()
        model.inspect()
        for name in norm_names(model.hparams):
            model.vector(name)
        _ = model.head().array
        model.tokenizer.decode(model.tokenizer.encode("the and in"))


def refused(path: Path, *parts: str) -> None:
    """One sentence that names the file and what is wrong."""
    with pytest.raises(BadModel) as caught:
        read_all(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text
    assert [part for part in parts if part not in text] == [], text


@cache
def good(kind: str = "tq2_0") -> bytes:
    """A good small file."""
    with TemporaryDirectory() as folder:
        return write(Path(folder) / "good.gguf", replace(SMALL, type=kind)).read_bytes()


def file_of(folder: Path, *parts: bytes) -> Path:
    """A file of these bytes."""
    path = folder / "bad.gguf"
    path.write_bytes(b"".join(parts))
    return path


# --- the container ---


def test_the_good_file_is_good(tmp_path: Path) -> None:
    for kind in TERNARY:
        read_all(file_of(tmp_path, good(kind)))


def test_no_file_and_no_model(tmp_path: Path) -> None:
    refused(tmp_path / "missing.gguf", "No such file")
    refused(tmp_path, "is a folder")
    refused(file_of(tmp_path), "the file is empty")
    refused(file_of(tmp_path, b"hello"), "not a GGUF file", "b'hell'")
    for size in (4, 7, 20, 23, 24, 30, 200, 3000, 6000):
        refused(file_of(tmp_path, good()[:size]))
    refused(file_of(tmp_path, good()[:-64]), "output_norm.weight", "beyond the file's")


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "a Git LFS pointer: run `git lfs pull`",
        ),
        (b"\n<!DOCTYPE html><html><head>", "a web page: fetch"),
        (b"\xef\xbb\xbf<html>", "a web page: fetch"),
        (b"PK\x03\x04\0\0archive/data.pkl", "a PyTorch checkpoint: convert"),
        (b"\x80\x02ctorch._utils\n", "a PyTorch checkpoint: convert"),
        (b"PK\x03\x04\0\0weights.gguf", "a ZIP archive: unpack"),
        (b"\x1f\x8b\x08\0", "compressed by gzip: unpack"),
        (struct.pack("<Q", 60) + b'{"__metadata__":{', "a safetensors file: convert"),
        (b"tjgg\x03\0\0\0", "before GGUF"),
        (b'{"error": "Repository not found"}', "JSON"),
        (bytes(5000), "nothing but zeros"),
    ],
)
def test_what_is_no_gguf_file_is_called_what_it_is(tmp_path: Path, head: bytes, says: str) -> None:
    refused(file_of(tmp_path, head), f"not a GGUF file but {says}" if head[:4] != b"tjgg" else says)


def named(name: bytes, rest: bytes) -> bytes:
    """A key of this name."""
    return struct.pack("<Q", len(name)) + name + rest


def keyed(*parts: bytes, count: int = 1) -> bytes:
    """A file of keys alone."""
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, count) + b"".join(parts)


@pytest.mark.parametrize(
    ("head", "size", "says"),
    [
        (keyed(count=10**8), 100 << 30, "100000000 keys and 0 tensors: a model has at most 65536 of each"),
        (keyed(named(b"k", struct.pack("<IIQ", 9, 8, 10**9))), 100 << 30, "and a header has at most"),
        (keyed(named(b"k", struct.pack("<IIQ", 9, 4, 10**10))), 100 << 30, "and a header has at most"),
        (keyed(named(b"k", struct.pack("<IQ", 8, 10**10))), 100 << 30, "and a header has at most"),
        (keyed(named(b"k", struct.pack("<IIQ", 9, 8, 1 << 23))), 128 << 20, "all arrays together have at most"),
        (good(), 1 << 22, "and its tensors end at byte"),
        (header([], [entry("t", (1 << 30,), 0, b"")]), (1 << 32) + 64, "disk holds"),
    ],
)
def test_what_is_absurdly_large_is_refused_at_once(tmp_path: Path, head: bytes, size: int, says: str) -> None:
    path = file_of(tmp_path, head)
    os.truncate(path, size)
    begun = time.process_time()  # what others of this machine do is none of it
    refused(path, says)
    assert time.process_time() - begun < 1


def test_a_file_that_changes_under_its_reader_is_no_model(tmp_path: Path) -> None:
    path = file_of(tmp_path, good())
    with closing(load_model(path)) as model:
        model.file.unchanged()
        path.write_bytes(good()[:-32] + bytes(32))
        with pytest.raises(BadModel, match="changed while it was read"):
            model.file.unchanged()
        os.truncate(path, 4096)
        with pytest.raises(BadModel, match="changed while it was read"):
            model.linear(0, "attn_q")  # and no SIGBUS
        with pytest.raises(BadModel, match="changed while it was read"):
            _ = model.embedding().array


def test_what_was_read_outlives_its_file_and_another_file_is_no_digest_of_it(tmp_path: Path) -> None:
    path = file_of(tmp_path, good())
    with closing(load_model(path)) as model:
        read, status = model.file.data(model.file.tensors["output_norm.weight"]), path.stat()
        before = read.tobytes()
        path.write_bytes(good()[:-32] + bytes(32))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as many bytes, and the old time
        with pytest.raises(BadModel, match="changed while it was read"):
            model.file.unchanged()
        os.truncate(path, 64)
        assert read.tobytes() == before  # mapped, this was the end of the process
        (tmp_path / "other").write_bytes(good())
        (tmp_path / "other").replace(path)
        with pytest.raises(BadModel, match="changed while it was read"):
            _ = model.sha256


def test_versions_and_absurd_counts(tmp_path: Path) -> None:
    for version, says in (b"\0\0\0\3", "big-endian"), (b"\1\0\0\0", "version 1"), (b"\4\0\0\0", "version 4"):
        refused(file_of(tmp_path, good()[:4], version, good()[8:]), says, "is not supported")
    for at, count in product((8, 16), (1 << 20, 1 << 40, (1 << 64) - 1)):
        path = file_of(tmp_path, good()[:at], struct.pack("<Q", count), good()[at + 8 :])
        refused(path, "do not fit into a file of")


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (named(b"\xff\xfe", b"\x04\0\0\0" + bytes(4)), "the name of key 0 at byte 32 is not UTF-8"),
        (struct.pack("<Q", 1 << 63), "more than 65535"),
        (struct.pack("<Q", 60000), "ends at byte"),
        (named(b"k", struct.pack("<I", 13)), "value type 13"),
        (named(b"k", struct.pack("<IQ", 8, 1 << 60)), "the value of key k needs"),
        (named(b"k", struct.pack("<IQ", 8, 2) + b"\xc3\x28"), "not UTF-8"),
        (named(b"k", struct.pack("<IIQ", 9, 4, 1 << 62)), "key k with"),
        (named(b"k", struct.pack("<IIQ", 9, 8, 1 << 61)), "key k with"),
        (named(b"k", struct.pack("<IIQQ", 9, 8, 2, 1 << 40)), "string 0 of 2 of key k needs 1099511627784 bytes"),
        (named(b"k", struct.pack("<IIQ", 9, 9, 1)), "array of type 9"),
    ],
)
def test_hostile_keys(tmp_path: Path, key: bytes, says: str) -> None:
    refused(file_of(tmp_path, struct.pack("<4sIQQ", b"GGUF", 3, 0, 1), key, bytes(64)), says)


def test_duplicate_keys_and_tensors(tmp_path: Path) -> None:
    table, entries, path = keys(SMALL), list(tensors(SMALL)), tmp_path / "bad.gguf"
    refused(write_file(path, [*table, table[0]], entries), "general.architecture is there twice")
    refused(write_file(path, table, [*entries, entries[0]]), "token_embd.weight is there twice")


@pytest.mark.parametrize("value", [(U32, 0), (U32, 24), (U32, 1 << 31), (STRING, "32"), (BOOL, True)])
def test_alignment(tmp_path: Path, value: tuple[int, Any]) -> None:
    refused(altered(tmp_path, SMALL, {"general.alignment": value}), "general.alignment is")


@pytest.mark.parametrize(
    ("shape", "type_id", "offset", "says"),
    [
        ((1 << 63, 1 << 63, 4), 0, 0, "beyond the file"),
        ((1025,), 0, 0, "beyond the file"),
        ((4,), 0, 4096, "beyond the file"),
        ((4,), 0, 1 << 63, "beyond the file"),
        ((1024,), 0, 4096, "the file has 4160 bytes, and tensor t [1024] ends at byte 8256"),
        ((4,), 0, 5, "no multiple of the alignment"),
        ((0,), 0, 0, "a dimension is zero"),
        ((1, 1, 1, 1, 1), 0, 0, "5 dimensions"),
        ((100,), 35, 0, "TQ2_0 has blocks of 256"),
        ((128,), 34, 0, "TQ1_0 has blocks of 256"),
        ((33, 3), 36, 0, "groups of 128 weights, 99 is no multiple"),
        ((33,), 8, 0, "Q8_0 has blocks of 32"),
        ((4,), 38, 0, "TL1 of bitnet.cpp: its tile sizes are a build option"),
        ((4,), 39, 0, "TL2 in bitnet.cpp files and MXFP4 in mainline files"),
        ((4,), 37, 0, "I8_S"),
        ((32,), 2, 0, "type 2 (Q4_0) cannot be read"),
        ((4,), 4000000000, 0, "type 4000000000 cannot be read"),
    ],
)
def test_hostile_tensor_tables(tmp_path: Path, shape: tuple[int, ...], type_id: int, offset: int, says: str) -> None:
    table = struct.pack(f"<Q1sI{len(shape)}QIQ", 1, b"t", len(shape), *shape, type_id, offset)
    raw = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + table
    refused(file_of(tmp_path, raw, bytes(-len(raw) % 32 + 4096)), "tensor t", says)


def test_overlapping_tensors(tmp_path: Path) -> None:
    raw = bytearray(header(keys(SMALL), list(tensors(SMALL))))
    at = raw.index(b"blk.0.attn_norm.weight") + len(b"blk.0.attn_norm.weight") + 4 + 8 + 4
    raw[at : at + 8] = struct.pack("<Q", 32)  # inside token_embd.weight
    path = file_of(tmp_path, bytes(raw), bytes(1 << 20))
    refused(path, "tensors token_embd.weight and blk.0.attn_norm.weight overlap")


# --- the graph ---

NEEDED = ("general.architecture", ".block_count", ".attention.layer_norm_rms_epsilon",
          *(f"tokenizer.ggml.{name}" for name in ("model", "tokens", "merges")))  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("general.architecture", (STRING, "qwen35"), "architecture 'qwen35' does not run here"),
        ("general.architecture", (U32, 3), "general.architecture is 3, expected a string"),
        *((name, None, f"{name} is missing") for name in NEEDED),
        ("split.count", (U32, 3), "split over several files"),
        ("split.count", (ARRAY, (U32, [1, 2])), "split over several files"),
        *((name, (U32, 0), "expected an integer from 1") for name in (".block_count", ".context_length")),
        (".block_count", (U32, 4000000000), "expected an integer from 1"),
        (".block_count", (U32, 2), "tensor blk.1.attn_norm.weight is missing"),
        (".block_count", (F32, 1.0), "expected an integer"),
        (".embedding_length", (U32, 512), "the hyper-parameters say [512, 300]"),
        (".feed_forward_length", (U32, 300), "the hyper-parameters say"),
        (".attention.head_count", (U32, 3), "3 heads cannot share 2"),
        (".attention.head_count", (U32, 6), "6 heads do not divide the width 256"),
        (".attention.head_count", (ARRAY, (U32, [4])), "expected an integer"),
        (".attention.head_count_kv", (U32, 3), "4 heads cannot share 3"),
        (".attention.head_count_kv", (U32, 0), "expected an integer from 1"),
        (".attention.value_length", (U32, 32), "value heads of 32 beside key heads of 64"),
        (".attention.layer_norm_rms_epsilon", (F32, float("nan")), "expected a number from 0 to 0.1"),
        *((".rope.freq_base", (F32, base), "expected a number") for base in (0.0, float("inf"))),
        (".rope.dimension_count", (U32, 63), "expected an even number"),
        (".rope.dimension_count", (U32, 66), "expected an integer from 2 to 64"),
        (".rope.scaling.type", (STRING, "yarn"), "RoPE scaling of type 'yarn'"),
        (".rope.scaling.factor", (F32, float("nan")), "expected a number"),
        (".context_length", (U64, 1 << 60), "expected an integer from 1"),
        (".vocab_size", (U32, 299), "vocab_size is 299, but token_embd.weight has 300 rows"),
        ("tokenizer.ggml.bos_token_id", (U32, 300), "expected an integer from 0 to 299"),
        ("tokenizer.ggml.add_bos_token", (U32, 1), "expected a bool"),
        ("tokenizer.ggml.model", (STRING, "bert"), "tokenizer 'bert' is not supported"),
        *((f"tokenizer.ggml.{name}", (ARRAY, (U32, [1, 2])), "expected a string") for name in ("model", "pre")),
        ("tokenizer.ggml.pre", (ARRAY, (STRING, ["a"])), "expected a string"),
        ("tokenizer.ggml.pre", (STRING, "no-such"), "pre-tokenizer 'no-such' is not known"),
        ("tokenizer.ggml.scores", (ARRAY, (F32, [float("nan")] * 300)), "not finite"),
        ("tokenizer.ggml.tokens", (ARRAY, (STRING, [])), "0 tokens for an embedding"),
        ("tokenizer.ggml.tokens", (ARRAY, (STRING, ["a"] * 300)), "token 'a' is in the vocabulary twice"),
        ("tokenizer.ggml.tokens", (ARRAY, (STRING, [*map(str, range(301))])), "301 tokens for an embedding of 300"),
        *(("tokenizer.ggml.tokens", (ARRAY, (U32, ids)), "not an array of strings") for ids in ([], [1] * 300)),
        *(
            ("tokenizer.ggml.token_type", (ARRAY, types), "one per token")
            for types in ((U32, [1]), (STRING, ["a"] * 300))
        ),
        ("tokenizer.ggml.merges", (ARRAY, (STRING, ["x"])), "merge 'x' has parts"),
        ("tokenizer.ggml.tokens", (ARRAY, (STRING, ["a" * 400_000])), "token 0 has 400000 characters, more than 1024"),
        ("tokenizer.ggml.merges", (ARRAY, (STRING, ["a " * 400_000])), "merge 0 has 800000 characters"),
    ],
)
def test_keys_that_contradict_the_model(tmp_path: Path, key: str, value: Any, says: str) -> None:
    refused(altered(tmp_path, SMALL, {key: value}), says)


ODD_VALUES: list[tuple[int, Any]] = [
    (U32, 0), (U32, 7), (U64, (1 << 64) - 1), (I32, -1), (F32, float("nan")), (12, -1e300), (BOOL, True), (STRING, ""),
    (STRING, "\x00 \u2028"), (ARRAY, (U32, [])), (ARRAY, (F32, [float("inf")] * 300)), (ARRAY, (BOOL, [True, False])),
    (ARRAY, (STRING, [])), (ARRAY, (STRING, ["", " ", "a b"])),
]  # fmt: skip


@pytest.mark.parametrize("key", [name for name, _, _ in keys(SMALL)])
def test_every_key_with_every_kind_of_value(tmp_path: Path, key: str) -> None:
    """Whatever a key holds: the file loads, or it is a BadModel."""
    for value in ODD_VALUES:
        path = altered(tmp_path, SMALL, {key: value})
        try:
            read_all(path)
        except BadModel as error:
            assert str(error).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "name", ["token_embd", "output_norm", *(f"blk.0.{name}" for name in (*LINEARS, *norms_of("bitnet")))]
)
def test_missing_tensors(tmp_path: Path, name: str) -> None:
    refused(altered(tmp_path, SMALL, tensors={f"{name}.weight": None}), f"tensor {name}.weight is missing")


@pytest.mark.parametrize(
    ("name", "shape", "type_id", "raw", "says"),
    [
        ("rope_freqs.weight", (32,), 0, bytes(128), "no part of the bitnet-b1.58 graph"),
        ("blk.0.attn_q.bias", (256,), 0, bytes(1024), "no part of the bitnet-b1.58 graph"),
        ("blk.0.attn_norm.weight", (255,), 0, bytes(1020), "has the shape [255], the hyper-parameters say [256]"),
        ("blk.0.attn_norm.weight", (256,), 35, bytes(66), "is TQ2_0, expected F32, F16 or BF16"),
        ("blk.0.attn_norm.weight", (256,), 8, bytes(272), "is Q8_0, expected F32, F16 or BF16"),
        ("token_embd.weight", (256, 300), 36, bytes(19232), "is I2_S, expected one of F32, F16, Q8_0, Q6_K, BF16"),
        ("token_embd.scale", (1,), 0, bytes(4), "no part of the bitnet-b1.58 graph"),
        ("output.weight", (256, 299), 1, bytes(153088), "has the shape [256, 299]"),
        ("blk.0.attn_q.scale", (2,), 0, bytes(8), "has the shape [2]"),
        ("blk.0.attn_q.scale", (1,), 0, struct.pack("<f", float("nan")), "attn_q.scale is nan"),
        ("blk.0.attn_q.scale", (1,), 0, struct.pack("<f", -1.0), "attn_q.scale is -1"),
        ("output_norm.weight", (256,), 0, struct.pack("<f", float("nan")) * 256, "weight: element 0 is nan"),
    ],
)
def test_tensors_that_contradict_the_model(tmp_path, name, shape, type_id: int, raw: bytes, says: str) -> None:
    refused(altered(tmp_path, SMALL, tensors={name: entry(name, shape, type_id, raw)}), name, says)


# --- ternary data ---

NAN16, INF16, NEGATIVE16 = (struct.pack("<e", value) for value in (float("nan"), float("inf"), -1.0))
NAN32, NEGATIVE32 = (struct.pack("<f", value) for value in (float("nan"), -1.0))


@pytest.mark.parametrize(
    ("kind", "offset", "data", "says"),
    [
        ("tq2_0", 66 * 3 + 2, b"\xff", "code 3 at row 3, column 2 is not a ternary weight"),
        ("tq1_0", 54 * 5 + 7, b"\x01", "byte 1 at row 5, block 0, offset 7 holds no ternary digits"),
        ("tq1_0", 48, b"\x80", "byte 128 at row 0, block 0, offset 48 holds no ternary digits"),
        ("tq2_0", 64, NAN16, "scale nan of block 0"),
        ("tq2_0", 66 + 64, INF16, "scale inf of block 1"),
        ("tq1_0", 52, NEGATIVE16, "scale -1.0 of block 0"),
        ("i2_s", 256 * 64, NAN32, "scale nan of block 0"),
        ("i2_s", 256 * 64, NEGATIVE32, "scale -1.0 of block 0"),
    ],
)
def test_weights_that_are_not_ternary(tmp_path: Path, kind: str, offset: int, data: bytes, says: str) -> None:
    spec, name = replace(SMALL, type=kind), "blk.0.attn_q.weight"
    old = next(each for each in tensors(spec) if each.name == name)
    raw = bytearray(b"".join(old.make()))
    raw[offset : offset + len(data)] = data
    changed = entry(name, old.shape, old.type_id, bytes(raw))
    refused(altered(tmp_path, spec, tensors={name: changed}), name, says)


def test_names_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    name = "\x1b[2J" + "x" * 5000
    path = altered(tmp_path, SMALL, tensors={name: entry(name, (1,), 0, bytes(4))})
    with pytest.raises(BadModel) as caught:
        load_model(path)
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 1000


# --- fuzz ---

NUMBERS = [0, 1, 2, 255, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A good file with flipped bytes, changed integers, a cut-out, a repetition or an early end; mostly in front."""
    raw = bytearray(good(draw(st.sampled_from(sorted(TERNARY)))))
    names = len(header(keys(SMALL), list(tensors(SMALL))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.one_of(st.integers(0, min(names, len(raw)) - 1), st.integers(0, len(raw) - 1)))
        number, length = draw(st.sampled_from(NUMBERS)).to_bytes(8, "little"), draw(st.integers(1, 64))
        removed, inserted = draw(st.sampled_from([
            (1, bytes([draw(st.integers(0, 255))])), (4, number[:4]), (8, number),
            (length, b""), (0, raw[at : at + length]), (len(raw), b""),
        ]))  # fmt: skip
        raw[at : at + removed] = inserted
        if len(raw) < 2:
            break
    return bytes(raw)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples."""
    return tmp_path_factory.mktemp("fuzz")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(raw=mutations())
@example(raw=b"GGUF")
def test_mutated_files_load_or_are_bad_models(folder: Path, raw: bytes) -> None:
    path = folder / "fuzz.gguf"
    path.write_bytes(raw)
    tracemalloc.start()
    try:
        read_all(path)
    except BadModel as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 32 * len(raw) + (8 << 20), "an allocation was made before its size was checked against the file"
