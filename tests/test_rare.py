"""Faults that show in one step of many."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from types import SimpleNamespace

import pytest

from kparity import contracts
from kparity.engine import Engine
from kparity.gates import reference
from kparity.gates.candidate import Candidate, begin
from kparity.gates.candidate import run as run_gates
from kparity.gates.table import GATES
from kparity.gates.walk import Walk
from kparity.model import Model, load_model

from .cli import LIARS, TAG, run


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    found = load_model(None)
    yield found
    found.close()


def test_a_rare_fault_is_rejected() -> None:
    seen = [run("probe", "-b", "liar-rare", liars=True, env={"KPARITY_TEST_SEED": str(seed)}) for seed in range(3)]
    for done in seen:
        assert done.returncode == 3, done.stderr
        assert f"[{TAG}] liar-rare path rejected" in done.stderr and " differ" in done.stderr, done.stderr


def test_what_repeats_says_which_rate_is_excluded() -> None:
    done = run("probe", "-b", "cpu")
    said = "368 steps repeated bit for bit: 95 % sure that fewer than 0.82% are wrong (--soak repeats prompts as often)"
    assert done.returncode == 0 and said in " ".join(done.stdout.split())
    more = run("probe", "-b", "cpu", "--repeat", "6")
    assert more.returncode == 0 and "516 steps repeated bit for bit" in " ".join(more.stdout.split())


@pytest.mark.parametrize("liar", ["tired", "shared"])
def test_what_only_load_shows_is_seen_by_a_soak(liar: str) -> None:
    done = run("probe", "-b", f"liar-{liar}", "--soak", "60s", liars=True)
    assert done.returncode == 3 and f"[{TAG}] liar-{liar} path rejected" in done.stderr, done.stderr
    assert "[KP-SOAK]" in done.stderr and "FAIL soak" in done.stdout
    assert "reset, decode" in done.stdout, "every other gate passed"


def test_a_soak_has_an_end_and_is_held_against_a_least_number_of_rows() -> None:
    done = run("probe", "-b", "cpu", "--soak", "0.01s")
    assert done.returncode == 3 and "[KP-UNSUPPORTED]" in done.stderr and "soak longer" in done.stderr
    for arguments in (("--soak", "soon"), ("--soak", "5s", "--depth", "bos")):
        assert run("probe", "-b", "cpu", *arguments).returncode == 2


def _drawn(calls: Iterator[int], at: int | None) -> float:
    return float(next(calls) != at)


def test_what_runs_while_the_reference_is_computed_counts(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(LIARS))
    wanted = reference.compute(model, reference.probe_tokens(model, 72), act="token", kv="f16", context=512)
    for at, walked in ((100, 3), (None, 3), (None, 0)):  # step 100 is the 28th of the first repeat
        backend = import_module("kparity_rare_liars").Rare.open()
        backend.chance = SimpleNamespace(random=partial(_drawn, itertools.count(1), at))
        found = Candidate(Engine(model, backend), None, contracts.load(contracts.PROBE))  # type: ignore[arg-type]
        for rows in (1, found.engine.chunk):
            found.engine.launch_each(rows)
        begin(found, Walk(found.engine, wanted.tokens), partial(operator.not_, walked))
        assert found.walk is not None and found.walk.rounds == walked
        assert [*found.ahead] == ["exact", "kernels"] * bool(walked)
        found.reference = wanted
        gates = {gate.name: gate for gate in run_gates(found, "full")}
        rows = gates["reset"].measures[1].value
        if at:
            assert gates["reset"].verdict == "FAIL" and "first at position 27 in round 1" in gates["reset"].reason
        else:
            assert [*gates] == [gate.name for gate in GATES if gate.thresholds] and rows == 368, "whenever it ran"
            assert all(gate.verdict == "PASS" for gate in gates.values())
