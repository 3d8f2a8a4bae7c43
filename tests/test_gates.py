"""The gates on an engine that is a table: what each measures, to the row, and what it says of which fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kparity import contracts
from kparity.gates import decode, filled, table
from kparity.gates.candidate import Candidate
from kparity.gates.candidate import run as run_gates
from kparity.gates.reference import Deep, Reference
from kparity.gates.verdict import Gate
from kparity.gates.walk import Walk

CONTRACT = contracts.load(contracts.PROBE)
VOCAB, COUNT, CHUNK, CONTEXT = 40, 72, 16, 512
TOKENS = [0, *(3 + at % 31 for at in range(1, COUNT))]
ROWS = np.random.default_rng(1).normal(0, 3, (COUNT, VOCAB)).astype(np.float32)
SPANS = filled.spans(TOKENS, CONTEXT, 1)


def late(position: int, token: int) -> np.ndarray:
    """Logits where what stood before is not the text's: of the fed token alone."""
    return np.random.default_rng([position, token]).normal(0, 3, VOCAB).astype(np.float32)


def made() -> Reference:
    logits = ROWS.astype(np.float64)
    deep = np.array([late(span.end - 1, span.tokens[-1]) for span in SPANS], np.float64)
    noise = np.random.default_rng(2).normal(0, 1e-3, VOCAB)
    filler = filled.Filled(1, CONTEXT, [(0, 0)])
    return Reference("table", TOKENS, logits, logits + noise, FACTS, Deep(SPANS, filler, deep, deep + noise))


Fault = Callable[[str, int, np.ndarray], np.ndarray]
"""Kind of run (step, prefill, greedy; ``eager`` before it), position of the logits, and these → what comes back."""


def right(kind: str, at: int, row: np.ndarray) -> np.ndarray:
    return row


class Table:
    """An engine that knows its logits."""

    chunk, context, position = CHUNK, CONTEXT, 0
    options = SimpleNamespace(kv="f32")
    model = SimpleNamespace(hparams=SimpleNamespace(vocab=VOCAB, kv_dim=4))

    def __init__(self, fault: Fault = right) -> None:
        self.fault, self.fed, self.prompts = fault, dict[int, int](), list[int]()
        self.cache = [(np.zeros((CONTEXT, 4), np.float32), np.zeros((CONTEXT, 4), np.float32))]
        self.backend = SimpleNamespace(
            write=lambda buffer, array: np.copyto(buffer, array), download=lambda buffer: buffer,
            view=lambda buffer, at, shape: buffer[at : shape[0]],
        )  # fmt: skip

    def reset(self) -> None:
        self.position, self.fed = 0, {}

    def rewind(self, position: int) -> None:
        self.position, self.fed = position, {at: token for at, token in self.fed.items() if at < position}

    def _after(self, kind: str, tokens: list[int]) -> np.ndarray:
        for token in tokens:
            self.fed[self.position] = token
            self.position += 1
        at = self.position - 1
        row = ROWS[at] if [*self.fed.items()] == [*enumerate(TOKENS[: at + 1])] else late(at, tokens[-1])
        self.row = self.fault(kind, at, row.copy())
        return self.row

    def step(self, token: int, eager: bool = False) -> np.ndarray:
        return self._after("eager step" if eager else "step", [token])

    def prefill(self, tokens: list[int], eager: bool = False) -> np.ndarray:
        self.prompts.append(len(tokens))
        return self._after("eager prefill" if eager else "prefill", list(tokens))

    def best(self) -> int:
        return int(np.argmax(self.row))

    def step_greedy(self, token: int) -> int:
        return int(np.argmax(self._after("greedy", [token])))

    def beside(self) -> Table:
        return Table(self.fault)

    def woven(self, other: Table) -> str:
        return "woven"

    def step_beside(self, other: Table, own: int, theirs: int, woven: str | None) -> tuple[np.ndarray, np.ndarray]:
        kind = "woven" if woven else "in turn"
        return self._after(kind, [own]), other._after(kind, [theirs])


@pytest.fixture(autouse=True)
def _own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table has no kernels: their gates pass, and the argmax kernel is right."""
    monkeypatch.setattr(decode, "_wrong_argmax", lambda engine: (0, ""))
    load = table.GateSpec.load
    kept = lambda self: (lambda _: Gate(self.name, "PASS")) if self.name in KERNELS else load(self)  # noqa: E731
    monkeypatch.setattr(table.GateSpec, "load", kept)


KERNELS = ("graph", "exact", "kernels", "resident")
FACTS: Any = None


def candidate(fault: Fault = right, **more: Any) -> Candidate:
    engine: Any = Table(fault)
    return Candidate(engine, made(), CONTRACT, **more)


def last(found: Candidate, depth: str = "full") -> Gate:
    *passed, gate = run_gates(found, depth)
    assert all(each.verdict == "PASS" for each in passed), passed
    return gate


def measures(found: Candidate) -> dict[str, float]:
    return {each.threshold: each.value for gate in run_gates(found, "full") for each in gate.measures}


def test_a_right_table_passes_with_the_measures_of_its_rows() -> None:
    found = candidate()
    got = measures(found)
    assert last(found).verdict == "PASS" and [*found.prompts] == [5, 16, 17, 31]
    assert got["positions_min"] == COUNT and got["reset_compared"] == 368
    for name, value in got.items():
        if "differences" in name or name.endswith(("noise", "norm", "factor", "ties", "argmax", "diverged")):
            assert value == pytest.approx(0, abs=1e-9), name
    assert got["positions_cosine"] == got["depth_cosine"] == pytest.approx(1)


def only(kind: str, at: int | None, change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    return lambda what, where, row: change(row) if what == kind and at in (None, where) else row


def turned(row: np.ndarray) -> np.ndarray:
    return np.roll(row, 1)


def ulp(row: np.ndarray) -> np.ndarray:
    row[7] = np.nextafter(row[7], np.float32(9))
    return row


def nan(row: np.ndarray) -> np.ndarray:
    row[7] = np.nan
    return row


def other_best(row: np.ndarray) -> np.ndarray:
    row[:] = -row
    return row


FAULTS = {
    "first": (only("step", 0, turned), "KP-BOS-COSINE", "at position 0/72"),
    "first is NaN": (only("step", 0, nan), "KP-BOS-NONFINITE", "1 NaN and 0 infinite of 40 logits at position 0"),
    "a step": (only("step", 40, turned), "KP-POS-COSINE", "(< 0.99) at position 40/72"),
    "a step is NaN": (only("step", 40, nan), "KP-POS-NONFINITE", "1 NaN and 0 infinite of 2880 logits over 72"),
    "a longer row": (only("step", 71, lambda row: row * 1.4), "KP-POS-NORM", "off by 0.400000"),
    "a factor": (only("step", None, lambda row: row * 1.02), "KP-POS-NORM", "median norm ratio is off by 0.02"),
    "noise": (
        only("step", None, lambda row: row + np.where(np.arange(VOCAB) % 2, 0.3, -0.3).astype(np.float32)),
        "KP-POS-COSINE", "times the noise of the reference itself",
    ),
    "a prompt": (only("prefill", 16, turned), "KP-PREFILL", "after a prefill of 17"),
    "a short prompt": (only("prefill", 4, turned), "KP-PREFILL", "after a prefill of 5"),
    "a long prompt": (only("prefill", 30, turned), "KP-PREFILL", "after a prefill of 31"),
    "one by one": (only("eager step", 1, ulp), "KP-REPLAY", "1 of 120 logits differ between the recording"),
    "a chunk one by one": (only("eager prefill", 15, ulp), "KP-REPLAY", "first after a prefill of 16"),
    "greedy": (only("greedy", 3, other_best), "KP-ARGMAX", "at position 3 without the logits"),
    "the second turn": (
        lambda kind, at, row: turned(row) if kind == "prefill" and at == 21 else row,
        "KP-TURNS", "after a second prefill of 16 at position 6",
    ),
    "a late step": (only("step", CONTEXT - 1, turned), "KP-DEPTH", "logits differ between the recording"),
    "a late step, both": (
        lambda kind, at, row: turned(row) if at == 255 and "step" in kind else row,
        "KP-DEPTH", "at position 255 of 512",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_rejected_by_its_gate_and_named(name: str) -> None:
    fault, code, words = FAULTS[name]
    gate = last(candidate(fault))
    assert (gate.verdict, gate.code) == ("FAIL", code) and words in gate.reason, gate


def test_an_argmax_kernel_that_is_wrong_on_made_logits_alone_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_wrong_argmax", lambda engine: (2, "1 for 0"))
    gate = last(candidate())
    assert (gate.code, gate.reason) == ("KP-ARGMAX", "the argmax kernel returns 1 for 0")
    assert next(each.value for each in gate.measures if each.threshold == "decode_argmax") == 2


def after(rounds: int, at: int, change: Callable[[np.ndarray], np.ndarray], kind: str = "step") -> Fault:
    """A fault at the ``rounds``-th time that a row is computed."""
    seen = [0]

    def fault(what: str, where: int, row: np.ndarray) -> np.ndarray:
        seen[0] += (what, where) == (kind, at)
        return change(row) if (what, where) == (kind, at) and seen[0] == rounds else row

    return fault


@pytest.mark.parametrize(("turn", "said"), [(2, 1), (4, 3), (5, 4)])
def test_a_step_that_is_wrong_once_is_seen_in_any_round(turn: int, said: int) -> None:
    gate = last(candidate(after(turn, 71, ulp)))
    rows = COUNT * said + 8
    assert gate.code == "KP-RESET" and gate.reason.startswith(f"1 of {rows * VOCAB} logits differ after a reset")
    assert gate.reason.endswith(f"first at position 71 in round {said}"), gate.reason


@pytest.mark.parametrize(("times", "number"), [(2, 1), (3, 6)])
def test_so_is_a_prompt(times: int, number: int) -> None:
    gate = last(replace(candidate(after(times, 30, ulp, "prefill")), repeat=number))
    assert gate.code == "KP-RESET" and gate.reason.endswith(f"first after a prefill of 31 in round {number}")


def test_rounds_are_as_many_as_the_rows_take_that_the_contract_asks_for() -> None:
    found = [candidate(), candidate(repeat=4), candidate(repeat=5)]
    assert [measures(each)["reset_compared"] for each in found] == [368, 368, 368 + COUNT]
    walks = [Walk(found[0].engine, [0] * count) for count in (72, 64, 75, 76, 300, 301)]
    assert [walk.rounds_for(300) for walk in walks] == [4, 4, 3, 3, 0, 0]


def test_too_few_positions_are_told() -> None:
    short = candidate()
    whole = short.reference
    short.reference = replace(whole, tokens=TOKENS[:63], logits=whole.logits[:63], rounded=whole.rounded[:63])
    gate = last(short)
    assert gate.code == "KP-UNSUPPORTED" and gate.reason.startswith("63 positions were probed")


def test_a_reference_of_another_context_reaches_nothing() -> None:
    for deep in (None, replace(made().deep or Any, filled=filled.Filled(1, 9, [(0, 0)]))):
        found = candidate()
        found.reference = replace(found.reference, deep=deep)
        gate = last(found)
        assert gate.code == "KP-DEPTH" and {each.value for each in gate.measures if each.value == 1} == {1.0}
        assert f"the reference has {'9 positions' if deep else 'nothing'}" in gate.reason


def test_the_cache_is_filled_before_late_positions() -> None:
    found = candidate()
    assert last(found).verdict == "PASS"
    keys, values = found.engine.cache[0]
    wanted = filled.Filled(1, CONTEXT, [(0, 0)]).layer(0, 4, "f32")
    assert (keys == wanted[0]).all() and (values == wanted[1]).all() and (keys != values).any()


def test_a_turn_fills_its_chunk_with_others_and_then_crosses_one() -> None:
    found = candidate(steps=ROWS)
    assert table.named("turns").load()(found).verdict == "PASS" and found.engine.prompts == [16, 16]  # type: ignore


@pytest.mark.parametrize(("position", "wrong"), [(0, True), (5, True), (6, False)])
def test_a_second_turn_leaves_what_stands_before_it(position: int, wrong: bool) -> None:
    found = candidate(steps=ROWS)
    values = found.engine.cache[0][1]

    def fault(kind: str, at: int, row: np.ndarray) -> np.ndarray:
        values.view(np.uint8)[position, 3] ^= (kind, at) == ("prefill", 21)
        return row

    found.engine.fault = fault  # type: ignore[attr-defined]
    gate = table.named("turns").load()(found)
    assert (gate.code == "KP-TURNS" and "changes 1 bytes" in gate.reason) if wrong else gate.verdict == "PASS"


def test_a_second_turn_of_a_short_text_ends_with_it() -> None:
    found = candidate()
    whole = found.reference
    found.reference = replace(whole, tokens=TOKENS[:20], logits=whole.logits[:20], rounded=whole.rounded[:20])
    found.steps = ROWS[:20]
    assert table.named("turns").load()(found).verdict == "PASS" and found.engine.position == 20


@pytest.mark.parametrize("kind", ["step", "in turn", "woven", "prefill"])
def test_a_soak_sees_what_is_wrong_now_and_then(kind: str) -> None:
    wrong = after(9, 16, ulp, kind) if kind == "prefill" else after(9, 18, ulp, kind)
    found = candidate(wrong, soak=20.0)
    gate = table.named("soak").load()(found)
    assert gate.code == "KP-SOAK" and gate.reason.startswith("1 logits differ from those of an engine alone after")
    way = {"step": "alone", "prefill": ""}.get(kind, kind)
    assert f"{0 if kind == 'prefill' else 2} steps behind a prompt of 17, {way}" in gate.reason


def test_a_soak_that_was_too_short_says_so() -> None:
    enough = table.named("soak").load()(candidate(soak=1.0))
    rows = next(each.value for each in enough.measures if each.threshold == "soak_compared")
    assert enough.verdict == "PASS" and rows % 9 == 0 and rows > 1000
    gate = table.named("soak").load()(candidate(soak=0.0))
    assert gate.code == "KP-UNSUPPORTED" and gate.reason.startswith("0 rows in 0 s, the contract asks for ")
