"""The rows of a benchmark of single ops: each has its device, its verdict and its samples in itself."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from kparity.contracts import Contract
from kparity.device.registry import drives_gpu
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.kernel_ids import dialect_of, dialects, is_gpu_kernel
from kparity.receipts.record import OpRow, Predicate
from kparity.receipts.rules.device import contradictions
from kparity.receipts.rules.samples import ahead
from kparity.receipts.rules.speed import Figures, follows

CEILINGS = ("stream", "copy")
"""What the rows of the memory's bandwidth call their op: no kernel of kparity."""


def rows(predicate: Predicate) -> Iterator[tuple[str, OpRow]]:
    """Pointer and content of every row."""
    yield from ((f"/predicate/ops/{index}", row) for index, row in enumerate(predicate.ops))


def only_ops(predicate: Predicate) -> bool:
    """Whether a receipt is of single ops alone: no model ran, and no backend serves."""
    return bool(predicate.ops) and not predicate.runs


def sound(predicate: Predicate, contract: Contract) -> Findings:
    """Every row is of a requested backend, verified, without errors, and its figures follow from its samples."""
    accepted = [each.backend for each in predicate.fallback if each.status == "accepted"]
    ceilings, texts = _ceilings(predicate), dict[str, str]()
    for at, row in rows(predicate):
        if row.unsupported:  # the reason stands in the row, and nothing was measured
            continue
        for said in row.errors:
            yield Finding("RCPT-ERRORS", f"{at}/errors", f"{row.name}: {said}")
        if not row.verified:
            yield Finding("RCPT-OUTPUT", f"{at}/verified", f"{row.name}: the timed output was not verified")
        if row.backend not in accepted and not row.baseline:
            yield Finding("RCPT-FALLBACK", f"{at}/backend", f"{row.backend} was not requested or not available")
        if row.kind:
            yield from contradictions(row.backend, row, at)
        if row.samples_device_s:
            middle, rate = median(row.seconds), row.bytes / median(row.seconds) * 1e-9
            wanted: Figures = {"us": (row.us, middle * 1e6), "gb_per_s": (row.gb_per_s or None, rate)}
            interval = (row.us_low or 0.0) * 1e-6, (row.us_high or 0.0) * 1e-6
            yield from follows(row.name, wanted, row.seconds, interval, contract, f"{at}/us_low")
            yield from _possible(row, ceilings.get(row.backend, 0.0), contract, at)
            if not (row.op in CEILINGS or row.baseline or row.errors):
                yield from _launched(row, texts, at)
        elif not row.errors:
            yield Finding("RCPT-EMPTY", f"{at}/samples_device_s", f"{row.name} was not measured")


def _ceilings(predicate: Predicate) -> dict[str, float]:
    """Bytes per second of each backend's fastest pass over its memory."""
    return {
        row.backend: row.bytes / min(row.seconds)
        for _, row in rows(predicate)
        if row.op in CEILINGS and row.samples_device_s
    }


def _launched(row: OpRow, texts: dict[str, str], at: str) -> Findings:
    """A kernel of the op, in a dialect of the backend and of one text, was launched as often as the samples take."""
    kernel, backend = row.kernel, row.backend
    if not row.dispatches:
        yield Finding("RCPT-NO-KERNELS", f"{at}/dispatches", f"{row.name}: no kernel was dispatched")
        return
    allowed = dialects(backend)
    if allowed and not (dialect_of(kernel, backend) in allowed and kernel.startswith(f"{row.op}_")):
        said = f"{kernel} is no kernel of {row.op} in {' or '.join(allowed)}"
        yield Finding("RCPT-KERNEL-ID", f"{at}/kernel", said)
    if texts.setdefault(kernel, row.kernel_sha256) != row.kernel_sha256:
        yield Finding("RCPT-KERNEL-ID", f"{at}/kernel_sha256", f"{kernel} has another text in another row")
    wanted = row.replays * row.launches_per_replay
    if row.dispatches != wanted:
        said = f"{kernel}: {row.dispatches} dispatches, the replays give {wanted}"
        yield Finding("RCPT-DISPATCHES", f"{at}/dispatches", said)
    if row.replays < len(row.samples_device_s):
        said = f"{row.replays} replays for {len(row.samples_device_s)} samples"
        yield Finding("RCPT-DISPATCHES", f"{at}/replays", said)
    if row.launches_per_replay % row.launches_per_sample:
        said = f"{row.launches_per_replay} launches, the times are for {row.launches_per_sample}"
        yield Finding("RCPT-DISPATCHES", f"{at}/launches_per_replay", said)


def _possible(row: OpRow, ceiling: float, contract: Contract, at: str) -> Findings:
    """A cold row is not faster than memory, and no device's clock runs ahead of the wall's."""
    fastest = min(row.seconds)
    if row.cold and ceiling and row.bytes and row.op not in CEILINGS:
        floor = row.bytes / ceiling
        if not contract.threshold("floor_share").holds(fastest / floor):
            said = f"{row.name}: {fastest:.3g} s, memory needs {floor:.3g} s"
            yield Finding("RCPT-FLOOR", f"{at}/samples_device_s", said)
    yield from _clocks(row, contract, f"{at}/samples_device_s")


def _clocks(row: OpRow, contract: Contract, at: str) -> Findings:
    """Sample by sample; and in the sum, where samples are as short as a clock's resolution."""
    device, wall = row.samples_device_s, row.samples_wall_s
    if len(device) != len(wall):
        said = f"{row.name}: {len(device)} samples by the device's clock, {len(wall)} by the wall's"
        yield Finding("RCPT-DEVICE-TIME", at, said)
    elif early := ahead(device, wall, contract):
        said = f"{row.name}: the device's clock is ahead of the wall's in {early} of {len(device)} samples"
        yield Finding("RCPT-DEVICE-TIME", at, said)
    share = sum(device) / sum(wall)
    if not contract.threshold("device_ahead").holds(share):
        said = f"{row.name}: {share:.2f} times the wall's time on the device's clock"
        yield Finding("RCPT-DEVICE-TIME", at, said)


def gpu_required(predicate: Predicate) -> Findings:
    """A GPU ran verified kernels of GPUs that its own clock timed, and no GPU API ran on anything else."""
    for at, row in rows(predicate):
        if row.kind not in (None, "gpu") and drives_gpu(row.backend, unknown=False):
            said = f"{row.device} is a {row.kind} device"
            yield Finding("RCPT-NOT-A-GPU", f"{at}/kind", said)
            break
    if not any(shows_gpu(row) for _, row in rows(predicate)):
        yield Finding("RCPT-NO-GPU-KERNELS", "/predicate/ops", "no row has a kernel that a GPU's own clock saw")


def shows_gpu(row: OpRow) -> bool:
    """Positive proof: a GPU, a kernel of a GPU dialect, counted, verified, timed by the device's clock."""
    return bool(
        row.kind == "gpu"
        and drives_gpu(row.backend, unknown=False)
        and is_gpu_kernel(row.kernel, row.backend)
        and row.dispatches
        and row.samples_device_s
        and row.clock == "device"
        and row.verified
    )
