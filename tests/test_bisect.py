"""Bisection: known-wrong engines are found at their op, in their way of feeding, and what is right is not suspected."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import jsonschema
import numpy as np
import pytest
from gguf import GGUFReader

from kparity.bisect.pattern import described
from kparity.bisect.run import WAYS
from kparity.check.core import CaseRunner, blank_record
from kparity.check.dump import load
from kparity.cli.schema import schema_of
from kparity.engines.base import Spec
from kparity.ladder.ways import EVERY, tokens_of
from kparity.model import writer
from kparity.model.gguf_file import embedded
from kparity.mutate.wrong import Mutant
from tests.cli import run
from tools.bisect_mutants import bisected

FUSED_OPS = 9
"""Of a layer of the graph that serves."""


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("mutant", "kind", "op", "way", "told"),
    [
        ("attention/mask-one-less", "kernel", "attention", "batch", "out: 1 of 32 rows (0), whole; all zero"),
        ("tgemv/tail-of-k-ignored", "kernel", "tgemv", "batch", "y: all 16384 elements; all zero"),
        ("rope/convention-swapped", "kernel", "rope", "batch", ""),
        ("rope_store/values-not-stored", "kernel", "rope_store", "batch", ""),
        ("engine/no-sub-norm", "graph", "norm_quant", "batch", "launched: act_quant; the file asks for norm_quant"),
        ("engine/rope-theta-default", "graph", "rope_store", "batch", "frequency 1 of RoPE is"),
        ("engine/cache-of-another-layer?backend=cpu", "graph", "attention", "batch", "bound to the k of layer 2"),
        ("engine/value-heads-exchanged", "weights", "tgemv", "batch", "128 of 512 rows of attn_qkv of layer 0"),
        ("engine/last-row-off-by-one", "engine", "engine", "prefill", "row 0 of 'last' is"),
        ("engine/second-turn-restarts", "engine", "engine", "second turn", "tokens are counted"),
        ("engine/cache-not-reset", "engine", "engine", "steps", "were fed since a reset"),
        ("engine/graph-lost-a-launch", "engine", "engine", "batch", "launch 59 is norm_quant"),
    ],
)
def test_a_defect_is_found_at_its_op(mutant: str, kind: str, op: str, way: str, told: str, tmp_path: Path) -> None:
    found = bisected(f"mutant:{mutant}", keep=tmp_path)
    where = found.found
    assert (where.kind, where.op, found.ways[-1].name, found.exit_code) == (kind, op, way, 1)
    assert told in f"{where.sentence} {where.pattern}" and found.ways[-1].verified
    budget = 3 * (math.log2(found.tokens) + math.log2(found.layers) + FUSED_OPS)
    assert 0 < found.evaluations <= budget
    if kind == "kernel":  # outside of the model too, on the inputs that it had there
        dump = load(Path(where.replay))
        wrong = Mutant(Spec.parse(f"mutant:{mutant}"), model=str(embedded()), context=64)
        runner = CaseRunner(wrong.engine.backend, dump.op, dump.case)
        assert runner.check(blank_record("numpy", dump.op, dump.case, 0), dump.facts).outcome == "FAIL"


def test_many_layers_cost_no_more_than_their_logarithm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty layers, as many as the 2B-4T model has, and tensors of six of them on disk at a time."""
    spec = replace(writer.TINY, arch="bitnet-b1.58", layers=30, context=128)
    path = writer.write_file(tmp_path / "30.gguf", writer.keys(spec), list(writer.tensors(spec)))
    monkeypatch.setattr("kparity.bisect.run.BLOCK_BYTES", 6 * 4 * 32 * spec.width)
    found = bisected("mutant:dense_gemv/last-row-skipped", model=str(path))
    assert (found.found.op, found.found.slot, found.layers) == ("dense_gemv", "logits", 30)
    assert found.evaluations <= 3 * (math.log2(found.tokens) + math.log2(30) + FUSED_OPS)


@pytest.mark.parametrize("pair", [("reference", "kparity:cpu"), ("kparity:numpy", "kparity:cpu?act=block256")])
def test_a_right_pair_is_not_suspected(pair: tuple[str, str]) -> None:
    found = bisected(pair[1], pair[0])
    assert (found.found.kind, found.exit_code) == ("nothing", 0), found.found.sentence
    assert [each.name for each in found.ways] == [each.name for each in WAYS]


@pytest.mark.parametrize("ours", ["candidate", "reference"])
def test_a_pair_with_llama_cpp_is_bisected_by_its_trace(ours: str, llamacpp: ModuleType) -> None:
    wrong = "mutant:engine/rope-theta-default"
    found = bisected(*((wrong, "llama.cpp") if ours == "candidate" else ("llama.cpp", wrong))).found
    assert (found.layer, found.slot) == (0, "q_rope") and found.op.startswith("rope")


@pytest.fixture
def theta(tmp_path: Path) -> str:
    """The embedded model with another base of RoPE."""
    shutil.copy(embedded(), other := tmp_path / "theta.gguf")
    base = GGUFReader(other, "r+").fields["bitnet.rope.freq_base"]
    base.parts[base.data[0]][0] = 500000.0
    return str(other)


def test_a_pair_of_llama_cpp_alone_is_bisected_by_its_traces(theta: str, llamacpp: ModuleType) -> None:
    done = run("bisect", "--ref", "llama.cpp", "--cand", "llama.cpp", "--cand-model", theta)
    assert done.returncode == 1 and "FAIL layer 0 q_rope: rope, slot" in done.stdout, done.stderr


def test_the_candidate_is_opened_up_with_its_own_file(theta: str) -> None:
    done = run("bisect", "--cand", "kparity:numpy", "--cand-model", theta)
    assert done.returncode == 1 and "FAIL layer 0 q_rope: rope, slot" in done.stdout, done.stdout + done.stderr


def test_what_cannot_be_fed_anew_is_refused(tmp_path: Path) -> None:
    trace = str(tmp_path / "trace")
    prompt = ("--prompt", "In the beginning God created the heaven and the earth.")
    assert run("trace", "capture", "-e", "kparity:cpu", *prompt, "--slots", "logits", "-o", trace).returncode == 0
    done = run("bisect", "--cand", f"recorded:{trace}", *prompt)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "holds what was computed before" in done.stderr


def test_the_command(tmp_path: Path) -> None:
    options = ["--dump", str(tmp_path / "found"), "--json", str(tmp_path / "found.json")]
    done = run("bisect", "--ref", "reference", "--cand", "mutant:glu/gate-and-up-swapped", *options)
    document = json.loads((tmp_path / "found.json").read_text())
    jsonschema.validate(document, schema_of("bisect"))
    assert done.returncode == 1, done.stderr
    assert "FAIL layer 0 ffn_swiglu_inner: glu, kernel" in done.stdout and document["found"]["heals"] is True
    replayed = run("check", "--replay", document["found"]["replay"], "--backends", "numpy")
    assert replayed.returncode == 0 and "1 PASS" in replayed.stdout  # the right kernel, on the same inputs


def test_what_cannot_be_asked_is_one_sentence(tmp_path: Path) -> None:
    for options in (["--cand", "kparity:nothing"], ["--cand", "kparity:cpu", "--positions", "100000"]):
        done = run("bisect", "--ref", "reference", *options)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_every_way_feeds_the_same_tokens() -> None:
    for count in (1, 2, 3, 96):
        for scenario in EVERY:
            assert tokens_of(scenario.calls(range(count))) == list(range(count)), scenario.name


WANT = np.linspace(1, 2, 8 * 64).reshape(8, 64) * np.where(np.arange(64) % 3, 1, -1)


@pytest.mark.parametrize(
    ("cut", "value", "told"),
    [
        (np.s_[:, 61:], 0.0, "the tail: the last 3 of 64 columns; all zero"),
        (np.s_[:, 16:32], np.nan, "one tile of 16: columns 16 to 31 of 64; 128 of them NaN or infinite"),
        (np.s_[:, 3::7], None, "every 7th column, from 3 on; of the opposite sign"),
        (np.s_[2], "double", "1 of 8 rows (2), whole; 2 times what they should be"),
        (np.s_[1:, 5], "more", "1 of 64 columns (5) in 7 of 8 rows (1, 2, 3, 4 …); +0.5 off, all alike"),
        (np.s_[:], "moved", "all 512 elements; the values that belong 1 columns before"),
    ],
)
def test_the_pattern_of_wrong_elements_is_told(cut: object, value: object, told: str) -> None:
    got = WANT.copy()
    part = WANT[cut]  # type: ignore[index]
    new = {None: -part, "double": 2 * part, "more": part + 0.5, "moved": np.roll(WANT, 1, axis=1)}.get(value, value)
    got[cut] = new  # type: ignore[index]
    assert described(got, WANT, ~(got == WANT)) == told
