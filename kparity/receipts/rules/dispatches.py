"""Whether what ran is what a graph of that length launches, and whether the device's clock saw it."""

from __future__ import annotations

from statistics import quantiles
from typing import Any

from kparity.contracts import Contract
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.rules.device import enumerated


def counts(predicate: dict[str, Any]) -> Findings:
    """Dispatches of each kernel = steps × its launches of a step + chunks × its launches of a chunk."""
    for at, run in enumerated(predicate):
        graph, kernels = run["graph"], run["kernels"]
        if graph is None:
            continue
        for unit in ("launches_per_step", "launches_per_chunk"):
            total = sum(kernel[unit] for kernel in kernels)
            if total != graph[unit]:
                said = f"{unit} of the kernels add up to {total}, the graph has {graph[unit]}"
                yield Finding("RCPT-DISPATCHES", f"{at}/graph/{unit}", said)
        for index, kernel in enumerate(kernels):
            wanted = graph["steps"] * kernel["launches_per_step"]
            wanted += graph["prefill_chunks"] * kernel["launches_per_chunk"]
            if kernel["dispatches"] != wanted:
                said = f"{kernel['id']}: {kernel['dispatches']} dispatches, steps and chunks give {wanted}"
                yield Finding("RCPT-DISPATCHES", f"{at}/kernels/{index}/dispatches", said)
        for phase, unit in (("decode", "steps"), ("prefill", "prefill_chunks")):
            taken = sum(len(each["samples_s"]) for each in run["measurements"] if each["phase"] == phase)
            if graph[unit] < taken:
                said = f"{graph[unit]} {unit.replace('_', ' ')} for {taken} samples of {phase}"
                yield Finding("RCPT-DISPATCHES", f"{at}/graph/{unit}", said)
        if run["measurements"] and not run["proof"]["dispatches_counted"]:
            yield Finding("RCPT-DISPATCHES", f"{at}/proof/dispatches_counted", "nothing counted what was timed")


def device_time(predicate: dict[str, Any], contract: Contract) -> Findings:
    """Where a device clock is claimed every kernel of a step has time on it, and no more than the wall saw."""
    for at, run in enumerated(predicate):
        if not run["proof"]["device_clock"]:
            continue
        steps = [each for each in run["measurements"] if each["phase"] == "decode"]
        spent = 0.0
        for index, kernel in enumerate(run["kernels"]):
            spent += kernel["device_ns"] or 0
            if kernel["launches_per_step"] and not kernel["device_ns"]:
                where = f"{at}/kernels/{index}/device_ns"
                yield Finding("RCPT-DEVICE-TIME", where, f"{kernel['id']} took no time on the device's clock")
        if steps:
            longest = max(quantiles(each["samples_s"] * 2, n=10)[-1] for each in steps)
            if not contract.threshold("kernel_time").holds(spent * 1e-9 / longest):
                said = f"the kernels of a step take {spent * 1e-9:.3g} s, the longest step {longest:.3g} s"
                yield Finding("RCPT-DEVICE-TIME", f"{at}/kernels", said)
        for index, each in enumerate(run["measurements"]):
            where = f"{at}/measurements/{index}/device_s"
            if not each["device_s"]:
                yield Finding("RCPT-DEVICE-TIME", where, f"{each['name']} has no time of the device's clock")
                continue
            seen, wall = min(each["device_s"]), max(each["samples_s"])
            if not contract.threshold("device_ahead").holds(seen / wall):
                said = f"{each['name']}: at least {seen:.3g} s on the device's clock, at most {wall:.3g} s of the wall"
                yield Finding("RCPT-DEVICE-TIME", where, said)
