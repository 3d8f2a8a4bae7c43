"""The parent judges: limits, the list of gates and the verdict are its own, whatever a child reports."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from kparity import contracts
from kparity.device.adapter import DeviceInfo
from kparity.device.codes import reasons
from kparity.gates import table
from kparity.gates.judge import judged, lacking, left_open, rejudged, trusted
from kparity.gates.table import GATES
from kparity.gates.verdict import Gate
from kparity.probe import runner
from kparity.probe.messages import Measured, Opened, Proof, Request
from kparity.probe.runner import Attempt
from kparity.process import Garbled
from tests.made_receipts import GOOD, MEASURES

CONTRACT = contracts.load(contracts.PROBE)
INFO = DeviceInfo("numpy", "host", "cpu", "numpy", "", "numpy")


def good(name: str, **changes: float | None) -> Measured:
    """What a right candidate reports of a gate."""
    values: dict[str, float | None] = {each: GOOD.get(each, 0.0) for each in table.named(name).thresholds}
    return Measured(name, {**values, **changes})


@pytest.fixture
def candidate(monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """The parent's side of a probe whose process, which is none, says what the test says."""
    child = SimpleNamespace(started=0.0, heard=0.0, over=False, send=lambda message: None, close=lambda: None)
    monkeypatch.setattr(runner, "started", lambda *given: child)
    nobody: Any = None
    return Attempt(nobody, "numpy", Request(), None, nobody)


@pytest.mark.parametrize("count", range(len(GATES) + 2))
def test_some_gates_are_no_pass(candidate: Attempt, count: int) -> None:
    """All of them with good numbers, and the launches behind them, are one."""
    for gate in GATES[:count]:
        candidate.take(good(gate.name) if gate.thresholds else Opened(INFO))
    if count > len(GATES):
        candidate.take(Proof({"add_numpy_generic": 1}, 0.5, []))
    candidate.settle()
    row = candidate.row()
    assert row.accepted == (count > len(GATES))
    missing = GATES[-1].name if count < len(GATES) else "a count of its launches"
    assert row.accepted or (row.code == "KP-PROBE-GATES" and missing in row.reason)


@pytest.mark.parametrize("name", [each for gate in GATES for each in gate.thresholds])
@pytest.mark.parametrize("value", ["missing", None, math.inf, -5.0, 1e9])
def test_every_measure_is_held_against_the_contract(candidate: Attempt, name: str, value: Any) -> None:
    gate = next(gate for gate in GATES if name in gate.thresholds)
    holds = isinstance(value, float) and CONTRACT.threshold(name).holds(value)
    candidate.take(Opened(INFO))
    for each in GATES[1 : GATES.index(gate)]:
        candidate.take(good(each.name))
    report = good(gate.name, **{name: value})
    if value == "missing":
        del report.values[name]
    candidate.take(report)
    assert candidate.over is not holds
    if not holds:
        row = candidate.row()
        assert row.status == "rejected" and row.code in gate.codes and row.gates[-1].verdict == "FAIL" and row.reason


@pytest.mark.parametrize(
    "message",
    [good("exact"), good("BOS", unheard_of=1.0), Measured("no such gate", {}), Measured("open", {}), Opened(INFO)],
)
def test_what_is_out_of_turn_is_no_message(candidate: Attempt, message: Any) -> None:
    with pytest.raises(Garbled):  # the device comes first
        candidate.take(good("BOS"))
    candidate.take(Opened(INFO))
    with pytest.raises(Garbled):
        candidate.take(message)


def test_a_candidate_that_rejects_itself_has_failed_and_gives_no_code_of_its_own() -> None:
    spec = table.named("reset")
    for code, shown in (("KP-RESET", "KP-RESET"), ("KP-MINE", "KP-RESET")):
        gate = judged(spec, CONTRACT, {"reset_differences": 0.0}, code, "", 1.0)
        assert (gate.verdict, gate.code) == ("FAIL", shown) and gate.reason


def test_remembered_gates_are_judged_again() -> None:
    gates = [judged(gate, CONTRACT, good(gate.name).values, "", "", 0.0) for gate in GATES]
    assert lacking(rejudged(gates, "full", CONTRACT) or [], "full") == []
    wrong = gates[2].measures[0]
    gates[1].measures[0] = type(wrong)("bos_cosine", -5.0, -9.0, "≥", True)
    assert rejudged(gates, "full", CONTRACT) is None
    gates[1].measures[0] = type(wrong)("bos_noise", 1.0, 0.99, "≥", True)
    assert rejudged(gates, "full", CONTRACT) is None
    assert rejudged(gates[:1] + gates[2:], "full", CONTRACT) is None


def test_gates_of_bos_alone_are_judged_again_with_what_they_leave_open() -> None:
    gates = [judged(gate, CONTRACT, good(gate.name).values, "", "", 2.0) for gate in GATES[:2]]
    again = rejudged([*gates, *left_open("bos")], "bos", CONTRACT)
    assert again == [*gates, *left_open("bos")] and [each.name for each in left_open("bos")] == [
        each.name for each in GATES[2:]
    ]
    assert left_open("full") == [] and lacking(gates, "bos") == [] and lacking(gates[:1], "bos") == ["BOS"]
    assert lacking(again or [], "full") == [each.name for each in GATES[2:]]
    assert rejudged(gates, "open", CONTRACT) is None and rejudged([], "full", CONTRACT) == []
    assert rejudged(gates, "full", CONTRACT) == gates, "what is missing is for lacking to say"


@pytest.mark.parametrize(("values", "code", "reason", "told"), [
    ({}, "", "", ("FAIL", "KP-BOS-COSINE", "bos_cosine = nan ≥ 0.99")),
    ({"bos_cosine": 0.99}, "", "x", ("PASS", "", "")),
    ({"bos_cosine": 0.9}, "KP-BOS-NONFINITE", "own words", ("FAIL", "KP-BOS-NONFINITE", "own words")),
    ({"bos_cosine": 1.0}, "KP-MINE", "", ("FAIL", "KP-BOS-COSINE", "the candidate rejected itself")),
])  # fmt: skip
def test_a_gate_is_what_its_measures_make_it(
    values: dict[str, float | None], code: str, reason: str, told: tuple[str, str, str]
) -> None:
    gate = judged(table.named("BOS"), CONTRACT, values, code, reason, 3.0)
    assert (gate.verdict, gate.code, gate.reason, gate.elapsed_ms) == (*told, 3.0) and len(gate.measures) == 1


def test_what_could_not_have_failed_is_mistrusted_where_it_passed_and_compares() -> None:
    passed, failed = Gate("BOS", "PASS", elapsed_ms=4.0), Gate("BOS", "FAIL")
    spec = table.named("BOS")
    found = trusted(passed, spec, ["zeros", "ones"])
    assert (found.verdict, found.code, found.elapsed_ms) == ("MISTRUSTED", "KP-VACUOUS", 4.0)
    assert found.reason == "it could not have failed: zeros; ones"
    assert trusted(passed, spec, []) is passed and trusted(failed, spec, ["zeros"]) is failed
    assert trusted(passed, table.named("exact"), ["zeros"]) is passed
    compares = {"BOS", "positions", "prefill", "replay", "reset", "decode", "turns", "depth"}
    assert {each.name for each in GATES if each.compares} == compares and table.SOAK.compares
    names = [[each.name for each in table.of_depth(depth)] for depth in table.DEPTHS]
    assert names == [["open"], ["open", "BOS"], [each.name for each in GATES], [*[each.name for each in GATES], "soak"]]


def test_the_table_is_whole() -> None:
    assert sorted(table.thresholds()) == sorted(MEASURES)
    for gate in GATES:
        assert gate.codes and set(gate.codes) <= set(reasons()), gate.name
        assert gate.runs and gate.sees and gate.blind
        assert gate.name == "open" or callable(gate.load())
        for name in gate.thresholds:
            CONTRACT.threshold(name)
