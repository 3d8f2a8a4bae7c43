"""Models of transformers as engines: the same weights in both, against the plain pass and llama.cpp."""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import Tokenizer as Backend

from kparity import plain
from kparity.cli.main import cli
from kparity.engines import hf_weights, hf_words
from kparity.engines.registry import open_here
from kparity.errors import BadModel, KparityError, Unavailable, WrongInput
from kparity.model import tokenizer as rules
from kparity.model.gguf_file import embedded
from kparity.model.tokenizer import Tokenizer
from kparity.model.writer import tokenizer_keys, write_file
from kparity.numerics.logits import compare_logits
from kparity.traces.capture import Wanted, capture
from kparity.traces.diff import diff
from kparity.traces.files import load
from tests.conftest import absent
from tests.dense_files import write_dense
from tests.gguf_files import ARRAY, F32, STRING, TINY, U32, Entry, altered, entry, write

TEXT = """In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness
was upon the face of the deep. And the Spirit of God moved upon the face of the waters. And God said, Let there be
light: and there was light. And God saw the light, that it was good."""
TOKENS = [0, *(int(each) for each in np.random.default_rng(5).integers(2, TINY.vocab, 40))]


def apart(a: np.ndarray, b: np.ndarray, name: str = "") -> np.ndarray:
    """1 - cosine of each position; with a name, what is known of them is printed."""
    rows = compare_logits(b, a)
    if name:
        found, same, most = rows.summary(), np.sum(a.argmax(axis=1) == b.argmax(axis=1)), abs(a - b).max(axis=1)
        print(
            f"{name}: largest difference {most.max():.2g}, at position 0 {most[0]:.2g}, least cosine 1 - "
            f"{found['cosine_distance'].most:.2g}, median KL {found['kl'].median:.2g}, same argmax {same} of {len(a)}"
        )
    return rows.cosine_distance


def test_the_embedded_model_is_the_same_in_transformers(transformers: ModuleType) -> None:
    """Without quantisation to rounding; with it to the noise of the reference, which flips int8 codes as well."""
    engine, control = open_here("transformers:exported?threads=1"), open_here("transformers?act=none&threads=1")
    tokens = engine.tokenize(TEXT)[:64]
    assert len(tokens) == 64 and tokens == open_here("reference").tokenize(TEXT)[:64]
    found, whole = (plain.logits(None, tokens, act=act, kv="f32") for act in ("token", "none"))
    logits = engine.score(tokens)
    noise = apart(found.rounded, found.logits, "reference, f32 against fp64")
    distance = apart(logits, found.logits, "transformers against reference")
    assert abs(logits[0] - found.logits[0]).max() < 1e-5
    assert np.median(distance) < 10 * max(np.median(noise), 1e-5) and max(distance) < 2e-3
    assert max(apart(control.score(tokens), whole.logits, "transformers?act=none against f16")) < 1e-9
    assert engine.facts.numerics == open_here("kparity:cpu").facts.numerics != control.facts.numerics
    engine.reset()
    assert max(apart(np.stack([engine.step(token) for token in tokens]), logits)) < 2e-3  # its cache is used
    with pytest.raises(KparityError, match="exceed the context of 512"):
        engine.prefill([1] * 512)


@pytest.mark.parametrize(
    "changes", [{}, {"untied": True, "type": "i2_s"}, {"block_scales": True}, {"scale_tensors": True}]
)
def test_relu2_and_sub_norms_are_those_of_transformers(
    changes: dict[str, Any], transformers: Any, tmp_path: Path
) -> None:
    path = write(tmp_path / "model.gguf", dataclasses.replace(TINY, layers=3, **changes))
    found = plain.logits(path, TOKENS, act="token", kv="f32")  # its cache is f32
    noise = np.median(apart(found.rounded, found.logits))
    engine: Any = open_here("transformers?threads=1", model=str(path))
    right = apart(engine.score(TOKENS), found.logits)
    for layer in engine.net.model.layers:
        layer.mlp.act_fn = engine.torch.nn.SiLU()
    engine.reset()
    wrong = apart(engine.score(TOKENS), found.logits)
    print(f"median of 1 - cosine: {np.median(right):.3g}, with SiLU {np.median(wrong):.3g}, noise {noise:.3g}")
    assert np.median(right) < 10 * max(noise, 5e-5) and max(right) < 0.01 < np.median(wrong)
    assert engine.facts.weaknesses


@pytest.mark.parametrize("arch", ["llama", "qwen3"])
def test_llamacpp_and_transformers_agree_on_a_dense_file(
    arch: str, transformers: Any, llamacpp: Any, tmp_path: Path
) -> None:
    """Rows of Q and K in pairs or halves, norms of each head, GQA: llama.cpp is the judge of the export."""
    path = str(write_dense(tmp_path / "model.gguf", arch))
    theirs, ours = open_here("llama.cpp?threads=1", model=path), open_here("transformers?threads=1", model=path)
    assert theirs.tokenize("the and\nthen w300") == ours.tokenize("the and\nthen w300")
    a, b = theirs.score(TOKENS), ours.score(TOKENS)
    print(f"largest difference {abs(a - b).max():.3g} of logits with r.m.s. {a.std():.3g}")
    assert abs(a - b).max() < 0.05 and max(apart(a, b)) < 1e-5 and ours.facts.numerics == "f32"
    if arch == "llama":  # without the change of rows it is another model
        real, hf_weights.halves = hf_weights.halves, lambda weight, heads: weight  # type: ignore[assignment]
        try:
            assert max(apart(a, open_here("transformers", model=path).score(TOKENS))) > 0.1
        finally:
            hf_weights.halves = real


@pytest.mark.parametrize("arch", ["bitnet", "llama", "qwen3"])
def test_a_saved_folder_and_the_way_back_change_no_bit(arch: str, transformers: Any, tmp_path: Path) -> None:
    if arch == "bitnet" and not find_spec("accelerate"):
        absent("transformers loads no BitNet without accelerate", "transformers")
    path = tmp_path / "model.gguf"
    write(path, dataclasses.replace(TINY, arch=arch)) if arch == "bitnet" else write_dense(path, arch)
    folder, text = tmp_path / "saved", "the and\nthen"
    hf_weights.save(str(path), folder)
    first, second = open_here("transformers", model=str(path)), open_here(f"transformers:{folder}")
    logits = first.score(TOKENS)
    assert np.array_equal(second.score(TOKENS), logits) and second.tokenize(text) == first.tokenize(text)
    back = write_file(tmp_path / "back.gguf", *hf_weights.to_gguf(second.net))  # type: ignore[attr-defined]
    assert np.array_equal(open_here("transformers", model=str(back)).score(TOKENS), logits)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": config["num_hidden_layers"] + 1}))
    with pytest.raises(KparityError, match=r"is not whole: missing keys model\.layers|validate_layer_type"):
        open_here(f"transformers:{folder}")


def held(path: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Tensors of a file as f32, and what it says of its tokenizer and graph, as the package ``gguf`` reads both."""
    file = GGUFReader(str(path))
    tensors = {each.name: dequantize(each.data, each.tensor_type).astype(np.float32) for each in file.tensors}
    keys = {name: field.contents() for name, field in file.fields.items() if not name.startswith(("general", "GGUF"))}
    return {name: values.tobytes() for name, values in tensors.items()}, keys


def by_command(*words: object) -> str:
    """What ``kparity model`` logs, which succeeds."""
    done = CliRunner().invoke(cli, ["model", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(("source", "kind"), [("embedded", "tq2_0"), ("llama", "f32"), ("qwen3", "f32")])
def test_every_tensor_goes_to_transformers_and_back_bit_for_bit(
    source: str, kind: str, transformers: Any, tmp_path: Path
) -> None:
    path = embedded() if source == "embedded" else write_dense(tmp_path / "model.gguf", source)
    by_command("export", path, "-o", tmp_path / "saved")
    by_command("import", tmp_path / "saved", "-o", tmp_path / "back.gguf", "--type", kind)
    (tensors, keys), (back, told) = held(path), held(tmp_path / "back.gguf")
    assert back == tensors
    assert {name: told[name] for name in keys.keys() & told.keys()} == {
        name: keys[name] for name in keys.keys() & told.keys()
    }
    assert {*keys} - {*told} <= {
        "tokenizer.ggml.add_eos_token",
        *(f"{each}.rope.dimension_count" for each in hf_weights.FAMILIES),
    }


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "default", "falcon", "smollm"])
def test_the_rules_of_a_tokenizer_get_a_name_that_means_them(pre: str, tmp_path: Path) -> None:
    words = hf_words.of_file(str(altered(tmp_path, keys={"tokenizer.ggml.pre": (STRING, pre)})), TINY.vocab)
    theirs = words.backend.to_str().replace(rules.CONTRACTION, hf_words.EITHER_CASE)  # as their files have it
    for text in (words.backend.to_str(), theirs):
        told = {name: value for name, _, value in hf_words.keys(Tokenizer(Backend.from_str(text), 0, 1, True))}
        name = told.pop("tokenizer.ggml.pre")
        assert rules.RULES[name] == rules.RULES[pre] and (name in rules.IGNORE_MERGES) == (pre in rules.IGNORE_MERGES)
        assert told.items() <= {name: value for name, _, value in tokenizer_keys(TINY.vocab)}.items()


def test_a_folder_that_no_file_expresses_is_one_sentence(transformers: Any, tmp_path: Path) -> None:
    saved, target = tmp_path / "saved", tmp_path / "x.gguf"
    by_command("export", write_dense(tmp_path / "model.gguf", "llama"), "-o", saved)
    config, words = ((saved / name).read_text() for name in ("config.json", "tokenizer.json"))
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    for change, tokenizer, options, expected in [
        ({"hidden_act": "gelu"}, words, (), "a llama model with the activation 'gelu' has no architecture in GGUF"),
        ({"rope_parameters": dynamic}, words, (), "RoPE of type 'dynamic'"),
        ({"attention_bias": True}, words, (), "is not whole"),
        (
            {},
            words.replace('"add_prefix_space":false', '"add_prefix_space":true').replace(
                '"add_prefix_space": false', '"add_prefix_space": true'
            ),
            (),
            "no byte-level BPE whose rules",
        ),
        ({}, "{", (), "has no tokenizer"),
        ({}, words, ("--type", "tq2_0"), "no layer of it is ternary"),
    ]:
        (saved / "config.json").write_text(json.dumps(json.loads(config) | change))
        (saved / "tokenizer.json").write_text(tokenizer)
        done = CliRunner().invoke(cli, ["model", "import", str(saved), "-o", str(target), *options])
        assert done.exception is not None and expected in str(done.exception) and "\n" not in str(done.exception)
        assert isinstance(done.exception, WrongInput) and not target.exists()
    done = CliRunner().invoke(cli, ["model", "export", "-o", str(saved)])
    assert "is not empty; name a new folder" in str(done.exception)


def random_net(transformers: Any, kind: str) -> Any:
    """A small model with random weights; BitNet's linear layers make them ternary by themselves."""
    import torch

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=300, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64 if kind == "bitnet" else 96, max_position_embeddings=128, bos_token_id=0,
        eos_token_id=1,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, pad_token_id=None,
    )  # fmt: skip
    net = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for weight in net.parameters():
        weight.data.normal_(*((0, 0.06) if weight.ndim > 1 else (1, 0.1)))
    for name, module in list(net.named_modules()):
        if kind == "bitnet" and isinstance(module, torch.nn.Linear) and name != "lm_head":
            ternary = transformers.integrations.bitnet.AutoBitLinear(
                module.in_features, module.out_features, bias=False, online_quant=True
            )
            ternary.weight = module.weight
            net.set_submodule(name, ternary)
    return net


@pytest.mark.parametrize(
    ("kind", "judge", "limit"),
    [("bitnet", "reference?kv=f32", 1e-4), ("llama", "llama.cpp?threads=1", 0.02),
     ("qwen3", "llama.cpp?threads=1", 0.02)],
)  # fmt: skip
def test_a_random_model_of_transformers_is_the_same_as_a_file(
    kind: str, judge: str, limit: float, transformers: Any, llamacpp: Any, tmp_path: Path
) -> None:
    import torch

    net = random_net(transformers, kind)
    with torch.inference_mode():
        truth = net(torch.tensor([TOKENS])).logits[0].numpy()
    path = write_file(tmp_path / "model.gguf", *hf_weights.to_gguf(net))
    found = open_here(judge, model=str(path)).score(TOKENS)
    print(f"{kind}: largest difference {abs(found - truth).max():.3g}, at position 0 {abs(found - truth)[0].max():.3g}")
    assert abs(found - truth)[0].max() < limit and max(apart(found, truth)) < 1e-3


TENSOR = {"blk.0.attn_q.bias": entry("blk.0.attn_q.bias", (256,), 0, bytes(1024))}
BAD: dict[str, tuple[dict[str, Any], dict[str, Entry | None], str]] = {
    "an architecture": ({"general.architecture": (STRING, "gpt2")}, {}, "'gpt2' has no model of transformers"),
    "a bias": ({}, TENSOR, "attn_q.bias has no place in a model of transformers"),
    "a layer too many": ({}, {"blk.7.attn_norm.weight": entry("blk.7.attn_norm.weight", (256,), 0, bytes(1024))},
                         "blk.7.attn_norm.weight has no place in the graph"),
    "a layer too few": ({".block_count": (U32, 1)}, {}, "blk.1.* has no place in the graph"),
    "a scale of a norm": ({}, {"blk.0.attn_norm.scale": entry("blk.0.attn_norm.scale", (1,), 0, bytes(4))},
                          "attn_norm.scale has no place"),
    "a norm is missing": ({}, {"blk.1.ffn_sub_norm.weight": None}, "no tensor of the file is .*mlp.ffn_sub_norm"),
    "part of a head": ({".rope.dimension_count": (U32, 32)}, {}, "32 elements of a head are turned"),
    "yarn": ({".rope.scaling.type": (STRING, "yarn")}, {}, "'yarn' is not mapped"),
    "another width": ({".feed_forward_length": (U32, 1024)}, {}, "the keys say"),
    "no layers": ({".block_count": (U32, 1 << 20)}, {}, "beyond every model"),
    "eps": ({".attention.layer_norm_rms_epsilon": (F32, float("nan"))}, {}, "layer_norm_rms_epsilon"),
    "no vocabulary": ({"tokenizer.ggml.tokens": (ARRAY, (STRING, []))}, {}, "tokens for an embedding"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_transformers_cannot_express_is_refused(name: str, transformers: Any, tmp_path: Path) -> None:
    keys, tensors, expected = BAD[name]
    with pytest.raises(BadModel, match=expected):
        open_here("transformers", model=str(altered(tmp_path, keys=keys, tensors=tensors)))


def test_a_library_that_is_missing_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, module in (("transformers", "transformers"), ("http://127.0.0.1:1", "httpx")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(Unavailable, match=rf"{module} cannot be imported .*pip install"):
            open_here(text)


def test_what_is_no_model_of_transformers_is_one_sentence(transformers: Any, tmp_path: Path) -> None:
    for text, expected in [
        ("transformers:microsoft/bitnet", "microsoft/bitnet has no config.json"),
        (f"transformers:{tmp_path}?act=none", "no option 'act'"), ("transformers?act=block256", "one of token, none"),
    ]:  # fmt: skip
        with pytest.raises(KparityError, match=expected):
            open_here(text)
    for config in ("{", '{"model_type": "zzz"}', '{"auto_map": {"AutoConfig": "evil.Evil"}, "model_type": "evil"}'):
        (tmp_path / "config.json").write_text(config)
        (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
        with pytest.raises(KparityError, match="transformers does not read") as refused:
            open_here(f"transformers:{tmp_path}")
        assert "\n" not in str(refused.value)


def test_a_trace_names_modules_and_changes_no_bit(transformers: Any) -> None:
    engine, seen = open_here("transformers?threads=1"), dict[str, tuple[int, ...]]()
    scored = engine.score(TOKENS)
    engine.reset()
    traced = engine.trace(TOKENS, ["model.layers.3.*_proj", "model.norm"], lambda name, x: seen.update({name: x.shape}))
    assert np.array_equal(traced, scored) and seen["model.norm"] == (41, 256) and len(seen) == 8
    assert seen["model.layers.3.self_attn.k_proj"] == (41, 128)


def test_its_trace_is_that_of_the_reference_slot_by_slot(transformers: Any, tmp_path: Path) -> None:
    """And where it is made wrong, the first slot that does not follow is the one."""
    engine: Any = open_here("transformers?threads=1")

    def captured(engine: Any, name: str) -> Any:
        engine.reset()
        capture(engine, name, TOKENS[:12], tmp_path / name, Wanted(["*"]))
        return load(tmp_path / name)

    right, truth = captured(engine, "right"), captured(open_here("reference?kv=f32"), "truth")
    found = diff(right, truth)
    assert found.verdict == "PASS" and len(found.slots) == 6 * 14 + 3, found.reason
    engine.net.model.layers[3].mlp.act_fn = engine.torch.nn.GELU()
    wrong = diff(captured(engine, "wrong"), truth)
    assert wrong.verdict == "FAIL" and wrong.first is not None and wrong.first.key == "3.ffn_silu_gate"
