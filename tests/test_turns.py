"""The gates decode and turns: what they call a tie, and that each rejects what the gates before it cannot see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kparity import contracts
from kparity.backends.cpu import CpuBackend
from kparity.engine import Engine
from kparity.errors import WrongInput
from kparity.gates import reference
from kparity.gates.candidate import Candidate
from kparity.gates.candidate import run as run_gates
from kparity.gates.decode import gate_decode, token_verdicts
from kparity.model import load_model

LOGITS = np.array([[1.0, 5.0, 5.0, 4.9, 3.0]])


def test_an_id_is_judged_by_the_logits_of_the_reference() -> None:
    wanted = ["SAME", "EXACT-TIE", "NEAR-TIE", "DIVERGED", "DIVERGED", "DIVERGED"]
    assert token_verdicts(np.array([1, 2, 3, 4, -1, 5]), np.repeat(LOGITS, 6, axis=0), 0.06).tolist() == wanted
    assert token_verdicts(np.array([3]), np.full((1, 5), np.nan), 0.06).tolist() == ["DIVERGED"], "NaN is no excuse"
    assert token_verdicts(np.array([5]), LOGITS, 9.0).tolist() == ["DIVERGED"], (
        "outside of the vocabulary nothing is near"
    )


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    model = load_model(None)
    tokens = reference.probe_tokens(model, 72)
    wanted = reference.compute(model, tokens, act="token", kv="f16", context=512)
    found = Candidate(Engine(model, CpuBackend()), wanted, contracts.load(contracts.PROBE))
    assert all(gate.verdict == "PASS" for gate in run_gates(found, "full"))
    return found


def test_ids_far_from_the_references_and_too_many_ties_are_rejected(candidate: Candidate) -> None:
    best, logits = list(candidate.best or []), candidate.reference.logits
    best[40] = int(np.argmin(logits[40]))
    gate = gate_decode(replace(candidate, best=best))
    assert gate.verdict == "FAIL" and gate.code == "KP-DECODE" and "at position 40/72" in gate.reason
    best, steps = list(candidate.best or []), np.array(candidate.steps)
    for at in range(40, 60):  # the second of the reference, wherever it lies, with a twin as loud as that
        best[at] = int(np.argsort(logits[at])[-2])
        steps[at, best[at]] = 99.0
    loud = replace(candidate.reference, rounded=candidate.reference.rounded + 5.0)
    gate = gate_decode(replace(candidate, best=best, steps=steps, reference=loud))
    assert gate.verdict == "FAIL" and "are near ties" in gate.reason


def test_a_rewind_forgets_and_goes_no_further_than_was_reached(candidate: Candidate) -> None:
    engine, tokens = candidate.engine, candidate.reference.tokens
    engine.reset()
    wanted = [engine.step(token) for token in tokens[:6]]
    engine.rewind(4)
    assert (engine.step(tokens[4]) == wanted[4]).all() and engine.position == 5
    with pytest.raises(WrongInput, match="cannot rewind to position 6"):
        engine.rewind(6)
