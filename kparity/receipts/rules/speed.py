"""Whether the figures follow from the raw samples, and whether the samples can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np

from kparity.contracts import Contract
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.record import Bandwidth, Measurement, Model, Predicate, Run
from kparity.receipts.rules.device import enumerated
from kparity.receipts.rules.samples import interval_fault

PERCENTILES = {"p10": 10, "p50": 50, "p90": 90, "p99": 99}
Figures = dict[str, tuple[float | None, float | None]]
"""What is told, and what the samples give, by field."""
TERNARY_BYTES = math.log2(3) / 8
"""What a ternary weight takes at least: log₂ 3 bits, in any packing."""


def ternary_bytes(model: Model) -> float:
    """Bytes of a model's ternary weights in the densest packing there can be: all of them are read for each token."""
    width, head = model.width, model.head_dim
    attention = 2 * width * model.heads * head + 2 * width * model.kv_heads * head
    return float(model.layers * (attention + 3 * width * model.ffn) * TERNARY_BYTES)


def ran(predicate: Predicate) -> Findings:
    """Something ran; a benchmark measured something; nothing of it says that it does not count."""
    if not predicate.runs and not predicate.ops:
        yield Finding("RCPT-EMPTY", "/predicate/runs", "no backend ran")
    bench = predicate.kind == "bench"
    measured = any(run.measurements for run in predicate.runs) or bool(predicate.ops)
    if bench and predicate.runs and not measured:
        yield Finding("RCPT-EMPTY", "/predicate/runs", "nothing was measured")
    for at, run in enumerated(predicate):
        for index, said in enumerate(run.errors):
            yield Finding("RCPT-ERRORS", f"{at}/errors/{index}", said)
        for index, each in enumerate(run.measurements):
            for said in each.errors:
                yield Finding("RCPT-ERRORS", f"{at}/measurements/{index}/errors", f"{each.name}: {said}")


def figures(predicate: Predicate, contract: Contract) -> Findings:
    """Every figure of every measurement, of backends and baselines, recomputed from the raw samples."""
    for at, owner in predicate.owners():
        names = [each.name for each in owner.measurements]
        bandwidth = owner.bandwidth.bytes_per_s if isinstance(owner, Run) and owner.bandwidth else None
        for index, each in enumerate(owner.measurements):
            where = f"{at}/measurements/{index}"
            yield from _recomputed(each, bandwidth, contract, where)
            if each.name != (f"pp{each.tokens}" if each.phase == "prefill" else f"tg@{each.depth}"):
                said = f"{each.name}: {each.phase} of {each.tokens} tokens at depth {each.depth}"
                yield Finding("RCPT-RECOMPUTED", f"{where}/name", said)
            if names.index(each.name) != index:
                yield Finding("RCPT-RECOMPUTED", f"{where}/name", f"{each.name} stands twice")


def _recomputed(each: Measurement, bandwidth: float | None, contract: Contract, at: str) -> Findings:
    """Rate, interval, percentiles, throughput, floor and share of the bandwidth of one measurement."""
    tokens, samples = each.tokens, each.samples_s
    middle = median(samples)
    wanted: Figures = {"tokens_per_s": (each.tokens_per_s, tokens / middle)}
    for name, share in PERCENTILES.items():
        found = float(np.percentile(samples, share)) / tokens * 1e3
        wanted[f"ms_per_token/{name}"] = (getattr(each.ms_per_token, name), found)
    if nbytes := each.bytes_per_token:
        floor = nbytes * tokens / bandwidth if bandwidth else None
        wanted["gb_per_s"] = (each.gb_per_s, nbytes * tokens / middle * 1e-9)
        wanted["floor_s"] = (each.floor_s, floor)
        wanted["of_bandwidth"] = (each.of_bandwidth, floor / middle if floor else None)
    # The ends of an interval of seconds change places when they become rates.
    yield from follows(each.name, wanted, samples, (tokens / each.high, tokens / each.low), contract, f"{at}/low")


def follows(
    name: str, wanted: Figures, seconds: Sequence[float], interval: tuple[float, float], contract: Contract, at: str
) -> Findings:
    """Each figure beside what the samples give, and the interval of their median; ``at`` points to its lower end."""
    parent = at.rpartition("/")[0]
    for field, (told, given) in wanted.items():
        if told is not None and not (given and contract.threshold("recomputed").holds(abs(told / given - 1))):
            yield Finding("RCPT-RECOMPUTED", f"{parent}/{field}", f"{name}: {told!r}, the samples give {given!r}")
    if fault := interval_fault(seconds, *interval, contract):
        yield Finding("RCPT-INTERVAL", at, f"{name}: {fault}")


def floors(predicate: Predicate, contract: Contract) -> Findings:
    """No sample is faster than memory can deliver; the bytes are at least those of the model's weights.

    Where the bytes of a token fit the last cache the memory is no floor: then the rate is held against what caches can
    do, as a multiple of the memory's bandwidth.
    """
    least = ternary_bytes(predicate.model)
    for at, run in enumerated(predicate):
        bandwidth = run.bandwidth
        if bandwidth is None:
            continue
        yield from _bandwidth(bandwidth, f"{at}/bandwidth", contract)
        # The fastest pass: on a shared machine the median may be of a busier minute than the fastest step.
        best = bandwidth.bytes / min(bandwidth.samples_s)
        for index, each in enumerate(run.measurements):
            where = f"{at}/measurements/{index}"
            nbytes = (each.bytes_per_token or 0) * each.tokens
            # A device that names its bytes to the last one may still round: the weights are a bound, not a count.
            if nbytes < least * (1 - contract.threshold("recomputed").value):
                said = f"{each.name}: {nbytes:.0f} bytes, the ternary weights alone have {least:.0f}"
                yield Finding("RCPT-BANDWIDTH", f"{where}/bytes_per_token", said)
            floor = max(nbytes, least) / best
            fastest = min(each.samples_s)
            hot = max(nbytes, least) <= (bandwidth.cache_bytes or 0)
            if hot and not contract.threshold("hot_rate").holds(floor / fastest):
                said = f"{each.name}: {floor / fastest:.0f} times the memory's bandwidth, more than a cache gives"
                yield Finding("RCPT-FLOOR", f"{where}/samples_s", said)
            elif not hot and not contract.threshold("floor_share").holds(fastest / floor):
                said = f"{each.name}: {fastest:.3g} s, memory needs {floor:.3g} s for {max(nbytes, least):.3g} bytes"
                yield Finding("RCPT-FLOOR", f"{where}/samples_s", said)


def _bandwidth(bandwidth: Bandwidth, at: str, contract: Contract) -> Findings:
    told, found = bandwidth.bytes_per_s, bandwidth.bytes / median(bandwidth.samples_s)
    if not contract.threshold("recomputed").holds(abs(told / found - 1)):
        yield Finding("RCPT-BANDWIDTH", f"{at}/bytes_per_s", f"{told:.4g}, the samples give {found:.4g}")
    if not contract.threshold("cache_bytes").holds(float(bandwidth.cache_bytes or 0)):
        yield Finding("RCPT-BANDWIDTH", f"{at}/cache_bytes", f"no device has a cache of {bandwidth.cache_bytes} bytes")


def ratios(predicate: Predicate, contract: Contract) -> Findings:
    """A ratio to a baseline is that of the two rates, and lies in its interval."""
    rates = {(run.backend, each.name): each.tokens_per_s for run in predicate.runs for each in run.measurements}
    for number, baseline in enumerate(predicate.baselines):
        theirs = {each.name: each.tokens_per_s for each in baseline.measurements}
        for index, each in enumerate(baseline.ratios):
            where = f"/predicate/baselines/{number}/ratios/{index}"
            ours, peer = rates.get((each.backend, each.name)), theirs.get(each.name)
            if ours is None or peer is None:
                said = f"{each.backend} {each.name}: one side was not measured"
                yield Finding("RCPT-RECOMPUTED", where, said)
            elif not contract.threshold("recomputed").holds(abs(each.ratio * peer / ours - 1)):
                said = f"{each.ratio!r}, the rates give {ours / peer!r}"
                yield Finding("RCPT-RECOMPUTED", f"{where}/ratio", said)
            elif not each.low <= each.ratio <= each.high:
                said = f"{each.ratio!r} is outside of {each.low!r} … {each.high!r}"
                yield Finding("RCPT-INTERVAL", f"{where}/ratio", said)


def arrays(predicate: Predicate) -> list[tuple[str, Sequence[float]]]:
    """Pointer and content of every list of raw samples of the wall's clock; those of devices count in coarse ticks."""
    found: list[tuple[str, Sequence[float]]] = []
    for at, owner in predicate.owners():
        if isinstance(owner, Run) and owner.bandwidth:
            found.append((f"{at}/bandwidth/samples_s", owner.bandwidth.samples_s))
        for index, each in enumerate(owner.measurements):
            found.append((f"{at}/measurements/{index}/samples_s", each.samples_s))
    for index, row in enumerate(predicate.ops):
        found.append((f"/predicate/ops/{index}/samples_wall_s", row.samples_wall_s))
    return found
