"""The per-op benchmark: what is chosen, that it is cold, that wrong outputs are found, and what a run tells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kparity import ops
from kparity.backends.numpy import NumpyBackend, NumpyBound
from kparity.bench import timing
from kparity.bench.ops import Request, line, rotation, run, session
from kparity.bench.ops.cases import plan, pool, short
from kparity.bench.ops.rotation import SMALLEST, Rotation, Unsupported, expected, shifted, turned
from kparity.bench.ops.run import BASELINES, Participant, ceilings, rows_of
from kparity.bench.ops.session import Group, Session
from kparity.device.adapter import Backend, Program
from kparity.device.registry import open_backend
from kparity.errors import WrongInput
from kparity.ops.spec import Case
from kparity.receipts.record import Row
from tests.conftest import needing

ROOT = Path(__file__).resolve().parent.parent
SMALL = ops.get("tgemv").case(M=1, N=24, K=256)
LARGE = ops.get("tgemv").case(M=1, N=640, K=2560)
ADD = ops.get("add").case(M=1, D=8)
PLAIN = {"backend": "gpu", "bytes": 10**9, "cold": True}


pytestmark = pytest.mark.alone


def copies_of(backend: Backend, case: Case, copies: int) -> Rotation:
    return Rotation(backend, case, copies * sum(arg.nbytes for arg in ops.get(case.op).args(case)), launches=1)


def side_of(group: Group, baseline: bool = False) -> Participant:
    """A session of this process."""
    side = Participant("here", lambda method, **arguments: getattr(group, method)(**arguments), baseline)
    side.opened()
    return side


def cpu() -> Participant:
    return side_of(Session("cpu", cold_mib=1))


def answering(answers: dict[str, Any], **more: Any) -> Participant:
    """A participant that answers as it is told."""
    return Participant("told", lambda method, **arguments: answers[method], **more)


# --- what is chosen ---


def test_an_expression_chooses_and_what_chooses_nothing_is_refused() -> None:
    groups = plan()
    assert groups[0] == (ops.get("add").case(M=1, D=1), "empty launch")
    cases = [case for case, _ in groups]
    assert len(set(cases)) == len(cases) and {tag for _, tag in groups[1:]} == {"step"}
    shapes = {(case["N"], case["K"]) for case in cases if case.op == "tgemv"}
    assert {(2560, 2560), (640, 2560), (6912, 2560), (2560, 6912)} <= shapes
    assert {"attention", "act_quant", "rmsnorm", "glu", "rope", "norm_quant"} <= {case.op for case in cases}
    large = plan("dense_gemv and large")
    assert [tag for _, tag in large] == ["empty launch", "large"] and large[1][0]["N"] == 128_256
    assert set(pool().values()) == {"step", "prefill", "large", "listed"}
    for text, words in (("tgemw", "no op case matches 'tgemw'"), ("and", "column 1")):
        with pytest.raises(WrongInput, match=words):
            plan(text)


def test_a_short_name_leaves_out_what_is_as_usual() -> None:
    assert short(SMALL) == "tgemv K=256 N=24"
    assert short(ops.get("tgemv").case(M=2, N=24, K=256, wscale="row")) == "tgemv K=256 M=2 N=24 wscale=row"


# --- copies, and the truth of copies ---


@pytest.mark.parametrize(
    ("op", "params"),
    [("tgemv", {"N": 40, "K": 256}), ("dense_gemv", {"N": 40, "K": 64}),
     ("attention", {"L": 24, "H": 4, "G": 2, "D": 16})],
)  # fmt: skip
def test_copies_of_the_weights_are_distinct_and_each_is_right(op: str, params: dict[str, int]) -> None:
    case = ops.get(op).case(M=1, **params)
    facts = expected(case)
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
    facts = expected(case)
    for one, other in zip(facts.inputs, shifted(case, facts.inputs, 3), strict=True):
        assert one is other
    assert copies_of(NumpyBackend(), case, 2).check() is None


def test_truth_in_pieces_is_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "PIECE", 16)
    case = ops.get("dense_gemv").case(M=1, N=50, K=64)
    facts = expected(case, seed=1)
    assert len(np.unique(facts.inputs[0], axis=0)) == 50, "rows that repeat are turned along K"
    whole = ops.get("dense_gemv").reference(case, facts.inputs)
    np.testing.assert_allclose(facts.truth[0], whole[0], rtol=1e-12)
    bound = ops.get("dense_gemv").bounds(case, facts.inputs, whole)[0]
    np.testing.assert_allclose(facts.bounds[0].limit, bound.limit, rtol=1e-12)


def test_a_head_larger_than_a_binding_is_timed_in_parts() -> None:
    backend = open_backend("cpu")
    case = ops.get("dense_gemv").case(M=1, N=50, K=64)
    backend.info = msgspec.structs.replace(backend.info, max_binding=16 * 64 * 2)
    timed = Rotation(backend, case, 0, launches=1)
    assert len(timed.programs[0].launches) == 4 and timed.check() is None
    backend.close()


# --- rotations ---


def test_a_cold_rotation_walks_through_more_than_was_asked_for_and_a_hot_one_stays() -> None:
    backend = open_backend("cpu")
    case = ops.get("tgemv").case(M=1, N=64, K=1024)
    cold = Rotation(backend, case, 1 << 20)
    copies = cold.row.copies
    assert copies * cold.nbytes >= 1 << 20 and len(cold.written) == copies
    walked = [launch.buffers[0].handle.ctypes.data for program in cold.programs for launch in program.launches]  # type: ignore[attr-defined]
    assert len(set(walked)) == copies, "every copy is in a program"
    assert all(len(program.launches) == cold.row.units for program in cold.programs)
    hot = Rotation(backend, case, 0)
    assert hot.row.copies == 1 and not hot.row.cold and len(hot.programs) == 1 and hot.row.units > 1
    assert cold.check() is None and hot.check() is None
    backend.close()


def test_a_slow_start_does_not_make_samples_of_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_start(program: Program) -> float:
        return 6e-3 + 1e-4 * len(program.launches)

    monkeypatch.setattr(Program, "run_timed", slow_start)
    assert Rotation(NumpyBackend(), SMALL, 0).row.units >= 10
    monkeypatch.setattr(Program, "run_timed", lambda program: 1.0 * len(program.launches))
    assert Rotation(NumpyBackend(), SMALL, 0).row.units == 1


def test_a_rotation_is_cold_only_beyond_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "cache_bytes", lambda info: 1 << 20)
    hot, cold, made = (Rotation(NumpyBackend(), SMALL, size, launches=1).row for size in (0, 1 << 21, 1 << 16))
    assert (hot.cold, cold.cold, made.cold) == (False, True, False)
    assert made.state == "rotated" and made.name.endswith(" rotated")
    work = ops.get("tgemv").work(SMALL)
    assert (hot.bytes, hot.units) == (work.bytes, 1)
    assert (hot.kernel, hot.clock) == ("tgemv_numpy_dp4a", "wall")


def test_launches_are_counted_in_the_samples_and_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WAKE_S", 0.0)
    timed = Rotation(NumpyBackend(), SMALL, 0, launches=3)
    row = timed.row
    assert (row.dispatches, row.replays, row.launches_per_replay) == (0, 0, 3)
    for _ in range(4):
        timed.sample()
    assert timed.check() is None and (row.dispatches, row.replays) == (12, 4)
    monkeypatch.setattr(timing, "WAKE_S", 1e-3)
    monkeypatch.setattr(timing, "RESTED_S", 0.0)
    timed.sample()
    assert row.replays >= 6 and row.dispatches == 3 * row.replays


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
    right = copies_of(NumpyBackend(), SMALL, 3)
    assert right.row.copies == 3 and right.check() is None
    assert "output wrong" in (copies_of(numpy_with(lie), SMALL, 3).check() or "")


def test_an_output_that_is_also_an_input_is_given_back_before_it_is_checked() -> None:
    case = ops.get("kv_store").case(M=1, L=4, D=2)
    timed = copies_of(NumpyBackend(), case, 2)
    assert timed.check() is None and timed.check() is None


# --- sessions and sides ---


class Failing(NumpyBackend):
    def build(self, op: Any, case: Case) -> Any:
        if op.name == "rmsnorm":
            raise RuntimeError("the compiler crashed")
        return super().build(op, case)

    def supports(self, op: Any, case: Case) -> str | None:
        return "no room" if op.name == "glu" else super().supports(op, case)


def opened(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> Participant:
    """A session of this backend."""
    monkeypatch.setattr(session, "open_backend", lambda *_, **__: backend)
    made = side_of(Session("numpy", cold_mib=1))
    monkeypatch.undo()
    return made


def test_rows_name_what_failed_and_what_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    table = [opened(monkeypatch, Failing()), cpu()]
    failed, right = rows_of(ops.get("rmsnorm").case(M=1, D=8), "step", table, 0.05)
    assert failed.errors == ["RuntimeError: the compiler crashed"] and not failed.verified and not failed.dispatches
    assert right.errors == [] and right.verified and right.unit_s and right.tag == "step", "the others go on"
    assert right.dispatches == right.replays * right.units > len(right.samples_s)
    glu = ops.get("glu").case(M=1, D=8, act="silu")
    (wrong,) = rows_of(SMALL, "step", [opened(monkeypatch, numpy_with(lie_one_off))], 0.05)
    assert "output wrong" in wrong.errors[0] and not wrong.verified and "ERROR" in line(wrong)
    unsupported, _ = rows_of(glu, "step", table, 0.05)
    assert unsupported.unsupported == "no room" and unsupported.errors == [] and not unsupported.unit_s
    assert "no room" in line(unsupported)
    tiny = msgspec.structs.replace(right, unit_s=7.118e-9, low_s=7e-9, high_s=7.34e-9, gb_per_s=0.00123)
    assert "0.00712 µs (0.007, 0.00734), 0.00123 GB/s" in line(tiny)
    with pytest.raises(Unsupported):
        Rotation(Failing(), glu, 0)


def test_large_cases_are_timed_cold_and_hot_and_small_ones_hot() -> None:
    made = Session("cpu", cold_mib=2)
    large = {"op": "tgemv", "params": dict(LARGE.params)}
    assert [row["copies"] > 1 for row, _ in made.build(**large)] == [True, False]
    assert sum(arg.nbytes for arg in ops.get("tgemv").args(SMALL)) < SMALLEST
    assert len(made.build("tgemv", dict(SMALL.params))) == 1
    assert made.sizes(1 << 20)[-1] == 0 and 0 not in made.sizes(1 << 40), "no cache holds a terabyte"
    made.cold_mib = 0
    assert len(made.build(**large)) == 1
    made.close()


def test_the_bandwidth_is_measured_in_the_turns_of_every_cold_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "cache_bytes", lambda info: 1 << 20)
    made = Session("cpu", cold_mib=2)
    side = side_of(made)
    ceilings([side], 0.05)
    side.bandwidth = 1.0
    described = made.build("tgemv", dict(LARGE.params))
    assert [(row["op"], flops > 0) for row, flops in described] == [("stream", False), ("tgemv", True), ("tgemv", True)]
    cold, hot = rows_of(LARGE, "step", [side], 0.1)
    assert (cold.state, hot.state) == ("cold", "hot")
    assert 0 < (cold.of_bandwidth or 0) < 1e3 and hot.of_bandwidth is None, "not that of the beginning"
    assert [row["op"] for row, _ in made.build("add", dict(ADD.params))] == ["add"]
    made.close()


CHECKED = {"wrong": None, "dispatches": 0, "replays": 0}


def test_the_ceiling_is_the_best_read_of_the_same_kind_of_device() -> None:
    def made(rate: float, baseline: bool) -> Participant:
        row = {"name": "copy", "op": "copy", **PLAIN}
        side = answering({"device": {"kind": "gpu", "peak": 0.0}, "ceiling": [[row, 0]], "sample": [1e9 / rate] * 2,
                          "check": CHECKED, "release": None}, baseline=baseline)  # fmt: skip
        side.opened()
        return side

    table = [made(1e11, False), made(2e11, True)]
    rows = ceilings(table, 0.01)
    assert [row.baseline for row in rows] == [False, True]
    assert [round(row.gb_per_s or 0) for row in rows] == [100, 200]
    assert [side.bandwidth for side in table] == pytest.approx([1e11, 2e11])
    assert [side.ceiling for side in table] == pytest.approx([2e11, 2e11]) and all(side.measured for side in table)


@pytest.mark.parametrize(("measured", "fault"), [(True, False), (False, True)])
def test_a_measured_ceiling_is_at_least_the_bandwidth_of_the_same_turns(measured: bool, fault: bool) -> None:
    table = [[{"name": name, "op": name, **PLAIN}, 0] for name in ("tgemv", "copy")]
    answers = {"build": table, "sample": [1e-2] * 2, "check": CHECKED, "release": None}
    (row,) = rows_of(ADD, "step", [answering(answers, ceiling=2e10, measured=measured)], 0.01)
    assert row.gb_per_s == pytest.approx(100) and bool(row.errors) == fault


def test_torch_stands_beside_a_gemv_and_a_wrong_product_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from kparity.bench.torch_baseline import TorchGemv, TorchSession, walks

    table = [cpu(), side_of(TorchSession("torch", cold_mib=0, threads=1), baseline=True)]
    ours, *theirs = rows_of(SMALL, "step", table, 0.2)
    assert [row.op for row in (ours, *theirs)] == ["tgemv", "mv_bf16", "mv_f32"]
    assert ours.verified and all(row.verified and row.baseline for row in theirs)
    for found, row in zip(ours.ratios, theirs, strict=True):
        assert found.baseline == row.name and found.low <= found.ratio <= found.high
        assert found.ratio == pytest.approx((row.unit_s or 0) / (ours.unit_s or 1))
    assert rows_of(ADD, "step", table, 0.05)[0].ratios == []
    product = TorchGemv(open_backend("torch"), 24, 256, "f32", 0)
    assert product.check() is None
    monkeypatch.setattr(product, "_launch", lambda: [y.fill_(1e6) for y in product.y])
    assert "output wrong" in (product.check() or "")
    sizes = ((1, 1 << 20), (4, 70 << 20), (146, 1 << 20), (1, 657 << 20), (1, 100 << 30))
    assert [walks(*each) for each in sizes] == [32, 8, 1, 12, 1], "enough launches, and no more memory than told"


# --- a run in processes ---


def test_a_run_has_rows_of_every_backend_and_names_the_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told: list[Row] = []
    result = run(Request(["numpy", "cpu", "cuda"], "add and D=1,", seconds=0.1, threads=1, cold_mib=1), told.append)
    assert told == result.rows and result.exit_code == 0
    assert list(result.absent) == ["cuda"] and result.absent["cuda"].code.startswith("KP-CUDA-")
    empty = {row.backend: row.unit_s for row in result.rows if row.tag == "empty launch"}
    assert set(empty) == {"numpy", "cpu"} and all(empty.values())
    streams = [row for row in result.rows if row.op == "stream"]
    assert [row.backend for row in streams] == ["numpy", "cpu"] and all(row.verified for row in streams)
    assert streams[1].device and "1 thread" in streams[1].device.detail
    assert run(Request(["cuda"], "add and D=1,")).exit_code == 3, "nothing ran"


def test_a_baseline_that_is_asked_for_and_missing_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASELINES, "torch", "kparity.bench.no_such_baseline:Session")
    told: list[object] = []
    request = Request(["numpy"], "add and D=1,", ["torch"], seconds=0.05, threads=1, cold_mib=1)
    result = run(request, told.append, lambda name, _why: told.append(name))
    assert told[0] == "baseline torch", "before anything is measured"
    assert result.exit_code == 3 and any(row.unit_s for row in result.rows)
    monkeypatch.setitem(BASELINES, "torch", "tests.bench_workers:Idle")  # it is there, and has nothing for an add
    result = run(request)
    assert result.exit_code == 3 and result.absent["baseline torch"].code == "KP-BENCH-BASELINE"


def test_a_worker_that_dies_costs_its_rows_and_not_the_run() -> None:
    def dies(method: str, **arguments: Any) -> Any:
        raise RuntimeError("crashed (SIGSEGV) in sample")

    gone, right = rows_of(ADD, "step", [Participant("gone", dies), cpu()], 0.05)
    assert "SIGSEGV" in gone.errors[0] and gone.backend == "gone" and (right.unit_s or 0) > 0 and right.errors == []


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
        made = Session("cuda")
    side = side_of(made)
    assert all(not row.errors for row in ceilings([side], 1.0))
    case = next(case for case, _ in plan(f"{op} and step") if case.op == op)
    row = rows_of(case, "step", [side], 1.0)[0]
    assert row.errors == [] and row.verified and row.cold and row.clock == "device"
    made.close()
