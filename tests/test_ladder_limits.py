"""What judges the ladder: given limits, samples that are too small, ties, and the memory that it takes."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from kparity.cli.ladder import TOLERANCES
from kparity.engines.base import Spec
from kparity.gates.decode import token_verdicts
from kparity.ladder import decode, floor
from kparity.ladder.climb import climb
from kparity.ladder.limits import METRICS, Floor, Judge
from kparity.ladder.record import Decoded, Measure, Settings
from kparity.ladder.stream import Seat, compared
from tests.cli import run
from tests.test_ladder import LIAR, TEXT, climbed, ended, opened


@pytest.mark.parametrize(
    ("reference", "candidate", "options", "rung", "says"),
    [("healthy", "twin", {"positions": 8}, "positions", "positions 8 ≥ 32 (ladder-v1 positions_least): medians"),
     ("healthy", "another", {"positions": 31}, "positions", "give a longer text"),
     ("healthy?context=120", "late", {"rung": "positions"}, "positions", "the floor has 120 of 128 positions; raise"),
     ("healthy?context=120", "greedy", {}, "decode", "the floor has 120 of 128 positions; raise"),
     ("healthy", "twin", {"sequential": True}, "decode", "4 of 4 prompts 1 ≥ 0.999 (ladder-v1 decode_rate): 322 more")],
)  # fmt: skip
def test_what_a_sample_cannot_carry_is_inconclusive(
    reference: str, candidate: str, options: dict[str, Any], rung: str, says: str
) -> None:
    found = climbed(reference, candidate, **options)
    verdicts = {each.name: each.verdict for each in found.rungs}
    assert verdicts.pop(rung) == found.verdict == "INCONCLUSIVE" and {*verdicts.values()} <= {"PASS", "not run"}
    assert says in next(each.reason for each in found.rungs if each.name == rung)


@pytest.mark.parametrize(
    ("reference", "candidate", "options"),
    [("healthy", "late", {"positions": 42, "stop_at_first": True}), ("healthy", "silu", {"positions": 8}),
     ("healthy?context=120", "silu", {}), ("healthy?context=120", "nan", {})],
)  # fmt: skip
def test_a_small_sample_excuses_nothing_that_no_sample_could(
    reference: str, candidate: str, options: dict[str, Any]
) -> None:
    assert climbed(reference, candidate, **options).verdict == "FAIL"
    assert climbed(reference, "twin", **{**options, "positions": 64}).verdict == "PASS"


@pytest.mark.parametrize(("positions", "judged"), [(99, False), (100, True)])
def test_a_p99_needs_a_hundred_positions(positions: int, judged: bool) -> None:
    """Of fewer it is the largest, which has a limit of its own."""
    found = climbed("healthy", "twin", text=TEXT * 2, positions=positions, rung="positions")
    names = {each.of.split()[-1] for each in ended(found).measures if each.threshold == "positions_mse"}
    assert names == {"median", "window", "most", *(["p99"] * judged)} and found.metrics.token_count == positions
    done = run("ladder", "--ref", "fake:healthy", "--cand", "fake:twin", "--prompt", TEXT * 2, "--positions",
               str(positions), "--ladder", "positions", liars=True)  # fmt: skip
    assert (", p99 " in done.stdout) == judged and "KL divergence: mean" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("ids", "ties", "outcome"), [(4, 0, "PASS"), (8, 1, "INCONCLUSIVE"), (15, 9, "INCONCLUSIVE"), (16, 3, "PASS"),
                                 (16, 4, "FAIL")]
)  # fmt: skip
def test_few_ties_of_few_ids_are_no_evidence(ids: int, ties: int, outcome: str) -> None:
    steps: Any = ["SAME"] * (ids - ties) + ["NEAR-TIE"] * ties
    found = decode.measures([Decoded(prompt_tokens=1, reference=[], candidate=[], steps=steps)], Judge())
    assert [each.outcome for each in found] == ["PASS", outcome]
    assert bool(found[1].short) == (outcome == "INCONCLUSIVE")


def test_too_many_ties_have_a_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "token_verdicts", lambda *given: np.array(["NEAR-TIE"]))
    last = ended(climbed("healthy", "twin"))
    assert (last.name, last.verdict) == ("decode", "FAIL") and "more ids are excused" in last.cause and last.next


OPEN = {"cosine": -1.0, "l2": 1e9, "mse": 1e9, "kl": 1e9, "max_abs": 1e9, "norm": 1e9, "top5": 0.0}
TIGHT = {**dict.fromkeys(OPEN, 1e-30), "cosine": 1.0000001, "top5": 1.5}


OF = {each.name: {each.first, each.later} - {""} for each in METRICS} | {"top5": {"positions_top5"}}
"""Metric → the thresholds that its override replaces."""


@pytest.mark.parametrize("metric", OPEN)
def test_an_overridden_limit_changes_the_verdict_both_ways_and_no_other_limit(metric: str) -> None:
    def measures(candidate: str, overrides: dict[str, float], verdict: str) -> list[Measure]:
        found = climbed("healthy", candidate, overrides=overrides, rung="positions", keep_going=True)
        assert found.verdict == verdict and found.request.overrides == overrides
        every = [each for rung in found.rungs for each in rung.measures]
        assert all(each.overridden == ("overridden" in each.text) == (each.basis == "given") for each in every)
        assert {each.threshold for each in every if each.overridden} == set().union(*(OF[name] for name in overrides))
        return every

    plain, tight = measures("twin", {}, "PASS"), measures("twin", {metric: TIGHT[metric]}, "FAIL")
    others = [[each for each in found if each.threshold not in OF[metric]] for found in (plain, tight)]
    assert others[0] == others[1]
    failed = [
        each
        for each in measures("silu", {name: OPEN[name] for name in OPEN if name != metric}, "FAIL")
        if each.outcome == "FAIL"
    ]
    assert {each.threshold for each in failed} <= OF[metric]
    measures("silu", OPEN, "PASS")


def test_an_option_for_every_limit(tmp_path: Path) -> None:
    assert set(TOLERANCES) == set(OPEN) == {each.name for each in METRICS} | {"top5"}
    path, given = tmp_path / "ladder.json", [part for option, _ in TOLERANCES.values() for part in (option, "9")]
    done = run("ladder", "--ref", "fake:healthy", "--cand", "fake:twin", "--prompt", TEXT, *given, "--json", str(path),
               liars=True)  # fmt: skip
    found = json.loads(path.read_text())
    assert done.returncode == 1 and found["request"]["overrides"] == dict.fromkeys(TOLERANCES, 9)
    assert found["rungs"][3]["measures"][0]["overridden"] and "overridden limits: cosine 9, " in done.stdout


@pytest.mark.parametrize(
    ("metric", "gone"), [("cosine", {"ceiling_cosine", "ceiling_typical_cosine"}), ("kl", {"ceiling_kl"}),
                         ("norm", {"ceiling_gain"}), ("mse", set())]
)  # fmt: skip
def test_a_given_limit_takes_the_place_of_its_ceiling(metric: str, gone: set[str]) -> None:
    limits: tuple[dict[str, float], ...] = ({}, {metric: OPEN[metric]})
    found = [climbed("healthy", "another", overrides=each, rung="positions") for each in limits]
    without, given = ({each.threshold for each in ended(document).measures} for document in found)
    assert {each for each in without - given if each.startswith("ceiling")} == gone


def test_a_given_limit_leaves_the_distribution_of_errors_judged() -> None:
    rng = np.random.default_rng(1)
    truth, noise = rng.normal(0, 3, (128, 97)), rng.normal(0, 0.1, (128, 97))
    floor = Floor("made", True, {"noise": compared(truth, truth + noise)})
    for factor, holds in ((1.5, True), (3.0, False)):
        found = Judge(True, {"l2": 1e9}, floor).shapes(compared(truth, truth + factor * noise))
        assert [each.holds for each in found] == [holds, True]


class Wide(LIAR.Fake):
    """Rows of a large vocabulary, made as they are asked for: each depends on all tokens before it."""

    VOCAB = 128_256
    ROWS = np.random.default_rng(7).normal(0, 3, (2, VOCAB)).astype(np.float32)

    def __init__(self, gives: str) -> None:
        super().__init__(Spec.parse("fake:healthy"))
        self.facts = replace(self.facts, vocab=self.VOCAB, gives=gives, sequences=1)

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        for token in tokens:
            row = self.step(token)
        return row

    def _rows(self, tokens: Sequence[int], stepping: bool) -> np.ndarray:
        found = np.empty((len(tokens), self.VOCAB), np.float32)
        for row, token in zip(found, tokens, strict=True):
            self.tokens.append(token)
            mixed = np.float32(np.sin(np.dot(self.tokens, np.arange(1, len(self.tokens) + 1))))
            np.add(self.ROWS[0], self.ROWS[1] * mixed, out=row)
        return found


@pytest.mark.parametrize("gives", ["logits", f"logprobs:{Wide.VOCAB}"])
def test_a_large_vocabulary_takes_little_memory(gives: str) -> None:
    """Of 300 MB, the interpreter with its libraries takes up to 100; what engines answer with is counted here."""
    sides = {"reference": "fake:x", "candidate": "fake:y"}
    tracemalloc.start()
    found = climb(Settings(**sides, text=TEXT * 3, prompts=(TEXT,), positions=256), lambda spec, model: Wide(gives))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.verdict == "PASS" and len(found.positions) == 256
    assert peak < 200e6, f"{peak / 1e6:.0f} MB"


def test_the_decode_rung_ends_when_the_rate_is_decided() -> None:
    prompts = tuple(f"prompt {at}" for at in range(360))
    found = climbed("healthy", "twin", prompts=prompts, max_tokens=1, sequential=True)
    assert found.verdict == "PASS" and len(found.decode) == 326


def test_one_id_of_64_is_not_exact() -> None:
    judge = Judge()
    for diverged, holds in ((0, True), (1, False)):
        steps = ["SAME"] * (64 - diverged) + ["DIVERGED"] * diverged
        found = decode.measures([Decoded(prompt_tokens=1, reference=[], candidate=[], steps=steps)], judge)
        assert [each.holds for each in found] == [holds, True]
    logits = np.array([[0.0, 1.0, 0.9]])
    for noise, kind in ((0.06, "NEAR-TIE"), (0.04, "DIVERGED")):
        assert token_verdicts(np.array([2]), logits, noise)[0] == kind


def test_the_tie_class_of_a_position_is_that_of_a_greedy_id() -> None:
    found, engine = climbed("healthy", "late", rung="positions"), opened("fake:healthy", "")
    logits, best = engine.score(found.tokens[0].reference or []), [each.tokens[1] for each in found.positions]
    wanted = token_verdicts(np.array(best), logits[:64], Judge().noise).tolist()
    assert [each.tie for each in found.positions] == wanted and {*wanted} == {"SAME", "DIVERGED"}


def test_a_floor_of_steps_has_a_large_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches may run the kernels of single tokens: right engines would seem to differ by less than they do."""
    sizes: list[int] = []
    rows = LIAR.Fake._rows
    monkeypatch.setattr(
        LIAR.Fake, "_rows", lambda self, ids, stepping: (sizes.append(len(ids)), rows(self, ids, stepping))[1]
    )
    seat = Seat("reference", "fake:twin", lambda: opened("fake:twin", ""))
    assert floor.measured(seat, "", True, [5] * 300, lambda spec: seat.engine).widest.rows.sigma == 0
    assert sizes == [256] + [1] * 256
