"""What gates are made of: distances, drawn work, filled caches, rows, and the constants and canary of a real engine."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from kparity import ops, plain
from kparity.backends.cpu import CpuBackend
from kparity.device.adapter import LARGEST
from kparity.engine import Engine
from kparity.engine.canary import AT_END, EVERY, KEYS, Canary, Tripped
from kparity.gates import challenge, decode, filled
from kparity.gates.candidate import Candidate, Distance, noise_floor, non_finite
from kparity.gates.exact import exact_activations
from kparity.gates.graph import gate_graph
from kparity.gates.open import gate_open
from kparity.gates.reference import Deep, Reference
from kparity.gates.vacuous import doubts
from kparity.gates.verdict import Gate, Measure, Row
from kparity.gates.walk import prompt_lengths
from kparity.model import load_model
from kparity.plain import Span
from tests.made_receipts import number
from tests.test_gates import CONTEXT, CONTRACT, COUNT, FACTS, ROWS, TOKENS, VOCAB, made

FOUR = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
BESIDE = np.array([[1.0, 0.0], [0.0, 1.0], [4.0, 3.0]])


def test_a_distance_is_the_worst_row_and_the_median() -> None:
    far = Distance.between(FOUR, BESIDE)
    assert (far.low, far.high) == (2, 1) and far.cosine == pytest.approx(0.96)
    assert (far.median, far.factor, far.norm) == pytest.approx((1, 0, 1))
    half = Distance.between(FOUR / 2, FOUR)
    assert (half.factor, half.norm) == pytest.approx((0.5, 0.5))
    lost = Distance.between(np.array([[1.0, 0.0], [np.nan, 1.0], [0.0, 1.0]]), BESIDE)
    assert (lost.low, lost.high) == (1, 1) and np.isnan(lost.cosine) and np.isnan(lost.norm)
    assert non_finite(np.array([np.nan, np.inf, -np.inf, 0.0])) == "1 NaN and 2 infinite of 4 logits"
    assert non_finite(np.array([1.0, 0.0])) == ""


def turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)]])


@pytest.mark.parametrize(
    ("angle", "floor"), [(2.0, 1 - np.cos(2.0)), (0.1, 1 - np.cos(0.1)), (1e-3, 5e-5), (0.0, 5e-5)]
)
def test_the_noise_is_the_twins_and_no_less_than_the_contracts(angle: float, floor: float) -> None:
    twin = Reference("x", [0], turn(0.0), turn(angle), FACTS)
    assert noise_floor(twin, CONTRACT) == pytest.approx(floor)
    rows = np.repeat(turn(0.0), 5, axis=0)
    bent = np.concatenate([turn(each) for each in (0.0, 0.0, 0.3, 0.4, 0.5)])
    assert noise_floor(replace(twin, logits=rows, rounded=bent), CONTRACT) == pytest.approx(1 - np.cos(0.3))
    found = Candidate(None, twin, CONTRACT)  # type: ignore[arg-type]
    values = Distance.between(turn(0.2), turn(0.0)).values("positions", found)
    assert values["positions_noise"] == pytest.approx((1 - np.cos(0.2)) / floor)
    deep = Deep([], filled.Filled(1, 1), turn(0.0), turn(0.3))
    values = Distance.between(turn(0.2), turn(0.0)).values("depth", found, deep)
    assert values["depth_noise"] == pytest.approx((1 - np.cos(0.2)) / (1 - np.cos(0.3)))


def test_what_no_gate_can_see_is_doubted() -> None:
    def doubted(row: np.ndarray, wrong: np.ndarray | None = None) -> list[str]:
        logits = np.vstack([ROWS[:2], row[None]]).astype(np.float64)
        controls = {} if wrong is None else {"without cache": wrong}
        return doubts(Reference("x", [0, 1, 2], logits, logits, FACTS, controls=controls), CONTRACT)

    some = np.where(np.arange(VOCAB) < VOCAB // 2, ROWS[2], 0)
    assert doubted(ROWS[2]) == doubted(some) == []
    some[0] = 0
    assert doubted(some) == ["47.50% of its logits are not zero at position 2 (< 50.00%)"]
    flat = np.full(VOCAB, 3.0) + np.where(np.arange(VOCAB) % 2, 0.02, -0.02)
    assert len(doubted(flat)) == 1 and "0.67% of their root mean square" in doubted(flat)[0]
    assert doubted(flat + 10 * (flat - 3)) == [] and len(doubted(np.zeros(VOCAB))) == 2
    same = ROWS[:2].astype(np.float64)
    assert doubted(ROWS[2], same) == ["a pass without cache is taken for right"]
    for wrong in (np.roll(same, 1, axis=1), same * 1.02, same * [[1.0], [1.4]]):
        assert doubted(ROWS[2], wrong) == []


# --- what is drawn and made ---


def test_edges_stand_on_both_sides_of_every_boundary() -> None:
    assert filled.edges(300) == [95, 96, 127, 128, 191, 192, 255, 256, 298, 299]
    assert filled.edges(128) == [95, 96, 126, 127] and filled.edges(1) == [0]
    assert filled.powers(256) == [128] and filled.powers(257) == [128, 256]
    found = [(span.start, len(span.tokens)) for span in filled.spans(TOKENS, 300, 1)]
    steps = [start for start, length in found if length == 1]
    assert {127, 128, 191, 192, 255, 256, 298, 299} <= {*steps} and len(steps) in (9, 10)
    assert steps == sorted(steps)[::-1]
    later = {span.start for span in filled.spans(TOKENS, 4096, 1) if len(span.tokens) == 1}
    for each in filled.powers(4096)[:-1]:  # and one anywhere in between
        assert len({at for at in later if each < at < 2 * each - 1} - {each * 3 // 2 - 1, each * 3 // 2}) == 1
    assert [each for each in found if each[1] > 1] == [(300 - 32, 32), (256 - 1, 9), (128 - 4, 9)]


@pytest.mark.parametrize("size", [2.0**-9, 0.1, 1.0, 7.0])
def test_filled_keys_are_about_as_large_as_the_layers_own(size: float) -> None:
    rng, filler = np.random.default_rng(1), filled.Filled(3, 600)
    for layer in range(3):
        own = rng.normal(0, size, (20, 2, 8)).astype(np.float32)
        keys, values = filler.like(layer, own, 4 * own)
        assert keys.shape == values.shape == (600, 2, 8)
        for share, part in ((1, keys), (4, values)):
            assert 0.69 < np.sqrt(np.square(part).mean() / np.square(share * own).mean()) < 1.43
        assert (np.float16(keys) == keys).all()
    again = filled.Filled(3, 600, filler.exponents)
    parts = [part for layer in range(3) for part in again.layer(layer, 16, "f16")]
    assert all(part.dtype == np.float16 for part in parts) and (parts[4] == keys.reshape(600, 16)).all()
    assert all((a != b).mean() > 0.9 for at, a in enumerate(parts) for b in parts[:at])


def test_one_hot_rows_read_both_ends_and_the_last_rows_are_extreme() -> None:
    q = exact_activations(300, 512, 32)
    assert q.shape == (32, 512) and not q[:, 300:].any() and (q[-1, :300] == 127).all() and (q[-2, :300] == -128).all()
    hot = [row for row in q if np.count_nonzero(row) == 1]
    columns = [int(np.flatnonzero(row)[0]) for row in hot]
    assert columns[0] == 0 and columns[-1] == 299 and len({*columns}) == len(hot) >= 12
    assert [int(row.max() + row.min()) for row in hot] == [(-128, 127)[at % 2] for at in range(len(hot))]
    assert all(np.count_nonzero(row) > 250 for row in q[16:30]) and q[16:30].min() == -128 and q[16:30].max() == 127
    assert np.count_nonzero(exact_activations(300, 512, 1)) > 250


def test_a_nonce_draws_what_the_documentation_says() -> None:
    assert challenge.drawn("n", "tokens", 5, 9, 1000) == [number("n", "tokens", 5, at, below=1000) for at in range(9)]
    wanted = {number("n", "positions", 5, at, below=72) for at in range(8)}
    assert challenge.positions("n", 5, 72) == sorted(wanted)
    told = challenge.of_steps(ROWS, TOKENS, "n", 5)
    assert [each.position for each in told] == sorted(wanted)
    for each in told:
        assert each.token == TOKENS[each.position] and each.argmax == np.argmax(ROWS[each.position])
        assert each.entries == [number("n", f"entries {each.position}", 5, at, below=VOCAB) for at in range(16)]
        assert each.values == [ROWS[each.position][entry] for entry in each.entries]


def test_numbers_of_a_draw_begin_at_zero() -> None:
    (first, *_) = challenge.of_steps(ROWS, TOKENS, "n", 5)
    made_ = msgspec.to_builtins(first)
    for name in ("position", "token", "argmax"):
        for value in (0, LARGEST):
            assert getattr(msgspec.convert({**made_, name: value}, challenge.Sampled), name) == value
        for value in (-1, LARGEST + 1):
            with pytest.raises(msgspec.ValidationError):
                msgspec.convert({**made_, name: value}, challenge.Sampled)


def test_lengths_of_prompts_end_in_every_part_of_a_chunk() -> None:
    assert prompt_lengths(64, 72) == [17, 64, 65] and prompt_lengths(16, 31) == [5, 16, 17]
    assert prompt_lengths(3, 9) == [3, 4, 5] and prompt_lengths(4, 8) == [2, 4, 5, 7]


def test_a_reference_comes_back_as_it_was_written() -> None:
    whole = replace(made(), facts=plain.facts(None), controls={"without cache": ROWS[:3].astype(np.float64)})
    for each in (whole, replace(whole, deep=None, controls={})):
        descriptor = os.memfd_create("reference")
        each.write(descriptor)
        again = Reference.read(descriptor)
        os.close(descriptor)
        assert (again.name, again.tokens, again.facts) == (each.name, each.tokens, each.facts)
        assert (again.logits == each.logits).all() and (again.rounded == each.rounded).all()
        assert (again.bos == each.logits[0]).all() and [*again.controls] == [*each.controls]
        assert all((again.controls[name] == each.controls[name]).all() for name in each.controls)
        assert again.proved == (CONTEXT - 1 if each.deep else COUNT - 1) and (again.deep is None) is (each.deep is None)
        if again.deep and each.deep:
            assert again.deep.spans == each.deep.spans and (again.deep.logits == each.deep.logits).all()
            assert (again.deep.rounded == each.deep.rounded).all()
            assert again.deep.filled.exponents == each.deep.filled.exponents and again.deep.filled.count == CONTEXT


# --- rows and devices ---


def test_a_measure_is_shown_beside_its_limit() -> None:
    shown = {value: Measure.of(CONTRACT, "bos_cosine", value).text() for value in (0.7222491, 0.0, -0.0, 1e-9)}
    assert shown == {0.7222491: "0.722249 ≥ 0.99", 0.0: "0 ≥ 0.99", 1e-9: "1e-09 ≥ 0.99"}
    assert [Measure.of(CONTRACT, "bos_cosine", value).holds for value in (0.99, 0.9899)] == [True, False]


def test_a_row_is_what_its_status_and_gates_make_it() -> None:
    passed, open_ = Gate("open", "PASS"), Gate("exact", "INCONCLUSIVE")
    row = Row("cpu", "accepted", device={}, gates=[passed, passed], dispatches={"a": 1})
    assert row.accepted and not row.flaw and not row.alarming and not row.shallow and not row.ran_and_failed
    assert replace(row, gates=[passed, passed, open_]).shallow
    for changes in ({"code": "KP-X"}, {"gates": [passed]}, {"dispatches": {}}, {"device": None}):
        assert replace(row, **changes).flaw == "cpu is accepted without gates, dispatches or a device"
    wrong = Row("cpu", "rejected", "KP-X", "why", gates=[open_])
    assert wrong.ran_and_failed and wrong.alarming and not wrong.shallow and not wrong.flaw and not wrong.accepted
    assert replace(wrong, reason="").flaw == replace(wrong, code="").flaw == "cpu is rejected without code and reason"
    assert not replace(wrong, code="KP-NOT-GPU").ran_and_failed
    assert replace(wrong, status="mistrusted").alarming and not replace(wrong, status="unavailable").alarming


def test_a_gpu_that_is_required_or_claimed_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    info = CpuBackend().info
    assert gate_open(info, False).verdict == "PASS" and gate_open(info, True).code == "KP-NOT-GPU"
    card: Any = SimpleNamespace(
        kind="gpu", device="NVIDIA H100", backend="cuda", api="CUDA", as_dict=dict, driver="1", detail=""
    )
    for present in (True, False):
        monkeypatch.setattr("kparity.gates.open.host_has_gpu", lambda present=present: present)
        assert gate_open(card, True).code == ("" if present else "KP-FALSE-GPU")
    monkeypatch.setattr("kparity.gates.open.host_has_gpu", lambda: True)
    issues: Any = [
        SimpleNamespace(backend=backend, matches=lambda told, found=found: found, reason=f"bad {at}", id=f"I{at}")
        for at, (backend, found) in enumerate([("hip", True), ("cuda", False), ("cuda", True), ("cuda", True)])
    ]
    gate = gate_open(card, False, issues)
    assert (gate.code, gate.reason) == ("KP-KNOWN-BAD", "bad 2; and I3")
    assert gate_open(card, False, issues[:3]).reason == "bad 2" and gate_open(card, False, issues[:2]).verdict == "PASS"


# --- on a real engine ---


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load_model(None), CpuBackend())


def test_every_constant_of_the_file_is_held_against_the_kernels(engine: Engine) -> None:
    facts = plain.facts(None)
    engine.reset()
    engine.step(0)
    engine.prefill([0] * 20)

    def said(**changes: Any) -> Gate:
        twin = Reference("x", [0], ROWS, ROWS, replace(facts, **changes))
        return gate_graph(Candidate(engine, twin, CONTRACT))

    assert said().verdict == "PASS"
    for name in ("eps", "theta", "rope_scale", "heads", "kv_heads", "head_dim", "width", "vocab", "ffn"):
        for other in (getattr(facts, name) + 1, getattr(facts, name) - 1):
            gate = said(**{name: other})
            assert gate.code == "KP-GRAPH" and "the file says" in gate.reason and gate.measures[0].value >= 1, name
    first, *rest = facts.frequencies
    for share, passes in ((3e-7, True), (-3e-7, True), (6e-7, False), (-6e-7, False)):  # 8 roundings are 4.8e-7
        assert (said(frequencies=[first, *rest[:-1], rest[-1] * (1 + share)]).verdict == "PASS") is passes, share
    gate = said(frequencies=rest)
    assert "frequencies, the file says" in gate.reason and gate.measures[0].value == 2
    assert gate.reason.endswith(", and 1 more")


def test_a_canary_counts_runs_and_trips_on_one_other_bit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.reset()
    trips: list[str] = []
    canary = Canary(engine, every=3, trip=trips.append)
    assert canary.rows == KEYS + 1 and canary.runs == 0
    checked: list[int] = []
    own = canary.check
    canary.check = lambda: (checked.append(canary.runs), own())  # type: ignore[assignment,method-assign]
    for _ in range(8):
        canary.before_run()
    assert checked == [3, 3] and canary.runs == 2
    canary.at_end()
    assert checked == [3, 3]
    canary.before_run()
    canary.at_end()
    assert checked == [3, 3, 3] and canary.runs == 0
    canary.seconds, canary.last = 0.001, 0.0
    canary.before_run()
    assert len(checked) == 3, "nothing ran since the last one"
    canary.before_run()
    assert len(checked) == 4
    canary.every, canary.seconds, canary.runs = 1000, 0.0, AT_END - 1
    canary.at_end()
    assert len(checked) == 4
    canary.runs = AT_END
    canary.at_end()
    assert len(checked) == 5
    engine.position, canary.sure, canary.runs = 5, 9, 0
    canary.before_run()
    assert canary.sure == 5
    canary.first.reshape(-1).view(np.uint32)[3] ^= 1
    with pytest.raises(Tripped, match=r"1 of \d+ logits of a known step differ .* after 1 more runs; .* position 5 of"):
        canary.check()
    assert len(trips) == 1
    engine.reset()
    short = Engine(engine.model, engine.backend, context=4)
    assert Canary(short).rows == 4 and Canary(short).every >= EVERY


@pytest.mark.parametrize(("whole", "every"), [(2.0, 256), (2.56, 256), (2.6, 260), (5.0, 500)])
def test_by_default_a_canary_takes_a_hundredth_of_the_time(
    whole: float, every: int, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of one second, and a canary of ``whole``; once of the five times both take long."""
    engine.reset()
    spent = [0.0]
    for step, check in [(1.0, whole)] * 2 + [(900.0, 900.0)] + [(1.0, whole)] * 2:
        spent += [spent[-1], spent[-1] + step, spent[-1] + step + check]
    clock = iter(spent[1:])
    monkeypatch.setattr(
        "kparity.engine.canary.time", SimpleNamespace(perf_counter=lambda: next(clock), monotonic=lambda: 5.0)
    )
    canary = Canary(engine)
    assert canary.every == every and (canary.checks, canary.runs, canary.sure, canary.last) == (0, 0, 0, 5.0)
    assert Canary(engine, every=7).every == 7 and AT_END == 100


@pytest.mark.parametrize(("passed", "late"), [(9.9, False), (10.0, True), (11.0, True)])
def test_a_canary_is_late_after_its_seconds(
    passed: float, late: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.reset()
    now = [100.0]
    monkeypatch.setattr("kparity.engine.canary.time", SimpleNamespace(monotonic=lambda: now[0]))
    canary = Canary(engine, every=1000, seconds=10.0)
    canary.before_run()
    now[0] += passed
    canary.before_run()
    assert canary.checks == late and canary.runs == (1 if late else 2)
    assert canary.last == now[0] if late else canary.last == 100.0
    canary.seconds, now[0] = 0.0, 1e9
    canary.before_run()
    assert canary.checks == late


def test_wrong_ids_of_the_argmax_kernel_are_counted_and_the_first_is_named(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert decode._wrong_argmax(engine) == (0, "")
    real = decode.launched
    monkeypatch.setattr(decode, "launched", lambda *given, **how: [real(*given, **how)[0] + 1])
    kinds = ops.get("argmax").kinds(engine.kernels.get("argmax", M=1, N=engine.model.hparams.vocab).case)
    wrong, first = decode._wrong_argmax(engine)
    assert wrong == len(kinds) > 1 and first.endswith(f"among logits of the kind {kinds[0]!r}")


def test_a_canary_leaves_the_cache_as_it_was(engine: Engine) -> None:
    engine.reset()
    canary = Canary(engine, every=1000)
    for token in TOKENS[:12]:
        engine.step(token)
    before = [engine.backend.download(each).copy() for pair in engine.cache for each in pair]
    canary.check()
    assert canary.sure == engine.position == 12
    after_ = [engine.backend.download(each) for pair in engine.cache for each in pair]
    assert all((a == b).all() for a, b in zip(before, after_, strict=True))


def test_a_span_says_where_it_ends() -> None:
    assert Span(5, [1, 2, 3]).end == 8
