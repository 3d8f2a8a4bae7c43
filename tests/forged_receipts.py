"""Receipts that lie: each a change to a right one, with the code that must refuse it and the options that it takes.

``redigest`` says whether the forger computed the digest (and the subjects) anew.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median
from typing import Any

import numpy as np

from kparity.device import fingerprint
from kparity.receipts.statement import redigested
from tests.edits import Edit, at, both, change, drop, put
from tests.made_receipts import LAYERS, NOW, logits, ops_receipt, probe_receipt, receipt, subject


@dataclass(frozen=True)
class Forgery:
    """A lie: who tells it (``of``: the backends of the right receipt), what it changes, and what it must be told."""

    name: str
    code: str
    edit: Edit
    of: tuple[str, ...] = ("cuda", "cpu")
    ops: bool = False
    """Whether the right receipt is one of single ops, on the first of ``of``."""
    probe: bool = False
    """Whether it is one of a probe by the nonce ``n``."""
    redigest: bool = True
    renamed: bool = True
    """Whether the subjects follow the change."""
    demands: dict[str, Any] = field(default_factory=dict)

    def made(self) -> dict[str, Any]:
        """The forged statement."""
        probed = probe_receipt(*self.of, nonce="n") if self.probe else None
        statement = copy.deepcopy(probed or (ops_receipt(self.of[0]) if self.ops else receipt(*self.of)))
        self.edit(statement["predicate"])
        if self.renamed:
            with suppress(KeyError):  # the forger took away what subjects are made of
                statement["subject"] = subject(statement["predicate"])
        return redigested(statement) if self.redigest else statement


def resampled(samples: Callable[[list[float]], list[float]], run: int = 0, at: int = 1) -> Edit:
    """Other samples, with every figure computed from them as an honest writer would."""

    def change(predicate: dict[str, Any]) -> None:
        owner = predicate["runs"][run]
        each = owner["measurements"][at]
        each["samples_s"] = samples(each["samples_s"])
        _follow(each, owner["bandwidth"]["bytes_per_s"])

    return change


def _follow(each: dict[str, Any], bandwidth: float) -> None:
    from kparity.bench.timing import bootstrap

    seconds, nbytes = np.array(each["samples_s"]) / each["units"], each["bytes"]
    middle, low, high = bootstrap(seconds)
    each.update(unit_s=middle, low_s=low, high_s=high, floor_s=nbytes / bandwidth,
                of_bandwidth=nbytes / bandwidth / middle, gb_per_s=nbytes / middle * 1e-9)  # fmt: skip
    for name in each["ms_per_token"]:
        each["ms_per_token"][name] = float(np.percentile(seconds, int(name[1:]))) * 1e3


def twice_as_fast(samples: list[float]) -> list[float]:
    return [each / 2 for each in samples]


def smaller_model(predicate: dict[str, Any]) -> None:
    """Faster than memory, with a token of fewer bytes to explain it."""
    for each in predicate["runs"][0]["measurements"]:
        each["bytes"] /= 10
        each["samples_s"] = [second / 5 for second in each["samples_s"]]
        each["device_s"] = [second / 5 for second in each["device_s"]]
        _follow(each, predicate["runs"][0]["bandwidth"]["bytes_per_s"])
    for kernel in predicate["runs"][0]["kernels"]:
        kernel["device_ns"] = kernel["device_ns"] and kernel["device_ns"] / 5


def replayed(**times: int) -> Edit:
    """Other numbers of replays, with dispatches to fit."""

    def change(predicate: dict[str, Any]) -> None:
        run = predicate["runs"][0]
        replays = run["graph"]["replays"]
        replays.update(times)
        for kernel in run["kernels"]:
            kernel["dispatches"] = sum(replays[name] * each for name, each in kernel["launches"].items())

    return change


def faster_op(predicate: dict[str, Any]) -> None:
    from kparity.bench.timing import bootstrap

    row = predicate["ops"][1]
    for name in ("device_s", "samples_s"):
        row[name] = [each / 2 for each in row[name]]
    middle, low, high = bootstrap(np.array(row["device_s"]) / row["units"])
    row.update(unit_s=middle, low_s=low, high_s=high, gb_per_s=row["bytes"] / middle * 1e-9)


def each_kernel(edit: Edit) -> Edit:
    """The same edit of every kernel of the first run."""
    return lambda predicate: [edit(kernel) for kernel in predicate["runs"][0]["kernels"]]


def sure(predicate: dict[str, Any]) -> None:
    """The interval of somebody who is certain."""
    each = at(predicate, SPEED)
    each.update(low_s=each["unit_s"] * 0.99999, high_s=each["unit_s"] * 1.00001)


def copied(predicate: dict[str, Any]) -> None:
    """The samples of one measurement under the name of another."""
    for run in predicate["runs"]:
        run["measurements"].append({**copy.deepcopy(run["measurements"][1]), "name": "tg@512", "depth": 512})


def walled(row: int, wall: Callable[[list[float], list[float]], list[float]]) -> Edit:
    """Other times of the wall, from those of the device and the wall, around the samples of a row of single ops."""

    def edit(predicate: dict[str, Any]) -> None:
        each = predicate["ops"][row]
        each["samples_s"] = wall(each["device_s"], each["samples_s"])

    return edit


def again(predicate: dict[str, Any], samples: Callable[[list[float]], list[float]]) -> None:
    """The samples of one prompt for a step of another backend, with every figure to fit."""
    source, each = predicate["runs"][0]["measurements"][1], predicate["runs"][1]["measurements"][1]
    middle = median(each["samples_s"]) / median(source["samples_s"])
    each["samples_s"] = [second * middle for second in samples(source["samples_s"])]
    _follow(each, predicate["runs"][1]["bandwidth"]["bytes_per_s"])


def shallow(predicate: dict[str, Any]) -> None:
    """A model of half the layers, with kernels, dispatches and bytes of the whole one."""
    predicate["model"].update(layers=LAYERS // 2, bytes=440_000_000)


def fewer_launches(predicate: dict[str, Any]) -> None:
    """Every layer's attention once in two, in all programs, with dispatches to fit."""
    for run in predicate["runs"]:
        kernel, graph = run["kernels"][3], run["graph"]
        for name, launches in kernel["launches"].items():
            graph["launches"][name] -= launches // 2
            kernel["launches"][name] = launches - launches // 2
        kernel["dispatches"] = sum(graph["replays"][name] * each for name, each in kernel["launches"].items())


def renamed_kernel(old: str, new: str) -> Edit:
    """Another kernel of the same dialect in the place of one."""
    return lambda predicate: [
        kernel.update(id=kernel["id"].replace(old, new)) for run in predicate["runs"] for kernel in run["kernels"]
        if old in kernel["id"]
    ]  # fmt: skip


def read(nbytes: Callable[[float], float]) -> Edit:
    """Other bytes of a token, with throughput, floor and share to fit."""

    def edit(predicate: dict[str, Any]) -> None:
        for run in predicate["runs"]:
            for each in run["measurements"]:
                each["bytes"] = nbytes(each["bytes"])
                _follow(each, run["bandwidth"]["bytes_per_s"])

    return edit


def doubled(predicate: dict[str, Any]) -> None:
    gates = predicate["runs"][0]["parity"]["gates"]
    gates.append(dict(gates[0]))


def measured(name: str, value: float, run: int = 0) -> Edit:
    """Another value of a measure."""
    return lambda predicate: [
        gate.update(value=value) for gate in predicate["runs"][run]["parity"]["gates"] if gate["name"] == name
    ]


def told(**of: Any) -> Edit:
    """Other facts about the logits at one position, on every backend."""
    return lambda predicate: [run["logits"][1].update(of) for run in predicate["runs"]]


def commanded(line: str) -> Edit:
    return put("request.command", line.split())


COMMAND = "kparity bench --backends cuda,cpu --pp 128 --tg 0,8192"
SPEED = "runs.0.measurements.1"
GATE = "runs.0.parity.gates.0"
KERNEL = ("ops.1.kernel", "ops.1.kernel_sha256", "ops.1.dispatches", "ops.1.replays", "ops.1.launches_per_replay")
UNEXPLAINED = both(drop("runs.0"), put("fallback.0.status", "unavailable"), put("serving", "cpu"))
GPU = {"require_gpu_kernels": True}

FORGED = [
    # Edited after it was written.
    Forgery("a speed is edited", "RCPT-DIGEST", put(f"{SPEED}.unit_s", 1e-4), redigest=False),
    Forgery("the device is renamed", "RCPT-DIGEST", put("runs.0.device.device", "NVIDIA B200"), redigest=False),
    Forgery("the commit is another", "RCPT-DIGEST", put("harness.commit", "f" * 40), redigest=False),
    # The form.
    Forgery("no parity", "RCPT-SCHEMA", drop("runs.0.parity")),
    Forgery("no samples", "RCPT-SCHEMA", put(f"{SPEED}.samples_s", [])),
    Forgery("an unknown field", "RCPT-SCHEMA", put("runs.0.verified_by_us", True)),
    Forgery("a time of zero", "RCPT-SCHEMA", put(f"{SPEED}.samples_s.0", 0.0)),
    Forgery("a measurement that calls itself an op", "RCPT-SCHEMA", put(f"{SPEED}.op", "tgemv")),
    Forgery("an op without a name", "RCPT-SCHEMA", drop("ops.1.op"), ops=True),
    Forgery("a field of nobody in a device", "RCPT-SCHEMA", put("runs.0.device.trusted", True)),
    Forgery("a speed in a probe", "RCPT-SCHEMA", put("kind", "probe")),
    # What it is of.
    Forgery("another model", "RCPT-SUBJECT", put("model.sha256", "0" * 64), renamed=False),
    Forgery("a kernel more", "RCPT-SUBJECT", put("runs.0.kernels.0.id", "tgemv_cuda_faster"), renamed=False),
    Forgery("ends before it begins", "RCPT-TIME", put("ended", (NOW - timedelta(days=1)).isoformat())),
    Forgery("of tomorrow", "RCPT-TIME", put("ended", (NOW + timedelta(days=1)).isoformat())),
    Forgery("of no day", "RCPT-TIME", put("ended", "2026-02-30T00:00:00Z")),
    Forgery("shorter than its samples", "RCPT-DURATION", put("begun", (NOW - timedelta(seconds=1)).isoformat())),
    Forgery("clean with changes", "RCPT-COMMIT", put("harness.changed", ["kernels/tgemv/tgemv.cu"])),
    # Devices and kernels.
    Forgery("a software device as a GPU", "RCPT-SOFTWARE-GPU",
            change("runs.0.device", kind="gpu", uuid="10005:0000"), of=("wgpu",)),
    Forgery("a processor as a GPU", "RCPT-SOFTWARE-GPU", put("runs.0.device.device", "Intel(R) Xeon(R)")),
    Forgery("the CPU backend on a GPU", "RCPT-DEVICE", put("runs.1.device.kind", "gpu")),
    Forgery("no UUID", "RCPT-DEVICE", put("runs.0.device.uuid", "")),
    Forgery("a UUID of zeros", "RCPT-DEVICE", put("runs.0.device.uuid", "GPU-00000000-0000-0000-0000-000000000000")),
    Forgery("no driver", "RCPT-DEVICE", put("runs.0.device.driver", "")),
    Forgery("a GPU of nobody", "RCPT-DEVICE", both(
        put("runs.0.device.driver", ""), put("runs.0.device.uuid", "")), of=("hip",)),
    Forgery("the device of another backend", "RCPT-DEVICE", put("runs.0.device.backend", "cpu")),
    Forgery("another API", "RCPT-DEVICE", put("runs.0.device.api", "Vulkan")),
    Forgery("CPU kernels on a GPU", "RCPT-KERNEL-ID",
            each_kernel(lambda each: each.update(id=each["id"].replace("_cuda_", "_avx2_")))),
    Forgery("a CPU kernel with a GPU's word", "RCPT-KERNEL-ID", put("runs.0.kernels.0.id", "gemm_cpu_cuda")),
    Forgery("no kernels", "RCPT-NO-KERNELS", put("runs.0.kernels", [])),
    Forgery("too few dispatches", "RCPT-DISPATCHES", put("runs.0.kernels.0.dispatches", 120)),
    Forgery("fewer steps than samples", "RCPT-DISPATCHES", put("runs.0.graph.replays.step", 3)),
    Forgery("fewer heads than prompts", "RCPT-DISPATCHES", replayed(chunk=0, step=40)),
    Forgery("chunks for half of the tokens", "RCPT-DISPATCHES", replayed(headless_chunk=0, chunk=40)),
    Forgery("a head that was not left out", "RCPT-DISPATCHES", put("runs.0.graph.replays.headless_chunk", 0)),
    Forgery("no word of what ran without a head", "RCPT-SCHEMA", drop("runs.0.graph.replays.headless_chunk")),
    Forgery("more launches without a head", "RCPT-DISPATCHES", both(
        put("runs.0.kernels.0.launches.headless_step", 61), put("runs.0.graph.launches.headless_step", 303))),
    Forgery("launches without a head that do not add up", "RCPT-DISPATCHES",
            put("runs.0.graph.launches.headless_chunk", 1)),
    Forgery("launches that do not add up", "RCPT-DISPATCHES", put("runs.0.graph.launches.step", 500)),
    Forgery("nothing counted", "RCPT-DISPATCHES", put("runs.0.proof.dispatches_counted", False)),
    Forgery("a kernel without device time", "RCPT-DEVICE-TIME", put("runs.0.kernels.1.device_ns", 0)),
    Forgery("more device time than wall", "RCPT-DEVICE-TIME",
            each_kernel(lambda each: each.update(device_ns=each["device_ns"] and each["device_ns"] * 3))),
    Forgery("a device clock without samples", "RCPT-DEVICE-TIME", put(f"{SPEED}.device_s", [])),
    Forgery("a device clock ahead of the wall", "RCPT-DEVICE-TIME", put(f"{SPEED}.device_s", [1.0])),
    # The dispatch.
    Forgery("a fallback without a reason", "RCPT-FALLBACK", UNEXPLAINED),
    Forgery("serves what was not asked for", "RCPT-FALLBACK", put("serving", "hip")),
    Forgery("requested something else", "RCPT-FALLBACK", put("request.backends", ["hip", "cpu"])),
    Forgery("a backend left out", "RCPT-FALLBACK", drop("runs.1")),
    Forgery("fell back to the CPU", "RCPT-FALLBACK-ONLY", both(
        UNEXPLAINED, change("fallback.0", code="KP-CUDA-NODRIVER", reason="no CUDA driver")), demands=GPU),
    Forgery("no GPU", "RCPT-NO-GPU-KERNELS", lambda _: None, of=("cpu",), demands=GPU),
    Forgery("a GPU API on a software device", "RCPT-NOT-A-GPU", lambda _: None, of=("wgpu",), demands=GPU),
    Forgery("no device clock", "RCPT-NO-GPU-KERNELS", put("runs.0.proof.device_clock", False), demands=GPU),
    # Parity.
    Forgery("a failed gate that passes", "RCPT-GATE", put(f"{GATE}.value", 0.72)),
    Forgery("a softer limit", "RCPT-GATE", change(GATE, value=0.72, limit=0.7)),
    Forgery("a gate of nobody", "RCPT-GATE", put("runs.0.parity.gates.0.name", "looks_good")),
    Forgery("PASS with a failed gate", "RCPT-PARITY", change(GATE, value=0.72, passed=False)),
    Forgery("the failed gate left out", "RCPT-GATES-MISSING", drop("runs.0.parity.gates.1")),
    Forgery("no gates", "RCPT-GATES-MISSING", put("runs.0.parity.gates", [])),
    Forgery("a speed of a wrong backend", "RCPT-PARITY", both(
        change("runs.0.parity", verdict="FAIL", reason="cosine 0.72"), change(GATE, value=0.72, passed=False),
        change("fallback.0", status="rejected", code="KP-BOS-COSINE", reason="cosine 0.72"), put("serving", "cpu"))),
    Forgery("invalid without a reason", "RCPT-PARITY", put("runs.0.parity.verdict", "INVALID-CORRECTNESS")),
    Forgery("a contract of its own", "RCPT-CONTRACT", put("contract.id", "easy-v1")),
    Forgery("another major version of the contract", "RCPT-CONTRACT", put("contract.version", "0.9.0")),
    Forgery("the timed output unchecked", "RCPT-OUTPUT", put("runs.0.timed_output.checked", False)),
    Forgery("the timed output wrong", "RCPT-OUTPUT", put("runs.0.timed_output.cosine", 0.5)),
    Forgery("the timed output's limit softened", "RCPT-OUTPUT", put("runs.0.timed_output.limit", 0.4)),
    Forgery("other bits each time", "RCPT-DETERMINISM", put("runs.0.determinism.identical", False)),
    Forgery("nothing repeated", "RCPT-DETERMINISM", put("runs.0.determinism.repeats", 1)),
    Forgery(
        "parity skipped", "RCPT-PARITY-REQUIRED",
        put("runs.0.parity", {"verdict": "INVALID-CORRECTNESS", "gates": [], "reason": "--no-parity"}),
        demands={"require_parity": True},
    ),
    # Figures.
    Forgery("nothing ran", "RCPT-EMPTY", both(
        put("runs", []), put("baselines", []), put("serving", None),
        put("fallback.0", {"backend": "cuda", "status": "unavailable", "code": "KP-X", "reason": "none"}),
    ), of=("cuda",)),
    Forgery("nothing measured", "RCPT-EMPTY", put("runs.0.measurements", []), of=("cuda",)),
    Forgery("a measurement with errors", "RCPT-ERRORS", put(f"{SPEED}.errors", ["faster than the floor"])),
    Forgery("a run with errors", "RCPT-ERRORS", put("runs.0.errors", ["the worker died"])),
    Forgery("faster than memory", "RCPT-FLOOR", resampled(twice_as_fast, run=1)),
    Forgery("faster than memory, less to read", "RCPT-BANDWIDTH", smaller_model),
    Forgery("a cache beyond any", "RCPT-BANDWIDTH", both(
        resampled(twice_as_fast), put("runs.0.bandwidth.cache_bytes", 1 << 40))),
    Forgery("a bandwidth of its own", "RCPT-BANDWIDTH", put("runs.0.bandwidth.bytes_per_s", 8e12)),
    Forgery("the mean of another day", "RCPT-RECOMPUTED", put(f"{SPEED}.unit_s", 1 / 6000.0)),
    Forgery("faster percentiles", "RCPT-RECOMPUTED", put(f"{SPEED}.ms_per_token.p99", 1e-6)),
    Forgery("more throughput", "RCPT-RECOMPUTED", put(f"{SPEED}.gb_per_s", 4000.0)),
    Forgery("a name of another measurement", "RCPT-RECOMPUTED", put(f"{SPEED}.name", "tg@4096")),
    Forgery("a better ratio", "RCPT-RECOMPUTED", change("baselines.0.ratios.0", ratio=4.0, low=3.9, high=4.1)),
    Forgery("a point for an interval", "RCPT-INTERVAL", sure),
    Forgery("an interval upside down", "RCPT-INTERVAL", put(f"{SPEED}.low_s", 1e9)),
    Forgery("always the same time", "RCPT-SAMPLES", resampled(lambda samples: [median(samples)] * 40)),
    Forgery("two times in turn", "RCPT-SAMPLES", resampled(lambda samples: samples[:2] * 20)),
    Forgery("one measurement under two names", "RCPT-REPLAYED", copied),
    # The model and its graph.
    Forgery("a model of one layer and 2 MB", "RCPT-MODEL-SIZE", change("model", layers=1, bytes=2_000_000)),
    Forgery("a file of half its tensors", "RCPT-MODEL-SIZE", put("model.bytes", 350_000_000)),
    Forgery("a file of ten times its tensors", "RCPT-MODEL-SIZE", put("model.bytes", 7_000_000_000)),
    Forgery("a vocabulary that the file cannot hold", "RCPT-MODEL-SIZE", put("model.vocab", 128_256)),
    Forgery("weights of no ternary type", "RCPT-MODEL-SIZE", put("model.type", "Q4_0")),
    Forgery("an architecture of nobody", "RCPT-MODEL-SIZE", put("model.arch", "llama")),
    Forgery("half of the layers", "RCPT-GRAPH", shallow),
    Forgery("attention in every other layer", "RCPT-GRAPH", fewer_launches),
    Forgery("another activation's kernel", "RCPT-GRAPH", renamed_kernel("relu2_clamp", "silu")),
    Forgery("a cache of another type", "RCPT-GRAPH", put("request.options.kv", "f32")),
    Forgery("another quantisation of activations", "RCPT-GRAPH", put("request.options.act", "block256")),
    Forgery("more bytes for more throughput", "RCPT-BANDWIDTH", read(lambda nbytes: nbytes * 1.3)),
    Forgery("kernels of no version", "RCPT-KERNEL-TEXT",
            lambda predicate: put("harness.kernels_sha256", fingerprint.kernels())(predicate)),
    Forgery("an op of no version", "RCPT-KERNEL-TEXT",
            lambda predicate: put("harness.kernels_sha256", fingerprint.kernels())(predicate), ops=True),
    Forgery("a probe without one of the graph's kernels", "RCPT-GRAPH",
            lambda predicate: [run["kernels"].pop(8) for run in predicate["runs"]], probe=True),
    Forgery("a probe with a kernel beside the graph", "RCPT-GRAPH", renamed_kernel("rmsnorm", "glu"), probe=True),
    # Ranges.
    Forgery("a cosine above 1", "RCPT-RANGE", measured("bos_cosine", 1.5)),
    Forgery("a cosine of 1e308", "RCPT-RANGE", measured("turns_cosine", 1e308)),
    Forgery("fewer mismatches than none", "RCPT-RANGE", measured("exact_mismatches", -3.0)),
    Forgery("half a mismatch less", "RCPT-RANGE", measured("kernels_wrong", -0.5)),
    Forgery("less noise than none", "RCPT-RANGE", measured("positions_noise", -0.1)),
    Forgery("a timed cosine above 1", "RCPT-RANGE", put("runs.0.timed_output.cosine", 1.01)),
    Forgery("a gate twice", "RCPT-GATE", doubled),
    Forgery("a measure of another gate", "RCPT-GATE", put(f"{GATE}.gate", "kernels")),
    Forgery("a gate that the depth has not", "RCPT-GATE", put("request.options.depth", "bos"), probe=True),
    # The request.
    Forgery("a command for other backends", "RCPT-REQUEST", commanded("kparity bench --backends hip,cpu")),
    Forgery("a command for one backend", "RCPT-REQUEST", commanded("kparity bench --require=cpu")),
    Forgery("a command of another kind", "RCPT-REQUEST", commanded("kparity probe --backends cuda,cpu")),
    Forgery("a command with another seed", "RCPT-REQUEST", commanded(f"{COMMAND} --seed 9")),
    Forgery("a command with another nonce", "RCPT-REQUEST", commanded(f"{COMMAND} --nonce other")),
    Forgery("a required GPU that is none", "RCPT-REQUEST", put("request.options.require_gpu", True), of=("wgpu",)),
    Forgery("judged, and asked not to be", "RCPT-REQUEST", put("request.options.no_parity", True)),
    Forgery("a cache of two types", "RCPT-REQUEST", put("runs.0.engine.kv", "f32")),
    Forgery("fewer positions than asked for", "RCPT-REQUEST", put("request.options.positions", 200)),
    Forgery("another instruction set than asked for", "RCPT-REQUEST", put("request.options.isa", "amx")),
    Forgery("the slow measurement left out", "RCPT-REQUEST", put("request.options.depths", [0, 512, 8192])),
    Forgery("a measurement that nobody asked for", "RCPT-REQUEST", put("request.options.depths", [8192])),
    # The machine.
    Forgery("kernels of another instruction set", "RCPT-DEVICE",
            put("runs.1.device.detail", "AVX-512 VNNI, 2 threads")),
    Forgery("x86 kernels on ARM", "RCPT-DEVICE", put("host.machine", "aarch64")),
    Forgery("a processor that the host has not", "RCPT-DEVICE", put("host.cpu", "Another processor")),
    Forgery("CUDA without a GPU", "RCPT-DEVICE", put("runs.0.device.kind", "software")),
    Forgery("begun in 1970", "RCPT-TIME", put("begun", "1970-01-01T00:00:00Z")),
    Forgery("a name with a line break", "RCPT-NAME", put("runs.0.device.device", "NVIDIA\nr.json: PASS")),
    Forgery("a name that turns around", "RCPT-NAME", put("runs.0.device.device", "NVIDIA \u202e001H")),
    Forgery("a Cyrillic letter in a device", "RCPT-NAME", put("runs.0.device.device", "NVIDI\u0410 H100")),
    Forgery("a Greek name of a device", "RCPT-NAME", put("runs.0.device.driver", "\u039d\u0399\u039a")),
    Forgery("wide letters in a model", "RCPT-NAME", put("model.name", "\uff42itnet.gguf")),
    Forgery("two scripts in a model's name", "RCPT-NAME", put("model.name", "b\u0456tnet.gguf")),
    # Samples of somebody else.
    Forgery("samples of another, scaled", "RCPT-REPLAYED", lambda made: again(made, lambda samples: samples)),
    Forgery("samples of another, in another order", "RCPT-REPLAYED", lambda made: again(made, sorted)),
    Forgery("samples of another, an ulp up", "RCPT-REPLAYED",
            lambda made: again(made, lambda samples: [float(np.nextafter(each, 1)) for each in samples])),
    # Logits.
    Forgery("no logits", "RCPT-LOGITS", put("runs.0.logits", [])),
    Forgery("logits at easier positions", "RCPT-LOGITS", put("runs.0.logits", logits((0, 1), 1, "cuda"))),
    Forgery("logits of easier entries", "RCPT-LOGITS", told(entries=list(range(16)))),
    Forgery("a token that was not drawn", "RCPT-LOGITS", told(token=3)),
    Forgery("a largest logit beyond the vocabulary", "RCPT-LOGITS", told(argmax=32000)),
    Forgery("the logits of another nonce", "RCPT-LOGITS", put("nonce", "m"), probe=True),
    Forgery("logits that the other backend has not", "RCPT-LOGITS",
            lambda predicate: predicate["runs"][0]["logits"][0].update(values=[1.0 + each for each in range(16)])),
    Forgery("drawn from another nonce", "RCPT-NONCE", lambda _: None, probe=True, demands={"nonce": "m"}),
    # Single ops.
    Forgery("an op with a model", "RCPT-SCHEMA",
            lambda predicate: predicate.update(model=receipt("cuda")["predicate"]["model"]), ops=True),
    Forgery("an op that nobody verified", "RCPT-OUTPUT", put("ops.1.verified", False), ops=True),
    Forgery("an op with errors", "RCPT-ERRORS", put("ops.1.errors", ["output wrong"]), ops=True),
    Forgery("an op faster than memory", "RCPT-FLOOR", faster_op, ops=True),
    Forgery("an op with a better median", "RCPT-RECOMPUTED", put("ops.1.unit_s", 5e-7), ops=True),
    Forgery("an op with a point for an interval", "RCPT-INTERVAL", put("ops.1.low_s", 1e-9), ops=True),
    Forgery("a short op ahead of the wall", "RCPT-DEVICE-TIME",
            walled(2, lambda device, _: [each / 1.5 for each in device]), ops=True),
    Forgery("an op ahead of the wall in one sample", "RCPT-DEVICE-TIME",
            walled(1, lambda device, wall: [*wall[:3], device[3] / 2, *wall[4:]]), ops=True),
    Forgery("an op with more times of the wall's clock", "RCPT-DEVICE-TIME",
            walled(1, lambda _, wall: [*wall, wall[0] * 1.07]), ops=True),
    Forgery("an op that was not measured", "RCPT-EMPTY", drop("ops.1.device_s"), ops=True),
    Forgery("an op of a backend that was not there", "RCPT-FALLBACK", put("ops.1.backend", "hip"), ops=True),
    Forgery("an op on a software GPU", "RCPT-SOFTWARE-GPU", put("ops.1.device.device", "llvmpipe"), ops=True),
    Forgery("an op without a kernel", "RCPT-NO-KERNELS", drop(*KERNEL), ops=True),
    Forgery("an op that was not counted", "RCPT-NO-KERNELS", drop(*KERNEL[2:]), ops=True),
    Forgery("an op that was never launched", "RCPT-NO-KERNELS", put("ops.1.dispatches", 0), ops=True),
    Forgery("an op with a count and no kernel", "RCPT-SCHEMA", drop("ops.1.kernel"), ops=True),
    Forgery("an op of a kernel without its text", "RCPT-SCHEMA", drop("ops.1.kernel_sha256"), ops=True),
    Forgery("an op by a CPU kernel", "RCPT-KERNEL-ID", put("ops.1.kernel", "tgemv_avx2_dp4a"), ops=True),
    Forgery("an op by another op's kernel", "RCPT-KERNEL-ID", put("ops.1.kernel", "rope_cuda_neox"), ops=True),
    Forgery("one kernel of two texts", "RCPT-KERNEL-ID", put("ops.1.kernel_sha256", "0" * 64), ops=True),
    Forgery("an op of an unnamed text", "RCPT-SUBJECT", both(
        put("ops.1.kernel_sha256", "0" * 64), put("ops.2.kernel_sha256", "0" * 64)), ops=True, renamed=False),
    Forgery("fewer dispatches of an op", "RCPT-DISPATCHES", put("ops.1.dispatches", 4), ops=True),
    Forgery("fewer replays than samples of an op", "RCPT-DISPATCHES", both(
        put("ops.1.replays", 5), put("ops.1.dispatches", 20)), ops=True),
    Forgery("an op timed for more launches", "RCPT-DISPATCHES", both(
        put("ops.1.launches_per_replay", 1), put("ops.1.dispatches", 42)), ops=True),
    Forgery("a copy on a GPU and nothing else", "RCPT-NO-GPU-KERNELS", drop("ops.2", "ops.1"), ops=True, demands=GPU),
    Forgery("an op by the wall's clock", "RCPT-NO-GPU-KERNELS", both(
        put("ops.1.clock", "wall"), put("ops.2.clock", "wall")), ops=True, demands=GPU),
    Forgery("torch's product for a kernel", "RCPT-NO-GPU-KERNELS", both(
        drop("ops.2", *KERNEL), put("ops.1.baseline", True)), ops=True, demands=GPU),
    Forgery("an op on a software device", "RCPT-NOT-A-GPU", lambda _: None, ("wgpu",), ops=True, demands=GPU),
    Forgery("an op on a CPU", "RCPT-NO-GPU-KERNELS", lambda _: None, ("cpu",), ops=True, demands=GPU),
]  # fmt: skip
