"""Rules of launches, clocks, samples and devices alone: what each takes and refuses at its limits."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import numpy as np
import pytest

from kparity import contracts
from kparity.device.adapter import Device
from kparity.device.codes import own
from kparity.receipts.record import Row
from kparity.receipts.rules import device, dispatches, samples
from tests.edits import Edit, both, change, drop, more, put
from tests.made_receipts import DEVICES, STEP, predicate_of, record, refusals

LIMITS = contracts.load(contracts.RECEIPT)

# --- dispatches and clocks ---


@pytest.mark.parametrize(("changes", "refused"), [
    ({"step": 40, "chunk": 40, "headless_chunk": 40}, []),
    ({"step": 39, "chunk": 41, "headless_chunk": 40}, ["step"]),
    ({"step": 40, "chunk": 39, "headless_chunk": 41}, ["chunk"]),
    ({"step": 40, "chunk": 40, "headless_chunk": 39}, ["headless_chunk"]),
    ({"step": 40, "chunk": 40, "headless_chunk": 39, "headless_step": 64}, []),
    ({"step": 40, "chunk": 40, "headless_chunk": 39, "headless_step": 63}, ["headless_chunk"]),
    ({"step": 80, "chunk": 0, "headless_chunk": 80}, []),
])  # fmt: skip
def test_replays_cover_the_samples(changes: dict[str, int], refused: list[str]) -> None:
    run = record(change("runs.0.graph.replays", **changes)).runs[0]
    assert run.graph is not None  # 40 samples of a step, and 40 of a prompt of two chunks: 5,160 tokens
    found = dispatches._covered(run.graph, run.measurements, "/x")
    assert [each.where for each in found] == [f"/x/{name}" for name in refused]


@pytest.mark.parametrize(("edit", "refused"), [
    (lambda _: None, []),
    (more("runs.0.kernels.2.dispatches", 1), ["kernels/2/dispatches"]),
    (more("runs.0.kernels.2.dispatches", -1), ["kernels/2/dispatches"]),
    (more("runs.0.graph.launches.step", 1), ["graph/launches/step"]),
    (more("runs.0.graph.launches.chunk", -1), ["graph/launches/chunk"]),
    (more("runs.0.graph.launches.headless_step", 1), ["graph/launches/headless_step"]),
    (both(more("runs.0.kernels.0.launches.headless_chunk", 1), more("runs.0.graph.launches.headless_chunk", 1),
          more("runs.0.kernels.0.dispatches", 60)), ["kernels/0/launches/headless_chunk"]),
    (both(more("runs.0.kernels.0.launches.headless_step", 1), more("runs.0.graph.launches.headless_step", 1)),
     ["kernels/0/launches/headless_step"]),
    (put("runs.0.proof.dispatches_counted", False), ["proof/dispatches_counted"]),
    (both(put("runs.0.measurements", []), put("runs.0.proof.dispatches_counted", False)), []),
])  # fmt: skip
def test_launches_and_replays_add_up(edit: Edit, refused: list[str]) -> None:
    assert refusals(dispatches.counts, edit) == [f"runs/0/{name}" for name in refused]


@pytest.mark.parametrize(("changes", "refused"), [
    ({}, []), ({"dispatches": 169}, ["dispatches"]), ({"dispatches": 167}, ["dispatches"]),
    ({"dispatches": 0}, ["dispatches"]),
    ({"replays": 40, "dispatches": 160}, []), ({"replays": 39, "dispatches": 156}, ["replays"]),
    ({"launches_per_replay": 8, "dispatches": 336}, []),
    ({"launches_per_replay": 6, "dispatches": 252}, ["launches_per_replay"]),
    ({"dispatches": 0, "baseline": True}, []), ({"dispatches": 0, "errors": ["x"]}, []),
    ({"dispatches": 0, "op": "copy"}, []),
])  # fmt: skip
def test_the_kernel_of_an_op_was_launched(changes: dict[str, Any], refused: list[str]) -> None:
    assert predicate_of("ops")["ops"][1]["dispatches"] == 168
    assert refusals(dispatches.counts, change("ops.1", **changes), "ops") == [f"ops/1/{name}" for name in refused]


@pytest.mark.parametrize(("repeats", "identical", "refused"), [
    (2, True, False), (1, True, True), (460, True, False), (461, True, True), (2, False, True),
])  # fmt: skip
def test_a_run_was_repeated(repeats: int, identical: bool, refused: bool) -> None:
    edit = change("runs.0.determinism", repeats=repeats, identical=identical)
    assert refusals(dispatches.repeated, edit, "bench", LIMITS) == (["runs/0/determinism"] if refused else [])
    failed = both(edit, put("runs.0.parity.verdict", "FAIL"))
    assert refusals(dispatches.repeated, failed, "bench", LIMITS) == []
    assert refusals(dispatches.repeated, both(edit, put("runs.0.graph", None)), "bench", LIMITS) == [
        "runs/0/determinism"
    ]


def clocked(seconds: float, wall: float = 1e-3) -> Edit:
    """The first run's decode: samples by the wall, the device's seconds of a step, in its first kernel alone."""

    def edit(predicate: dict[str, Any]) -> None:
        run = predicate["runs"][0]
        run["measurements"] = [{**run["measurements"][1], "samples_s": [wall] * 40, "device_s": [wall] * 3}]
        for kernel in run["kernels"]:
            kernel["device_ns"] = 1e-9 if kernel["device_ns"] else None
        run["kernels"][0]["device_ns"] = seconds * 1e9

    return edit


@pytest.mark.parametrize(("seconds", "refused"), [(5.9e-3, []), (6.1e-3, ["runs/0/kernels"])])
def test_the_longest_step_is_that_of_a_slow_tenth(seconds: float, refused: list[str]) -> None:
    slow = both(clocked(seconds), put("runs.0.measurements.0.samples_s", [1e-3] * 30 + [4e-3] * 9 + [9.0]))
    assert refusals(dispatches.device_time, slow, "bench", LIMITS) == refused


@pytest.mark.parametrize(("edit", "refused"), [
    (clocked(1.49e-3), []), (clocked(1.51e-3), ["kernels"]), (clocked(0.0), ["kernels/0/device_ns"]),
    (both(clocked(1e-3), put("runs.0.measurements.0.device_s", [1.26e-3, 1.24e-3])), []),
    (both(clocked(1e-3), put("runs.0.measurements.0.device_s", [1.26e-3, 1.27e-3])), ["measurements/0/device_s"]),
    (both(clocked(1e-3), put("runs.0.measurements.0.device_s", [])), ["measurements/0/device_s"]),
    (both(clocked(9.0), put("runs.0.proof.device_clock", False)), []),
    (clocked(1e-8, 1.001e-7 * STEP), []), (clocked(1e-8, 0.999e-7 * STEP), ["step_ns"]),
    (both(clocked(1e-8, 1e-9 * STEP), put("runs.0.device.kind", "software")), []),
])  # fmt: skip
def test_a_step_by_the_devices_clock(edit: Edit, refused: list[str]) -> None:
    assert refusals(dispatches.device_time, edit, "bench", LIMITS) == [f"runs/0/{name}" for name in refused]


@pytest.mark.parametrize(("edit", "refused"), [
    (lambda _: None, []), (put("runs.0.step_ns", None), True), (put("runs.1.step_ns", 9), True),
    (both(put("runs.1.step_ns", 9), put("runs.1.proof.device_clock", True)), True),
    (both(put("runs.0.step_ns", None), put("runs.0.proof.device_clock", False)), []),
    (put("runs.0.step_ns", 1299), True), (put("runs.0.step_ns", 1301), []),
])  # fmt: skip
def test_a_step_of_a_probe(edit: Edit, refused: Any) -> None:
    found = refusals(dispatches.device_time, edit, "probe", LIMITS)
    assert bool(found) is bool(refused) and all(each.endswith("step_ns") for each in found)


@pytest.mark.parametrize(("device_s", "wall", "early"), [
    ([1.01], [1.0], 0), ([1.010001], [1.0], 0), ([1.010003], [1.0], 1), ([1.1, 0.5, float("inf")], [1.0] * 3, 2),
])  # fmt: skip
def test_a_devices_clock_is_not_ahead(device_s: list[float], wall: list[float], early: int) -> None:
    assert samples.ahead(device_s, wall, LIMITS) == early


def test_clocks_of_an_op() -> None:
    def found(device_s: list[float], wall: list[float]) -> int:
        return len([*dispatches._clocks(Row(name="x", op="add", device_s=device_s, samples_s=wall), LIMITS, "/x")])

    assert found([1e-6] * 3, [1e-6] * 3) == 0 and found([1e-6] * 3, [1e-6] * 2) == 2
    assert found([1.24e-6], [1e-6]) == 0 and found([1.26e-6], [1e-6]) == 1, "in the sum, however short"
    assert found([1.0, 1.02], [1.0, 1.0]) == 1


# --- samples ---


@pytest.mark.parametrize(("half", "said"), [(0.0199, ""), (0.0201, "±2.0 % after 7 samples")])
def test_a_wide_interval_is_marked(half: float, said: str) -> None:
    assert samples.wide(2.0, 2 - 2 * half, 2 + 2 * half, 7) == said
    assert samples.wide(4.0, 3.0, 4.2, 7) == "±15.0 % after 7 samples"


@pytest.mark.parametrize(("given", "said"), [
    ([1.0, 1.0, 1.0, 1.0], ""), ([1.0] * 5, "5 samples within"), ([1.0, 1.0, 1.0, 1.0, 1 + 2e-6], "" ),
    ([1.0, 1.0, 1.0, 1.0, 1 + 0.9e-6], "within"), ([1.0, 2.0] * 5, ""),
    ([1.0, 2.0, *[1.0] * 9], "11 samples, 2 different"),
    ([float(1 + at) for at in range(13)] + [1.0] * 200, ""),
    ([float(1 + at) for at in range(12)] + [1.0] * 52, "64 samples, 12"),
])  # fmt: skip
def test_samples_of_a_clock_that_counts_coarsely(given: list[float], said: str) -> None:
    found = [each.why for each in samples.regular("/x", given, LIMITS)]
    assert len(found) == bool(said) and said in "".join(found)


def test_samples_are_the_same_scaled_or_in_another_order() -> None:
    own_ = [float(each) for each in np.random.default_rng(1).uniform(1, 2, 9)]
    seen = samples.Seen(LIMITS)
    assert seen.of(own_[:4], "a") == "a" and seen.of(own_[:4], "b") == "b", "too few to tell"
    assert seen.of(own_, "c") == "c" and seen.of([3 * each for each in reversed(own_)], "d") == "c"
    assert seen.of([each * (1 + 1e-6 * at) for at, each in enumerate(own_)], "e") == "e"
    assert seen.of([float(np.nextafter(each, 9)) for each in own_], "f") == "c" and seen.of([*own_, 1.5], "g") == "g"


# --- devices ---


def of(name: str, **changes: Any) -> list[str]:
    given = {"backend": name, "library": "made", **DEVICES[name], **changes}
    found = device.contradictions(name, msgspec.convert(given, Device), "")
    return [each.where.removeprefix("/") for each in found]


@pytest.mark.parametrize(("name", "changes", "refused"), [
    ("cuda", {}, []), ("cpu", {}, []), ("wgpu", {}, []), ("hip", {}, []),
    ("cuda", {"backend": "hip"}, ["backend"]), ("cuda", {"api": "HIP", "device": "card"}, ["api"]),
    ("cuda", {"subgroup": 33}, ["subgroup"]), ("cuda", {"subgroup": 64}, []), ("cuda", {"subgroup": 1}, []),
    ("cuda", {"kind": "cpu"}, ["kind"]), ("hip", {"kind": "software"}, ["kind"]),
    ("cpu", {"kind": "gpu", "uuid": "x"}, ["kind"]),
    ("cuda", {"device": "  "}, ["device"]), ("cuda", {"device": "AMD Radeon"}, ["device"]),
    ("hip", {"device": "RTX 4090"}, ["device"]),
    ("cuda", {"uuid": "GPU-1"}, ["uuid"]),
    ("cuda", {"uuid": "GPU-" + "-".join("0" * n for n in (8, 4, 4, 4, 12))}, ["uuid"]),
    ("cuda", {"uuid": "pci 0000:01:00.0"}, []), ("cuda", {"uuid": "pci 000:01:00.0"}, ["uuid"]),
    ("cuda", {"driver": ""}, ["driver"]), ("cuda", {"driver": "latest"}, ["driver"]),
    ("hip", {"driver": ""}, []), ("hip", {"driver": "", "uuid": ""}, ["driver"]), ("hip", {"uuid": ""}, []),
    ("hip", {"driver": "none"}, ["driver"]), ("cuda", {"device": "llvmpipe"}, ["device"]),
])  # fmt: skip
def test_what_a_device_says_of_itself(name: str, changes: dict[str, Any], refused: list[str]) -> None:
    assert of(name, **changes) == refused


UNNAMED = change("host", cpu="", system="Linux-6", machine="aarch64")


def of_dialect(name: str) -> Edit:
    """Native kernels of another instruction set."""
    return lambda made: [each.update(id=each["id"].replace("avx2", name)) for each in made["runs"][1]["kernels"]]


@pytest.mark.parametrize(("edit", "refused"), [
    (lambda _: None, 0), (put("host.cpu", "another"), 1), (put("runs.1.device.detail", "AVX2, 8 cores"), 0),
    (put("runs.1.device.detail", "NEON"), 1), (put("host.machine", "aarch64"), 1), (put("host.machine", "ARM64"), 1),
    (both(put("host.cpu", ""), put("host.system", "Linux-6")), 1),
    (both(put("host.cpu", ""), put("host.system", "Darwin")), 0),
    (both(put("host.cpu", ""), put("host.system", "Linux-6"), put("runs.1.device.device", "x86_64")), 0),
    (both(put("host.cpu", ""), put("host.system", "Linux-6"), put("host.machine", "riscv64")), 0),
    (both(put("runs.1.device.api", "other"), put("host.cpu", "another")), 0),
    (of_dialect("scalar"), 1),
    (of_dialect("neon"), 2),
    (both(put("runs.1.device.detail", "scalar"), put("host.machine", "aarch64"), of_dialect("scalar")), 0),
    (both(put("runs.1.device.detail", "NEON"), put("host.machine", "aarch64"), of_dialect("neon")), 0),
    (both(UNNAMED, change("runs.1.device", device="aarch64", detail="NEON"),
          of_dialect("neon")), 0),
    (both(UNNAMED, change("runs.1.device", device="Graviton", detail="NEON"),
          of_dialect("neon")), 0),
])  # fmt: skip
def test_native_kernels_ran_on_the_hosts_processor(edit: Edit, refused: int) -> None:
    assert len(refusals(device.processor, edit)) == refused


@pytest.mark.parametrize(("status", "code", "reason", "refused"), [
    ("unavailable", "KP-CUDA-NODRIVER", "none", ""), ("unavailable", None, "none", "reason"),
    ("unavailable", "KP-CUDA-NODRIVER", None, "reason"),
    ("unavailable", None, None, "reason"), ("accepted", "KP-BOS-COSINE", "x", "reason"),
    ("unavailable", "KP-LAZY", "x", "code"),
    ("unavailable", "KP-BOS-COSINE", "x", "status"), ("unavailable", "KP-UNSUPPORTED", "x", ""),
    ("rejected", "KP-BOS-COSINE", "x", ""),
])  # fmt: skip
def test_a_fallback_has_its_reason(status: str, code: str | None, reason: str | None, refused: str) -> None:
    def edit(predicate: dict[str, Any]) -> None:
        predicate["request"]["backends"].append("hip")
        predicate["fallback"].append({"backend": "hip", "status": status, "code": code, "reason": reason})

    assert "KP-CUDA-NODRIVER" in own()
    assert refusals(device.fallback, edit) == ([f"fallback/2/{refused}"] if refused else [])


@pytest.mark.parametrize(("edit", "kind", "refused"), [
    (put("request.backends", ["cpu", "cuda"]), "bench", 1),
    (put("request.backends", ["cuda", "cpu", "hip"]), "bench", 1),
    (put("request.backends", ["cuda", "cpu", "hip"]), "probe", 1),
    (both(drop("fallback.1", "runs.1"), put("request.backends", ["cuda", "hip"])), "probe", 0),
    (both(drop("fallback.1", "runs.1"), put("request.backends", ["cuda", "hip"])), "bench", 1),
    (both(drop("fallback.1", "runs.1"), put("request.backends", ["hip", "cuda"])), "probe", 1),
])  # fmt: skip
def test_backends_are_tried_in_the_order_that_was_asked_for(edit: Edit, kind: str, refused: int) -> None:
    assert refusals(device.fallback, edit, kind) == ["fallback"] * refused


REJECTED = change("fallback.1", status="rejected", code="KP-BOS-COSINE", reason="x")


@pytest.mark.parametrize(("edit", "kind", "refused"), [
    (lambda _: None, "bench", []), (put("serving", "cpu"), "bench", ["serving"]),
    (put("serving", None), "bench", ["serving"]),
    (drop("runs.1"), "bench", ["runs"]), (both(REJECTED, drop("runs.1")), "bench", []), (REJECTED, "bench", []),
    (change("fallback.1", status="unavailable"), "bench", ["runs"]),
    (lambda made: made["runs"].append(made["runs"][1]), "bench", ["runs"]),
    (put("ops.1.backend", "hip"), "ops", ["ops/1/backend"]),
    (both(put("ops.1.backend", "hip"), put("ops.1.baseline", True)), "ops", []),
])  # fmt: skip
def test_the_first_accepted_backend_serves(edit: Edit, kind: str, refused: list[str]) -> None:
    assert refusals(device.served, edit, kind) == refused


@pytest.mark.parametrize(("proof", "trust", "asked", "refused"), [
    ("verified", False, None, False), ("not verified", True, True, False), ("not verified", True, False, True),
    ("not verified", True, 1, True), ("not verified", False, True, True), ("refuted", True, True, True),
    ("", True, True, True),
])  # fmt: skip
def test_drivers_confirm_a_gpu(proof: str, trust: bool, asked: object, refused: bool) -> None:
    edit = both(put("runs.0.proof.device", proof), put("request.options.trust_claims", asked))
    assert refusals(device.gpu_verified, edit, "bench", trust) == (["runs/0/proof/device"] if refused else [])
    assert refusals(device.gpu_verified, both(edit, put("runs.0.parity.verdict", "FAIL")), "bench", trust) == []


@pytest.mark.parametrize("changes", [
    {"device": None}, {"backend": "cpu"}, {"dispatches": 0}, {"device_s": []}, {"clock": "wall"}, {"verified": False},
    {"kernel": "tgemv_avx2_dp4a"},
])  # fmt: skip
def test_an_op_shows_a_gpu_by_all_of_its_row(changes: dict[str, Any]) -> None:
    row = record(kind="ops").ops[1]
    assert device.op_shows_gpu(row) and not device.op_shows_gpu(msgspec.structs.replace(row, **changes))
    assert row.device is not None
    processor = msgspec.structs.replace(row, device=msgspec.structs.replace(row.device, kind="cpu"))
    assert not device.op_shows_gpu(processor)


@pytest.mark.parametrize("name", ["A device", "Z device"])
def test_a_uuid_is_of_one_device(name: str) -> None:
    both_ = lambda made: made["runs"].append(copy.deepcopy(made["runs"][0]))  # noqa: E731
    assert refusals(device.devices, both_) == []
    renamed = both(both_, put("runs.2.device.device", name))
    assert refusals(device.devices, renamed) == ["runs/2/device/uuid"]
    assert refusals(device.devices, both(renamed, put("runs.2.device.uuid", "pci 0000:09:00.0"))) == []
