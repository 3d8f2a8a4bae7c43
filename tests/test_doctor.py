"""``kparity model doctor``: a file for each defect, made by the package's writer or by changing bytes of a good one."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kparity.doctor import Finding, Report, examine
from kparity.doctor.graphs import SQUARED
from kparity.errors import BadModel
from kparity.model import load_model, writer
from kparity.model.gguf_file import embedded

from .cli import run
from .gguf_files import ARRAY, F32, I32, STRING, TINY, U32, Entry, Spec, altered, entry

Q, NORM = "blk.1.attn_q.weight", "blk.1.ffn_norm.weight"
ZERO = bytes([0x55] * 64 + [0, 0x3C])
"""A block of TQ2_0 of zeros, with a scale of 1."""


def items(path: Path, tokens: int = 0) -> dict[str, Finding]:
    return {each.item: each for each in examine(path, tokens).findings}


def only(path: Path, item: str, verdict: str, *words: str) -> Finding:
    """The item has the verdict, with these words in its evidence."""
    found = items(path)[item]
    assert found.verdict == verdict, found
    assert [word for word in words if word not in found.evidence] == [], found.evidence
    return found


def fixed(path: Path, tokens: int = 0) -> Report:
    """The report of a corrected copy; the original keeps every byte, and the copy's tensors are its own."""
    from gguf import GGUFReader

    before, out = path.read_bytes(), path.with_name("fixed.gguf")
    report = examine(path, tokens, out)
    assert report.written == str(out) and path.read_bytes() == before
    tensors = GGUFReader(out).tensors
    model = load_model(out)
    for each in tensors:
        assert each.data.tobytes() == model.file.data(model.file.tensors[each.name]).tobytes()
        assert each.data.tobytes() in before
    model.close()
    return examine(out, tokens)


def blocks(name: str, spec: Spec = TINY) -> tuple[Entry, bytearray]:
    """A tensor of the small model, and its bytes to be changed."""
    old = next(each for each in writer.tensors(spec) if each.name == name)
    return old, bytearray(b"".join(old.make()))


def with_bytes(folder: Path, name: str, at: int, data: bytes, spec: Spec = TINY) -> Path:
    old, raw = blocks(name, spec)
    raw[at : at + len(data)] = data
    return altered(folder, spec, tensors={name: entry(name, old.shape, old.type_id, bytes(raw))})


def trained(folder: Path, arch: str = "bitnet", paired: bool = False) -> Path:
    """The embedded model, written anew by the ``gguf`` package: under another architecture, or with the rows of Q and K
    in pairs.
    """
    from gguf import GGUFReader, GGUFWriter

    reader, path = GGUFReader(embedded()), folder / "trained.gguf"
    made = GGUFWriter(path, arch)
    for key, stored in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind = stored.types[-1] if len(stored.types) > 1 else None
            made.add_key_value(key.replace("bitnet.", f"{arch}."), stored.contents(), stored.types[0], kind)
    for each in reader.tensors:
        data = np.array(each.data)
        if paired and each.name.endswith(("attn_q.weight", "attn_k.weight")):
            data = data.reshape(-1, 2, 32, data.shape[-1]).swapaxes(1, 2).reshape(data.shape)
        made.add_tensor(each.name, data, raw_dtype=each.tensor_type)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return path


# --- a good file, and what is none ---


def test_the_embedded_model_is_well() -> None:
    report = examine()
    assert report.exit_code == 0 and not report.fixes
    assert {each.item for each in report.findings if each.verdict != "ok"} == {"chat template"}
    assert "perplexity" in next(each.evidence for each in report.findings if each.item == "rope")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", None])
def test_what_is_no_gguf_file_is_no_patient(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadModel, match=r"x\.gguf"):
        examine(path)
    assert run("model", "doctor", str(path)).returncode == 2


def test_the_command(tmp_path: Path) -> None:
    path = altered(tmp_path, keys={".vocab_size": (U32, 299)})
    before, out = path.read_bytes(), tmp_path / "out.gguf"
    done = run("model", "doctor", str(path), "--tokens", "0", "--fix", str(out), "--json", str(tmp_path / "r.json"))
    assert done.returncode == 1 and "vocab_size = 300" in done.stdout and path.read_bytes() == before
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["schema"] == "kparity-doctor-v1" and report["written"] == str(out)
    assert run("model", "doctor", str(out), "--tokens", "0").returncode == 0
    over = run("model", "doctor", str(path), "--fix", str(path))
    assert over.returncode == 2 and "would write over" in over.stderr and path.read_bytes() == before
    none = run("model", "doctor", str(out), "--tokens", "0", "--fix", str(tmp_path / "none.gguf"))
    assert "no key to correct" in none.stdout and not (tmp_path / "none.gguf").exists()


# --- the container ---


def test_keys_that_stand_there_twice(tmp_path: Path) -> None:
    table = [(name, kind, value) for name, kind, value in writer.keys(TINY)]
    path = writer.write_file(
        tmp_path / "m.gguf", [*table, ("tokenizer.ggml.pre", STRING, "qwen2")], [*writer.tensors(TINY)]
    )
    only(path, "header", "wrong", "tokenizer.ggml.pre: there twice")
    assert items(path)["kparity"].verdict == "not applicable"
    report = fixed(path)
    assert report.exit_code == 0 and load_model(tmp_path / "fixed.gguf").file.keys["tokenizer.ggml.pre"] == "gpt-2"


def test_a_header_that_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(altered(tmp_path).read_bytes()[:2000])
    only(path, "header", "wrong", "cut off")
    assert examine(path).exit_code == 1 and not examine(path).fixes


def test_parts_and_empty_files(tmp_path: Path) -> None:
    only(altered(tmp_path, keys={"split.count": (U32, 3)}), "header", "wrong", "llama-gguf-split")
    path = writer.write_file(tmp_path / "m.gguf", writer.keys(TINY), [])
    only(path, "header", "wrong", "no model")


def test_files_that_end_too_early_or_too_late(tmp_path: Path) -> None:
    path = altered(tmp_path)
    raw = path.read_bytes()
    for size in (len(raw) - 640, len(raw) - 100_000):
        path.write_bytes(raw[:size])
        assert items(path)["length"].verdict == "wrong"
    path.write_bytes(raw + bytes(2 << 20))
    only(path, "length", "wrong", "no part of a model")


def test_tensors_that_are_missing_too_many_or_there_twice(tmp_path: Path) -> None:
    only(altered(tmp_path, tensors={Q: None}), "tensors", "wrong", f"{Q} missing")
    more = entry("blk.0.extra.weight", (32,), 0, bytes(128))
    only(altered(tmp_path, tensors={more.name: more}), "tensors", "wrong", f"{more.name}: no part of the graph")
    entries = [*writer.tensors(TINY)]
    path = writer.write_file(tmp_path / "m.gguf", writer.keys(TINY), [*entries, entries[3]])
    only(path, "tensors", "wrong", f"{entries[3].name}: there twice")


def test_tensors_that_overlap(tmp_path: Path) -> None:
    path = altered(tmp_path)
    raw = bytearray(path.read_bytes())
    at = raw.index(Q.encode()) + len(Q) + 4 + 16 + 4
    (offset,) = struct.unpack_from("<Q", raw, at)
    raw[at : at + 8] = struct.pack("<Q", offset + 32)
    path.write_bytes(raw)
    only(path, "tensors", "wrong", f"{Q} and", "overlap")


# --- types ---


@pytest.mark.parametrize(
    ("type_id", "size", "verdict", "says"),
    [
        (42, 18 * 4 * 256, "ok", "1 Q2_0 (id 42)"),
        (42, 34 * 2 * 256, "doubtful", "the size says Q2_0_128"),
        (42, 129 * 2 * 256, "doubtful", "an F8 of another project"),
        (142, 34 * 2 * 256, "ok", "1 PQ2_0 (id 142)"),
        (143, 28 * 2 * 256, "ok", "1 PTQ1_0 (id 143)"),
        (36, 256 * 64 + 32, "ok", "several ternary types"),
        (36, 18 * 8 * 256, "doubtful", "IQ4_NL_4_4"),
        (42, 40 * 256, "wrong", "Q2_0 (18432 bytes) or Q2_0_128 (17408 bytes) or"),
        (38, 256 * 64, "wrong", "TL1 of bitnet.cpp: its tile sizes"),
        (99, 256 * 64, "wrong", "type 99 is nobody's"),
        (12, 144 * 256, "doubtful", "Q4_K cannot be read here"),
    ],
)
def test_the_size_decides_the_type(tmp_path: Path, type_id: int, size: int, verdict: str, says: str) -> None:
    path = altered(tmp_path, tensors={Q: entry(Q, (256, 256), type_id, bytes(size))})
    found = items(path)
    assert says in found["types"].evidence, found["types"].evidence
    assert found["types"].verdict == verdict
    readable = verdict == "ok" or ("Q2_0_128" in says and verdict == "doubtful")
    assert (found["kparity"].verdict == "not applicable") == (not readable)


def test_a_mixed_file_is_told_and_is_no_wrong_one(tmp_path: Path) -> None:
    dense = entry(Q, (256, 256), 1, np.full((256, 256), 0.1, "<f2").tobytes())
    report = examine(altered(tmp_path, tensors={Q: dense}), 0)
    found = {each.item: each for each in report.findings}
    assert found["types"].verdict == found["architecture"].verdict == found["kparity"].verdict == "ok"
    assert f"{Q} (F16)" in found["types"].evidence and report.exit_code == 0


# --- values ---


def test_scales(tmp_path: Path) -> None:
    nan = with_bytes(tmp_path, Q, 66 * 3 + 64, struct.pack("<e", float("nan")))
    only(nan, "scales", "wrong", Q, "the first in row 3")
    beside = entry("blk.0.attn_q.scale", (1,), 0, struct.pack("<f", 41.5))
    only(altered(tmp_path, tensors={beside.name: beside}), "scales", "doubtful", "attn_q.scale = 41.5", "inverse")
    inverse = with_bytes(tmp_path, Q, 256 * 64, struct.pack("<f", 55.0), replace(TINY, type="i2_s"))
    only(inverse, "scales", "doubtful", f"{Q} = 55", "inverse")


def test_codes(tmp_path: Path) -> None:
    only(with_bytes(tmp_path, Q, 2, b"\xff"), "codes", "wrong", f"code 3 stands 4 times in {Q}")
    i2_s = replace(TINY, type="i2_s")
    only(with_bytes(tmp_path, Q, 2, b"\xff", i2_s), "codes", "doubtful", "code 3 stands 4 times", "0 to bitnet.cpp")
    one_sided = entry(Q, (256, 256), 35, bytes([0x5A] * 64 + [0, 0x3C]) * 256)
    only(altered(tmp_path, tensors={Q: one_sided}), "codes", "doubtful", Q, "a code is missing")
    two = entry(Q, (256, 256), 42, (struct.pack("<e", 0.5) + bytes([0b11100100] * 16)) * 4 * 256)
    only(altered(tmp_path, tensors={Q: two}), "codes", "doubtful", "code 3 stands 16384 times", "+2, which is legal")


@pytest.mark.parametrize("kind", ["tq2_0", "tq1_0", "i2_s"])
def test_codes_and_rows_are_counted_as_they_were_written(tmp_path: Path, kind: str) -> None:
    """Against the weights that the writer encoded; some rows are zero."""
    spec = replace(TINY, type=kind)
    weights, scales = writer.random_ternary(spec, Q, 256, 256, 1.0)
    weights[10:20] = 0
    raw = writer.encode(kind, weights, scales)
    old, _ = blocks(Q, spec)
    path = altered(tmp_path, spec, tensors={Q: entry(Q, (256, 256), old.type_id, raw)})
    from kparity.model.census import seen

    file = load_model(path).file
    found = seen(file, file.tensors[Q])
    assert found.codes.tolist() == [*((weights == code).sum() for code in (-1, 0, 1)), 0]
    assert found.zero_rows == 10
    only(path, "rows", "doubtful", f"{Q} (10 of 256)")


def test_norms(tmp_path: Path) -> None:
    for value, verdict in ((0.0, "doubtful"), (16.0, "doubtful"), (float("inf"), "wrong")):
        bad = entry(NORM, (256,), 0, np.full(256, value, "<f4").tobytes())
        only(altered(tmp_path, tensors={NORM: bad}), "norms", verdict, NORM)


# --- words ---


def vocabulary(words: list[str], **more: Any) -> dict[str, Any]:
    """The usual tokens, the last of them replaced by these."""
    usual: dict[str, tuple[int, Any]] = {name: (kind, value) for name, kind, value in writer.tokenizer_keys(TINY.vocab)}
    tokens = [*usual["tokenizer.ggml.tokens"][1][1][: TINY.vocab - len(words)], *words]
    return {"tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)), **more}


def test_a_vocabulary_of_another_size(tmp_path: Path) -> None:
    path = altered(tmp_path, keys={".vocab_size": (U32, 299)})
    only(path, "vocabulary", "wrong", "vocab_size is 299, and the embedding has 300 rows")
    assert fixed(path).exit_code == 0
    only(altered(tmp_path, keys=vocabulary(["Ġthe"])), "vocabulary", "wrong", "1 are there twice")
    only(altered(tmp_path, keys={"tokenizer.ggml.tokens": None}), "vocabulary", "wrong", "is missing")
    bert = altered(tmp_path, keys={"tokenizer.ggml.model": (STRING, "bert")})
    only(bert, "vocabulary", "doubtful", "not read here")


def test_a_missing_pre(tmp_path: Path) -> None:
    """As the published 2B-4T file: the vocabulary of Llama 3 and no ``pre``."""
    words = vocabulary(["<|begin_of_text|>"], **{"tokenizer.ggml.pre": None})
    path = altered(tmp_path, keys=words)
    only(path, "pre", "wrong", "is missing", "looks like 'llama-bpe'", "gpt-2 ")
    report = fixed(path)
    assert {each.item: each.verdict for each in report.findings}["pre"] == "ok"
    assert load_model(tmp_path / "fixed.gguf").file.keys["tokenizer.ggml.pre"] == "llama-bpe"
    unknown = altered(tmp_path, keys={"tokenizer.ggml.pre": (STRING, "no-such")})
    only(unknown, "pre", "doubtful", "'no-such' is not known here")


def test_a_wrong_pre(tmp_path: Path) -> None:
    """Tokens of four digits and of punctuation: only the rules of GPT-2 leave all of them whole."""
    digits = [*(f"{number}" for number in range(1000, 1060)), *(f"{number:03}" for number in range(100))]
    words = vocabulary(digits[:35], **{"tokenizer.ggml.pre": (STRING, "qwen2")})
    found = only(altered(tmp_path, keys=words), "pre", "wrong", "it looks like 'gpt-2'")
    assert [(each.key, each.value) for each in found.fix] == [("tokenizer.ggml.pre", "gpt-2")]


def test_special_tokens(tmp_path: Path) -> None:
    path = altered(tmp_path, keys={"tokenizer.ggml.eos_token_id": (U32, 5000)})
    only(path, "special tokens", "wrong", "eos_token_id is 5000, of 300 tokens", "1 '<|eos|>'")
    assert fixed(path).exit_code == 0
    path = altered(tmp_path, keys={"tokenizer.ggml.eos_token_id": None})
    only(path, "special tokens", "wrong", "eos_token_id is missing")
    assert fixed(path).exit_code == 0
    only(altered(tmp_path, keys={"tokenizer.ggml.add_bos_token": None}), "special tokens", "doubtful", "no BOS")
    kinds = {"tokenizer.ggml.token_type": (ARRAY, (I32, [1] * 300))}
    only(altered(tmp_path, keys=kinds), "special tokens", "doubtful", "is no control token")


@pytest.mark.parametrize(
    ("template", "verdict", "says"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "ok", "'Who?'"),
        ("<|im_start|>{{ messages[0].content }}", "wrong", "<|im_start|>: written by the template, and no token"),
        ("{% for m in messages %}", "wrong", "cannot be filled in"),
        (None, "not applicable", "there is none"),
    ],
)
def test_the_chat_template(tmp_path: Path, template: str | None, verdict: str, says: str) -> None:
    keys = {} if template is None else {"tokenizer.chat_template": (STRING, template)}
    only(altered(tmp_path, keys=keys), "chat template", verdict, says)


def test_a_template_whose_turns_end_otherwise_than_the_file_says(tmp_path: Path) -> None:
    keys = vocabulary(["<|eot_id|>"], **{"tokenizer.chat_template": (STRING, "{{ messages[0].content }}<|eot_id|>")})
    only(altered(tmp_path, keys=keys), "chat template", "doubtful", "<|eot_id|>, and EOS is '<|eos|>'")


# --- the graph ---


def test_an_activation_that_the_model_was_not_trained_with(tmp_path: Path) -> None:
    path = trained(tmp_path, "bitnet-b1.58")
    found = items(path, 256)["activation"]
    assert found.verdict == "wrong" and "it was trained with SiLU" in found.evidence
    assert items(path, 256)["kparity"].verdict == "doubtful"
    report = fixed(path, 256)
    assert {each.item: each.verdict for each in report.findings}["activation"] == "ok" and report.exit_code == 0
    assert load_model(tmp_path / "fixed.gguf").hparams == load_model().hparams


def test_an_activation_that_no_key_tells(tmp_path: Path) -> None:
    path = altered(tmp_path)
    found = only(path, "activation", "doubtful", "hidden_activation is missing", "not tried")
    assert [(each.key, each.value) for each in found.fix] == [("bitnet-b1.58.hidden_activation", "relu2")]
    told = {".hidden_activation": (STRING, "silu")}
    only(altered(tmp_path, keys=told), "activation", "doubtful", "SiLU by bitnet-b1.58.hidden", "readers differ")
    told = {".hidden_activation": (STRING, "relu_squared")}
    only(altered(tmp_path, keys=told), "activation", "ok", "hidden_activation is 'relu_squared'")
    assert load_model(tmp_path / "model.gguf").hparams.act == "relu2"
    path = altered(tmp_path, keys={".hidden_activation": (STRING, "gelu")})
    assert items(path)["activation"].verdict == "wrong"
    with pytest.raises(BadModel, match="hidden_activation is 'gelu', expected one of silu"):
        load_model(path)
    only(altered(tmp_path, replace(TINY, arch="bitnet")), "activation", "ok", "SiLU by the architecture")
    sizes = {f".{name}": (U32, size) for name, size in SQUARED.items()}
    found = items(altered(tmp_path, replace(TINY, arch="bitnet"), keys=sizes))["activation"]
    assert found.verdict == "doubtful" and "the sizes are those of BitNet b1.58 2B-4T" in found.evidence
    assert not found.fix  # sizes alone decide nothing


def test_rows_that_are_permuted_for_the_other_rope(tmp_path: Path) -> None:
    found = items(trained(tmp_path, paired=True), 256)
    assert found["rope"].verdict == "wrong" and "the other order" in found["rope"].evidence
    assert found["activation"].verdict == "ok"


def test_random_weights_decide_nothing(tmp_path: Path) -> None:
    found = items(altered(tmp_path, replace(TINY, arch="bitnet")), 64)
    assert found["language"].verdict == "doubtful" and "predicts nothing" in found["language"].evidence
    assert found["activation"].verdict == found["rope"].verdict == "doubtful"


@pytest.mark.parametrize(
    ("key", "value", "item", "verdict"),
    [
        (".attention.layer_norm_rms_epsilon", None, "eps", "wrong"),
        (".attention.layer_norm_rms_epsilon", (F32, 0.5), "eps", "wrong"),
        (".attention.layer_norm_rms_epsilon", (F32, 0.01), "eps", "doubtful"),
        (".rope.freq_base", None, "theta", "doubtful"),
        (".rope.freq_base", (F32, 0.5), "theta", "wrong"),
        (".rope.freq_base", (F32, 1e11), "theta", "doubtful"),
    ],
)
def test_constants(tmp_path: Path, key: str, value: Any, item: str, verdict: str) -> None:
    assert items(altered(tmp_path, keys={key: value}))[item].verdict == verdict


# --- files that nothing here runs ---


@pytest.mark.parametrize(
    ("arch", "needs"),
    [("qwen2", "biases"), ("qwen35", "gated delta net"), ("maple", "experts"), ("no-such", "nothing is known")],
)
def test_graphs_that_are_not_here_are_refused_by_name(tmp_path: Path, arch: str, needs: str) -> None:
    path = altered(tmp_path, replace(TINY, arch=arch))
    found = items(path)
    assert found["architecture"].verdict == "not applicable" and needs in found["architecture"].evidence
    assert needs in found["kparity"].evidence and found["language"].verdict == "not applicable"
    assert found["scales"].verdict == found["codes"].verdict == "ok"
    with pytest.raises(BadModel, match=f"'{arch}' does not run here .*{needs}"):
        load_model(path)


def test_what_each_engine_will_do(tmp_path: Path) -> None:
    spec = replace(TINY, type="i2_s")
    found = items(altered(tmp_path, spec))
    assert found["kparity"].verdict == "ok" and "bitnet.cpp's own name" in found["llama.cpp"].evidence
    found = items(altered(tmp_path, replace(spec, arch="bitnet")))
    assert "is I2_S (id 36), which it does not have" in found["llama.cpp"].evidence
    found = items(altered(tmp_path, replace(TINY, arch="bitnet")))
    assert found["llama.cpp"].verdict == found["transformers"].verdict == "ok"


def test_any_damage_is_a_report_or_a_sentence(tmp_path: Path) -> None:
    """One byte of the header, or four, are another: no exception but BadModel."""
    path, rng = altered(tmp_path), np.random.default_rng(0)
    raw = path.read_bytes()
    names = len(writer.header(writer.keys(TINY), [*writer.tensors(TINY)]))
    for trial in range(60):
        changed, at = bytearray(raw), int(rng.integers(8, names - 4))
        changed[at : at + 1 + 3 * (trial % 2)] = rng.bytes(1 + 3 * (trial % 2))
        path.write_bytes(changed)
        examine(path, 0)
