"""Whether what ran is what a graph of that length launches, and whether the device's clock saw it."""

from __future__ import annotations

from statistics import quantiles

from kparity.contracts import Contract
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.record import Graph, Measurement, Predicate, Programs
from kparity.receipts.rules.device import enumerated


def counts(predicate: Predicate) -> Findings:
    """Dispatches of each kernel = the replays of each program × its launches in it; the replays cover the samples."""
    for at, run in enumerated(predicate):
        graph = run.graph
        if graph is None:
            continue
        launches = [(index, kernel, kernel.launches) for index, kernel in enumerate(run.kernels)]
        for unit in Programs.__struct_fields__:
            total = sum(getattr(each, unit) for _, _, each in launches if each)
            if total != getattr(graph.launches, unit):
                said = f"launches of the kernels in a {unit} add up to {total}, it has {getattr(graph.launches, unit)}"
                yield Finding("RCPT-DISPATCHES", f"{at}/graph/launches/{unit}", said)
        for index, kernel, each in launches:
            if each is None:
                continue
            where, wanted = f"{at}/kernels/{index}", graph.replays.times(each)
            if kernel.dispatches != wanted:
                said = f"{kernel.id}: {kernel.dispatches} dispatches, the replays give {wanted}"
                yield Finding("RCPT-DISPATCHES", f"{where}/dispatches", said)
            for unit, headless, whole in (
                ("step", each.headless_step, each.step), ("chunk", each.headless_chunk, each.chunk),
            ):  # fmt: skip
                if headless > whole:
                    said = f"{kernel.id}: more launches in a {unit} without the head than with it"
                    yield Finding("RCPT-DISPATCHES", f"{where}/launches/headless_{unit}", said)
        yield from _covered(graph, run.measurements, f"{at}/graph/replays")
        if run.measurements and not run.proof.dispatches_counted:
            yield Finding("RCPT-DISPATCHES", f"{at}/proof/dispatches_counted", "nothing counted what was timed")


def _covered(graph: Graph, measurements: list[Measurement], at: str) -> Findings:
    """Every sample of decode is a step, every sample ends in logits, and all tokens went through a program."""
    ran = graph.replays
    decoded = sum(len(each.samples_s) for each in measurements if each.phase == "decode")
    samples = sum(len(each.samples_s) for each in measurements)
    tokens = sum(len(each.samples_s) * each.tokens for each in measurements)
    room = ran.step + ran.headless_step + (ran.chunk + ran.headless_chunk) * graph.chunk
    for field, have, need, what in (
        ("step", ran.step, decoded, "steps for the samples of decode"),
        ("chunk", ran.step + ran.chunk, samples, "steps and chunks with the head for the samples"),
        ("headless_chunk", room, tokens, "tokens that the steps and chunks hold for those of the samples"),
    ):
        if have < need:
            yield Finding("RCPT-DISPATCHES", f"{at}/{field}", f"{have} {what}: {need}")


def device_time(predicate: Predicate, contract: Contract) -> Findings:
    """Where a device clock is claimed every kernel of a step has time on it, and no more than the wall saw."""
    for at, run in enumerated(predicate):
        if not run.proof.device_clock:
            continue
        steps = [each for each in run.measurements if each.phase == "decode"]
        spent = 0.0
        for index, kernel in enumerate(run.kernels):
            spent += kernel.device_ns or 0
            if kernel.launches and kernel.launches.step and not kernel.device_ns:
                where = f"{at}/kernels/{index}/device_ns"
                yield Finding("RCPT-DEVICE-TIME", where, f"{kernel.id} took no time on the device's clock")
        if steps:
            longest = max(quantiles(each.samples_s * 2, n=10)[-1] for each in steps)
            if not contract.threshold("kernel_time").holds(spent * 1e-9 / longest):
                said = f"the kernels of a step take {spent * 1e-9:.3g} s, the longest step {longest:.3g} s"
                yield Finding("RCPT-DEVICE-TIME", f"{at}/kernels", said)
        for index, each in enumerate(run.measurements):
            where = f"{at}/measurements/{index}/device_s"
            if not each.device_s:
                yield Finding("RCPT-DEVICE-TIME", where, f"{each.name} has no time of the device's clock")
                continue
            seen, wall = min(each.device_s), max(each.samples_s)
            if not contract.threshold("device_ahead").holds(seen / wall):
                said = f"{each.name}: at least {seen:.3g} s on the device's clock, at most {wall:.3g} s of the wall"
                yield Finding("RCPT-DEVICE-TIME", where, said)
