"""The receipt of a benchmark: the numbers that follow from the samples, beside everything that they depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from kparity import contracts
from kparity.bench import ops
from kparity.bench.endtoend import Contender, Found, Request, Samples
from kparity.bench.llamacpp import NAME as LLAMACPP
from kparity.bench.subject import Point
from kparity.bench.timing import figures
from kparity.gates.challenge import Sampled
from kparity.gates.verdict import Row as Judged
from kparity.numerics.statistics import ratio
from kparity.process.worker import WorkerFailed
from kparity.receipts import record, statement
from kparity.receipts.derived import bytes_per_token
from kparity.receipts.kernel_ids import sha256_of
from kparity.receipts.probe import NOT_CHECKED, of_model, run_of, tried
from kparity.receipts.record import Baseline, Predicate, Row, Run, Tried
from kparity.receipts.rules.ratios import doubt, share

UNCHECKED, NOT_GPU = "KP-BENCH-UNCHECKED", "KP-NOT-GPU"


# --- numbers ---


def measurement(point: Point, samples: Samples, nbytes: int = 0, bandwidth: record.Bandwidth | None = None) -> Row:
    """A point as a receipt holds it; ``nbytes`` must move for one token, 0 where that is not known. Raises ValueError
    without samples.

    ``errors`` names what cannot be: faster than the memory allows, a device's clock that runs ahead of the wall's.
    Where everything fits in a cache there is no floor, and the share of the bandwidth may exceed 1.
    """
    tokens, each = point.tokens, np.array(samples.seconds) / point.tokens
    bound = nbytes / bandwidth.bytes_per_s if nbytes and bandwidth else None
    floor = bound if bandwidth and nbytes * tokens > (bandwidth.cache_bytes or 0) else None
    joules = [value for value in samples.joules if value is not None]
    per_turn = len(samples.seconds) * tokens / max(len(samples.joules), 1)
    row = Row(
        name=point.name, phase=point.phase, units=tokens, depth=point.length * (point.phase == "decode"),
        samples_s=samples.seconds, device_s=[sample.device_s for sample in samples.device], bytes=nbytes,
        energy_j_per_token=float(np.mean(joules)) / per_turn if joules and np.mean(joules) > 0 else None,
    )  # fmt: skip
    figures(row, samples.device, floor)
    row.ms_per_token = record.Percentiles(**{f"p{p}": float(np.percentile(each, p)) * 1e3 for p in (10, 50, 90, 99)})
    row.of_bandwidth = bound / row.unit_s if bound and row.unit_s else None
    return row


# --- models ---


def models_predicate(
    request: Request, order: Sequence[str], rows: Sequence[Judged], found: Found, command: Sequence[str], begun: str,
    options: Mapping[str, Any], model_seed: int | None = None,
) -> Predicate:  # fmt: skip
    """The layout is that of ``receipt-v1`` (docs/receipts.md); times in seconds, nothing rounded.

    ``rows`` are the probe's; there are none where parity was not checked.
    """
    verdicts = {row.backend: row for row in rows}
    model = of_model(request.model, model_seed)
    runs = [_run(each, verdicts, found, model, request.kv) for each in found.engines if not each.baseline]
    baselines = [_baseline(each, runs, found.reference) for each in found.engines if each.baseline]
    baselines += [
        Baseline(name=name, version="", library_sha256=None, measurements=[], ratios=[], errors=[f"[{why.code}] {why}"])
        for name, why in found.unopened.items() if name.startswith(LLAMACPP)
    ]  # fmt: skip
    fallback = [_fallback(name, verdicts.get(name), found.unopened.get(name)) for name in order]
    return statement.predicate(
        "bench", begun, _request(command, order, options), model, fallback,
        seeds={"tokens": request.seed}, nonce=request.nonce, runs=runs, baselines=baselines,
        serving=next((each.backend for each in fallback if each.status == "accepted"), None),
    )  # fmt: skip


def _request(command: Sequence[str], order: Sequence[str], options: Mapping[str, Any]) -> record.Request:
    return record.Request(command=list(command), backends=list(order), options=dict(options))


def _fallback(name: str, row: Judged | None, lost: WorkerFailed | None) -> Tried:
    """What became of a backend that was asked for."""
    if row is not None and not (lost and row.accepted):
        return tried(row)
    return _lost(name, lost or WorkerFailed("rejected", UNCHECKED, NOT_CHECKED))


def _lost(name: str, problem: WorkerFailed | None) -> Tried:
    """A backend by what its worker said: accepted without a problem."""
    if problem is None:
        return Tried(backend=name, status="accepted", code=None, reason=None)
    status: Literal["unavailable", "rejected"] = "unavailable" if problem.status == "unavailable" else "rejected"
    return Tried(backend=name, status=status, code=problem.code, reason=problem.reason)


def _run(engine: Contender, verdicts: Mapping[str, Judged], found: Found, model: record.Model, kv: str) -> Run:
    """One backend. ``errors`` are reasons why nothing of it counts."""
    about, done = engine.about, engine.concluded
    bandwidth, digests = _bandwidth(engine), [each.digests for each in engine.samples.values() if each.digests]
    replays = done.get("replays") or dict.fromkeys(record.Programs.__struct_fields__, 0)
    run = run_of(
        engine.name, about["device"], verdicts.get(engine.name), done.get("dispatches", {}), about["device_clock"],
        about["options"], done.get("kernels", []),
        timed_output=_timed_output(engine, found.reference), bandwidth=bandwidth,
        determinism=record.Determinism(repeats=sum(map(len, digests)), identical=all(len({*d}) == 1 for d in digests)),
        graph=record.Graph(
            chunk=about["chunk"], launches=record.Programs(**about["launches"]), replays=record.Programs(**replays)
        ),
        measurements=[
            measurement(point, samples, bytes_per_token(model, point.phase, point.length, kv), bandwidth)
            for point, samples in engine.samples.items() if samples.seconds
        ],
        skipped=engine.skipped, energy=record.Energy(**about["energy"]), clocks=found.clocks,
        errors=list(engine.errors), logits=msgspec.convert(done.get("logits", []), list[Sampled]),
    )  # fmt: skip
    run.errors.extend(_contradictions(run))
    return run


def _bandwidth(engine: Contender) -> record.Bandwidth | None:
    if not engine.bandwidth:
        return None
    first, seconds = engine.bandwidth[0], [each["seconds"] for each in engine.bandwidth]
    return record.Bandwidth(
        what=first["what"], bytes=first["bytes"], bytes_per_s=first["bytes"] / float(np.median(seconds)),
        samples_s=seconds, cache_bytes=engine.about["cache_bytes"],
    )  # fmt: skip


def _timed_output(engine: Contender, reference: str) -> record.TimedOutput:
    """The least cosine of the outputs that were timed, by the limit of the probe's contract for any position."""
    limit, cosines = contracts.load(contracts.PROBE).threshold("positions_cosine"), engine.concluded.get("cosines")
    if not cosines:
        return record.TimedOutput(checked=False, what="nothing", cosine=None, limit=limit.value, passed=False)
    name, value = min(cosines.items(), key=lambda pair: -2.0 if pair[1] is None else pair[1])
    what = f"last logits of {', '.join(cosines)} against {reference}; the least is that of {name}"
    passed = value is not None and limit.holds(value)
    return record.TimedOutput(checked=True, what=what, cosine=value, limit=limit.value, passed=passed)


def _contradictions(run: Run) -> list[str]:
    """What a run says against itself."""
    errors, output = [], run.timed_output
    if not run.measurements:
        errors += [] if run.skipped else ["nothing was timed"]
    elif output and not output.passed:
        value = "no number" if output.cosine is None else f"{output.cosine:.6f} (< {output.limit:g})"
        errors.append(f"the timed output is wrong: cosine = {value}: {output.what}")
    if run.determinism and not run.determinism.identical:
        errors.append("repetitions of the same work gave other bits")
    for kernel in run.kernels:
        expected = run.graph.replays.times(kernel.launches) if run.graph and kernel.launches else 0
        if kernel.dispatches != expected:
            errors.append(f"{kernel.id} was launched {kernel.dispatches} times, the graphs launch it {expected} times")
    return errors


def _baseline(engine: Contender, runs: Sequence[Run], reference: str) -> Baseline:
    """Another engine on the same file, and how much faster each backend is, by the samples of the same run."""
    rows = {point.name: measurement(point, samples) for point, samples in engine.samples.items() if samples.seconds}
    ratios = []
    for run in runs:
        for row in run.measurements:
            if row.name in rows:
                found = ratio(rows[row.name].samples_s, row.samples_s)
                middle, low, high = found
                why = doubt(*found, share(row, rows[row.name], run.bandwidth))
                ratios.append(
                    record.Ratio(backend=run.backend, name=row.name, ratio=middle, low=low, high=high, doubt=why)
                )
    agreement = record.Agreement(against=reference, cosine=engine.concluded.get("cosines", {}))
    return Baseline(**engine.about, agreement=agreement, measurements=[*rows.values()], ratios=ratios,
                    errors=engine.errors, skipped=engine.skipped)  # fmt: skip


# --- ops ---


def ops_predicate(
    result: ops.Result, order: Sequence[str], command: Sequence[str], begun: str, options: Mapping[str, Any]
) -> Predicate:
    """The predicate of a benchmark of single ops: rows without a model, each verified by itself."""
    fallback = [_lost(name, result.absent.get(name)) for name in order]
    for row in result.rows:
        row.kernel_sha256 = sha256_of(row.kernel, row.backend) if row.kernel else ""
    return statement.predicate(
        "bench", begun, _request(command, order, options), None, fallback,
        seeds={"inputs": options["seed"]}, ops=result.rows,
    )  # fmt: skip


# --- verdicts ---


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
