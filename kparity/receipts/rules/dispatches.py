"""Whether what ran is what a graph of that length launches, and whether the device's clock saw it."""

from __future__ import annotations

from statistics import quantiles
from typing import Any

from kparity.contracts import Contract
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.replays import REPLAYS, dispatches
from kparity.receipts.rules.device import enumerated


def counts(predicate: dict[str, Any]) -> Findings:
    """Dispatches of each kernel = the replays of each program × its launches in it; the replays cover the samples."""
    for at, run in enumerated(predicate):
        graph, kernels = run["graph"], run["kernels"]
        if graph is None:
            continue
        for unit in REPLAYS.values():
            total = sum(kernel[unit] for kernel in kernels)
            if total != graph[unit]:
                said = f"{unit} of the kernels add up to {total}, the graph has {graph[unit]}"
                yield Finding("RCPT-DISPATCHES", f"{at}/graph/{unit}", said)
        for index, kernel in enumerate(kernels):
            where, wanted = f"{at}/kernels/{index}", dispatches(graph, kernel)
            if kernel["dispatches"] != wanted:
                said = f"{kernel['id']}: {kernel['dispatches']} dispatches, the replays give {wanted}"
                yield Finding("RCPT-DISPATCHES", f"{where}/dispatches", said)
            for unit in ("step", "chunk"):
                headless = f"launches_per_headless_{unit}"
                if kernel[headless] > kernel[f"launches_per_{unit}"]:
                    said = f"{kernel['id']}: more launches in a {unit} without the head than with it"
                    yield Finding("RCPT-DISPATCHES", f"{where}/{headless}", said)
        yield from _covered(run, f"{at}/graph")
        if run["measurements"] and not run["proof"]["dispatches_counted"]:
            yield Finding("RCPT-DISPATCHES", f"{at}/proof/dispatches_counted", "nothing counted what was timed")


def _covered(run: dict[str, Any], at: str) -> Findings:
    """Every sample of decode is a step, every sample ends in logits, and all tokens went through a program."""
    graph, measurements = run["graph"], run["measurements"]
    decoded = sum(len(each["samples_s"]) for each in measurements if each["phase"] == "decode")
    samples = sum(len(each["samples_s"]) for each in measurements)
    tokens = sum(len(each["samples_s"]) * each["tokens"] for each in measurements)
    heads = graph["steps"] + graph["prefill_chunks"]
    room = graph["steps"] + graph["headless_steps"]
    room += (graph["prefill_chunks"] + graph["headless_chunks"]) * graph["chunk"]
    for field, have, need, what in (
        ("steps", graph["steps"], decoded, "steps for the samples of decode"),
        ("prefill_chunks", heads, samples, "steps and chunks with the head for the samples"),
        ("headless_chunks", room, tokens, "tokens that the steps and chunks hold for those of the samples"),
    ):
        if have < need:
            yield Finding("RCPT-DISPATCHES", f"{at}/{field}", f"{have} {what}: {need}")


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
