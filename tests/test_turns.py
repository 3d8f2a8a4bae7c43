"""The gates decode and turns: what they call a tie, and that each rejects what the gates before it cannot see."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("best", "verdict"),
    [(1, "SAME"), (2, "EXACT-TIE"), (3, "NEAR-TIE"), (4, "DIVERGED"), (-1, "DIVERGED"), (5, "DIVERGED")],
)
def test_an_id_is_judged_by_the_logits_of_the_reference(best: int, verdict: str) -> None:
    assert token_verdicts(np.array([best]), LOGITS, 0.06).tolist() == [verdict]


def test_a_reference_of_nan_is_no_excuse() -> None:
    assert token_verdicts(np.array([3]), np.full((1, 5), np.nan), 0.06).tolist() == ["DIVERGED"]


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    model = load_model(None)
    tokens = reference.probe_tokens(model, 72)
    wanted = reference.compute(model, tokens, act="token", kv="f16")
    found = Candidate(Engine(model, CpuBackend()), wanted, contracts.load(contracts.PROBE))
    assert all(gate.verdict == "PASS" for gate in run_gates(found, "full"))
    return found


def test_an_id_far_from_the_references_is_rejected(candidate: Candidate) -> None:
    assert candidate.best is not None
    right = list(candidate.best)
    try:
        candidate.best[40] = int(np.argmin(candidate.reference.logits[40]))
        gate = gate_decode(candidate)
    finally:
        candidate.best = right
    assert gate.verdict == "FAIL" and gate.code == "KP-DECODE" and "at position 40/72" in gate.reason


def test_too_many_ties_are_rejected(candidate: Candidate) -> None:
    assert candidate.best is not None and candidate.steps is not None
    right, steps, rounded = list(candidate.best), candidate.steps, candidate.reference.rounded
    try:
        candidate.steps = steps.copy()
        for at in range(40, 60):  # the second of the reference, wherever it lies, with a twin as loud as that
            second = int(np.argsort(candidate.reference.logits[at])[-2])
            candidate.best[at], candidate.steps[at, second] = second, 99.0
        object.__setattr__(candidate.reference, "rounded", rounded + 5.0)
        gate = gate_decode(candidate)
    finally:
        candidate.best, candidate.steps = right, steps
        object.__setattr__(candidate.reference, "rounded", rounded)
    assert gate.verdict == "FAIL" and "are ties" in gate.reason


def test_a_rewind_forgets_and_goes_no_further_than_was_reached(candidate: Candidate) -> None:
    engine, tokens = candidate.engine, candidate.reference.tokens
    engine.reset()
    wanted = [engine.step(token) for token in tokens[:6]]
    engine.rewind(4)
    assert (engine.step(tokens[4]) == wanted[4]).all() and engine.position == 5
    with pytest.raises(WrongInput, match="cannot rewind to position 6"):
        engine.rewind(6)
