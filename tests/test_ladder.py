"""The parity ladder: engines that lie fail at the rung that sees it, for the cause that it is; right pairs pass."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from msgspec.structs import replace

from kparity.cli.schema import schema_of
from kparity.diagnose.diagnosis import diagnosed
from kparity.engines import chat, tokens
from kparity.engines.base import Engine, Spec
from kparity.engines.remote import open_engine
from kparity.errors import WrongInput
from kparity.ladder import masks, prompts
from kparity.ladder.climb import climb
from kparity.ladder.prompts import built_in, instructed, lines
from kparity.ladder.record import RUNGS, Document, Rung, Settings
from kparity.ladder.ways import DECODE, SECOND, Scenario
from kparity.model.gguf_file import embedded
from kparity.traces.files import load
from tests.cli import LIARS, run
from tests.conftest import needing
from tests.gguf_files import STRING, altered

TEXT = "What goes wrong late has little weight in the whole, so that every window is looked at as well."
PROMPTS = ("The first prompt, long enough.", "Another prompt of a length!", "And a third that is longer than the rest.")


def _liars() -> Any:
    """The module of the lying engines, which is no part of any package on the path."""
    spec = importlib.util.spec_from_file_location("kparity_engine_liars", LIARS / "kparity_engine_liars.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LIAR = _liars()


def opened(spec: str, model: str) -> Engine:
    engine: Engine = LIAR.Fake(Spec.parse(spec), model=model)
    return engine


def climbed(reference: str, candidate: str, **options: Any) -> Document:
    text, prompts = options.pop("text", TEXT), options.pop("prompts", PROMPTS)
    third = options.pop("third", "")
    third = third and f"fake:{third}"
    sides = {"reference": f"fake:{reference}", "candidate": f"fake:{candidate}", "third": third}
    return climb(Settings(**sides, text=text, prompts=prompts, **options), opened, diagnosed)


def ended(document: Document) -> Rung:
    """The rung at which a climb ended."""
    return next(each for each in reversed(document.rungs) if each.verdict != "not run")


FAULTS = {
    "fallback?device=x": ("preflight", "share of layers"),
    "stillborn": ("preflight", "lost while it opened"),
    "bos2": ("tokens", "double BOS"),
    "nobos": ("tokens", "BOS: the candidate lacks 1"),
    "template": ("tokens", "template: the candidate puts more"),
    "offset": ("tokens", "shifted by +1"),
    "pre": ("tokens", "another tokenizer"),
    "vocab": ("masks", "vocab: 97 and 96"),
    "short": ("masks", "context of the candidate: 10"),
    "heads": ("masks", "kv_heads: 1 and 2"),
    "neighbour": ("masks", "another sequence moves position"),
    "ragged": ("masks", "beside a shorter sequence, position 0 differs"),
    "future": ("masks", "off by one, +1"),
    "nomask": ("masks", "no causal mask"),
    "blindfirst": ("masks", "does not see the first token"),
    "blindself": ("masks", "does not see its own token"),
    "kv": ("masks", "KV update"),
    "turn": ("masks", "does not go on where the first ended"),
    "reset": ("masks", "state survives a reset"),
    "second": ("masks", "not deterministic"),
    "unsteady": ("masks", "not deterministic"),
    "batch": ("masks", "batches and single steps differ"),
    "gain": ("first-logit", "times 1.0100"),
    "rolled": ("first-logit", "ids are shifted by +3"),
    "silu": ("first-logit", "embedding, activation function"),
    "nan": ("positions", "NaN or infinite"),
    "late": ("positions", "right up to position 39, wrong from 40 on"),
    "grows": ("positions", "grows with the position"),
    "random": ("decode", "two runs of the same thing differ"),
    "greedy": ("decode", "single steps are wrong, batches are right"),
    "dies": ("masks", "the device was lost"),
}
"""Fault → the rung that must see it, and what it must say."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_liar_fails_at_the_rung_that_sees_it_for_its_cause(fault: str) -> None:
    rung, says = FAULTS[fault]
    found = climbed("healthy", fault)
    last = ended(found)
    assert (last.name, last.verdict, found.verdict) == (rung, "FAIL", "FAIL")
    assert (found.exit_code, found.status) == (1, "diverged")
    assert says in f"{last.cause} {last.reason}"
    later = found.rungs[RUNGS.index(rung) + 1 :]
    assert all(each.verdict == "not run" for each in later)
    if fault in ("nan", "late"):
        assert found.divergence_token == {"nan": 20, "late": 40}[fault]


@pytest.mark.parametrize("candidate", ["healthy", "twin", "noisy", "offloaded?device=x", "another"])
def test_a_right_candidate_passes_every_rung(candidate: str) -> None:
    found = climbed("healthy", candidate)
    assert [each.verdict for each in found.rungs] == ["PASS"] * 6, [(each.name, each.reason) for each in found.rungs]
    assert (found.exit_code, found.status, found.divergence_token) == (0, "ok", -1)
    assert found.metrics.token_count == 64 and len(found.decode) == 4  # the text is one, too
    assert found.profile == ("other numerics" if candidate == "another" else "same numerics")


@pytest.mark.parametrize(
    ("reference", "candidate", "rung", "says"),
    [("healthy", "absent", "preflight", "no such device"), ("absent", "healthy", "preflight", "no such device"),
     ("stillborn", "healthy", "preflight", "the reference"), ("healthy", "mute", "tokens", "no tokenizer"),
     ("mute", "mute", "tokens", "neither side"), ("dies", "healthy", "masks", "the reference failed")],
)  # fmt: skip
def test_what_cannot_be_compared_is_inconclusive(reference: str, candidate: str, rung: str, says: str) -> None:
    found = climbed(reference, candidate)
    named = next(each for each in found.rungs if each.name == rung)
    assert named.verdict == found.verdict == "INCONCLUSIVE"
    assert (found.exit_code, found.status) == (3, "inconclusive")
    assert says in named.reason


@pytest.mark.parametrize(
    ("reference", "candidate", "rung", "verdict"),
    [("healthy", "twin?told=97", "", "PASS"), ("twin?told=97", "healthy", "", "PASS"),
     ("healthy", "gain?told=97", "first-logit", "FAIL"), ("healthy", "late?told=97", "positions", "FAIL")],
)  # fmt: skip
def test_all_log_probabilities_are_compared_but_for_a_constant(
    reference: str, candidate: str, rung: str, verdict: str
) -> None:
    found = climbed(reference, candidate)
    assert found.verdict == verdict and (ended(found).name == rung or verdict == "PASS")
    assert any("the mean of each position is taken off" in note for note in found.rungs[0].notes)


@pytest.mark.parametrize(
    ("reference", "candidate", "last"),
    [("healthy", "twin?told=20", "PASS"), ("twin?told=20", "healthy", "PASS"), ("healthy", "greedy?told=20", "FAIL"),
     ("healthy?told=20", "greedy", "INCONCLUSIVE")],
)  # fmt: skip
def test_some_log_probabilities_decide_greedy_ids_alone(reference: str, candidate: str, last: str) -> None:
    found = climbed(reference, candidate)
    verdicts = [each.verdict for each in found.rungs]
    assert verdicts == ["PASS", "PASS", "INCONCLUSIVE", "INCONCLUSIVE", "INCONCLUSIVE", last]
    assert found.exit_code == (1 if last == "FAIL" else 3) and "logprobs:20 alone" in found.rungs[3].reason


def test_answers_of_before_are_compared_and_no_more() -> None:
    held = climbed("healthy", "recorded", text="What was recorded before can be compared with what is computed now.")
    assert [each.verdict for each in held.rungs] == ["PASS", "PASS", "INCONCLUSIVE", "PASS", "PASS", "INCONCLUSIVE"]
    other = climbed("healthy", "recorded")
    assert (ended(other).name, other.verdict) == ("tokens", "FAIL") and "of another text" in ended(other).cause


def test_one_prompt_of_few_tokens_is_judged_too() -> None:
    found = climbed("healthy", "twin", text="a", prompts=("a",))
    assert ended(found).name == "decode" and found.rungs[2].verdict == "INCONCLUSIVE" and found.exit_code == 3


def test_the_first_bad_position_ends_the_walk_and_position_0_is_told() -> None:
    found = climbed("healthy", "late", rung="positions", stop_at_first=True)
    assert (found.divergence_token, found.metrics.token_count) == (40, 41)
    first = climbed("healthy", "twin", rung="first-logit")
    assert first.metrics.token_count == 1 and first.metrics.min_cosine_similarity > 0.999


@pytest.mark.parametrize("fault", ["late", "nan"])
def test_what_a_page_shows_of_a_position_is_told(fault: str) -> None:
    """The likeliest tokens of both sides, the limits that judged, and every finite error."""
    found = climbed("healthy", fault, rung="positions", keep_going=True)
    vocab = found.reference.vocab if found.reference else 0
    assert sum(count for *_, count in found.errors) <= vocab * len(found.positions)
    for at, each in enumerate(found.positions):
        limits = {name: limit[at > 0] for name, limit in found.limits.items()}
        values = {"cosine": 1 - each.cosine_similarity, "mse": each.mse, "max_abs": each.max_abs, "kl": each.kl,
                  "l2": each.l2_distance, "norm": abs(np.log(each.norm_ratio))}  # fmt: skip
        assert (each.verdict == "FAIL") == any(not values[name] <= limits[name] for name in values)
        if each.top is None:
            assert fault == "nan" and at == 20
            continue
        assert (each.top.ids[0], each.tokens[1] in each.top.ids) == (each.tokens[0], True)
        assert each.top.reference[:5] == sorted(each.top.reference, reverse=True)[:5]
        shares = np.exp(np.array(each.top.reference) - each.top.totals[0])
        assert 0 < shares.sum() <= 1 + 1e-9
    logits = opened("fake:healthy", "").score(found.tokens[0].reference or [])[0].astype(np.float64)
    assert found.positions[0].top and np.isclose(np.log(np.exp(logits).sum()), found.positions[0].top.totals[0])


def test_a_climb_ends_where_it_is_told_to() -> None:
    assert [each.verdict for each in climbed("healthy", "gain", rung="masks").rungs] == ["PASS"] * 3 + ["not run"] * 3
    on = climbed("healthy", "gain", keep_going=True)
    assert [each.verdict for each in on.rungs] == ["PASS"] * 3 + ["FAIL"] * 2 + ["PASS"] and on.exit_code == 1


def test_a_third_engine_says_which_side_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    for reference, candidate, side in (("healthy", "late", "candidate"), ("late", "healthy", "reference")):
        found = climbed(reference, candidate, third="twin")
        assert found.verdict == "FAIL" and found.three_way is not None and ended(found).side == side
        assert (found.three_way.candidate_farther > 0.99) == (side == "candidate")
    assert climbed("healthy", "twin", third="noisy").verdict == "PASS"
    monkeypatch.setattr("kparity.ladder.positions.bootstrap_farther", lambda left, right: 0.94)
    unsure = ended(climbed("healthy", "late", third="twin"))
    assert unsure.verdict == "FAIL" and unsure.side == "" and "probability 0.940, which is not sure" in unsure.notes[-1]


def test_a_sweep_tries_growing_prompts() -> None:
    found = climbed("healthy", "twin", sweep=True, rung="positions")
    assert found.rungs[4].notes[0] == "sweep, all at a time, prompts of 1 to 64 OK"
    assert climbed("healthy", "late", sweep=True, rung="positions").rungs[4].verdict == "FAIL"
    for asked, verdict in ((False, "PASS"), (True, "FAIL")):
        found = climbed("healthy", "tail", sweep=asked, rung="positions")
        assert found.verdict == verdict
    assert "sweep, 8 tokens at a time, prompts of 9 FAIL, 16 OK, 17 FAIL, 32 OK, 33 FAIL, 64 OK" in found.rungs[4].notes


def test_a_sweep_leaves_traces_of_every_length_and_names_the_slot(tmp_path: Path) -> None:
    command = ("ladder", "--ref", "reference", "--cand", "mutant:rope/convention-swapped", "--positions", "3",
               "--ladder", "positions", "--traces", str(tmp_path / "swept"), "--json")  # fmt: skip
    done = run(*command)
    said = " ".join(json.loads(done.stdout)["rungs"][4]["notes"])
    assert done.returncode == 1 and "traces of 1 tokens" in said and "layer 0 q_rope is the first" in said
    for size in (1, 2, 3):
        for side in ("reference", "candidate"):
            assert len(load(tmp_path / "swept" / f"tokens-{size}" / side).entries) >= 90
    assert run(*command).returncode == 2


@pytest.mark.parametrize("candidate", ["twin", "noisy", "seeded"])
def test_deterministic_means_every_bit_in_another_process(candidate: str) -> None:
    assert climbed("healthy", candidate).verdict == "PASS"
    last = ended(climbed("healthy", candidate, deterministic=True))
    assert (last.name, last.side) == (("decode", "") if candidate == "twin" else ("masks", "candidate"))
    assert candidate == "twin" or "position 0 of text 1 has other bits in a second process" in last.cause


def test_texts_of_our_own_are_cut_to_a_short_context_and_those_of_others_refused() -> None:
    """A model of 128 positions is compared too, without a word of its user about lengths."""
    pair, own = ("healthy?context=100", "twin?context=100"), prompts.chosen((), None, 64, 4)
    found = climbed(*pair, text=own.text, prompts=own.prompts, max_tokens=16)
    assert found.verdict == "PASS" and "built-in texts end after 84 tokens" in " ".join(found.rungs[2].notes)
    assert max(len(each.reference) for each in found.tokens if each.reference) > 100
    for texts in ({"text": own.text, "prompts": own.prompts, "positions": 90}, {"prompts": (TEXT * 2,)}):
        with pytest.raises(WrongInput, match="the reference has 100; raise --context"):
            climbed(*pair, max_tokens=16, **texts)


def test_an_unknown_rung_is_refused() -> None:
    with pytest.raises(WrongInput, match="no rung 'top'"):
        climbed("healthy", "twin", rung="top")


def test_a_verdict_is_that_of_its_rungs() -> None:
    document = climbed("healthy", "twin", rung="tokens")
    for verdicts in itertools.product(("PASS", "FAIL", "INCONCLUSIVE", "not run"), repeat=5):
        rungs = [Rung(name=name, verdict=verdict) for name, verdict in zip(RUNGS, verdicts, strict=False)]
        ran = {*verdicts} - {"not run"}
        right = "FAIL" if "FAIL" in ran else "PASS" if ran == {"PASS"} else "INCONCLUSIVE"
        for verdict in ("PASS", "FAIL", "INCONCLUSIVE"):
            if verdict == right:
                replace(document, rungs=rungs, verdict=verdict)
            else:
                with pytest.raises(ValueError, match="its rungs say"):
                    replace(document, rungs=rungs, verdict=verdict)


def real(reference: str, candidate: str, **options: Any) -> Document:
    """A climb on the embedded model and a text that no limit was fixed on, by engines in processes of their own."""
    whole = built_in()
    settings = Settings(
        reference=reference, candidate=candidate, text=whole[36_000:38_000], model=str(embedded()),
        prompts=tuple(lines(whole[40_000:42_000])[1:4]), **options,
    )  # fmt: skip

    def opener(spec: str, model: str) -> Engine:
        with needing("llamacpp"):
            return open_engine(spec, model=model, context=512)

    return climb(settings, opener)


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [("reference", "kparity:cpu"), ("kparity:numpy", "kparity:cpu"), ("kparity:cpu", "llama.cpp"),
     ("llama.cpp", "kparity:cpu?act=block256")],
)  # fmt: skip
def test_right_pairs_on_a_real_model_pass(reference: str, candidate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    found = real(reference, candidate)
    assert found.verdict == "PASS", [(each.name, each.reason) for each in found.rungs]
    assert found.metrics.token_count == 64 and found.floor is not None and found.floor.controls[0].positions == 256


@pytest.mark.parametrize(
    ("mutant", "way", "why"),
    [("second-turn-restarts", SECOND, masks.NO_TURN), ("turn-loses-its-last-key", SECOND, masks.NO_TURN),
     ("last-row-off-by-one", DECODE, masks.NO_PROMPT)],
)  # fmt: skip
def test_prompts_are_fed_as_they_serve(mutant: str, way: Scenario, why: str) -> None:
    """A prompt with steps behind it, and a second one on a filled cache: nothing else shows these."""
    last = ended(real("kparity:numpy", f"mutant:engine/{mutant}", rung="masks"))
    assert (last.name, last.verdict, last.side) == ("masks", "FAIL", "candidate")
    assert last.cause.startswith(way.means) and why in last.cause


def test_a_reference_that_is_a_little_wrong_does_not_widen_the_floor() -> None:
    found = real("mutant:attention/boundary-key-twice", "kparity:cpu", third="reference", rung="positions")
    last = ended(found)
    assert (last.name, last.verdict, last.side) == ("positions", "FAIL", "reference")
    assert any("are not both right" in note for note in last.notes)


@pytest.mark.parametrize(
    ("template", "made"),
    [("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{{ bos_token }}", "<|user|>a {{b}}"),
     ("{% for m in %}", ""), ("{{ ''.__class__.__mro__ }}", ""), ("{% for i in range(10**9) %}{% endfor %}", ""),
     ("{% for i in range(99999) %}" * 9 + "{% endfor %}" * 9, ""), ("{{ 'a' * 10**11 }}", ""), ("{{ 9**(9**9) }}", ""),
     ("{{ 'a' * 10**8 }}", "")],
)  # fmt: skip
def test_a_prompt_in_the_models_template(
    template: str, made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "SECONDS", 2.0)
    file = GGUFWriter(tmp_path / "model.gguf", "llama")
    file.add_chat_template(template)
    file.add_tensor("x", np.zeros((1, 144), np.uint8), raw_dtype=GGMLQuantizationType.Q4_K)  # which kparity cannot read
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    if made:
        assert instructed(str(tmp_path / "model.gguf"), ["a {{b}}"]) == [made]
    else:
        with pytest.raises(WrongInput, match="cannot be filled in"):
            instructed(str(tmp_path / "model.gguf"), ["a"])


@pytest.mark.parametrize(
    ("reference", "candidate", "right", "says"),
    [({}, None, [0, 7, 1, 9, 9], "(candidate) has no tokenizer.ggml.pre"),
     ({}, (STRING, "llama-bpe"), [0, 7, 1, 9, 9], "'gpt-2' in a.gguf (reference) and 'llama-bpe' in b.gguf"),
     ((STRING, "new"), (STRING, "new"), [0, 7, 1, 9, 9], "'new' in a.gguf (reference) is not known here"),
     ({}, {}, [0, 7, 1, 9, 9], "another tokenizer"), ({}, None, [0, 5, 7, 8, 9], "the candidate reads them as text")],
)  # fmt: skip
def test_other_ids_are_explained_by_what_the_files_say(
    reference: Any, candidate: Any, right: list[int], says: str, tmp_path: Path
) -> None:
    """Id 1 is the special token of the text."""
    facts = [
        replace(
            opened("fake:healthy", "").facts,
            model=str(altered(tmp_path, keys={} if pre == {} else {"tokenizer.ggml.pre": pre}).rename(tmp_path / name)),
        )
        for name, pre in (("a.gguf", reference), ("b.gguf", candidate))
    ]
    assert says in tokens.cause("it's<|eos|>", [0, 5, 1, 9], right, (facts[0], facts[1]))[0]


@pytest.mark.parametrize(("candidate", "at"), [("bos2", 1), ("greedy", 0)])
def test_the_first_difference_is_marked_and_60_columns_hold_it(candidate: str, at: int) -> None:
    command = ("ladder", "--ref", "fake:healthy", "--cand", f"fake:{candidate}", "--prompt", TEXT)
    lines = run(*command, liars=True, env={"COLUMNS": "60"}).stdout.splitlines()
    assert max(map(len, lines)) <= 60
    mark = next(at for at, line in enumerate(lines) if line.strip() == "^")
    names, left, right = (re.findall(r"\S+", lines[mark - step]) for step in (4, 2, 1))
    place = [line.end() for line in re.finditer(r"\S+", lines[mark - 4])].index(len(lines[mark]))
    assert (names[0], left[0], right[0]) == ("at", "reference", "candidate") and int(names[place]) >= at
    assert left[place] != right[place] and left[1:place] == right[1:place]


def test_the_positions_of_the_decode_rung_are_its_ids() -> None:
    command = ("ladder", "--ref", "fake:healthy", "--cand", "fake:twin", "--prompt", "short", "--json")
    for more, walked, steps in (((), 6, 20), (("--max-tokens", "3"), 0, 0), (("--prompt", "b"), 6, 20)):
        found = run(*command, "--ladder", "decode", "--positions", "20", *more, liars=True)
        if not steps:
            assert found.returncode == 2 and "is more than the text's 6 tokens" in found.stderr
            continue
        said = json.loads(found.stdout)
        assert (len(said["positions"]), {len(each["steps"]) for each in said["decode"]}) == (walked, {steps})


def test_the_command_in_every_form(tmp_path: Path) -> None:
    """Exit codes, and what each form says, through engines in processes of their own."""
    junit, path = tmp_path / "junit.xml", tmp_path / "ladder.json"
    for candidate, code, status in (("twin", 0, "ok"), ("late", 1, "diverged"), ("absent", 3, "inconclusive"),
                                    ("exits", 1, "diverged")):  # fmt: skip
        base = ("ladder", "--ref", "fake:healthy", "--cand", f"fake:{candidate}", "--prompt", TEXT,
                "--ladder", "positions")  # fmt: skip
        done = run(*base, "--json", str(path), "--junit", str(junit), "--github", liars=True)
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        found = json.loads(path.read_text())
        assert (found["status"], found["exit_code"]) == (status, code)
        assert ("<failure" in junit.read_text()) == (code == 1) and ("::error" in done.stderr) == (code != 0)
        assert {"ok": "PASS", "diverged": "FAIL"}.get(status, "INCONCLUSIVE") in done.stdout.splitlines()[-1]
        if candidate == "late":
            for told in ("Position 40: FAIL (cos_sim: ", "Minimum cosine similarity: ", "KL divergence: mean ",
                         " SAME"):  # fmt: skip
                assert told in done.stdout
            kls = np.array([each["kl"] for each in found["positions"]])
            sums = [found["metrics"][f"{name}_kl"] for name in ("mean", "p99", "max")]
            assert sums == pytest.approx([kls.mean(), np.quantile(kls, 0.99, method="higher"), kls.max()])
            assert run(*base, "-q", liars=True).stdout == ""
    alone = json.loads(run(*base[:4], "fake:bos2", "--prompt", TEXT, "--json", liars=True).stdout)
    assert alone["metrics"]["token_count"] == 0 and alone["tokens"][0]["first_difference"] == 1
    jsonschema.validate(alone, schema_of("ladder"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(("--cand", "fak:x"), "did you mean 'fake'"), (("--positions", "999"), "is more than the text's 96 tokens"),
     (("--prompt-file", "x"), "exclude each other"), (("--cos-tol", "-1"), "not in the range"),
     (("--prompt-template", "instruct"), "no tokenizer.chat_template")],
)  # fmt: skip
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    done = run("ladder", "--ref", "fake:healthy", "--cand", "fake:twin", "--prompt", TEXT, *arguments, liars=True)
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr, done.stderr
