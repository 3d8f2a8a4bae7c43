"""The predicate of a benchmark's receipt: what the engines gave, beside everything that it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kparity import contracts
from kparity.bench.comparison import ratio
from kparity.bench.endtoend import Engine, Found, Request
from kparity.bench.llamacpp import NAME as LLAMACPP
from kparity.bench.numbers import Ceiling, measurement
from kparity.bench.ops import Result
from kparity.bench.plan import bytes_per_token
from kparity.bench.worker import WorkerFailed
from kparity.gates.verdict import Row
from kparity.host.revision import revision
from kparity.model import Model, load_model
from kparity.receipts.kernel_ids import sha256_of
from kparity.receipts.probe import of_model, parity_of
from kparity.receipts.replays import REPLAYS, dispatches

UNCHECKED, NOT_GPU = "KP-BENCH-UNCHECKED", "KP-NOT-GPU"
INVALID = "INVALID-CORRECTNESS"
BASELINE_FIELDS = ("name", "phase", "tokens", "depth", "samples_s", "tokens_per_s", "low", "high", "limit",
                   "ms_per_token", "energy_j_per_token", "errors")  # fmt: skip


@dataclass
class Bench:
    """Everything that a receipt is made of. ``rows`` are empty where parity was not checked."""

    request: Request
    order: Sequence[str]
    rows: Sequence[Row]
    found: Found
    command: Sequence[str]
    begun: str
    options: Mapping[str, Any] = field(default_factory=dict)
    model_seed: int | None = None

    def predicate(self) -> dict[str, Any]:
        """Plain values in the layout of ``receipt-v1`` (docs/receipts.md); times in seconds, nothing rounded."""
        model = load_model(self.request.model)
        contract = contracts.load(contracts.PROBE)
        engines = {engine.name: engine for engine in self.found.engines if not engine.baseline}
        runs = [self._run(engines[name], model) for name in self.order if name in engines]
        fallback = [self._fallback(name) for name in self.order]
        baselines = [self._baseline(each, model, runs) for each in self.found.engines if each.baseline]
        lost = [(name, why) for name, why in self.found.unopened.items() if name.startswith(LLAMACPP)]
        document = {
            "kind": "bench",
            "begun": self.begun,
            "harness": revision(),
            "request": {
                "command": list(self.command), "backends": list(self.order), "options": dict(self.options),
            },
            "model": of_model(model, self.model_seed),
            "contract": {"id": contract.id, "version": contract.version},
            "seeds": {"tokens": self.request.seed},
            "serving": next((row["backend"] for row in fallback if row["status"] == "accepted"), None),
            "fallback": fallback,
            "runs": runs,
            "baselines": [*baselines, *(_absent(name, why) for name, why in lost)],
        }  # fmt: skip
        model.close()
        return document

    def _fallback(self, name: str) -> dict[str, Any]:
        """What became of a backend that was asked for."""
        row = next((row for row in self.rows if row.backend == name), None)
        lost = self.found.unopened.get(name)
        if row is not None and not row.accepted:
            return {"backend": name, "status": row.status, "code": row.code, "reason": row.reason}
        if lost is not None:
            status = "unavailable" if lost.status == "unavailable" else "rejected"
            return {"backend": name, "status": status, "code": lost.code, "reason": lost.reason}
        if row is None:
            return {"backend": name, "status": "rejected", "code": UNCHECKED, "reason": "parity was not checked"}
        return {"backend": name, "status": "accepted", "code": None, "reason": None}

    def _run(self, engine: Engine, model: Model) -> dict[str, Any]:
        """One backend. ``errors`` are reasons why nothing of it counts."""
        about, counted = engine.about, engine.counted
        ceiling = _ceiling(engine)
        run = {
            "backend": engine.name,
            "device": about["device"],
            "proof": {"device_clock": about["device_clock"], "dispatches_counted": bool(counted.get("dispatches"))},
            "parity": self._parity(engine.name),
            "timed_output": _timed_output(engine, self.found.reference),
            "determinism": _determinism(engine),
            "engine": about["options"],
            "kernels": _kernels(engine),
            "graph": {
                "chunk": about["chunk"], **{launches: about[launches] for launches in REPLAYS.values()},
                **{times: counted.get(times, 0) for times in REPLAYS},
            },
            "bandwidth": _bandwidth(engine, ceiling),
            "measurements": [
                measurement(point, samples, bytes_per_token(model, point, self.request.kv), ceiling)
                for point, samples in engine.samples.items() if samples.seconds
            ],
            "skipped": engine.skipped,
            "energy": about["energy"],
            "clocks": self.found.clocks,
        }  # fmt: skip
        return {**run, "errors": [*engine.errors, *_contradictions(run)]}

    def _parity(self, name: str) -> dict[str, Any]:
        """The verdict of the probe with its numbers; INVALID-CORRECTNESS where there is none."""
        row = next((row for row in self.rows if row.backend == name), None)
        if row is None:
            return {"verdict": INVALID, "gates": [], "reason": "parity was not checked (--no-parity)"}
        return parity_of(row)

    def _baseline(self, engine: Engine, model: Model, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Another engine on the same file, and how much faster each backend is, by the samples of the same run."""
        rows = {point.name: measurement(point, samples, bytes_per_token(model, point, "f16"), None)
                for point, samples in engine.samples.items() if samples.seconds}  # fmt: skip
        ratios = []
        for run in runs:
            for row in run["measurements"]:
                if row["name"] in rows:
                    middle, low, high = ratio(rows[row["name"]]["samples_s"], row["samples_s"])
                    ratios.append(
                        {"backend": run["backend"], "name": row["name"], "ratio": middle, "low": low, "high": high}
                    )
        return {
            **engine.about,
            "agreement": {"against": self.found.reference, "cosine": engine.cosines},
            "measurements": [{name: row[name] for name in BASELINE_FIELDS} for row in rows.values()],
            "ratios": ratios, "errors": engine.errors, "skipped": engine.skipped,
        }  # fmt: skip


def ops_predicate(
    result: Result, order: Sequence[str], command: Sequence[str], begun: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The predicate of a benchmark of single ops: rows without a model, each verified by itself."""
    contract, model = contracts.load(contracts.PROBE), load_model()
    fallback = []
    for name in order:
        why = result.absent.get(name)
        status = "accepted" if why is None else "unavailable" if why["status"] == "unavailable" else "rejected"
        told = {"code": why["code"], "reason": why["reason"]} if why else {"code": None, "reason": None}
        fallback.append({"backend": name, "status": status, **told})
    document = {
        "kind": "bench", "begun": begun, "harness": revision(),
        "request": {"command": list(command), "backends": list(order), "options": dict(options)},
        "model": of_model(model), "contract": {"id": contract.id, "version": contract.version},
        "seeds": {"inputs": options["seed"]}, "serving": None, "fallback": fallback, "runs": [],
        "ops": [_with_text(row) for row in result.rows],
    }  # fmt: skip
    model.close()
    return document


def _with_text(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the digest of its kernel's text, where a kernel of ours ran."""
    kernel = row.get("kernel")
    return {**row, "kernel_sha256": sha256_of(kernel, row["backend"])} if kernel else {**row}


def _ceiling(engine: Engine) -> Ceiling | None:
    if not engine.bandwidth:
        return None
    seconds = float(np.median([each["seconds"] for each in engine.bandwidth]))
    return Ceiling(engine.bandwidth[0]["bytes"] / seconds, engine.about["cache_bytes"])


def _bandwidth(engine: Engine, ceiling: Ceiling | None) -> dict[str, Any] | None:
    if ceiling is None:
        return None
    first = engine.bandwidth[0]
    return {
        "what": first["what"], "bytes": first["bytes"], "bytes_per_s": ceiling.bytes_per_s,
        "samples_s": [each["seconds"] for each in engine.bandwidth], "cache_bytes": ceiling.cache_bytes,
    }  # fmt: skip


def _timed_output(engine: Engine, reference: str) -> dict[str, Any]:
    """The least cosine of the outputs that were timed, by the limit of the probe's contract for any position."""
    limit = contracts.load(contracts.PROBE).threshold("positions_cosine")
    if not engine.cosines:
        return {"checked": False, "what": "nothing", "cosine": None, "limit": limit.value, "passed": False}
    name, value = min(engine.cosines.items(), key=lambda pair: -2.0 if pair[1] is None else pair[1])
    return {
        "checked": True,
        "what": f"last logits of {', '.join(engine.cosines)} against {reference}; the least is that of {name}",
        "cosine": value, "limit": limit.value, "passed": value is not None and limit.holds(value),
    }  # fmt: skip


def _determinism(engine: Engine) -> dict[str, Any]:
    """Whether every repetition of a point gave the same bits."""
    digests = [samples.digests for samples in engine.samples.values() if samples.digests]
    return {"repeats": sum(map(len, digests)), "identical": all(len(set(each)) == 1 for each in digests)}


def _kernels(engine: Engine) -> list[dict[str, Any]]:
    counts = engine.counted.get("dispatches", {})
    return [
        {
            "id": each["id"], "sha256": sha256_of(each["id"], engine.name), "dispatches": counts.get(each["id"], 0),
            "device_ns": each["device_ns"], **{launches: each[launches] for launches in REPLAYS.values()},
        }
        for each in engine.kernels
    ]  # fmt: skip


def _contradictions(run: Mapping[str, Any]) -> list[str]:
    """What a run says against itself."""
    found, timed, graph = [], run["timed_output"], run["graph"]
    if not run["measurements"]:
        found += [] if run["skipped"] else ["nothing was timed"]
    elif not timed["passed"]:
        value = "no number" if timed["cosine"] is None else f"{timed['cosine']:.6f} (< {timed['limit']:g})"
        found.append(f"the timed output is wrong: cosine = {value}: {timed['what']}")
    if not run["determinism"]["identical"]:
        found.append("repetitions of the same work gave other bits")
    for kernel in run["kernels"]:
        told = dispatches(graph, kernel)
        if kernel["dispatches"] != told:
            found.append(f"{kernel['id']} was launched {kernel['dispatches']} times, the graphs launch it {told} times")
    return found


def _absent(name: str, problem: WorkerFailed) -> dict[str, Any]:
    """A baseline that was asked for and did not open."""
    reason = f"[{problem.code}] {problem.reason}"
    return {"name": name, "version": "", "library_sha256": None, "measurements": [], "ratios": [], "skipped": [],
            "errors": [reason]}  # fmt: skip


def failures(predicate: Mapping[str, Any]) -> list[str]:
    """Every error of the backends of a predicate, with the measurement that it is about; and who failed a gate."""
    found = []
    for run in predicate["runs"]:
        found += [f"{run['backend']}: {error}" for error in run["errors"]]
        found += [f"{run['backend']} {row['name']}: {error}" for row in run["measurements"] for error in row["errors"]]
    harmless = (UNCHECKED, NOT_GPU)
    rejected = [each for each in predicate["fallback"] if each["status"] == "rejected" and each["code"] not in harmless]
    return found + [f"{each['backend']}: [{each['code']}] {each['reason']}" for each in rejected]


def exit_code(predicate: Mapping[str, Any]) -> int:
    """0 pass; 1 a gate failed or a number cannot be; 3 nothing was measured, or not the baseline that was asked for."""
    if failures(predicate):
        return 1
    measured = any(run["measurements"] for run in predicate["runs"])
    return 3 if not measured or any(baseline["errors"] for baseline in predicate["baselines"]) else 0
