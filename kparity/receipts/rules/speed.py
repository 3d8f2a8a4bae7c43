"""Whether the figures follow from the raw samples, and whether the samples can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np

from kparity.contracts import Contract
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.record import CEILINGS, Bandwidth, Baseline, Predicate, Row, Run
from kparity.receipts.rules.device import enumerated
from kparity.receipts.rules.samples import interval_fault

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
    """Every figure of every row, recomputed from its raw samples; a model has each measurement once."""
    names = set[tuple[str, str]]()
    for at, row, owner in predicate.rows():
        if row.seconds:
            bandwidth = owner.bandwidth.bytes_per_s if isinstance(owner, Run) and owner.bandwidth else None
            yield from _recomputed(row, bandwidth, contract, at)
        if owner is None:
            continue
        if row.name != (f"pp{row.units}" if row.phase == "prefill" else f"tg@{row.depth}"):
            why = f"{row.name}: {row.phase} of {row.units} tokens at depth {row.depth}"
            yield Finding("RCPT-RECOMPUTED", f"{at}/name", why)
        key = at.rpartition("/")[0], row.name
        if key in names:
            yield Finding("RCPT-RECOMPUTED", f"{at}/name", f"{row.name} stands twice")
        names.add(key)


def _recomputed(row: Row, bandwidth: float | None, contract: Contract, at: str) -> Findings:
    """Median, interval, percentiles, throughput, floor and share of the bandwidth of one row."""
    seconds, middle = row.seconds, median(row.seconds)
    given: dict[str, tuple[float | None, float | None]] = {
        "unit_s": (row.unit_s, middle), "gb_per_s": (row.gb_per_s or None, row.bytes / middle * 1e-9),
    }  # fmt: skip
    for name, share in PERCENTILES.items() if row.ms_per_token else ():
        given[f"ms_per_token/{name}"] = getattr(row.ms_per_token, name), float(np.percentile(seconds, share)) * 1e3
    if not row.op:  # the bandwidth beside an op is not on record
        floor = row.bytes / bandwidth if bandwidth else None
        given["floor_s"] = row.floor_s, floor
        given["of_bandwidth"] = row.of_bandwidth, floor / middle if floor else None
    for field, (figure, computed) in given.items():
        off = abs(figure / computed - 1) if figure is not None and computed else math.inf
        if figure is not None and not contract.threshold("recomputed").holds(off):
            why = f"{row.name}: {figure!r}, the samples give {computed!r}"
            yield Finding("RCPT-RECOMPUTED", f"{at}/{field}", why)
    if fault := interval_fault(seconds, row.low_s or 0.0, row.high_s or 0.0, contract):
        yield Finding("RCPT-INTERVAL", f"{at}/low_s", f"{row.name}: {fault}")


def floors(predicate: Predicate, contract: Contract) -> Findings:
    """No sample is faster than memory can deliver.

    Where the bytes of a token fit the last cache the memory is no floor: then the rate is held against what caches can
    do, as a multiple of the memory's bandwidth.
    """
    for at, run in enumerated(predicate):
        yield from _bandwidth(run.bandwidth, f"{at}/bandwidth", contract) if run.bandwidth else ()
    # The fastest pass: on a shared machine the median may be of a busier minute than the fastest step.
    ceilings = {
        row.backend: row.bytes / min(row.seconds)
        for row in predicate.ops
        if row.op in CEILINGS and row.seconds and row.bytes
    }
    for at, row, owner in predicate.rows():
        nbytes, cache = row.bytes * row.units, 0
        if row.op in CEILINGS and row.seconds and not row.bytes:
            yield Finding("RCPT-BANDWIDTH", f"{at}/bytes", f"{row.name}: a bandwidth without bytes")
        if isinstance(owner, Run) and owner.bandwidth:
            best, cache = owner.bandwidth.bytes / min(owner.bandwidth.samples_s), owner.bandwidth.cache_bytes or 0
        elif row.cold and row.op not in CEILINGS and row.backend in ceilings and row.seconds and nbytes:
            best = ceilings[row.backend]
        else:
            continue
        floor, fastest = nbytes / best, min(row.seconds) * row.units
        if nbytes <= cache and not contract.threshold("hot_rate").holds(floor / fastest):
            why = f"{row.name}: {floor / fastest:.0f} times the memory's bandwidth, more than a cache gives"
            yield Finding("RCPT-FLOOR", f"{at}/samples_s", why)
        elif nbytes > cache and not contract.threshold("floor_share").holds(fastest / floor):
            why = f"{row.name}: {fastest:.3g} s, memory needs {floor:.3g} s for {nbytes:.3g} bytes"
            yield Finding("RCPT-FLOOR", f"{at}/samples_s", why)


def _bandwidth(bandwidth: Bandwidth, at: str, contract: Contract) -> Findings:
    told, found = bandwidth.bytes_per_s, bandwidth.bytes / median(bandwidth.samples_s)
    if not contract.threshold("recomputed").holds(abs(told / found - 1)):
        yield Finding("RCPT-BANDWIDTH", f"{at}/bytes_per_s", f"{told:.4g}, the samples give {found:.4g}")
    if not contract.threshold("cache_bytes").holds(float(bandwidth.cache_bytes or 0)):
        yield Finding("RCPT-BANDWIDTH", f"{at}/cache_bytes", f"no device has a cache of {bandwidth.cache_bytes} bytes")


def ratios(predicate: Predicate, contract: Contract) -> Findings:
    """A ratio to a baseline is that of the two rates, and lies in its interval."""
    ours = {(run.backend, each.name): each.unit_s for run in predicate.runs for each in run.measurements}
    for number, baseline in enumerate(predicate.baselines):
        theirs = {each.name: each.unit_s for each in baseline.measurements}
        for index, each in enumerate(baseline.ratios):
            where = f"/predicate/baselines/{number}/ratios/{index}"
            own, peer = ours.get((each.backend, each.name)), theirs.get(each.name)
            if own is None or peer is None:
                yield Finding("RCPT-RECOMPUTED", where, f"{each.backend} {each.name}: one side was not measured")
            elif not contract.threshold("recomputed").holds(abs(each.ratio * own / peer - 1)):
                yield Finding("RCPT-RECOMPUTED", f"{where}/ratio", f"{each.ratio!r}, the rates give {peer / own!r}")
            elif not each.low <= each.ratio <= each.high:
                why = f"{each.ratio!r} is outside of {each.low!r} … {each.high!r}"
                yield Finding("RCPT-INTERVAL", f"{where}/ratio", why)


def arrays(predicate: Predicate) -> list[tuple[str, Sequence[float]]]:
    """Pointer and content of every list of raw samples of the wall's clock; those of devices count in coarse ticks."""
    passes = [
        (f"{at}/bandwidth/samples_s", run.bandwidth.samples_s) for at, run in enumerated(predicate) if run.bandwidth
    ]
    return [*passes, *((f"{at}/samples_s", row.samples_s) for at, row, _ in predicate.rows())]
