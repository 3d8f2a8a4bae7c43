"""The per-op benchmark: what is chosen, that it is cold, that wrong outputs are found, and what a run tells."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kparity import ops
from kparity.backends.numpy import NumpyBackend, NumpyBound
from kparity.bench import Sample, Series, timing
from kparity.bench.ops import Request, line, run, sides
from kparity.bench.ops.cases import case_of, plan, pool, short
from kparity.bench.ops.inputs import draw, facts_of, shifted, turned
from kparity.bench.ops.rotation import SMALLEST, Rotation, Unsupported
from kparity.bench.ops.session import Session
from kparity.device.adapter import Backend, Program
from kparity.device.registry import open_backend
from kparity.errors import UnknownName, WrongInput
from kparity.ops.spec import Case
from tests.conftest import needing

ROOT = Path(__file__).resolve().parent.parent
SMALL = ops.get("tgemv").case(M=1, N=24, K=256)


def rotation(backend: Backend, case: Case, copies: int) -> Rotation:
    nbytes = sum(arg.nbytes for arg in ops.get(case.op).args(case))
    return Rotation(backend, case, facts_of(case), copies * nbytes, launches=1)


# --- what is chosen ---


def test_a_plan_is_plain_and_makes_its_cases_again() -> None:
    groups = plan()
    assert groups[0] == {"op": "add", "params": {"D": 1, "M": 1}, "tag": "empty launch"}
    cases = [case_of(group) for group in groups]
    assert len(set(cases)) == len(cases) and {group["tag"] for group in groups[1:]} == {"step"}
    shapes = {(case["N"], case["K"]) for case in cases if case.op == "tgemv"}
    assert {(2560, 2560), (640, 2560), (6912, 2560), (2560, 6912)} <= shapes
    assert {"attention", "act_quant", "rmsnorm", "glu", "rope", "norm_quant"} <= {case.op for case in cases}


def test_an_expression_chooses_and_what_chooses_nothing_is_refused() -> None:
    large = plan("dense_gemv and large")
    assert [group["tag"] for group in large] == ["empty launch", "large"]
    assert large[1]["params"]["N"] == 128_256
    assert set(pool().values()) == {"step", "prefill", "large", "listed"}
    with pytest.raises(WrongInput, match="no op case matches 'tgemw'"):
        plan("tgemw")
    with pytest.raises(WrongInput, match="column 1"):
        plan("and")
    with pytest.raises(UnknownName, match="tgemv"):
        case_of({"op": "tgemw", "params": {}})


def test_a_short_name_leaves_out_what_is_as_usual() -> None:
    assert short(SMALL) == "tgemv K=256 N=24"
    assert short(ops.get("tgemv").case(M=2, N=24, K=256, wscale="row")) == "tgemv K=256 M=2 N=24 wscale=row"


# --- copies, and the truth of copies ---


COPIED = {
    "tgemv": {"N": 40, "K": 256},
    "dense_gemv": {"N": 40, "K": 64},
    "attention": {"L": 24, "H": 4, "G": 2, "D": 16},
}


@pytest.mark.parametrize("op", list(COPIED))
def test_copies_of_the_weights_are_distinct_and_each_is_right(op: str) -> None:
    case = ops.get(op).case(M=1, **COPIED[op])
    facts = facts_of(case)
    copies = [shifted(case, facts.inputs, at) for at in range(4)]
    assert len({copy[1 if op == "attention" else 0].tobytes() for copy in copies}) == 4
    for at, inputs in enumerate(copies):  # truth of the turned inputs is the turned truth
        truth = ops.get(op).reference(case, inputs)
        for found, want in zip(truth, facts.truth, strict=True):
            np.testing.assert_allclose(found, turned(case, want, at), rtol=1e-12)


@pytest.mark.parametrize(
    "case",
    [
        ops.get("tgemv").case(M=2, N=8, K=256, wscale="row"),
        ops.get("attention").case(M=3, L=24, H=4, G=2, D=16),
        ops.get("dense_gemv").case(M=1, N=40, K=64, row0=3, rows=10),
    ],
    ids=lambda case: case.op,
)
def test_what_cannot_be_turned_is_the_same_in_every_copy(case: Case) -> None:
    facts = facts_of(case)
    for one, other in zip(facts.inputs, shifted(case, facts.inputs, 3), strict=True):
        assert one is other
    assert rotation(NumpyBackend(), case, 2).check() is None


def test_truth_in_pieces_is_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    from kparity.bench.ops import inputs

    monkeypatch.setattr(inputs, "PIECE", 16)
    case = ops.get("dense_gemv").case(M=1, N=50, K=64)
    assert len(np.unique(draw(case)[0], axis=0)) == 50, "rows that repeat are turned along K"
    facts = facts_of(case, seed=1)
    whole = ops.get("dense_gemv").reference(case, facts.inputs)
    np.testing.assert_allclose(facts.truth[0], whole[0], rtol=1e-12)
    bound = ops.get("dense_gemv").bounds(case, facts.inputs, whole)[0]
    np.testing.assert_allclose(facts.bounds[0].limit, bound.limit, rtol=1e-12)


def test_a_head_larger_than_a_binding_is_timed_in_parts() -> None:
    backend = open_backend("cpu")
    case = ops.get("dense_gemv").case(M=1, N=50, K=64)
    backend.info = dataclasses.replace(backend.info, max_binding=16 * 64 * 2)
    timed = Rotation(backend, case, facts_of(case), 0, launches=1)
    assert len(timed.programs[0].launches) == 4 and timed.check() is None
    backend.close()


# --- rotations ---


def test_a_cold_rotation_walks_through_more_than_was_asked_for_and_a_hot_one_stays() -> None:
    backend = open_backend("cpu")
    case = ops.get("tgemv").case(M=1, N=64, K=1024)
    cold = Rotation(backend, case, facts_of(case), 1 << 20)
    assert cold.copies * cold.nbytes >= 1 << 20 and len(cold.written) == cold.copies
    walked = [launch.buffers[0].handle.ctypes.data for program in cold.programs for launch in program.launches]  # type: ignore[attr-defined]
    assert len(set(walked)) == cold.copies, "every copy is in a program"
    assert all(len(program.launches) == cold.per_sample for program in cold.programs)
    hot = Rotation(backend, case, facts_of(case), 0)
    assert hot.copies == 1 and not hot.cold and len(hot.programs) == 1 and hot.per_sample > 1
    assert cold.check() is None and hot.check() is None
    backend.close()


def test_a_slow_start_does_not_make_samples_of_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_start(program: Program) -> float:
        return 6e-3 + 1e-4 * len(program.launches)

    monkeypatch.setattr(Program, "run_timed", slow_start)
    assert Rotation(NumpyBackend(), SMALL, facts_of(SMALL), 0).per_sample >= 10
    monkeypatch.setattr(Program, "run_timed", lambda program: 1.0 * len(program.launches))
    assert Rotation(NumpyBackend(), SMALL, facts_of(SMALL), 0).per_sample == 1


def test_a_rotation_is_cold_only_beyond_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    from kparity.bench.ops import rotation as module

    monkeypatch.setattr(module, "cache_bytes", lambda backend: 1 << 20)
    facts = facts_of(SMALL)
    assert not Rotation(NumpyBackend(), SMALL, facts, 0, launches=1).series().cold
    assert Rotation(NumpyBackend(), SMALL, facts, 1 << 21, launches=1).series().cold
    made = Rotation(NumpyBackend(), SMALL, facts, 1 << 16, launches=1).series()
    assert made.cold is False and made.about["state"] == "rotated" and made.name.endswith(" rotated")


def test_launches_are_counted_in_the_samples_and_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WAKE_S", 0.0)
    timed = Rotation(NumpyBackend(), SMALL, facts_of(SMALL), 0, launches=3)
    assert timed.launched() == {"dispatches": 0, "replays": 0, "launches_per_replay": 3}
    for _ in range(4):
        timed.sample()
    assert timed.check() is None
    assert timed.launched() == {"dispatches": 12, "replays": 4, "launches_per_replay": 3}
    monkeypatch.setattr(timing, "WAKE_S", 1e-3)
    monkeypatch.setattr(timing, "RESTED_S", 0.0)
    timed.sample()
    found = timed.launched()
    assert found["replays"] >= 6 and found["dispatches"] == 3 * found["replays"]


def test_series_tell_bytes_and_operations_of_one_launch() -> None:
    found = rotation(NumpyBackend(), SMALL, 1).series()
    work = ops.get("tgemv").work(SMALL)
    assert (found.nbytes, found.flops, found.launches) == (work.bytes, work.flops, 1)
    assert found.about["kernel"] == "tgemv_numpy_dp4a" and found.about["clock"] == "wall"


# --- what is timed is verified ---


def numpy_with(lie: Any) -> NumpyBackend:
    """A numpy backend whose launches go through ``lie``."""

    class Liar(Program):
        def _run(self) -> None:
            for launch in self.launches:
                assert isinstance(launch, NumpyBound)
                lie(launch)

    class Lying(NumpyBackend):
        def record(self, launches: Any) -> Program:
            return Liar(self, launches)

    return Lying()


def lie_nothing(launch: NumpyBound) -> None:
    pass


def lie_first_copy_only(launch: NumpyBound) -> None:
    first = getattr(lie_first_copy_only, "first", None) or launch.buffers[0]
    lie_first_copy_only.first = first  # type: ignore[attr-defined]
    if launch.buffers[0] is first:
        launch()


def lie_one_off(launch: NumpyBound) -> None:
    launch()
    launch.buffers[-1].handle.reshape(-1)[-1] += 1


@pytest.mark.parametrize("lie", [lie_nothing, lie_first_copy_only, lie_one_off])
def test_wrong_output_is_found_in_what_was_timed(lie: Any) -> None:
    right = rotation(NumpyBackend(), SMALL, 3)
    assert right.copies == 3 and right.check() is None
    assert "output wrong" in (rotation(numpy_with(lie), SMALL, 3).check() or "")


def test_an_output_that_is_also_an_input_is_given_back_before_it_is_checked() -> None:
    case = ops.get("kv_store").case(M=1, L=4, D=2)
    timed = rotation(NumpyBackend(), case, 2)
    assert timed.check() is None and timed.check() is None


# --- sessions and sides ---


class Failing(NumpyBackend):
    def build(self, op: Any, case: Case) -> Any:
        if op.name == "rmsnorm":
            raise RuntimeError("the compiler crashed")
        return super().build(op, case)

    def supports(self, op: Any, case: Case) -> str | None:
        return "no room" if op.name == "glu" else super().supports(op, case)


def group_of(op: str, **params: Any) -> dict[str, Any]:
    return {"op": op, "params": dict(ops.get(op).case(**params).params), "tag": "step"}


def test_rows_name_what_failed_and_what_is_not_supported() -> None:
    table = [sides.Participant("numpy", sides.in_process(Session(Failing()))), *[_side("cpu")]]
    rows = sides.rows_of(group_of("rmsnorm", M=1, D=8), table, 0.05)
    assert rows[0]["errors"] == ["RuntimeError: the compiler crashed"] and not rows[0]["verified"]
    assert rows[1]["errors"] == [] and rows[1]["verified"] and rows[1]["us"] > 0, "the others go on"
    assert "dispatches" not in rows[0]
    assert rows[1]["dispatches"] == rows[1]["replays"] * rows[1]["launches_per_sample"] > len(rows[1]["samples_wall_s"])
    rows = sides.rows_of(group_of("glu", M=1, D=8, act="silu"), table, 0.05)
    assert rows[0]["unsupported"] == "no room" and rows[0]["errors"] == [] and "us" not in rows[0]
    assert "no room" in line(rows[0])
    with pytest.raises(Unsupported):
        Rotation(Failing(), case_of(group_of("glu", M=1, D=8, act="silu")), facts_of(SMALL), 0)


def _side(name: str, **options: Any) -> sides.Participant:
    return sides.Participant(name, sides.in_process(Session(name, cold_mib=1, **options)))


def test_large_cases_are_timed_cold_and_hot_and_small_ones_hot() -> None:
    session = Session("cpu", cold_mib=2)
    made = session.build(group_of("tgemv", M=1, N=640, K=2560))
    assert [each["about"]["copies"] > 1 for each in made] == [True, False]
    assert sum(arg.nbytes for arg in ops.get("tgemv").args(SMALL)) < SMALLEST
    assert len(session.build({"op": "tgemv", "params": dict(SMALL.params), "tag": ""})) == 1
    assert session._rotations(1 << 20)[-1] == 0 and 0 not in session._rotations(1 << 40), "no cache holds a terabyte"
    session.cold_mib = 0
    assert len(session.build(group_of("tgemv", M=1, N=640, K=2560))) == 1
    session.close()


def test_the_bandwidth_is_measured_in_the_turns_of_every_cold_case(monkeypatch: pytest.MonkeyPatch) -> None:
    from kparity.bench.ops import rotation as module

    monkeypatch.setattr(module, "cache_bytes", lambda backend: 1 << 20)
    session = Session("cpu", cold_mib=2)
    side = sides.Participant("cpu", sides.in_process(session))
    list(sides.ceilings([side], 0.05))
    side.bandwidth = 1.0
    group = group_of("tgemv", M=1, N=640, K=2560)
    assert [each["about"]["op"] for each in session.build(group)] == ["stream", "tgemv", "tgemv"]
    rows = sides.rows_of(group, [side], 0.1)
    assert [row["state"] for row in rows] == ["cold", "hot"]
    assert 0 < rows[0]["of_bandwidth"] < 1e3 and rows[1]["of_bandwidth"] is None, "not that of the beginning"
    assert [each["about"]["op"] for each in session.build(group_of("add", M=1, D=8))] == ["add"]
    session.close()


def test_a_wrong_kernel_is_an_error_in_its_row() -> None:
    table = [sides.Participant("numpy", sides.in_process(Session(numpy_with(lie_one_off))))]
    (row,) = sides.rows_of({"op": "tgemv", "params": dict(SMALL.params), "tag": "step"}, table, 0.05)
    assert "output wrong" in row["errors"][0] and not row["verified"] and "ERROR" in line(row)


def test_the_ceiling_is_the_best_read_of_the_same_kind_of_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(rate: float) -> sides.Rpc:
        device = {"info": {"kind": "gpu"}, "peak_bytes_per_s": 0.0}
        fields = {"name": "copy", "launches": 1, "nbytes": 10**9, "cold": True, "about": {}, "fault": "", "flops": 0}
        answers = {"device": device, "ceiling": [fields], "sample": [1e9 / rate] * 2, "check": None, "release": None}
        return lambda method, **arguments: answers[method]

    table = [sides.Participant("slow", made(1e11)), sides.Participant("fast", made(2e11), ["bf16"])]
    rows = list(sides.ceilings(table, 0.01))
    assert [row.get("baseline", False) for row in rows] == [False, True]
    assert [round(row["gb_per_s"]) for row in rows] == [100, 200]
    assert [side.bandwidth for side in table] == pytest.approx([1e11, 2e11])
    assert [side.ceiling for side in table] == pytest.approx([2e11, 2e11]) and all(side.measured for side in table)


@pytest.mark.parametrize(("measured", "fault"), [(True, False), (False, True)])
def test_a_measured_ceiling_is_at_least_the_bandwidth_of_the_same_turns(measured: bool, fault: bool) -> None:
    plain = {"launches": 1, "nbytes": 10**9, "cold": True, "fault": "", "flops": 0}
    table = [{"name": "tgemv", "about": {"op": "tgemv"}, **plain}, {"name": "copy", "about": {"op": "copy"}, **plain}]
    answers = {"build": table, "sample": [1e-2] * 2, "check": None, "release": None, "launched": {}}
    side = sides.Participant("cpu", lambda method, **arguments: answers[method], ceiling=2e10, measured=measured)
    (row,) = sides.rows_of(group_of("add", M=1, D=8), [side], 0.01)
    assert row["gb_per_s"] == pytest.approx(100) and bool(row["errors"]) == fault


def test_torch_stands_beside_a_gemv_and_the_ratio_has_an_interval() -> None:
    pytest.importorskip("torch")
    table = [
        _side("cpu"),
        sides.Participant("torch", sides.in_process(Session("torch", cold_mib=0, threads=1)), ["bf16", "f32"]),
    ]
    rows = sides.rows_of({"op": "tgemv", "params": dict(SMALL.params), "tag": "step"}, table, 0.2)
    assert [row["op"] for row in rows] == ["tgemv", "mv_bf16", "mv_f32"] and all(row["verified"] for row in rows)
    for found, theirs in zip(rows[0]["ratios"], rows[1:], strict=True):
        assert found["baseline"] == theirs["name"] and found["low"] <= found["ratio"] <= found["high"]
        assert found["ratio"] == pytest.approx(theirs["us"] / rows[0]["us"])
    assert "ratios" not in sides.rows_of(group_of("add", M=1, D=8), table, 0.05)[0]


def test_a_wrong_torch_product_is_found() -> None:
    pytest.importorskip("torch")
    from kparity.bench.torch_baseline import TorchGemv

    product = TorchGemv(open_backend("torch"), 24, 256, "f32", 0)
    assert product.check() is None
    product._run = lambda: [y.fill_(1e6) for y in product.y] and None  # type: ignore[method-assign]
    assert "output wrong" in (product.check() or "")


# --- a run in processes ---


def test_a_run_has_rows_of_every_backend_and_names_the_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told: list[dict[str, Any]] = []
    request = Request(["numpy", "cpu", "cuda"], "add and D=1,", seconds=0.1, threads=1, cold_mib=1)
    result = run(request, told.append)
    assert told == result.rows and result.exit_code == 0 and not result.failed
    assert list(result.devices) == ["numpy", "cpu"] and list(result.absent) == ["cuda"]
    assert result.absent["cuda"]["code"].startswith("KP-CUDA-")
    assert set(result.empty_launch_us) == {"numpy", "cpu"} and all(us > 0 for us in result.empty_launch_us.values())
    assert "1 thread" in result.devices["cpu"]["label"]
    streams = [row for row in result.rows if row["op"] == "stream"]
    assert len(streams) == 2 and all(row["verified"] for row in streams)


def test_nothing_run_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run(Request(["cuda"], "add and D=1,")).exit_code == 3


def test_a_worker_that_dies_costs_its_rows_and_not_the_run() -> None:
    def dies(method: str, **arguments: Any) -> Any:
        raise RuntimeError("crashed (SIGSEGV) in sample")

    table = [sides.Participant("gone", dies), _side("cpu")]
    rows = sides.rows_of(group_of("add", M=1, D=8), table, 0.05)
    assert "SIGSEGV" in rows[0]["errors"][0] and rows[0]["backend"] == "gone"
    assert rows[1]["errors"] == [] and rows[1]["us"] > 0


def test_series_of_a_session_are_asked_for_by_number() -> None:
    calls: list[Any] = []

    def answer(method: str, **arguments: Any) -> Any:
        calls.append((method, arguments))
        return [1.0, 2.0] if method == "sample" else None

    plain = {"launches": 1, "nbytes": 0, "cold": False, "about": {}, "fault": "", "flops": 0}
    made: list[Series] = sides.proxies(answer, [{"name": "a", **plain}, {"name": "b", **plain}])
    assert made[1].sample() == Sample(1.0, 2.0) and made[0].check() is None
    assert calls == [("sample", {"at": 1}), ("check", {"at": 0})]


@pytest.mark.parametrize("arguments", [["--small", "1"], ["--expression", "add and D=1,"]])
def test_once_runs_untimed_in_one_process(arguments: list[str]) -> None:
    command = [sys.executable, ROOT / "bench" / "once.py", "--backend", "cpu", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].endswith("cases on cpu: 0 wrong"), done.stderr
    assert not done.stdout.splitlines()[-1].startswith("0 cases")


@pytest.mark.gpu
@pytest.mark.parametrize("op", ["tgemv", "attention"])
def test_a_cold_kernel_on_the_device_is_right_and_not_impossible(op: str) -> None:
    with needing("cuda", "gpu"):
        session = Session("cuda")
    side = sides.Participant("cuda", sides.in_process(session))
    assert all(not row["errors"] for row in sides.ceilings([side], 1.0))
    group = next(group for group in plan(f"{op} and step") if group["op"] == op)
    row = sides.rows_of(group, [side], 1.0)[0]
    assert row["errors"] == [] and row["verified"] and row["cold"] and row["clock"] == "device"
    session.close()
