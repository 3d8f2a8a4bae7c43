"""Diagnoses: each pattern on an engine with that defect, simulated ones on mutants, none on right pairs."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from msgspec.structs import replace

from kparity import plain
from kparity.cli.schema import schema_of
from kparity.diagnose import defects
from kparity.diagnose.advice import ADVICE
from kparity.diagnose.diagnosis import diagnosed
from kparity.diagnose.document import of_climb
from kparity.diagnose.patterns import SLOPE, matched, sloped
from kparity.diagnose.seen import FITTED, HELD_OUT, Explained, Explaining, Seen
from kparity.ladder.climb import climb
from kparity.ladder.prompts import chosen
from kparity.ladder.record import Diagnosis, Document, Rung, Settings
from kparity.ladder.ways import BATCH
from kparity.model.gguf_file import embedded
from kparity.mutate.library import path_of
from kparity.ops.spec import Array
from kparity.plain.file import opened as opened_file
from tests.cli import run
from tests.test_ladder import PROMPTS, TEXT, opened

FAULTS = {
    "bos2": ("P1-ids", 0.9, "double BOS"),
    "template": ("P1-ids", 0.9, "puts more around"),
    "offset": ("P2-offset", 0.9, "shifted by +1"),
    "rolled": ("P2-offset", 0.9, "shifted by +3"),
    "gain": ("P3-gain", 0.9, "times 1.0100"),
    "constant": ("P3-gain", 0.9, "log-probabilities for logits"),
    "grows": ("P4-growth", 0.5, "grows with the position"),
    "late": ("P5-jump", 0.8, "wrong from 40 on; 40 is a multiple of 8"),
    "greedy": ("P5-jump", 0.8, "wrong from 36 on"),
    "own": ("P6-second", 0.5, "right at position 0, wrong from 1 on"),
    "unsteady": ("P7-random", 0.9, "two runs of the same thing differ"),
    "random": ("P7-random", 0.9, "two runs of the same thing differ"),
    "coarse": ("P8-quantisation", 0.3, "an F16 control tells"),
    "silu": ("weights", 0.3, "embedding, activation function or layout"),
    "nan": ("nan", 0.9, "logits of the candidate are NaN"),
    "reset": ("reset", 0.9, "state survives a reset"),
    "batch": ("batch", 0.9, "batches are wrong, single steps are right"),
    "kv": ("steps", 0.9, "single steps are wrong, batches are right"),
    "turn": ("turn", 0.9, "what is fed on a filled cache is wrong"),
    "prompt": ("prefill", 0.9, "a prompt as it is served"),
    "ragged": ("neighbours", 0.9, "what else is in the batch"),
    "nomask": ("mask", 0.8, "no causal mask"),
    "permuted": ("layout", 0.9, "rows of the head in another order"),
    "headrow": ("layout", 0.9, "of 1 ids alone differ (7)"),
    "shifted": ("input", 0.9, "the ids that are embedded are shifted by +1"),
    "ownbos": ("input", 0.9, "a BOS (1) of its own"),
    "stale": ("late", 0.9, "the step before"),
    "restart": ("anew", 0.9, "position 32 begins anew"),
    "blindfirst": ("input", 0.9, "the first token is not fed"),
    "dies": ("failed", 0.9, "cannot do what it is asked"),
    "fallback?device=x": ("fallback", 0.9, "not on the device"),
    "vocab": ("shapes", 0.9, "other shapes"),
}
"""Engine that lies → the pattern that must be found, with which confidence at least, and what it must say."""


@cache
def of_liars(reference: str, candidate: str) -> Document:
    settings = Settings(reference=f"fake:{reference}", candidate=f"fake:{candidate}", text=TEXT, prompts=PROMPTS)
    return climb(settings, opened, diagnosed)


def told(found: Document) -> Diagnosis:
    assert found.diagnosis is not None
    return found.diagnosis


@pytest.mark.parametrize("fault", FAULTS)
def test_each_pattern_is_found_where_it_is(fault: str) -> None:
    pattern, least, says = FAULTS[fault]
    findings = told(of_liars("healthy", fault)).findings
    each = next((each for each in findings if each.pattern == pattern), None)
    assert each is not None and says in each.cause, findings
    assert each.confidence >= least and each.evidence and each.next and each.fix and each.side == "candidate"
    assert [each.confidence for each in findings] == sorted((each.confidence for each in findings), reverse=True)
    assert of_climb(of_liars("healthy", fault)).exit_code == 1


@pytest.mark.parametrize("candidate", ["healthy", "twin", "noisy", "offloaded?device=x", "another"])
def test_nothing_is_found_of_right_engines(candidate: str) -> None:
    found = of_climb(of_liars("healthy", candidate))
    assert found.diagnosis and found.diagnosis.findings == [] and (found.verdict, found.exit_code) == ("PASS", 0)
    settings = Settings(reference="fake:healthy", candidate=f"fake:{candidate}", text=TEXT, prompts=PROMPTS)
    forced = climb(settings, opened, lambda climb, rung: diagnosed(climb, replace(rung, verdict="FAIL", measures=[])))
    assert told(forced).findings == [] and "ids of the output" in told(forced).tried


def of_change(change: Array, beyond: bool = True) -> Seen:
    """A candidate whose logits are the reference's and a change; ``beyond``: a measure of all positions failed."""
    seen = object.__new__(Seen)
    seen.judge, seen.ids, seen.truth = (
        Explaining(),
        [0] * len(change),
        np.random.default_rng(0).normal(0, 3, change.shape),
    )
    measures = [seen.judge.measure("decode_rate", "x", 0.0)] if beyond else []
    seen.rung, seen.ways = Rung(name="positions", measures=measures), [seen.way(BATCH, seen.truth + change)]
    return seen


def test_noise_needs_no_explanation() -> None:
    """A defect that norms absorb flips the same codes as noise by chance: nothing was beyond a limit."""
    noise = 1e-9 * np.random.default_rng(1).normal(0, 1, (6, 50))
    for beyond, confidence in ((False, 0.0), (True, 0.99)):
        seen = of_change(noise, beyond)
        assert not seen.subject.bad.any() and seen.explained(seen.truth + noise).confidence == confidence


def test_what_is_fitted_is_held_against_other_positions_and_the_typical_one() -> None:
    change = np.random.default_rng(1).normal(0, 3, (8, 50))
    change[0] *= 1000  # alone most of the error
    seen = of_change(change)
    assert seen.subject.bad.all()
    for known, fitted, held_out in ((FITTED, 0.0, 1.0), (HELD_OUT, 1.0, 0.0), ([0], 1.0, 1.0)):
        guess = seen.truth.copy()
        guess[known] += change[known]
        assert [seen.explained(guess, part=part).share for part in (FITTED, HELD_OUT)] == [fitted, held_out]
        assert not seen.explained(guess).confidence


def test_what_limits_admit_is_not_explained_by_being_admitted() -> None:
    """A difference beyond the limits of an engine can be within those of a simulated pass."""
    change = np.zeros((6, 50))
    change[0] = 1e-2 * np.random.default_rng(2).normal(0, 1, 50)
    seen, loose = of_change(change), Explaining(overrides={"mse": 1, "max_abs": 1, "l2": 1, "norm": 1, "kl": 1})
    assert np.flatnonzero(seen.subject.bad).tolist() == [0]
    for judge in (seen.judge, loose):
        found = [
            seen.explained(seen.truth + share * change, judge=lambda judge=judge: judge).confidence
            for share in (0.5, 0.999)
        ]
        assert found == [0.0, 0.99], judge


def test_what_nothing_explains_is_inconclusive_and_ties_are_no_defect() -> None:
    found = of_climb(of_liars("healthy", "element"))
    assert (found.verdict, found.exit_code) == ("INCONCLUSIVE", 3) and found.diagnosis
    assert "profile over positions" in found.diagnosis.tried and found.diagnosis.findings == []
    tied = of_climb(of_liars("tie", "tied"))
    assert tied.diagnosis and [(each.pattern, each.defect) for each in tied.diagnosis.findings] == [("ties", False)]
    assert tied.exit_code == 0


NAMED = {
    "norm_quant/relu2-for-silu": ("activation", "the squared ReLU where the file has SiLU"),
    "rope/convention-swapped": ("rope-pairs", "side by side"),
    "engine/rope-theta-default": ("rope-theta", "is 500000, the file says 10000"),
    "engine/no-sub-norm": ("norm-missing", "attn_sub_norm is left out"),
    "attention/mask-one-more": ("mask-more", "one key too many"),
    "attention/mask-one-less": ("mask-less", "does not see its own key"),
    "kv_store/next-position": ("kv-late", "one position late"),
    "engine/position-off-by-one": ("kv-hole", "positions begin at 1"),
    "engine/cache-not-reset": ("reset", "leaves the cache as it is"),
    "engine/ring-too-short": ("anew", "position 64 begins anew"),
    "engine/softmax-scale-twice": ("softmax-scale", "multiplied by 0.125/√64"),
    "engine/residual-dropped": ("residual", "layer 3: the stream around attention"),
    "engine/head-rows-swapped": ("layout", "2 ids have each other's logits"),
    "engine/host-eps-constant": ("eps", "eps of the norms is 1e-05"),
    "engine/host-heads-dealt": ("gqa", "one by one"),
    "engine/host-scale-forgotten": ("scale-tensor", "not applied"),
    "engine/graph-lost-a-launch": ("block-missing", "what ffn_sub_norm gives is that of the layer before"),
    "tgemv/token-scale-missing": ("scale", "the scale of activations is not applied"),
    "rmsnorm/layer-norm": ("norm-mean", "the last norm: the deviation from the mean divides"),
    "tgemv/tail-of-k-ignored": ("scale", "all linear layers give zeros"),
    "kv_store/truncated-to-f16": ("kv-type", "cut off to f16 instead of rounded"),
    "engine/embedding-row-lost": ("layout", "of 1 ids alone differ (1535)"),
    "rope/one-sine-negated": ("rope-direction", "the sine of the second element"),
}
"""Mutant → the pattern that must be the best, and what it must say."""


def of_mutant(mutant: str, folder: Path, reference: str = "reference") -> Document:
    from kparity.mutate.library import every

    model = next(each.model for each in every() if each.label == mutant)
    text, prompts = chosen((), None, 64, 2).text, ("In the beginning",)
    return climb(
        Settings(reference=reference, candidate=f"mutant:{mutant}", text=text, prompts=prompts,
                 model=str(path_of(model, folder) or embedded()), positions=64, max_tokens=8),
        lambda spec, path: open_engine(spec, path), diagnosed,
    )  # fmt: skip


def open_engine(spec: str, path: str) -> Any:
    from kparity.engines import remote

    return remote.open_engine(spec, model=path, context=512)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mutant", NAMED)
def test_a_known_wrong_engine_is_told_by_name(mutant: str, tmp_path: Path) -> None:
    pattern, says = NAMED[mutant]
    best = told(of_mutant(mutant, tmp_path)).findings[0]
    assert best.pattern == pattern and says in best.cause and best.confidence >= 0.9, best


def test_what_a_simulation_rules_out_is_not_said(tmp_path: Path) -> None:
    found = told(of_mutant("add/second-row-off-by-one", tmp_path)).findings
    assert [(each.pattern, each.confidence) for each in found] == [
        ("batch", 0.5)
    ] and "no such mask does that" in found[0].cause
    assert told(of_mutant("engine/words-flipped", tmp_path)).findings == []
    (found,) = told(of_mutant("attention/no-mask", tmp_path)).findings
    assert found.pattern == "mask" and "no causal mask" in found.cause


def test_the_side_that_is_wrong_is_told() -> None:
    text, prompts = chosen((), None, 32, 1)
    settings = Settings(reference="mutant:rope/convention-swapped", candidate="kparity:numpy", text=text,
                        prompts=prompts, model=str(embedded()), rung="positions")  # fmt: skip
    findings = told(climb(settings, open_engine, diagnosed)).findings
    assert {(each.pattern, each.side) for each in findings if each.confidence > 0.9} == {
        ("reference", "reference"), ("rope-pairs", "reference")}  # fmt: skip


def test_every_defect_moves_the_logits_it_should_and_has_advice(tmp_path: Path) -> None:
    path = path_of("scales", tmp_path)
    facts, tokens = plain.facts(path), [3, 17, 40, 5, 99, 7]
    right = plain.logits(path, tokens, act="token", kv="f16").logits
    silent, families = [], defects.families(facts)
    valued = [defects.Defect(each.pattern, each.cause, each.made(3 * each.right)) for each in families]
    for each in (*defects.fixed(facts, "token", "f16"), *defects.layered(facts), *valued):
        found = plain.logits(path, tokens, act=each.act or "token", kv=each.kv or "f16", vary=each.vary).logits
        assert each.pattern in ADVICE and found.shape == right.shape
        if np.array_equal(found, right):
            silent.append(each.pattern)
    assert silent == ["clamp"]  # whose products stay within the range of f16 here


def test_what_stays_decoded_is_that_of_the_file(tmp_path: Path) -> None:
    with opened_file(path_of("scales", tmp_path)) as file:
        kept = dataclasses.replace(file, kept={})
        wrong = {each.cause: each.vary for each in (*defects.fixed(plain.facts(file), "token", "f16"),
                                                    *defects.layered(plain.facts(file)))}  # fmt: skip
        varied = [vary for cause, vary in wrong.items() if ".scale" in cause or "change places" in cause]
        assert len(varied) == 3 and not kept.kept
        for vary in (plain.RIGHT, *varied, plain.RIGHT):
            left, right = (plain.logits(each, [3, 17, 40], act="token", kv="f16", vary=vary) for each in (file, kept))
            assert np.array_equal(left.logits, right.logits)
            alone = plain.logits(kept, [3, 17, 40], act="token", kv="f16", vary=vary, twin=False)
            assert np.array_equal(alone.logits, left.logits) and not len(alone.rounded)
        assert kept.kept


def test_confidence_is_what_is_explained() -> None:
    for before, after, noise, confidence in ((1.0, 1e-6, True, 0.99), (1.0, 0.4, True, 0.6), (1.0, 0.6, True, 0.0),
                                             (1.0, 0.05, False, 0.475), (1.0, 0.2, False, 0.0), (0.0, 0.0, True, 0.0),
                                             (np.inf, 1.0, True, 0.0), (1.0, np.nan, False, 0.0)):  # fmt: skip
        assert Explained(before, after, noise).confidence == pytest.approx(confidence)


def test_slopes_and_orders() -> None:
    slope, error = sloped(2.0 * np.arange(9) + np.tile([0.1, -0.1, 0.0], 3))
    assert abs(slope - 2) < 3 * error < 0.1 and sloped(np.ones(3)) == (0.0, 0.0)
    rng = np.random.default_rng(0)
    for _ in range(100):  # noise has a slope too, and seldom one of so many standard errors
        slope, error = sloped(np.log(rng.chisquare(97, 64)))
        assert abs(slope) < SLOPE * error
    truth, order = rng.normal(size=(8, 50)), rng.permutation(50)
    assert np.array_equal(matched(truth, truth[:, order]), order)
    assert np.array_equal(matched(truth, truth + 1e-3), np.arange(50))


def test_the_command_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "diagnosis.json"
    for candidate, code, says in (
        ("twin", 0, "PASS"),
        ("rolled", 1, "P2-offset"),
        ("element", 3, "nothing that is known fits"),
    ):
        base = ("diagnose", "--ref", "fake:healthy", "--cand", f"fake:{candidate}", "--prompt", TEXT)
        done = run(*base, "--json", str(path), "--github", liars=True)
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        assert says in done.stdout and ("::error" in done.stderr) == (code != 0)
        found = json.loads(path.read_text())
        jsonschema.validate(found, schema_of("diagnosis"))
        assert found["exit_code"] == code and bool(found["diagnosis"]["findings"]) == (code == 1)
    climbed = run("ladder", "--ref", "fake:healthy", "--cand", "fake:rolled", "--prompt", TEXT, "--json", liars=True)
    jsonschema.validate(json.loads(climbed.stdout), schema_of("ladder"))
    assert json.loads(climbed.stdout)["diagnosis"]["findings"][0]["pattern"] == "P2-offset"


def test_other_batches_are_held_against_one() -> None:
    for candidate, code, says in (
        ("healthy", 0, "bit for bit the same"),
        ("batch", 1, "in batches of 1"),
        ("mute", 2, "cannot be fed"),
    ):
        done = run("diagnose", "--cand", f"fake:{candidate}", "--batch-invariant", "--prompt", TEXT, liars=True)
        assert done.returncode == code and says in done.stdout + done.stderr, done.stdout + done.stderr
    found = json.loads(
        run("diagnose", "--cand", "fake:batch", "--batch-invariant", "--prompt", TEXT, "--json", liars=True).stdout
    )
    steps = next(each for each in found["repeats"] if each["run"] == "token by token")
    assert steps["first"] == found["position"] == 1 and steps["different"] == steps["positions"] - 1
