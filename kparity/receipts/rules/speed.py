"""Whether the figures follow from the raw samples, and whether the samples can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np

from kparity.contracts import Contract, Threshold
from kparity.device.adapter import Device
from kparity.receipts import derived
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.record import CEILINGS, Bandwidth, Baseline, Predicate, Row, Run
from kparity.receipts.rules.device import enumerated
from kparity.receipts.rules.samples import interval_fault, wide

PERCENTILES = {"p10": 10, "p50": 50, "p90": 90, "p99": 99}


def ran(predicate: Predicate) -> Findings:
    """Something ran; a benchmark measured something; nothing of it says that it does not count."""
    if not predicate.runs and not predicate.ops:
        yield Finding("RCPT-EMPTY", "/predicate/runs", "no backend ran")
    measured = predicate.ops or any(run.measurements for run in predicate.runs)
    if predicate.kind == "bench" and predicate.runs and not measured:
        yield Finding("RCPT-EMPTY", "/predicate/runs", "nothing was measured")
    for at, run in enumerated(predicate):
        yield from (Finding("RCPT-ERRORS", f"{at}/errors/{index}", why) for index, why in enumerate(run.errors))
    for at, row, owner in predicate.rows():
        if not isinstance(owner, Baseline):
            yield from (Finding("RCPT-ERRORS", f"{at}/errors", f"{row.name}: {why}") for why in row.errors)
        if not (row.seconds or row.errors):
            yield Finding("RCPT-EMPTY", f"{at}/device_s", f"{row.name} was not measured")


def figures(predicate: Predicate, contract: Contract) -> Findings:
    """Every figure of every row, recomputed from its raw samples; each measurement stands once, by its name."""
    names = set[tuple[str, str]]()
    for at, row, owner in predicate.rows():
        if row.seconds:
            yield from _recomputed(row, owner if isinstance(owner, Run) else None, contract, at)
        named = f"tg@{row.depth}" if row.phase == "decode" else f"pp{row.units}"
        alone = row.units == 1 if row.phase == "decode" else row.depth == 0
        if owner is not None and not (row.name == named and alone):
            why = f"{row.name}: {row.phase} of {row.units} tokens at depth {row.depth}"
            yield Finding("RCPT-RECOMPUTED", f"{at}/name", why)
        key = at.rpartition("/")[0], row.name
        if key in names and not row.baseline:  # several cases have one shape, and so one product of a baseline
            yield Finding("RCPT-RECOMPUTED", f"{at}/name", f"{row.name} stands twice")
        names.add(key)


def _recomputed(row: Row, run: Run | None, contract: Contract, at: str) -> Findings:
    """Median, interval, percentiles, throughput, floor, power and share of the bandwidth of one row, none left out."""
    seconds, middle = row.seconds, median(row.seconds)
    given: dict[str, tuple[float | None, float | None]] = {
        "unit_s": (row.unit_s, middle), "gb_per_s": (row.gb_per_s, row.bytes / middle * 1e-9 or None),
    }  # fmt: skip
    for name, share in PERCENTILES.items() if row.ms_per_token else ():
        given[f"ms_per_token/{name}"] = getattr(row.ms_per_token, name), float(np.percentile(seconds, share)) * 1e3
    if not row.op:  # the bandwidth beside an op is not on record
        floor = row.bytes / run.bandwidth.bytes_per_s if run and run.bandwidth and row.bytes else None
        given["floor_s"] = row.floor_s, floor if row.floor_s else None
        given["of_bandwidth"] = row.of_bandwidth, floor / middle if floor else None
    for field, (figure, computed) in given.items():
        off = abs(figure / computed - 1) if figure and computed else math.inf
        if (figure or computed) and not contract.threshold("recomputed").holds(off):
            why = f"{row.name}: {figure!r}, the samples give {computed!r}"
            yield Finding("RCPT-RECOMPUTED", f"{at}/{field}", why)
    if fault := interval_fault(seconds, row.low_s or 0.0, row.high_s or 0.0, contract):
        yield Finding("RCPT-INTERVAL", f"{at}/low_s", f"{row.name}: {fault}")
    if row.unit_s and row.limit != (mark := wide(row.unit_s, row.low_s or 0.0, row.high_s or 0.0, len(seconds))):
        yield Finding("RCPT-INTERVAL", f"{at}/limit", f"{row.name}: {row.limit!r}, the interval gives {mark!r}")
    if row.energy_j_per_token is not None:
        watts, counted = row.energy_j_per_token / middle, run is not None and run.energy and run.energy.source
        if not (counted and contract.threshold("power_least").holds(watts)
                and contract.threshold("power_most").holds(watts)):  # fmt: skip
            why = f"{row.name}: {watts:.3g} W by {counted or 'no counter'}"
            yield Finding("RCPT-RANGE", f"{at}/energy_j_per_token", why)


def floors(predicate: Predicate, contract: Contract) -> Findings:
    """No sample, by either clock, is faster than memory can deliver, nor than any device of its kind computes.

    Where the bytes of a token fit the last cache the memory is no floor: then the rate is held against what caches can
    do, as a multiple of the memory's bandwidth.
    """
    for at, run in enumerated(predicate):
        if run.bandwidth:
            yield from _bandwidth(run.bandwidth, f"{at}/bandwidth", contract)
            rate = run.bandwidth.bytes / min(run.bandwidth.samples_s)
            yield from _possible(rate, contract.threshold(f"bandwidth_{_kind(run.device)}"), "bytes", at)
    # The fastest pass: on a shared machine the median may be of a busier minute than the fastest step.
    ceilings = {
        row.backend: row.bytes / min(row.seconds)
        for row in predicate.ops
        if row.op in CEILINGS and row.seconds and row.bytes
    }
    for at, row, owner in predicate.rows():
        if not row.seconds or isinstance(owner, Baseline) or row.baseline:
            continue
        nbytes, cache = row.bytes * row.units, 0.0
        fastest = min(map(min, filter(None, (row.samples_s, row.device_s))))
        if isinstance(owner, Run):
            if not owner.bandwidth:
                continue
            best, cache = owner.bandwidth.bytes / min(owner.bandwidth.samples_s), owner.bandwidth.cache_bytes or 0
            rate = derived.operations(predicate.model) * row.units / fastest * 1e-12 if predicate.model else 0.0
            yield from _possible(rate, contract.threshold(f"compute_{_kind(owner.device)}"), "tera-operations", at)
        elif row.op in CEILINGS:
            if not row.bytes:
                yield Finding("RCPT-BANDWIDTH", f"{at}/bytes", f"{row.name}: a bandwidth without bytes")
            elif row.device:
                limit = contract.threshold(f"bandwidth_{_kind(row.device)}")
                yield from _possible(row.bytes / min(row.seconds), limit, "bytes", at)
            continue
        elif row.backend not in ceilings:
            yield Finding("RCPT-BANDWIDTH", at, f"{row.name}: no bandwidth of {row.backend} stands beside it")
            continue
        else:
            best, cache = ceilings[row.backend], 0.0 if row.cold else math.inf
        floor = nbytes / best
        if nbytes <= cache and not contract.threshold("hot_rate").holds(floor / fastest):
            why = f"{row.name}: {floor / fastest:.0f} times the memory's bandwidth, more than a cache gives"
            yield Finding("RCPT-FLOOR", f"{at}/samples_s", why)
        elif nbytes > cache and not contract.threshold("floor_share").holds(fastest / floor):
            why = f"{row.name}: {fastest:.3g} s, memory needs {floor:.3g} s for {nbytes:.3g} bytes"
            yield Finding("RCPT-FLOOR", f"{at}/samples_s", why)


def _kind(device: Device) -> str:
    return "gpu" if device.kind == "gpu" else "processor"


def _possible(rate: float, limit: Threshold, what: str, at: str) -> Findings:
    """No memory is that fast, or no device computes that much, of all of its kind."""
    if not limit.holds(rate):
        yield Finding("RCPT-FLOOR", at, f"{rate:.3g} {what}/s, {limit.value:.3g} are the most of its kind")


def _bandwidth(bandwidth: Bandwidth, at: str, contract: Contract) -> Findings:
    told, found = bandwidth.bytes_per_s, bandwidth.bytes / median(bandwidth.samples_s)
    if not contract.threshold("recomputed").holds(abs(told / found - 1)):
        yield Finding("RCPT-BANDWIDTH", f"{at}/bytes_per_s", f"{told:.4g}, the samples give {found:.4g}")
    if not contract.threshold("cache_bytes").holds(float(bandwidth.cache_bytes or 0)):
        yield Finding("RCPT-BANDWIDTH", f"{at}/cache_bytes", f"no device has a cache of {bandwidth.cache_bytes} bytes")
    if not contract.threshold("bandwidth_bytes").holds(float(bandwidth.bytes)):
        yield Finding("RCPT-BANDWIDTH", f"{at}/bytes", f"a pass of {bandwidth.bytes} bytes never leaves the caches")


def arrays(predicate: Predicate) -> list[tuple[str, Sequence[float]]]:
    """Pointer and content of every list of raw samples of the wall's clock; those of devices count in coarse ticks."""
    passes = [
        (f"{at}/bandwidth/samples_s", run.bandwidth.samples_s) for at, run in enumerated(predicate) if run.bandwidth
    ]
    return [*passes, *((f"{at}/samples_s", row.samples_s) for at, row, _ in predicate.rows())]
