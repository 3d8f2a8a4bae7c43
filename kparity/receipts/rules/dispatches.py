"""Whether what ran is what a graph of that length launches, and whether the device's clock saw it."""

from __future__ import annotations

from statistics import quantiles

from kparity.contracts import Contract
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.record import CEILINGS, Graph, Predicate, Programs, Row, Run
from kparity.receipts.rules.device import enumerated
from kparity.receipts.rules.samples import ahead


def counts(predicate: Predicate) -> Findings:
    """Dispatches of each kernel = the replays of each program × its launches in it; the replays cover the samples."""
    for at, run in enumerated(predicate):
        graph = run.graph
        if graph is None:
            continue
        launches = [(f"{at}/kernels/{index}", each, each.launches) for index, each in enumerate(run.kernels)]
        for unit in Programs.__struct_fields__:
            total, wanted = sum(getattr(each, unit) for _, _, each in launches if each), getattr(graph.launches, unit)
            if total != wanted:
                why = f"launches of the kernels in a {unit} add up to {total}, it has {wanted}"
                yield Finding("RCPT-DISPATCHES", f"{at}/graph/launches/{unit}", why)
        for where, kernel, each in launches:
            if each is None:
                continue
            if kernel.dispatches != (wanted := graph.replays.times(each)):
                why = f"{kernel.id}: {kernel.dispatches} dispatches, the replays give {wanted}"
                yield Finding("RCPT-DISPATCHES", f"{where}/dispatches", why)
            for unit in ("step", "chunk"):
                if getattr(each, f"headless_{unit}") > getattr(each, unit):
                    why = f"{kernel.id}: more launches in a {unit} without the head than with it"
                    yield Finding("RCPT-DISPATCHES", f"{where}/launches/headless_{unit}", why)
        yield from _covered(graph, run.measurements, f"{at}/graph/replays")
        if run.measurements and not run.proof.dispatches_counted:
            yield Finding("RCPT-DISPATCHES", f"{at}/proof/dispatches_counted", "nothing counted what was timed")
    for at, row, _ in predicate.rows():
        if row.op and row.op not in CEILINGS and row.seconds and not (row.baseline or row.errors):
            yield from _launched(row, at)


def _launched(row: Row, at: str) -> Findings:
    """The kernel of an op was launched as often as the samples take."""
    if not row.dispatches:
        yield Finding("RCPT-NO-KERNELS", f"{at}/dispatches", f"{row.name}: no kernel was dispatched")
        return
    wanted, samples = row.replays * row.launches_per_replay, len(row.device_s)
    for field, wrong, why in (
        ("dispatches", row.dispatches != wanted, f"{row.dispatches} dispatches, the replays give {wanted}"),
        ("replays", row.replays < samples, f"{row.replays} replays for {samples} samples"),
        ("launches_per_replay", row.launches_per_replay % row.units,
         f"{row.launches_per_replay} launches, the times are for {row.units}"),
    ):  # fmt: skip
        if wrong:
            yield Finding("RCPT-DISPATCHES", f"{at}/{field}", f"{row.kernel}: {why}")


def _covered(graph: Graph, measurements: list[Row], at: str) -> Findings:
    """Every sample of decode is a step, every sample ends in logits, and all tokens went through a program."""
    ran = graph.replays
    decoded = sum(len(each.samples_s) for each in measurements if each.phase == "decode")
    samples = sum(len(each.samples_s) for each in measurements)
    tokens = sum(len(each.samples_s) * each.units for each in measurements)
    room = ran.step + ran.headless_step + (ran.chunk + ran.headless_chunk) * graph.chunk
    for field, have, need, what in (
        ("step", ran.step, decoded, "steps for the samples of decode"),
        ("chunk", ran.step + ran.chunk, samples, "steps and chunks with the head for the samples"),
        ("headless_chunk", room, tokens, "tokens that the steps and chunks hold for those of the samples"),
    ):
        if have < need:
            yield Finding("RCPT-DISPATCHES", f"{at}/{field}", f"{have} {what}: {need}")


def repeated(predicate: Predicate, contract: Contract) -> Findings:
    """A run that passed was repeated, bit for bit, and not more often than anything ran."""
    for at, run in enumerated(predicate):
        seen = run.determinism if run.parity.verdict == "PASS" else None
        most = run.graph.replays.step + run.graph.replays.chunk if run.graph else 0
        if seen and not (seen.identical and contract.threshold("repeats").holds(seen.repeats) and seen.repeats <= most):
            why = f"{seen.repeats} repeats, identical: {seen.identical}"
            yield Finding("RCPT-DETERMINISM", f"{at}/determinism", why)


def device_time(predicate: Predicate, contract: Contract) -> Findings:
    """Where a device clock is claimed every kernel of a step has time on it, and no more than the wall saw."""
    for at, row, _ in predicate.rows():
        if row.op and row.seconds:
            yield from _clocks(row, contract, f"{at}/device_s")
    for at, run in enumerated(predicate):
        yield from _step(run, predicate.kind == "probe", contract, at)
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
                why = f"the kernels of a step take {spent * 1e-9:.3g} s, the longest step {longest:.3g} s"
                yield Finding("RCPT-DEVICE-TIME", f"{at}/kernels", why)
        for index, each in enumerate(run.measurements):
            where = f"{at}/measurements/{index}/device_s"
            if not each.device_s:
                yield Finding("RCPT-DEVICE-TIME", where, f"{each.name} has no time of the device's clock")
                continue
            seen, wall = min(each.device_s), max(each.samples_s)
            if not contract.threshold("device_ahead").holds(seen / wall):
                why = f"{each.name}: at least {seen:.3g} s on the device's clock, at most {wall:.3g} s of the wall"
                yield Finding("RCPT-DEVICE-TIME", where, why)


def _step(run: Run, probe: bool, contract: Contract, at: str) -> Findings:
    """A probe's step on the device's clock: told where that is claimed; and no GPU's is shorter than its launches."""
    if (probe and bool(run.step_ns) is not run.proof.device_clock) or (run.step_ns and run.device.kind == "cpu"):
        why = f"{run.step_ns} ns, a clock of the device is {'' if run.proof.device_clock else 'not '}claimed"
        yield Finding("RCPT-DEVICE-TIME", f"{at}/step_ns", why)
    steps = [second for row in run.measurements if row.phase == "decode" for second in (*row.samples_s, *row.device_s)]
    steps += [1e-9 * run.step_ns] if run.step_ns else []
    launches = max(run.graph.launches.step if run.graph else len(run.kernels), 1)
    if steps and run.device.kind == "gpu" and not contract.threshold("launch_s").holds(min(steps) / launches):
        why = f"a step of {launches} launches in {min(steps):.3g} s"
        yield Finding("RCPT-DEVICE-TIME", f"{at}/step_ns", why)


def _clocks(row: Row, contract: Contract, at: str) -> Findings:
    """Of an op sample by sample; and in the sum, where samples are as short as a clock's resolution."""
    device, wall = row.device_s, row.samples_s
    if len(device) != len(wall):
        why = f"{row.name}: {len(device)} samples by the device's clock, {len(wall)} by the wall's"
        yield Finding("RCPT-DEVICE-TIME", at, why)
    elif early := ahead(device, wall, contract):
        why = f"{row.name}: the device's clock is ahead of the wall's in {early} of {len(device)} samples"
        yield Finding("RCPT-DEVICE-TIME", at, why)
    share = sum(device) / sum(wall)
    if not contract.threshold("device_ahead").holds(share):
        yield Finding("RCPT-DEVICE-TIME", at, f"{row.name}: {share:.2f} times the wall's time on the device's clock")
