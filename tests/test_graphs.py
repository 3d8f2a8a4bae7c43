"""The graphs of ``llama`` and ``qwen3``: engine, plain pass, transformers and llama.cpp on the same small files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kparity import plain
from kparity.backends.numpy import NumpyBackend
from kparity.bench import shapes
from kparity.device.adapter import Backend
from kparity.device.registry import open_backend
from kparity.diagnose import defects
from kparity.engine import Engine
from kparity.engines import hf_weights
from kparity.engines.registry import open_here
from kparity.errors import BadModel
from kparity.gates.graph import expected
from kparity.model import Hparams, load_model
from kparity.model.writer import TERNARY, TINY, Spec, tensors, write, write_file
from kparity.numerics import compare
from kparity.ops import get
from kparity.traces.capture import Wanted, capture
from kparity.traces.diff import diff
from kparity.traces.files import load
from tests.cli import run
from tests.gguf_files import F32, STRING, U32, altered, entry

TOKENS = [0, *(int(each) for each in np.random.default_rng(5).integers(2, TINY.vocab, 40))]
STRETCHED = {".rope.scaling.type": (STRING, "linear"), ".rope.scaling.factor": (F32, 4.0)}
GRAPHS = {
    "llama": replace(TINY, arch="llama"),
    "llama 3": replace(TINY, arch="llama", rope_freqs=True, untied=True, key_length=128, theta=10000.0),
    "qwen3": replace(TINY, arch="qwen3", key_length=128),
}


@pytest.fixture(scope="module", params=GRAPHS)
def path(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("graphs") / "model.gguf", GRAPHS[request.param])


@pytest.fixture(scope="module", params=("llama 3", "qwen3"))
def one(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each architecture."""
    return write(tmp_path_factory.mktemp("graphs") / "model.gguf", GRAPHS[request.param])


def apart(a: np.ndarray, b: np.ndarray) -> list[float]:
    """1 - cosine of each position."""
    return [1 - compare.cosine(one, other) for one, other in zip(a, b, strict=True)]


def scored(path: Path, backend: Backend, change: Callable[[Hparams], dict[str, Any]] = lambda h: {}, **options: Any):
    """Logits of all tokens, in chunks; the backend stays open."""
    with closing(load_model(path)) as model:
        model.hparams = replace(model.hparams, **change(model.hparams))
        engine = Engine(model, backend, **options)
        found = engine.score(TOKENS, rows=16)
        engine.programs.clear()
    return found


# --- the same numbers, computed apart ---


@pytest.mark.parametrize(("act", "kv"), [("token", "f16"), ("block256", "f32"), ("block32", "f16")])
def test_the_plain_pass_is_the_specification(path: Path, act: str, kv: str) -> None:
    found = plain.logits(path, TOKENS, act=act, kv=kv)
    assert max(apart(found.logits, scored(path, NumpyBackend("f64"), act=act, kv=kv))) < 1e-9
    assert 1e-16 < max(apart(found.rounded, found.logits)) < 0.05


def test_every_backend_agrees_with_the_plain_pass(path: Path, backend: Backend) -> None:
    """And one launch for several ops gives the bits of several, where the same code rounds."""
    found = [scored(path, backend, fused=fused) for fused in (True, False)]
    truth = plain.logits(path, TOKENS, act="token", kv="f16").logits
    assert np.array_equal(*found) or (backend.dialect in ("gpu", "wgsl") and max(apart(*found)) < 1e-3)
    assert np.median(apart(found[0], truth)) < 1e-3 and max(apart(found[0], truth)) < 0.01


def test_a_stretched_context_divides_positions_beside_the_factors(tmp_path: Path) -> None:
    path = altered(tmp_path, GRAPHS["llama 3"], keys=STRETCHED)
    h, facts = load_model(path).hparams, plain.facts(path)
    assert h.rope_scale == facts.rope_scale == 4 and facts.frequencies[0] == 0.25
    assert np.array_equal(np.float32(facts.factors), np.float32(h.rope_factors))
    assert (facts.factors[0], facts.factors[-1]) == (1, 8)
    truth = plain.logits(path, TOKENS, act="token", kv="f16").logits
    assert max(apart(scored(path, open_backend("cpu")), truth)) < 0.01
    assert max(apart(scored(path, open_backend("cpu"), lambda h: {"rope_scale": 1.0}), truth)) > 0.1


WRONG: dict[str, tuple[str, Callable[[Hparams], dict[str, Any]]]] = {
    "the other pairs": ("llama 3", lambda h: {"rope_mode": "neox"}),
    "no factors": ("llama 3", lambda h: {"rope_factors": ()}),
    "pairs of qwen3": ("qwen3", lambda h: {"rope_mode": "interleaved"}),
    "another activation": ("qwen3", lambda h: {"act": "relu2", "clamp": 1}),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_an_architecture_says_matters(name: str, tmp_path: Path) -> None:
    graph, change = WRONG[name]
    path = write(tmp_path / "model.gguf", GRAPHS[graph])
    truth = plain.logits(path, TOKENS, act="token", kv="f16").logits
    assert max(apart(scored(path, open_backend("cpu"), change), truth)) > 0.1


def test_a_key_decides_the_activation_in_every_reader(transformers: Any, tmp_path: Path) -> None:
    path = altered(tmp_path, GRAPHS["llama"], keys={".hidden_activation": (STRING, "relu_squared")})
    h, facts = load_model(path).hparams, plain.facts(path)
    assert (h.act, h.clamp) == (facts.act, facts.clamp) == ("relu2", 1)
    truth = plain.logits(path, TOKENS, act="token", kv="f32").logits
    assert np.median(apart(scored(path, open_backend("cpu"), kv="f32"), truth)) < 1e-3
    theirs = open_here("transformers?threads=1", model=str(path)).score(TOKENS)
    assert np.median(apart(theirs, truth)) < 1e-3
    silu = scored(path, open_backend("cpu"), lambda h: {"act": "silu", "clamp": 0}, kv="f32")
    assert max(apart(silu, truth)) > 0.1
    with pytest.raises(BadModel, match="hidden_activation is 'gelu'"):
        plain.facts(altered(tmp_path, GRAPHS["llama"], keys={".hidden_activation": (STRING, "gelu")}))


# --- others' implementations ---


def random_net(transformers: Any, kind: str) -> Any:
    """A model of transformers with random ternary layers; ``llama`` with the RoPE of Llama 3.1."""
    import torch

    torch.manual_seed(0)
    llama3 = {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=300, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=128, max_position_embeddings=128, bos_token_id=0, eos_token_id=1,
        tie_word_embeddings=False, pad_token_id=None,
        rope_parameters=llama3 if kind == "llama" else {"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip
    net = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for weight in net.parameters():
        weight.data.normal_(*((0, 0.06) if weight.ndim > 1 else (1, 0.1)))
    for name, module in list(net.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            ternary = transformers.integrations.bitnet.AutoBitLinear(
                module.in_features, module.out_features, bias=False, online_quant=True
            )
            ternary.weight = module.weight
            net.set_submodule(name, ternary)
    return net


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_transformers_has_the_same_graph(kind: str, transformers: Any, tmp_path: Path) -> None:
    """LlamaForCausalLM and Qwen3ForCausalLM as they are: their RoPE, their norms, and a file that is made of them."""
    import torch

    net = random_net(transformers, kind)
    assert type(net).__name__ == {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[kind]
    with torch.inference_mode():
        truth = net(torch.tensor([TOKENS])).logits[0].numpy()
    path = write_file(tmp_path / "model.gguf", *hf_weights.to_gguf(net))
    found = plain.logits(path, TOKENS, act="token", kv="f32").logits
    assert abs(found - truth)[0].max() < 1e-4 and max(apart(found, truth)) < 1e-3
    assert np.median(apart(scored(path, open_backend("cpu"), kv="f32"), truth)) < 1e-3
    again = open_here("transformers?threads=1", model=str(path)).score(TOKENS)
    assert max(apart(again, truth)) < 1e-3


def test_a_table_of_factors_is_not_saved_as_a_rule(transformers: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", GRAPHS["llama 3"])
    with pytest.raises(BadModel, match=r"rope_freqs\.weight is a table"):
        hf_weights.save(str(path), tmp_path / "folder")


@pytest.mark.parametrize("kind", ["tq2_0", "tq1_0", "q2_0"])
def test_llamacpp_agrees(one: Path, kind: str, llamacpp: Any, tmp_path: Path) -> None:
    """Its activations are int8 per 256 beside TQ types and per 32 beside Q2_0, and so are ours; with the other kind of
    blocks we are further away.
    """
    arch = load_model(one).hparams.arch
    spec = next(each for each in GRAPHS.values() if each.arch == arch and each.key_length)
    path = write(tmp_path / "model.gguf", replace(spec, type=kind))
    acts = ("block32", "block256") if kind == "q2_0" else ("block256", "block32")
    found = open_here("llama.cpp?threads=1", model=str(path)).score(TOKENS)
    alike, other = (apart(found, plain.logits(path, TOKENS, act=act, kv="f16").logits) for act in acts)
    assert np.median(alike) < 2e-3 and max(alike) < 0.01
    assert np.median(alike) < np.median(other) and max(alike) < max(other)


# --- slots ---


@pytest.mark.parametrize("engine", ["kparity:cpu", "transformers?threads=1", "llama.cpp?threads=1"])
def test_traces_name_the_same_slots(engine: str, one: Path, transformers: Any, llamacpp: Any, tmp_path: Path) -> None:
    """And qwen3 has two more, the norms of the heads."""

    def captured(text: str, name: str) -> Any:
        capture(open_here(text, model=str(one)), name, TOKENS[:12], tmp_path / name, Wanted(["*"]))
        return load(tmp_path / name)

    theirs = "block256" if engine.startswith("llama") else "token"
    kv = "f32" if engine.startswith("trans") else "f16"
    found = diff(captured(engine, "theirs"), captured(f"reference?act={theirs}&kv={kv}", "truth"))
    slots = {each.key for each in found.slots}
    heads = {"0.attn_q_norm", "0.attn_k_norm"}
    assert found.verdict == "PASS", found.reason
    assert {"0.qkv", "0.attention", "0.ffn_swiglu_inner", "1.output"} <= slots
    assert (heads <= slots) is (load_model(one).hparams.arch == "qwen3")
    assert not any("sub_norm" in each for each in slots)


# --- gates and what they rely on ---


@pytest.mark.parametrize("name", ["cpu", "numpy"])
def test_a_probe_accepts_them(one: Path, name: str) -> None:
    done = run("probe", "--model", str(one), "--require", name)
    assert done.returncode == 0, done.stderr


def test_the_gate_graph_knows_the_convention_of_the_file(one: Path) -> None:
    facts, h = plain.facts(one), load_model(one).hparams
    case = get("rope").case(M=1, H=h.n_head, D=h.head_dim, mode=h.rope_mode, theta=h.theta)
    wanted = {name: value for name, value in expected(case, facts, "token", "f16").items() if name != "scale"}
    assert wanted == {"D": 128, "R": 128, "theta": h.theta, "mode": "interleaved" if h.arch == "llama" else "neox"}


def silent(path: Path) -> set[str]:
    """Defects of the diagnosis that change no logit of a file."""
    facts, right = plain.facts(path), plain.logits(path, TOKENS[:12], act="token", kv="f16", twin=False).logits
    found = set()
    for each in (*defects.fixed(facts, "token", "f16"), *defects.layered(facts)):
        options = {"act": each.act or "token", "kv": each.kv or "f16"}
        wrong = plain.logits(path, TOKENS[:12], twin=False, vary=each.vary, **options).logits
        found |= {each.pattern} if np.array_equal(wrong, right) else set()
    return found


def test_every_defect_of_a_diagnosis_is_one_there_too(one: Path, tmp_path: Path) -> None:
    """Nothing of it is about a norm that the model has not: what changes nothing changes nothing in bitnet either."""
    assert silent(one) == silent(write(tmp_path / "bitnet.gguf", replace(TINY, arch="bitnet"))) == {
        "clamp", "scale-tensor",
    }  # fmt: skip


# --- what does not run ---


def table(values: list[float]) -> dict[str, Any]:
    name = "rope_freqs.weight"
    return {name: entry(name, (len(values),), 0, np.array(values, "<f4").tobytes())}


BIAS = {"blk.0.attn_q.bias": entry("blk.0.attn_q.bias", (256,), 0, bytes(1024))}
SUB = {"blk.0.attn_sub_norm.weight": entry("blk.0.attn_sub_norm.weight", (256,), 0, bytes(1024))}
REFUSED: dict[str, tuple[Spec, dict[str, Any], dict[str, Any], str]] = {
    "a bias": (GRAPHS["llama"], {}, BIAS, "attn_q.bias is no part of the llama graph"),
    "a sub-norm": (GRAPHS["llama"], {}, SUB, "attn_sub_norm.weight is no part of the llama graph"),
    "experts": (GRAPHS["llama"], {".expert_count": (U32, 8)}, {}, "a router and experts are needed"),
    "a table of qwen3": (GRAPHS["qwen3"], {}, table([1.0] * 64), "rope_freqs.weight is no part of the qwen3 graph"),
    "a short table": (GRAPHS["llama"], {}, table([1.0] * 31), "rope_freqs.weight has the shape"),
    "a factor of 0": (GRAPHS["llama"], {}, table([1.0] * 31 + [0.0]), "rope_freqs.weight holds 0.0"),
    "a factor that is no number": (GRAPHS["llama"], {}, table([float("nan")] * 32), "rope_freqs.weight holds nan"),
    "a window": (
        GRAPHS["llama"],
        {".attention.sliding_window": (U32, 64)},
        {},
        "sliding_window is 64: layers that see",
    ),
    "another scale": (GRAPHS["llama"], {".attention.scale": (F32, 0.5)}, {}, "attention.scale is 0.5: scores that are"),
    "a cap": (GRAPHS["qwen3"], {".final_logit_softcapping": (F32, 30.0)}, {}, "through a tanh are needed"),
    "a logit scale": (GRAPHS["llama"], {".logit_scale": (F32, 0.25)}, {}, "logits that are multiplied by it"),
    "yarn": (GRAPHS["qwen3"], {".rope.scaling.type": (STRING, "yarn")}, {}, "scaling of type 'yarn'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_graphs_lack_is_refused_by_name(name: str, tmp_path: Path) -> None:
    spec, keys, tensors, told = REFUSED[name]
    path = altered(tmp_path, spec, keys=keys, tensors=tensors)
    with pytest.raises(BadModel, match=told):
        load_model(path)
    if "factor" in name or name in (
        "yarn",
        "a window",
        "another scale",
        "a cap",
        "a logit scale",
    ):  # the second reader looks for itself
        with pytest.raises(BadModel):
            plain.facts(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("sliding_window", (U32, 0)), ("sliding_window", (U32, 1 << 20)), ("scale", (F32, 0.125)), ("scale", (F32, 0.0))],
)
def test_a_key_that_changes_nothing_is_no_reason(name: str, value: tuple[int, float], tmp_path: Path) -> None:
    """A window as long as the context; the scale of heads of 64, and none."""
    path = altered(tmp_path, GRAPHS["llama"], keys={f".attention.{name}": value})
    assert load_model(path).hparams.head_dim == 64 and plain.facts(path).head_dim == 64


def test_the_doctor_and_inspect_know_them(one: Path) -> None:
    done = run("model", "doctor", str(one), "--tokens", "0")
    assert done.returncode == 0 and "runs it as" in done.stdout, done.stdout
    told = run("model", "inspect", str(one)).stdout
    assert "hidden_activation is missing" in told and ("rope_freqs" in told) is ("interleaved" in told)


# --- every type ---


@pytest.mark.sampled(4)
@pytest.mark.parametrize("arch", ["bitnet", "llama", "qwen3"])
def test_every_type_gives_every_graph_the_same_bits(arch: str, backend: Backend, tmp_path: Path) -> None:
    """The same codes and scales in each ternary type; what other tests hold of one type is so held of all."""
    found = {
        kind: scored(write(tmp_path / f"{kind}.gguf", replace(TINY, arch=arch, type=kind)), backend) for kind in TERNARY
    }
    assert [kind for kind in TERNARY if not np.array_equal(found[kind], found["tq2_0"])] == []


# --- shapes that people have ---


def test_the_shapes_have_the_tensors_of_the_published_files() -> None:
    counts = {name: len([*tensors(shapes.parse(name))]) for name in ("2b-4t", "llama3-8b", "bonsai-8b")}
    assert counts == {"2b-4t": 332, "llama3-8b": 32 * 9 + 3, "bonsai-8b": 36 * 11 + 3}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("shape", ["llama3-8b:1:300", "bonsai-8b:1:300"])
def test_layers_as_wide_as_those_of_8b_agree_with_the_plain_pass(shape: str, tmp_path: Path) -> None:
    """One layer, and a narrow vocabulary: docs/models.md has whole probes of two layers with the whole vocabulary."""
    model = shapes.model_file(shape, cache=tmp_path)
    truth = plain.logits(model, TOKENS[:6], act="token", kv="f16").logits
    with closing(open_backend("cpu")) as backend, closing(Engine(load_model(model), backend)) as engine:
        assert max(apart(engine.score(TOKENS[:6]), truth)) < 1e-3
