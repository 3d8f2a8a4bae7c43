"""The parent of a probe without a process: deadlines, ends, rows, and which backend serves."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from kparity.backends.cpu import CpuBackend
from kparity.device.usage import Evidence
from kparity.errors import BadModel, Refused, WrongInput
from kparity.gates.judge import judged
from kparity.gates.table import GATES, of_depth
from kparity.gates.verdict import Gate, Row
from kparity.probe import dispatcher, runner
from kparity.probe.dispatcher import Outcome, announce, first_accepted, forced_by, parse_order, probe_all
from kparity.probe.messages import Loaded, Measured, Opened, Proof, Request, Seen
from kparity.probe.runner import Attempt, Found, Process, silence
from kparity.process import Done, Failed, Garbled, Stage, Tick
from kparity.process.parent import EXIT_SECONDS
from tests.test_judge import CONTRACT, good

CPU = CpuBackend().info


class Clock:
    """Seconds, as the test says."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Child:
    """A process that says and does what the test says."""

    def __init__(self, clock: Clock) -> None:
        self.started = self.heard = clock.now
        self.over, self.closed = False, 0
        self.code: int | None = None
        self.sent, self.said = list[Any](), list[Any]()
        self.process: Any = SimpleNamespace(poll=lambda: self.code, pid=7)

    @property
    def returncode(self) -> int | None:
        return self.code

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def read(self) -> None: ...

    def pending(self) -> bool:
        return bool(self.said)

    def receive(self, seconds: float) -> Any:
        return self.said.pop(0)

    def quoted(self) -> str:
        return ", its last words: x"

    def close(self) -> None:
        self.closed += 1

    def ends(self, code: int) -> None:
        self.over, self.code = True, code
        self.process.returncode = code


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(runner, "time", found)
    return found


def process(clock: Clock, **request: Any) -> tuple[Process, Child]:
    child = Child(clock)
    return Process("x", Request(**request), child), child  # type: ignore[arg-type]


def attempt(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, truth: Any = None, counters: Any = None, **request: Any
) -> tuple[Attempt, Child]:
    child = Child(clock)
    monkeypatch.setattr(runner, "started", lambda *given: child)
    return Attempt(None, "cpu", Request(**request), truth, counters or SimpleNamespace()), child  # type: ignore[arg-type]


def test_a_process_may_be_silent_as_long_as_its_model_takes(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(bytes(2_500_000))
    assert silence("walk", None) == 60 and silence("walk", str(path)) == 60.1
    assert silence("compile", str(path)) == silence("compile", None) == 600


@pytest.mark.parametrize(("stage", "passed", "over"), [
    ("walk", 60.0, False), ("walk", 60.1, True), ("compile", 600.0, False), ("compile", 600.1, True),
    ("wait", 9e9, False),
])  # fmt: skip
def test_a_silent_process_is_ended(stage: str, passed: float, over: bool, clock: Clock) -> None:
    one, child = process(clock)
    one.take(Stage(stage, 1.0))
    clock.now += passed
    one.look()
    assert one.over is over and child.closed == over
    if over:
        assert (one.code, one.status) == ("KP-PROBE-HANG", "rejected")
        assert one.reason == f"silent for {silence(stage, None):.0f} s at stage {stage}"
        one.end("KP-OTHER", "x")
        assert one.code == "KP-PROBE-HANG" and child.closed == 1 and one.ended_at == clock.now
    if stage == "wait":
        one.alone = True
        one.look()
        assert one.over


def test_words_and_stages_are_signs_of_life(clock: Clock) -> None:
    one, child = process(clock)
    clock.now += 50
    one.take(Stage("walk", 2.0))
    clock.now += 50
    one.look()
    child.heard = clock.now
    clock.now += 50
    one.look()
    one.take(Tick("token 3\x1b"))
    assert not one.over and one.note == "token 3\\x1b" and one.marks == [("walk", 2.0)]
    one.take(Stage("exact", 3.0))
    assert one.note == "" and one.stage == "exact"


@pytest.mark.parametrize(("passed", "over"), [(10.0, False), (10.1, True)])
def test_a_probe_has_its_time_without_what_it_waits_for_others(passed: float, over: bool, clock: Clock) -> None:
    one, _ = process(clock, timeout=10.0)
    for stage in ("wait", "reference", "walk"):
        one.take(Stage(stage, 0.0))
        clock.now += 30 if stage != "walk" else 0
    assert one.waited == 60
    clock.now += passed
    one.look()
    assert one.over is over and (not over or one.reason == "no answer within 10 s, ended at stage walk")


@pytest.mark.parametrize(("code", "done", "said", "why"), [
    (0, True, "", ""), (0, False, "KP-PROBE-EXIT", "exited with 0 at stage start without a verdict, its last words: x"),
    (1, True, "KP-PROBE-EXIT", "exited with 1"),
    (-signal.SIGKILL, True, "KP-PROBE-OOM", "killed by the system (SIGKILL) at stage start"),
    (-signal.SIGSEGV, True, "KP-PROBE-CRASH", "crashed with SIGSEGV at stage start"),
])  # fmt: skip
def test_how_a_process_ends_is_told(code: int, done: bool, said: str, why: str, clock: Clock) -> None:
    one, child = process(clock)
    if done:
        one.take(Done())
    child.ends(code)
    one.look()
    assert one.over and one.code == said and one.reason.startswith(why) and bool(one.reason) is bool(why)


@pytest.mark.parametrize(("passed", "over"), [(0.0, False), (0.1, True)])
def test_a_process_that_said_all_ends_soon(passed: float, over: bool, clock: Clock) -> None:
    one, child = process(clock)
    child.over = True
    clock.now += EXIT_SECONDS + passed
    one.look()
    assert one.over is over and (not over or "has not ended" in one.reason)


def test_what_a_process_says_of_its_failure(clock: Clock) -> None:
    cases = [
        (Failed("unavailable", "KP-X", "bad"), "KP-X", "bad"),
        (Failed("rejected", "", ""), "KP-PROBE-ERROR", "its process gave no reason"),
    ]
    for message, code, reason in cases:
        one, child = process(clock)
        child.said = [message, Tick("later")]
        one.hear()
        assert (one.code, one.reason, one.status) == (code, reason, message.status) and one.note == ""
    one, child = process(clock)
    child.said = [Loaded({})]
    one.hear()
    assert one.code == "KP-PROBE-MESSAGE" and "Loaded, which is not its to say" in one.reason


def told(one: Attempt, count: int, proof: bool = True) -> None:
    """The first gates, all good, and the launches behind them."""
    for gate in [*of_depth(one.request.depth)][:count]:
        one.take(good(gate.name) if gate.thresholds else Opened(CPU))
    if proof:
        one.take(Proof({"add_cpu_generic": 1}, 0.5, []))


@pytest.mark.parametrize(("count", "proof", "why"), [
    (len(GATES), True, ""), (len(GATES), False, "a count of its launches"), (len(GATES) - 1, True, "the gates kernels"),
    (1, True, "the gates BOS, graph, exact"),
])  # fmt: skip
def test_an_acceptance_lacks_nothing(
    count: int, proof: bool, why: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, child = attempt(clock, monkeypatch)
    told(one, count, proof)
    one.marks = [("a", 1.0), ("b", 3.0), ("a", 7.0), ("end", 8.0)]
    clock.now += 2
    one.settle()
    row = one.row()
    assert row.accepted is not bool(why) and why in row.reason and row.elapsed_ms == 2000
    assert row.timings_ms == {"a": 3.0, "b": 4.0} and row.label == CPU.label and row.proved is None
    assert [type(each) for each in child.sent] == [Seen] * proof and row.device == CPU.as_dict()
    assert len(row.gates) == count


def test_depths_ask_for_their_gates(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, _ = attempt(clock, monkeypatch, depth="open")
    told(opened, 1, proof=False)
    opened.settle()
    assert opened.row().accepted
    first, _ = attempt(clock, monkeypatch, depth="bos")
    told(first, 2)
    first.settle()
    row = first.row()
    assert row.accepted and row.shallow and len(row.gates) == len(GATES) and row.gates[2].verdict == "INCONCLUSIVE"
    with pytest.raises(Garbled, match="gate graph, where none was due"):
        first.take(good("graph"))


def truth(clock: Clock, **changes: Any) -> Any:
    reference = SimpleNamespace(tokens=[0] * 72, proved=4095, name="plain")
    made = {"over": True, "reference": reference, "doubts": [], "reason": "why", "model": SimpleNamespace(n_bytes=1000)}
    return SimpleNamespace(**{**made, "file": SimpleNamespace(reader=3), **changes})


def test_gates_that_could_not_have_failed_are_mistrusted(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = attempt(clock, monkeypatch, truth(clock, doubts=["zeros"]))
    told(one, len(GATES))
    one.settle()
    row = one.row()
    compared = [gate.name for gate in GATES if gate.compares]
    assert (row.status, row.code) == ("mistrusted", "KP-VACUOUS") and [
        gate.name for gate in row.gates if gate.verdict == "MISTRUSTED"
    ] == compared
    assert row.reason.startswith(f"gates {', '.join(compared)}: it could not have failed: zeros")
    less, _ = attempt(clock, monkeypatch, truth(clock, doubts=["zeros"]))
    told(less, len(GATES) - 1)
    less.settle()
    assert (less.status, less.code) == ("rejected", "KP-PROBE-GATES")
    alone, _ = attempt(clock, monkeypatch, truth(clock, doubts=["zeros"]), depth="bos")
    told(alone, 2)
    alone.settle()
    assert alone.reason.startswith("gate BOS: it could not")


def test_the_reference_is_handed_over_when_it_is_there(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = truth(clock, over=False)
    one, child = attempt(clock, monkeypatch, theirs)
    one.take(Stage("reference", 0.0))
    clock.now += 1e6
    one.look()
    assert one.waits() and not one.over and not child.sent
    theirs.over = True
    one.look()
    one.look()
    assert not one.waits() and len(child.sent) == 1 and child.heard == clock.now and not one.over
    told(one, len(GATES))
    one.settle()
    row = one.row()
    assert (row.reference, row.positions, row.proved) == ("plain", 72, 4095)
    none, _ = attempt(clock, monkeypatch, truth(clock, reference=None))
    none.look()
    assert none.code == "KP-PROBE-REFERENCE" and none.reason == "no reference to compare with: why"
    failed, _ = attempt(clock, monkeypatch, truth(clock))
    told(failed, 1, proof=False)
    failed.take(Measured("BOS", {"bos_cosine": 0.5}))
    row = failed.row()
    assert (row.code, row.proved, row.reference, row.positions) == ("KP-BOS-COSINE", None, "plain", 72)


@pytest.mark.parametrize(("proof", "required", "trusted", "code"), [
    ("verified", True, False, ""), ("not verified", False, False, ""), ("not verified", True, True, ""),
    ("not verified", True, False, "KP-NOT-VERIFIED"), ("refuted", False, True, "KP-FALSE-GPU"),
])  # fmt: skip
def test_a_gpu_is_held_against_its_driver(
    proof: str, required: bool, trusted: bool, code: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[tuple[Any, ...]]()

    def of(info: Any, found: Any, size: int, claimed: float, contract: Any, required: bool, walk: Any) -> Any:
        seen.append((found, size, claimed, required, walk))
        failed = proof == "refuted" or (proof == "not verified" and required)
        refusal = Gate("device", "FAIL", code=code or "KP-NONE", reason="x")
        return proof, ["because"], refusal if failed else None

    looks = iter("abc")
    counters = SimpleNamespace(of=lambda pid: next(looks), after=lambda found: f"{found} after")
    monkeypatch.setattr("kparity.gates.device.judged", of)
    monkeypatch.setattr(runner, "gate_open", lambda *given: Gate("open", "PASS"))
    one, _ = attempt(clock, monkeypatch, truth(clock), counters, require_gpu=required, trust_claims=trusted)
    one.take(Opened(msgspec.structs.replace(CPU, kind="gpu")))
    for stage in ("compile", "walk", "walk", "wait", "walk", "exact"):
        one.take(Stage(stage, 0.0))
    assert [str(each) for each in one.walk] == ["a", "b"]
    for gate in GATES[1:]:
        one.take(good(gate.name))
    one.take(Proof({"a": 1}, 0.5, []))
    assert seen[0] == ("c", 1000, 0.5e6 * 72, False, ("a", "b"))
    one.settle()
    assert len(seen) == (2 if proof == "not verified" else 1)
    assert len(seen) == 1 or seen[1] == ("c after", 1000, 36e6, required and not trusted, ("a", "b"))
    row = one.row()
    assert row.code == code and row.accepted is (code == "") and row.gpu_proof == proof and row.evidence == ["because"]


def test_a_bad_model_is_the_models_fault() -> None:
    checked = list[int]()
    model: Any = SimpleNamespace(file=SimpleNamespace(unchanged=lambda: checked.append(1)))
    one: Any = SimpleNamespace(model=model, code="KP-X", reason="why")
    runner.Truth.refuse_model(one)
    one.code = "KP-MODEL"
    with pytest.raises(BadModel, match="why"):
        runner.Truth.refuse_model(one)
    assert checked == [1, 1]


@pytest.mark.parametrize(("working", "ended", "seconds"), [(2, 0, 0.1), (2, 1, 0.002)])
def test_a_turn_waits_shorter_where_somebody_ends(
    working: int, ended: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, looked, waited = list[int](), list[int](), list[tuple[int, float]]()
    each: list[Any] = [
        SimpleNamespace(child=SimpleNamespace(over=at < ended, number=at), alone=None,
                        hear=lambda at=at: heard.append(at), look=lambda at=at: looked.append(at))
        for at in range(working)
    ]  # fmt: skip

    def wait(children: list[Any], limit: float) -> list[Any]:
        waited.append((len(children), limit))
        return children[-1:]

    monkeypatch.setattr(runner, "wait", wait)
    runner.turn(each)
    assert waited == [(working - ended, seconds)] and heard == [working - 1] and looked == [0, 1]
    assert not any(one.alone for one in each)
    runner.turn(each[1:])
    assert each[1].alone is True


# --- which backend serves ---

PASSED = Row("cpu", "accepted", gates=[judged(gate, CONTRACT, good(gate.name).values, "", "", 0.0) for gate in GATES],
             device=CPU.as_dict(), dispatches={"a": 1}, label="cpu (x)", proved=99)  # fmt: skip
WRONG = replace(PASSED, backend="wgpu", status="rejected", code="KP-RESET", reason="differs")
ABSENT = replace(PASSED, backend="hip", status="unavailable", code="KP-HIP-NODRIVER", reason="none")
SHALLOW = replace(PASSED, gates=[*PASSED.gates[:2], Gate("graph", "INCONCLUSIVE")])


@pytest.mark.parametrize(("rows", "serving", "code"), [
    ([PASSED], "cpu", 0), ([WRONG, PASSED], "cpu", 1), ([ABSENT, PASSED], "cpu", 0), ([WRONG], "", 3), ([], "", 3),
    ([SHALLOW], "cpu", 3), ([SHALLOW, WRONG], "cpu", 1),
    ([replace(WRONG, code="KP-NOT-GPU"), PASSED], "cpu", 0),
])  # fmt: skip
def test_the_exit_code_of_a_dispatch(rows: list[Row], serving: str, code: int) -> None:
    assert Outcome(rows, serving).exit_code == code


def test_an_order_is_of_known_backends() -> None:
    assert parse_order("cpu") == parse_order(["cpu"]) == ["cpu"] and parse_order("numpy,cpu") == ["numpy", "cpu"]
    assert parse_order("cuda,cpu,numpy", no_gpu=True) == ["cpu", "numpy"]
    plain_ = parse_order("cuda", no_gpu=True)
    assert plain_ and "cuda" not in plain_ and plain_[0] == parse_order(None, no_gpu=True)[0] and "cpu" in plain_
    for nothing in ("", [], [" ", ""]):
        with pytest.raises(WrongInput, match="no backend named"):
            parse_order(nothing)
    assert forced_by("cpu", ["cpu"]) == forced_by("cpu", ["a", "b"]) == "it was required"
    assert forced_by(None, ["cpu"]) == "no other backend was named" and forced_by(None, ["a", "b"]) == ""


@pytest.mark.parametrize(("order", "serving", "forced", "said"), [
    (["wgpu", "cpu"], "", "", "attempting fallback"), (["cpu", "wgpu"], "", "", "no backend left"),
    (["cpu", "wgpu"], "cpu", "", "cpu serves already"), (["wgpu"], "", "it was required", "refusing, it was required"),
])  # fmt: skip
def test_a_rejected_backend_is_announced_with_what_comes_next(
    order: list[str], serving: str, forced: str, said: str
) -> None:
    lines = list[str]()
    announce(WRONG, order, serving, forced, lines.append)
    assert len(lines) == 1 and said in lines[0] and "KP-RESET" in lines[0] and "wgpu" in lines[0]


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Has a dispatch find these rows; gives the names that were looked at."""

    def of(*given: Row) -> list[str]:
        looked = list[str]()

        def found(order: Any, request: Any, cached: Any, watch: Any) -> Any:
            for row in given:
                if row.backend in order:
                    looked.append(row.backend)
                    yield Found(replace(row), None, {})

        monkeypatch.setattr(dispatcher, "rows_in_order", found)
        return looked

    return of


def test_the_first_that_opens_serves_and_is_the_last_that_is_looked_at(rows: Any) -> None:
    other = replace(PASSED, backend="numpy", label="numpy (x)")
    looked, lines = rows(WRONG, PASSED, other), list[str]()
    outcome = probe_all(["wgpu", "cpu", "numpy"], Request(), log=lines.append)
    assert looked == ["wgpu", "cpu", "numpy"] and outcome.serving == "cpu" and len(lines) == 2
    assert "attempting fallback" in lines[0] and "cpu (x)" in lines[1] and "99" in lines[1]
    looked.clear()
    engine: Any = SimpleNamespace(backend=SimpleNamespace(info=SimpleNamespace(label="opened")))

    def serve(row: Row, kept: Any) -> Any:
        if row.backend == "cpu":
            row.status, row.code, row.reason = "rejected", "KP-CHANGED", "another"
            return None
        return engine

    outcome = probe_all(["wgpu", "cpu", "numpy", "torch"], Request(), serve=serve, log=lines.append)
    assert outcome.serving == "numpy" and outcome.engine is engine and looked == ["wgpu", "cpu", "numpy"]
    assert "opened" in lines[-1] and "KP-CHANGED" in lines[-2] and outcome.exit_code == 1


def test_the_next_backend_takes_over_unless_that_is_forced(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(PASSED, replace(PASSED, backend="numpy", proved=None))
    closed = list[str]()

    def serve(row: Row, *given: Any) -> Any:
        info = SimpleNamespace(label=row.backend)
        backend = SimpleNamespace(info=info, name=row.backend)
        return SimpleNamespace(backend=backend, close=lambda: closed.append(row.backend), proved=0)

    monkeypatch.setattr(dispatcher, "_serve", serve)
    how, model = dispatcher.Serving(canary=0), Any
    quiet: Any = {"serving": how, "log": lambda line: None}
    first = first_accepted(["cpu", "numpy"], Request(), model, **quiet)  # type: ignore[arg-type]
    assert first.name == "cpu" and first.engine.proved == 99
    second = first.fall_back()
    assert second.name == "numpy" and closed == ["cpu"] and second.engine.proved == -1
    with pytest.raises(Refused, match="no backend of numpy may serve"):
        second.fall_back()
    beyond = {**quiet, "serving": replace(how, beyond_proof=True)}
    assert first_accepted(["cpu"], Request(), model, **beyond).engine.proved is None  # type: ignore[arg-type]
    forced = first_accepted(["cpu", "numpy"], Request(), model, forced="it was required", **quiet)  # type: ignore[arg-type]
    with pytest.raises(Refused, match=r"^cpu was required and may not serve; nothing was downgraded$"):
        forced.fall_back()
    with pytest.raises(Refused, match=r"^hip may not serve and no other backend was named; nothing was downgraded$"):
        first_accepted(["hip"], Request(), model, forced="no other backend was named", **quiet)  # type: ignore[arg-type]
    with pytest.raises(Refused, match=r"^no backend of hip,rocm may serve$"):
        first_accepted(["hip", "rocm"], Request(), model, **quiet)  # type: ignore[arg-type]


def test_progress_counts_gates_of_all_backends() -> None:
    stages = list[Any]()
    task: Any = SimpleNamespace(total=0, done=0, stage=lambda *names, note: stages.append((*names, note)))
    watch = dispatcher._watching(task, ["a", "b"], "full")
    assert task.total == 2 * len(GATES)
    watch([("reference", "compute", "token 3"), ("a", "start", ""), ("b", "BOS", "x")])
    assert task.done == 1
    assert stages[-1] == ("reference: compute", "a: start", "b: BOS", "token 3, x")
    watch([("a", "exact", "")])
    assert task.done == 3 + len(GATES) and stages[-1] == ("a: exact", "")


@pytest.mark.parametrize("refusal", [None, Gate("device", "FAIL", code="KP-FALSE-GPU", reason="no")])
@pytest.mark.parametrize("known", [True, False])
def test_the_serving_process_is_held_against_drivers_too(
    refusal: Gate | None, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[Any]()

    def judge(*what: Any) -> Any:
        given.append(what)
        return "verified", [], refusal

    monkeypatch.setattr(dispatcher, "judged", judge)
    row, info = replace(PASSED, device_step_ms=2.0, evidence=[]), SimpleNamespace(identified=known)
    found = Evidence((), ())
    code, reason = dispatcher._refuted(row, found, info, SimpleNamespace(n_bytes=5))  # type: ignore[arg-type]
    assert (code, reason) == (("KP-FALSE-GPU", "in the serving process: no") if refusal else ("KP-CHANGED", ""))
    assert given[0][:4] == (info, found, 5, 2e6 * 8) and len(row.evidence) == (not known)
