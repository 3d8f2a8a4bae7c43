"""Right receipts, made without a device: for the tests only, and they say so in the device's name and the command."""

from __future__ import annotations

import copy
import hashlib
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from functools import cache
from statistics import median
from typing import Any

import msgspec
import numpy as np

from kparity import contracts
from kparity.bench.timing import bootstrap
from kparity.numerics import statistics
from kparity.receipts import statement
from kparity.receipts.document import PREDICATE, STATEMENT
from kparity.receipts.record import Predicate
from tests.edits import Edit

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=timezone.utc)
PROBE = contracts.load(contracts.PROBE)
NO_MEASURE = {
    "graph_roundings", "noise_least", "decode_noise_least", "trusted_filled", "trusted_spread", "soak_differences",
    "soak_compared", "mutation_full", "mutation_probe", "device_busy", "device_share", "device_memory",
}  # fmt: skip
"""Thresholds of the contract that no gate of a probe measures."""
MEASURES = tuple(name for name in PROBE.document["thresholds"] if name not in NO_MEASURE)
"""What a full probe measures, by the contract and not by the gates: a measure that these lose is missed here."""
GOOD = {name: PROBE.threshold(name).value if PROBE.threshold(name).sign == "≥" else 0.0 for name in MEASURES} | {
    "bos_cosine": 0.99999997, "positions_cosine": 0.99987, "positions_noise": 0.107, "positions_factor": 2.3e-8,
    "positions_norm": 0.0108, "positions_min": 72.0, "prefill_cosine": 0.99996, "turns_cosine": 0.99998,
    "exact_scaled_ulp": 0.86, "depth_cosine": 0.99977,
}  # fmt: skip
"""Measured numbers of a right backend."""
LAYERS = 30
MODEL = {
    "name": "made.gguf", "sha256": hashlib.sha256(b"a model made for the tests").hexdigest(), "bytes": 705_000_000,
    "arch": "bitnet-b1.58", "layers": LAYERS, "width": 2560, "ffn": 6912, "heads": 20, "kv_heads": 5, "head_dim": 128,
    "vocab": 32000, "context": 4096, "type": "TQ2_0", "embedding": "F16", "head": None, "seed": 7,
}  # fmt: skip
KV = 2 * LAYERS * 5 * 128 * 2
"""Bytes of a position of the cache."""
WEIGHTS = (
    LAYERS * (2 * 2560 * 2560 + 2 * 640 * 2560 + 3 * 6912 * 2560) // 4  # two bits each
    + 4 * (LAYERS * (3 * 2560 + 6912) + 2560)  # norms
    + 2 * 32000 * 2560  # the head
)
BYTES, PROMPT = float(WEIGHTS + 2 * 2560 + KV), float(WEIGHTS // 128 + 2 * 2560 + KV)
"""Of a token of decode at depth 0, and of a prompt of 128."""
DEVICES: dict[str, dict[str, Any]] = {
    "cpu": {"device": "Made processor", "kind": "cpu", "api": "native", "driver": "", "uuid": "", "detail": "AVX2"},
    "wgpu": {
        "device": "llvmpipe (LLVM 15.0.6, 256 bits)", "kind": "software", "api": "Vulkan",
        "driver": "llvmpipe Mesa 22.3.6", "uuid": "pci:10005:0000",
    },
    "cuda": {
        "device": "NVIDIA device made for the tests", "kind": "gpu", "api": "CUDA", "driver": "580.65.06",
        "uuid": "GPU-6f1c2b1e-40a8-4d6b-9f0e-3a5b1c7d9e2f", "subgroup": 32,
    },
    "hip": {
        "device": "AMD device made for the tests", "kind": "gpu", "api": "HIP", "driver": "6.12.12",
        "uuid": "pci 0000:03:00.0",
    },
}  # fmt: skip
DIALECT = {"cpu": "avx2", "wgpu": "wgsl", "cuda": "cuda", "hip": "hip"}
BANDWIDTH = {"cpu": 2.1e10, "wgpu": 1.1e10, "cuda": 3.9e12, "hip": 1.2e12}
SHARE = {"cpu": 0.7, "wgpu": 0.01, "cuda": 0.6, "hip": 0.5}
KERNELS = (
    ("tgemv", "dp4a", 2 * LAYERS, 0),
    ("tgemv", "dp4a_wrow", 2 * LAYERS, 0),
    ("rope_store", "neox_f16", LAYERS, 0),
    ("attention", "f16", LAYERS, 0),
    ("norm_quant", "none_token", LAYERS + 1, 0),
    ("norm_quant", "add_token", 2 * LAYERS - 1, 0),
    ("norm_quant", "relu2_clamp_token", LAYERS, 0),
    ("embed", "f16", 1, 0),
    ("add", "generic", 1, 0),
    ("rmsnorm", "generic", 1, 1),
    ("dense_gemv", "f16", 1, 1),
    ("argmax", "generic", 1, 1),
    ("embed", "f32", 0, 1),
)
"""Op, variant, launches of a step, and those of them (of the last: of a chunk) that are the head's."""
STEP = sum(launches for _, _, launches, _ in KERNELS)
REPLAYED = {"step": 400, "chunk": 60, "headless_step": 0, "headless_chunk": 60}
"""Steps, and prompts of two chunks each."""


@cache
def _common() -> dict[str, Any]:
    """Of this machine, looked up once."""
    return dict(msgspec.to_builtins(statement.common()))


def build(predicate: dict[str, Any]) -> dict[str, Any]:
    """The statement of a predicate, in which what is the same for every receipt is filled in."""
    common = {**copy.deepcopy(_common()), "id": str(uuid.uuid4())}
    made = {"kernels_sha256": hashlib.sha256(b"another version").hexdigest()}
    harness = {**common["harness"], **made, **predicate.get("harness", {})}
    host = {**common["host"], "cpu": "Made processor", "machine": "x86_64"}
    whole = {"nonce": "", **common, "seeds": {}, "baselines": [], **predicate, "harness": harness, "host": host}
    return statement.redigested({
        "_type": STATEMENT, "predicateType": PREDICATE, "predicate": whole, "subject": subject(whole),
    })  # fmt: skip


def subject(predicate: dict[str, Any]) -> list[dict[str, Any]]:
    """The model and every kernel once; raises KeyError where they are not told."""
    kernels = {kernel["id"]: kernel["sha256"] for run in predicate["runs"] for kernel in run["kernels"]}
    kernels |= {row["kernel"]: row["kernel_sha256"] for row in predicate.get("ops", []) if row.get("kernel")}
    model = predicate["model"]
    pairs = [*([(model["name"], model["sha256"])] if model else []), *sorted(kernels.items())]
    if not pairs:
        pairs = [(f"kparity {predicate['harness']['version']}", predicate["harness"]["kernels_sha256"])]
    return [{"name": name, "digest": {"sha256": value}} for name, value in pairs]


def drawn(seed: str, middle: float, count: int = 40) -> list[float]:
    """Seconds around ``middle``, skewed to the right as those of a scheduler are."""
    rng = np.random.default_rng(list(hashlib.sha256(seed.encode()).digest()))
    return [float(each) for each in middle * (1 + 0.01 * rng.gamma(2.0, 1.0, count))]


def measurement(
    backend: str, name: str, seconds: float, nbytes: float | None, device: bool, salt: str
) -> dict[str, Any]:
    """A row with every figure computed from its samples."""
    decode = name.startswith("tg@")
    tokens = 1 if decode else int(name[2:])
    samples = drawn(f"{salt} {backend} {name}", seconds)
    middle, low, high = bootstrap(samples)
    return {
        "name": name, "phase": "decode" if decode else "prefill", "units": tokens,
        "depth": int(name[3:]) if decode else 0, "samples_s": samples,
        "device_s": drawn(f"{salt} {backend} {name} device", seconds * 0.97, 12) if device else [],
        "unit_s": middle / tokens, "low_s": low / tokens, "high_s": high / tokens,
        "ms_per_token": {f"p{at}": float(np.percentile(samples, at)) / tokens * 1e3 for at in (10, 50, 90, 99)},
        **({"bytes": nbytes, "gb_per_s": nbytes * tokens / middle * 1e-9} if nbytes else {}), "errors": [],
    }  # fmt: skip


def parity() -> dict[str, Any]:
    """PASS with every gate of the full probe."""
    gates = [
        {"gate": name.partition("_")[0].replace("bos", "BOS"), "name": name, "value": value,
         "limit": PROBE.threshold(name).value, "passed": True}
        for name, value in GOOD.items()
    ]  # fmt: skip
    return {"verdict": "PASS", "gates": gates, "reason": None, "proved": 4095}


def number(*words: object, below: int) -> int:
    """What docs/receipts.md says that a nonce draws."""
    text = "\n".join(map(str, ("kparity-challenge-v1", *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % below


def logits(positions: Sequence[int], seed: int, salt: str, nonce: str = "") -> list[dict[str, Any]]:
    """Drawn logits of a model that any backend computes to a thousandth."""
    found = []
    for at in positions:
        entries = [number(nonce, f"entries {at}", seed, each, below=32000) for each in range(16)]
        true = np.random.default_rng(at).normal(0, 3, 16)
        noise = np.random.default_rng(list(salt.encode())).normal(1, 1e-3, 16)
        found.append({
            "position": at, "token": number(nonce, "tokens", seed, at - 1, below=32000) if at else 1, "argmax": 5,
            "sha256": hashlib.sha256(f"{salt} {at}".encode()).hexdigest(), "entries": entries,
            "values": [float(each) for each in np.float32(true * noise)],
        })  # fmt: skip
    return found


def run(backend: str, salt: str = "") -> dict[str, Any]:
    """What a right backend gives: prefill and decode, in the replays of ``REPLAYED``."""
    rate, clocked = BANDWIDTH[backend], backend != "cpu"
    step = BYTES / rate / SHARE[backend]
    passes = drawn(f"{salt} {backend} bandwidth", 1e9 / rate, 15)
    kernels = []
    for op, variant, launches, head in KERNELS:
        step_head = head if launches else 0
        chunks = launches or head
        name = f"{op}_{DIALECT[backend]}_{variant}"
        kernels.append({
            "id": name, "sha256": hashlib.sha256(name.encode()).hexdigest(),
            "dispatches": 400 * launches + 60 * chunks + 60 * (chunks - head),
            "device_ns": step * 0.9e9 * launches / STEP if clocked and launches else None,
            "launches": {"step": launches, "chunk": chunks, "headless_step": launches - step_head,
                         "headless_chunk": chunks - head},
        })  # fmt: skip
    rate = 1e9 / median(passes)
    made = {
        "backend": backend, "device": {"backend": backend, "library": "made for the tests", **DEVICES[backend]},
        "proof": {"device_clock": clocked, "dispatches_counted": True, "evidence": [],
                  "device": "verified" if DEVICES[backend]["kind"] == "gpu" else ""},
        "parity": parity(),
        "timed_output": {"checked": True, "what": "logits", "cosine": 0.99991, "limit": 0.99, "passed": True},
        "determinism": {"repeats": 3, "identical": True}, "engine": {"act": "token", "kv": "f16"}, "kernels": kernels,
        "graph": {"chunk": 64, "replays": dict(REPLAYED), "launches": {
            "step": STEP, "chunk": STEP + 1, "headless_step": STEP - 3, "headless_chunk": STEP - 3}},
        "bandwidth": {"what": "streaming read" if backend == "cpu" else "device copy", "bytes": 1_000_000_000,
                      "bytes_per_s": rate, "samples_s": passes, "cache_bytes": 33_554_432},
        "measurements": [measurement(backend, "pp128", step * 6, PROMPT, clocked, salt),
                         measurement(backend, "tg@0", step, BYTES, clocked, salt)],
        "skipped": [{"name": "tg@8192", "reason": "the context is 4096"}], "errors": [],
        "energy": {"source": None, "reason": "no counter"}, "clocks": {"before": {}, "after": {}},
        "logits": logits((7, 127), 1, backend),
    }  # fmt: skip
    for each in made["measurements"]:
        each["floor_s"] = each["bytes"] / rate
        each["of_bandwidth"] = each["floor_s"] / each["unit_s"]
    return made


def receipt(*backends: str, requested: str = "", salt: str = "", rejected: tuple[str, ...] = ()) -> dict[str, Any]:
    """A right receipt of a benchmark: a run for each of ``backends``; the others of ``requested`` (comma separated, by
    default the same) were not there, those of ``rejected`` were wrong.
    """
    asked = requested.split(",") if requested else list(backends)
    fates: dict[str, tuple[str, str | None, str | None]] = {
        **{name: ("unavailable", f"KP-{name.upper()}-NODRIVER", "no driver") for name in asked},
        **dict.fromkeys(rejected, ("rejected", "KP-BOS-COSINE", "cosine 0.72 (< 0.99) at position 0/64")),
        **dict.fromkeys(backends, ("accepted", None, None)),
    }
    fallback = [dict(zip(("backend", "status", "code", "reason"), (name, *fates[name]), strict=True)) for name in asked]
    predicate = {
        "kind": "bench", "begun": (NOW - timedelta(hours=1)).isoformat(), "ended": NOW.isoformat(),
        "harness": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False, "changed": []},
        "request": {"command": ["made for the tests"], "backends": asked, "options": {
            "depth": "full", "prompts": [128], "depths": [0, 8192], "act": "token", "kv": "f16", "seed": 1, "index": 0,
            "isa": None, "no_parity": False, "require_gpu": False, "baselines": ["llama.cpp"] * ("cpu" in backends),
            "ops_expression": None}},
        "model": dict(MODEL), "contract": {"id": PROBE.id, "version": PROBE.version},
        "seeds": {"model": 7, "tokens": 1},
        "serving": next((each["backend"] for each in fallback if each["status"] == "accepted"), None),
        "fallback": fallback, "runs": [run(name, salt) for name in backends],
        "baselines": [],
    }  # fmt: skip
    if "cpu" in backends:
        predicate["baselines"] = [baseline(predicate["runs"], salt)]
    return build(predicate)


UNCHECKED = {"verdict": "INVALID-CORRECTNESS", "gates": [], "reason": "--no-parity"}


def edited(edit: Edit, *backends: str, **options: Any) -> dict[str, Any]:
    """A receipt with an edit of its predicate, and the digest that fits it."""
    made = receipt(*backends, **options)
    edit(made["predicate"])
    return statement.redigested(made)


def ops_receipt(backend: str) -> dict[str, Any]:
    """A right receipt of single ops on one backend: the memory's bandwidth, and one op, cold and hot."""
    made = receipt(backend)["predicate"]
    device = made["runs"][0]["device"]
    clock = "device" if backend == "cuda" else "wall"
    rows = []
    moved = 4096 * 4096 // 4 + 4096 + 4 * 4096  # weights of two bits, activations, sums
    for op, cold, nbytes, share in (
        ("copy", True, 1 << 30, 1.0),
        ("tgemv", True, moved, 0.8),
        ("tgemv", False, moved, 3.0),
    ):
        wall = drawn(f"{backend} {op} {cold}", 4 * nbytes / BANDWIDTH[backend] / share)
        seconds = [each * 0.98 for each in wall]
        middle, low, high = bootstrap(np.array(seconds) / 4)
        name = f"{op}_{DIALECT[backend]}_dp4a"
        kernel = {
            "kernel": name, "kernel_sha256": hashlib.sha256(name.encode()).hexdigest(),
            "replays": len(wall) + 2, "launches_per_replay": 4, "dispatches": 4 * (len(wall) + 2),
            "case": "tgemv[K=4096,M=1,N=4096,ascale=token,out=f32,wscale=tensor]", "state": "cold" if cold else "hot",
            "gflop_per_s": 2 * 4096 * 4096 / middle * 1e-9,
        }  # fmt: skip
        rows.append({
            **(kernel if op == "tgemv" else {}),
            "name": f"{backend} {op} {'cold' if cold else 'hot'}", "backend": backend, "device": dict(device), "op": op,
            "clock": clock, "units": 4, "bytes": nbytes, "cold": cold, "errors": [], "verified": True,
            "unit_s": middle, "low_s": low, "high_s": high, "gb_per_s": nbytes / middle * 1e-9,
            "device_s": seconds, "samples_s": wall,
        })  # fmt: skip
    made["request"]["options"].update(ops_expression="tgemv", baselines=[])
    keep = ("kind", "begun", "ended", "harness", "request", "contract", "seeds", "fallback")
    return build({**{name: made[name] for name in keep}, "model": None, "serving": None, "runs": [], "ops": rows})


def probe_receipt(*backends: str, nonce: str = "", depth: str = "full") -> dict[str, Any]:
    """A right receipt of a probe, of the same backends."""
    made = receipt(*backends)["predicate"]
    count = 72 if depth == "full" else 1
    at = sorted({number(nonce, "positions", 20240229, each, below=count) for each in range(8)})
    for each in made["runs"]:
        each.update(dict.fromkeys(("graph", "bandwidth", "timed_output", "determinism", "clocks", "energy")))
        each.update(measurements=[], skipped=[], step_ns=9_000_000 if each["backend"] != "cpu" else None)
        each["logits"] = logits(at, 20240229, each["backend"], nonce)
        if depth == "bos":
            each["parity"]["gates"] = [gate for gate in each["parity"]["gates"] if gate["gate"] == "BOS"]
            each["parity"]["proved"] = 0
            each["kernels"] = each["kernels"][:-1]
        for kernel in each["kernels"]:
            kernel.update(launches=None, device_ns=None, dispatches=max(kernel["dispatches"], 1))
    options = {"depth": depth, "positions": 72, "act": "token", "kv": "f16", "require_gpu": False, "index": 0,
               "context": 0}  # fmt: skip
    made["request"].update(options=options)
    return build({**made, "kind": "probe", "baselines": [], "nonce": nonce, "seeds": {"tokens": 20240229}})


def probed(backend: str, other: str, why: str = "") -> dict[str, Any]:
    """A right receipt of a probe of two backends: the first serves, and the other does too, or was rejected: why."""
    if not why:
        return probe_receipt(backend, other)
    made = probe_receipt(backend)["predicate"]
    made["request"]["backends"].append(other)
    made["fallback"].append({"backend": other, "status": "rejected", "code": "KP-BOS-COSINE", "reason": why})
    return build(made)


def baseline(runs: list[dict[str, Any]], salt: str) -> dict[str, Any]:
    """llama.cpp beside the CPU's decode, at half its speed, and beside that of every other backend."""
    steps = {run["backend"]: each for run in runs for each in run["measurements"] if each["name"] == "tg@0"}
    theirs = measurement("cpu", "tg@0", 2 * steps["cpu"]["unit_s"], None, False, f"{salt} llama.cpp")
    ratios = []
    for name, each in steps.items():
        middle, low, high = statistics.ratio(theirs["samples_s"], each["samples_s"])
        moved = each["bytes"] / theirs["unit_s"] * each["floor_s"] / each["bytes"]
        doubt = "far" if middle > 100 or (middle > 1 and moved < 0.02) else ""
        ratios.append({"backend": name, "name": "tg@0", "ratio": middle, "low": low, "high": high, "doubt": doubt})
    return {"name": "llama.cpp", "version": "made", "library_sha256": None, "measurements": [theirs], "ratios": ratios}


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "bench": lambda: receipt("cuda", "cpu"), "ops": lambda: ops_receipt("cuda"),
    "probe": lambda: probe_receipt("cuda", "cpu"),
}  # fmt: skip


@cache
def predicate_of(kind: str) -> dict[str, Any]:
    """Of a right receipt of that kind, not to be changed."""
    found: dict[str, Any] = KINDS[kind]()["predicate"]
    return found


def record(edit: Edit = lambda _: None, kind: str = "bench") -> Predicate:
    """A right predicate with an edit."""
    predicate = copy.deepcopy(predicate_of(kind))
    edit(predicate)
    return msgspec.convert(predicate, Predicate)


def refusals(rule: Callable[..., Any], edit: Edit, kind: str = "bench", *more: Any) -> list[str]:
    """Where a rule refuses an edited receipt, from the predicate on."""
    return [each.where.removeprefix("/predicate/") for each in rule(record(edit, kind), *more)]
