"""The receipt of a benchmark: what the engines gave, beside everything that it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kparity import contracts
from kparity.bench import ops
from kparity.bench.comparison import ratio
from kparity.bench.endtoend import Contender, Found, Request
from kparity.bench.llamacpp import NAME as LLAMACPP
from kparity.bench.numbers import Ceiling, measurement
from kparity.bench.plan import bytes_per_token
from kparity.bench.worker import WorkerFailed
from kparity.gates.verdict import Row
from kparity.model import Model, load_model
from kparity.receipts import record, statement
from kparity.receipts.kernel_ids import sha256_of
from kparity.receipts.probe import of_model, parity_of, tried
from kparity.receipts.record import (
    Bandwidth,
    Baseline,
    Determinism,
    Graph,
    Kernel,
    OpRow,
    Parity,
    Predicate,
    Programs,
    Proof,
    Ratio,
    Run,
    TimedOutput,
    Tried,
)

UNCHECKED, NOT_GPU = "KP-BENCH-UNCHECKED", "KP-NOT-GPU"


@dataclass
class BenchReceipt:
    """Everything that a receipt is made of. ``rows`` are empty where parity was not checked."""

    request: Request
    order: Sequence[str]
    rows: Sequence[Row]
    found: Found
    command: Sequence[str]
    begun: str
    options: Mapping[str, Any] = field(default_factory=dict)
    model_seed: int | None = None

    def predicate(self) -> Predicate:
        """The layout is that of ``receipt-v1`` (docs/receipts.md); times in seconds, nothing rounded."""
        model = load_model(self.request.model)
        engines = {engine.name: engine for engine in self.found.engines if not engine.baseline}
        runs = [self._run(engines[name], model) for name in self.order if name in engines]
        baselines = [self._baseline(each, runs) for each in self.found.engines if each.baseline]
        lost = [(name, why) for name, why in self.found.unopened.items() if name.startswith(LLAMACPP)]
        model.close()
        fallback = [self._fallback(name) for name in self.order]
        return statement.predicate(
            "bench", self.begun, _request(self.command, self.order, self.options),
            of_model(self.request.model, self.model_seed), fallback, seeds={"tokens": self.request.seed}, runs=runs,
            serving=next((each.backend for each in fallback if each.status == "accepted"), None),
            baselines=[*baselines, *(_absent(name, why) for name, why in lost)],
        )  # fmt: skip

    def _row(self, name: str) -> Row | None:
        """What the probe says of a backend."""
        return next((row for row in self.rows if row.backend == name), None)

    def _fallback(self, name: str) -> Tried:
        """What became of a backend that was asked for."""
        row, lost = self._row(name), self.found.unopened.get(name)
        if lost is not None and (row is None or row.accepted):
            return _lost(name, lost.status, lost.code, lost.reason)
        if row is None:
            return _lost(name, "rejected", UNCHECKED, "parity was not checked")
        return tried(row)

    def _run(self, engine: Contender, model: Model) -> Run:
        """One backend. ``errors`` are reasons why nothing of it counts."""
        about, counted, row = engine.about, engine.counted, self._row(engine.name)
        bandwidth = _bandwidth(engine)
        ceiling = Ceiling(bandwidth.bytes_per_s, about["cache_bytes"]) if bandwidth else None
        replays = Programs(**counted.get("replays", dict.fromkeys(Programs.__struct_fields__, 0)))
        run = Run(
            backend=engine.name, device=record.Device(**about["device"]),
            proof=Proof(device_clock=about["device_clock"], dispatches_counted=bool(counted.get("dispatches"))),
            parity=parity_of(row) if row else _unchecked(), timed_output=_timed_output(engine, self.found.reference),
            determinism=_determinism(engine), engine=about["options"], kernels=_kernels(engine),
            graph=Graph(chunk=about["chunk"], launches=Programs(**about["launches"]), replays=replays),
            bandwidth=bandwidth,
            measurements=[
                measurement(point, samples, bytes_per_token(model, point, self.request.kv), ceiling)
                for point, samples in engine.samples.items() if samples.seconds
            ],
            skipped=[record.Skipped(**each) for each in engine.skipped], energy=record.Energy(**about["energy"]),
            clocks=self.found.clocks, errors=list(engine.errors),
        )  # fmt: skip
        run.errors.extend(_contradictions(run))
        return run

    def _baseline(self, engine: Contender, runs: Sequence[Run]) -> Baseline:
        """Another engine on the same file, and how much faster each backend is, by the samples of the same run."""
        rows = {point.name: measurement(point, samples) for point, samples in engine.samples.items() if samples.seconds}
        ratios = []
        for run in runs:
            for row in run.measurements:
                if row.name in rows:
                    middle, low, high = ratio(rows[row.name].samples_s, row.samples_s)
                    ratios.append(Ratio(backend=run.backend, name=row.name, ratio=middle, low=low, high=high))
        return Baseline(
            **engine.about, agreement={"against": self.found.reference, "cosine": engine.cosines},
            measurements=[*rows.values()], ratios=ratios, errors=engine.errors,
            skipped=[record.Skipped(**each) for each in engine.skipped],
        )  # fmt: skip


def ops_predicate(
    result: ops.Result, order: Sequence[str], command: Sequence[str], begun: str, options: Mapping[str, Any]
) -> Predicate:
    """The predicate of a benchmark of single ops: rows without a model, each verified by itself."""
    fallback = []
    for name in order:
        why = result.absent.get(name)
        fallback.append(
            _lost(name, **why) if why else Tried(backend=name, status="accepted", code=None, reason=None)
        )  # fmt: skip
    rows = [OpRow(**row, kernel_sha256=_text_of(row)) for row in result.rows]
    return statement.predicate(
        "bench", begun, _request(command, order, options), of_model(None), fallback,
        seeds={"inputs": options["seed"]}, ops=rows,
    )  # fmt: skip


def _request(command: Sequence[str], order: Sequence[str], options: Mapping[str, Any]) -> record.Request:
    return record.Request(command=list(command), backends=list(order), options=dict(options))


def _lost(name: str, status: str, code: str, reason: str) -> Tried:
    """A backend that was not measured, by what its worker said."""
    known = "unavailable" if status == "unavailable" else "rejected"
    return Tried(backend=name, status=known, code=code, reason=reason)  # type: ignore[arg-type]


def _unchecked() -> Parity:
    return Parity(verdict="INVALID-CORRECTNESS", gates=[], reason="parity was not checked (--no-parity)")


def _text_of(row: Mapping[str, Any]) -> str:
    """The digest of a row's kernel, where a kernel of ours ran."""
    kernel = row.get("kernel")
    return sha256_of(kernel, row["backend"]) if kernel else ""


def _bandwidth(engine: Contender) -> Bandwidth | None:
    if not engine.bandwidth:
        return None
    first, seconds = engine.bandwidth[0], [each["seconds"] for each in engine.bandwidth]
    return Bandwidth(
        what=first["what"], bytes=first["bytes"], bytes_per_s=first["bytes"] / float(np.median(seconds)),
        samples_s=seconds, cache_bytes=engine.about["cache_bytes"],
    )  # fmt: skip


def _timed_output(engine: Contender, reference: str) -> TimedOutput:
    """The least cosine of the outputs that were timed, by the limit of the probe's contract for any position."""
    limit = contracts.load(contracts.PROBE).threshold("positions_cosine")
    if not engine.cosines:
        return TimedOutput(checked=False, what="nothing", cosine=None, limit=limit.value, passed=False)
    name, value = min(engine.cosines.items(), key=lambda pair: -2.0 if pair[1] is None else pair[1])
    what = f"last logits of {', '.join(engine.cosines)} against {reference}; the least is that of {name}"
    passed = value is not None and limit.holds(value)
    return TimedOutput(checked=True, what=what, cosine=value, limit=limit.value, passed=passed)


def _determinism(engine: Contender) -> Determinism:
    """Whether every repetition of a point gave the same bits."""
    digests = [samples.digests for samples in engine.samples.values() if samples.digests]
    return Determinism(repeats=sum(map(len, digests)), identical=all(len(set(each)) == 1 for each in digests))


def _kernels(engine: Contender) -> list[Kernel]:
    counts = engine.counted.get("dispatches", {})
    return [
        Kernel(
            id=each["id"], sha256=sha256_of(each["id"], engine.name), dispatches=counts.get(each["id"], 0),
            device_ns=each["device_ns"], launches=Programs(**each["launches"]),
        )
        for each in engine.kernels
    ]  # fmt: skip


def _contradictions(run: Run) -> list[str]:
    """What a run says against itself."""
    found, timed = [], run.timed_output
    if not run.measurements:
        found += [] if run.skipped else ["nothing was timed"]
    elif timed and not timed.passed:
        value = "no number" if timed.cosine is None else f"{timed.cosine:.6f} (< {timed.limit:g})"
        found.append(f"the timed output is wrong: cosine = {value}: {timed.what}")
    if run.determinism and not run.determinism.identical:
        found.append("repetitions of the same work gave other bits")
    for kernel in run.kernels:
        told = run.graph.replays.times(kernel.launches) if run.graph and kernel.launches else 0
        if kernel.dispatches != told:
            found.append(f"{kernel.id} was launched {kernel.dispatches} times, the graphs launch it {told} times")
    return found


def _absent(name: str, problem: WorkerFailed) -> Baseline:
    """A baseline that was asked for and did not open."""
    reason = f"[{problem.code}] {problem.reason}"
    return Baseline(name=name, version="", library_sha256=None, measurements=[], ratios=[], errors=[reason])


def failures(predicate: Predicate) -> list[str]:
    """Every error of the backends of a predicate, with the measurement that it is about; and who failed a gate."""
    found = []
    for run in predicate.runs:
        found += [f"{run.backend}: {error}" for error in run.errors]
        found += [f"{run.backend} {row.name}: {error}" for row in run.measurements for error in row.errors]
    harmless = (UNCHECKED, NOT_GPU)
    rejected = [each for each in predicate.fallback if each.status == "rejected" and each.code not in harmless]
    return found + [f"{each.backend}: [{each.code}] {each.reason}" for each in rejected]


def exit_code(predicate: Predicate) -> int:
    """0 pass; 1 a gate failed or a number cannot be; 3 nothing was measured, or not the baseline that was asked for."""
    if failures(predicate):
        return 1
    measured = any(run.measurements for run in predicate.runs)
    return 3 if not measured or any(baseline.errors for baseline in predicate.baselines) else 0
