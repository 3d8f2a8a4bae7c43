"""What ran: devices that are what they say, kernels of their backend, and the fallback that led to them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kparity.device import codes, registry
from kparity.device.adapter import Device
from kparity.device.declared import Declared
from kparity.device.registry import PROCESSOR, named_software
from kparity.gates.table import EVERY
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.kernel_ids import dialect_of, dialects, is_gpu_kernel
from kparity.receipts.record import Predicate, Row, Run

CUDA_UUID = re.compile(
    r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|pci [0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\S*", re.I
)

NATIVE = "native"
"""What a backend calls its API whose kernels are this package's own for processors."""
VENDORS = {
    "CUDA": re.compile(r"\b(amd|ati|radeon|instinct|intel|arc|apple|adreno|mali)\b", re.I),
    "HIP": re.compile(r"\b(nvidia|geforce|rtx|gtx|tesla|quadro|intel|arc|apple|adreno|mali)\b", re.I),
}
"""API → names of devices that it does not drive."""
GPU_ONLY = ("CUDA", "HIP")
"""APIs that have no other devices than GPUs."""


def enumerated(predicate: Predicate) -> Iterator[tuple[str, Run]]:
    """Pointer and content of every run."""
    yield from ((f"/predicate/runs/{index}", run) for index, run in enumerate(predicate.runs))


INSTRUCTION_SETS = {
    "scalar": "scalar", "avx2": "AVX2", "avx512vnni": "AVX-512 VNNI", "amx": "AVX-512 VNNI + AMX", "neon": "NEON",
}  # fmt: skip
"""Dialect → how the detail of a native device begins."""


def processor(predicate: Predicate) -> Findings:
    """Native kernels ran on the host's processor, and are of the instruction set that the device names."""
    found = [(at, run.device, [kernel.id for kernel in run.kernels]) for at, run in enumerated(predicate)]
    found += [(at, row.device, [row.kernel]) for at, row, _ in predicate.rows() if row.device and row.kernel]
    for at, device, ids in found:
        if device.api != NATIVE:
            continue
        named = device.detail.partition(",")[0]
        for dialect in {dialect_of(each) for each in ids}:
            if INSTRUCTION_SETS.get(dialect, named) != named:
                yield Finding("RCPT-DEVICE", f"{at}/device/detail", f"{named}, and kernels of {dialect}")
            arm = predicate.host.machine.lower() in ("aarch64", "arm64")
            if dialect in INSTRUCTION_SETS and dialect != "scalar" and (dialect == "neon") is not arm:
                why = f"{predicate.host.machine}, and kernels of {dialect}"
                yield Finding("RCPT-DEVICE", "/predicate/host/machine", why)
        host = predicate.host  # of Linux on x86 alone a device's name comes from where the host's does
        told = host.system.startswith("Linux") and host.machine == "x86_64" and device.device != host.machine
        if device.device != host.cpu and (host.cpu or told):
            yield Finding("RCPT-DEVICE", f"{at}/device/device", f"{device.device}, the host has {host.cpu!r}")


def devices(predicate: Predicate) -> Findings:
    """A device belongs to its backend; a GPU is identified and is no software device.

    What a rejected backend says of its device is on record as it said it: nobody believed it.
    """
    for at, run in enumerated(predicate):
        if run.parity.verdict != "FAIL":
            yield from contradictions(run.backend, run.device, f"{at}/device")
    for at, row, _ in predicate.rows():
        if row.device:
            yield from contradictions(row.backend, row.device, f"{at}/device")
    names = dict[str, str]()
    for at, run in enumerated(predicate):
        name = names.setdefault(run.device.uuid or at, run.device.device)
        if name != run.device.device and run.device.kind == "gpu":
            yield Finding("RCPT-DEVICE", f"{at}/device/uuid", f"{run.device.device} has the UUID of {name}")


def contradictions(backend: str, device: Device, at: str) -> Findings:
    """What a device says of itself that cannot be."""
    declared = registry.declared(backend) or Declared()
    if device.backend != backend:
        yield Finding("RCPT-DEVICE", f"{at}/backend", f"{device.backend}, the run is of {backend}")
    if device.api != (declared.api or device.api):
        yield Finding("RCPT-DEVICE", f"{at}/api", f"{backend} speaks {declared.api}, not {device.api}")
    if device.subgroup & (device.subgroup - 1):
        yield Finding("RCPT-DEVICE", f"{at}/subgroup", f"{device.subgroup} lanes are no power of two")
    if device.kind != "gpu":
        if device.api in GPU_ONLY:
            yield Finding("RCPT-DEVICE", f"{at}/kind", f"{device.api} has no devices of kind {device.kind}")
        return
    if not declared.drives_gpu:
        yield Finding("RCPT-DEVICE", f"{at}/kind", f"{backend} runs on no GPU")
    vendor = VENDORS.get(device.api)
    if not device.device.strip() or (vendor and vendor.search(device.device)):
        yield Finding("RCPT-DEVICE", f"{at}/device", f"{device.device!r} is no device of {device.api}")
    if named_software(device) or PROCESSOR.search(device.device):
        yield Finding("RCPT-SOFTWARE-GPU", f"{at}/device", f"{device.device} is no GPU")
    uuid, cuda = device.uuid, device.api == "CUDA"
    if cuda and not (CUDA_UUID.fullmatch(uuid) and set(uuid[4:]) - set("-0")):
        yield Finding("RCPT-DEVICE", f"{at}/uuid", f"{uuid!r} is no UUID or PCI address of a CUDA device")
    # Other APIs do not tell both everywhere: torch has no driver on ROCm, Metal no UUID.
    if not device.driver and (cuda or not uuid):
        yield Finding("RCPT-DEVICE", f"{at}/driver", f"{device.device} lacks the driver that identifies it")
    if device.driver and not any(map(str.isdigit, device.driver)):
        yield Finding("RCPT-DEVICE", f"{at}/driver", f"{device.driver!r} tells no version")


def kernel_ids(predicate: Predicate) -> Findings:
    """Kernels are there, each once, of a dialect of their backend and with one text for one id."""
    texts: dict[str, str] = {}
    for at, run in enumerated(predicate):
        ids = [kernel.id for kernel in run.kernels]
        failed = run.parity.verdict == "FAIL" and not run.measurements
        if not any(kernel.dispatches for kernel in run.kernels) and not failed:
            yield Finding("RCPT-NO-KERNELS", f"{at}/kernels", f"{run.backend} dispatched no kernel")
        for index, kernel in enumerate(run.kernels):
            where, allowed = f"{at}/kernels/{index}/id", dialects(run.backend)
            if ids.count(kernel.id) > 1 and ids.index(kernel.id) == index:
                yield Finding("RCPT-KERNEL-ID", where, f"{kernel.id} stands twice")
            if allowed and dialect_of(kernel.id, run.backend) not in allowed:
                yield Finding("RCPT-KERNEL-ID", where, f"{kernel.id} is no kernel of {' or '.join(allowed)}")
            if texts.setdefault(kernel.id, kernel.sha256) != kernel.sha256:
                yield Finding("RCPT-KERNEL-ID", where, f"{kernel.id} has another text in another run")
    for at, row, _ in predicate.rows():
        if not (row.kernel and row.dispatches) or row.baseline or row.errors:
            continue
        allowed = dialects(row.backend)
        if allowed and not (dialect_of(row.kernel, row.backend) in allowed and row.kernel.startswith(f"{row.op}_")):
            why = f"{row.kernel} is no kernel of {row.op} in {' or '.join(allowed)}"
            yield Finding("RCPT-KERNEL-ID", f"{at}/kernel", why)
        if texts.setdefault(row.kernel, row.kernel_sha256) != row.kernel_sha256:
            yield Finding("RCPT-KERNEL-ID", f"{at}/kernel_sha256", f"{row.kernel} has another text in another row")


def fallback(predicate: Predicate) -> Findings:
    """What became of every requested backend, in order, with a reason where it was not accepted."""
    asked, tried = predicate.request.backends, predicate.fallback
    names = [each.backend for each in tried]
    # kparity run tries no further than the first that is accepted.
    stopped = predicate.kind == "probe" and asked[: len(names)] == [*names[:-1], predicate.serving]
    if names != asked and not stopped:
        why = f"not the requested backends in order: {', '.join(asked)}"
        yield Finding("RCPT-FALLBACK", "/predicate/fallback", why)
    known, computed = codes.own(), {code for spec in EVERY if spec.thresholds for code in spec.codes}
    for index, each in enumerate(tried):
        where = f"/predicate/fallback/{index}"
        if (each.status == "accepted") is bool(each.code or each.reason) or bool(each.code) is not bool(each.reason):
            yield Finding("RCPT-FALLBACK", f"{where}/reason", f"{each.backend}: {each.status}, code {each.code}")
        elif each.code and each.backend in registry.BUILTIN and each.code not in known:
            yield Finding("RCPT-FALLBACK", f"{where}/code", f"{each.code} is no code of kparity's")
        elif each.status == "unavailable" and each.code in computed - {"KP-UNSUPPORTED"}:
            yield Finding("RCPT-FALLBACK", f"{where}/status", f"unavailable, and {each.code} is of what was computed")


def served(predicate: Predicate) -> Findings:
    """The first accepted backend serves, and every accepted one has one run; single ops are served by none."""
    accepted = [each.backend for each in predicate.fallback if each.status == "accepted"]
    for at, row, owner in predicate.rows():
        if owner is None and not row.baseline and row.backend not in accepted:
            yield Finding("RCPT-FALLBACK", f"{at}/backend", f"{row.backend} was not requested or not available")
    if predicate.ops and not predicate.runs:
        return
    opened = [each.backend for each in predicate.fallback if each.status != "unavailable"]
    ran, first = [run.backend for run in predicate.runs], next(iter(accepted), None)
    if predicate.serving != first:
        why = f"{predicate.serving} serves, the first accepted is {first}"
        yield Finding("RCPT-FALLBACK", "/predicate/serving", why)
    strange = [f"{name} has two runs" for name in dict.fromkeys(ran) if ran.count(name) > 1]
    strange += [f"{name} ran, and was not requested or not available" for name in ran if name not in opened]
    strange += [f"{name} was accepted and has no run" for name in accepted if name not in ran]
    yield from (Finding("RCPT-FALLBACK", "/predicate/runs", why) for why in strange)


def gpu_verified(predicate: Predicate, trust_claims: bool) -> Findings:
    """The driver confirms every GPU that was not rejected; with ``trust_claims`` it may also tell nothing, where the
    run was asked for so.
    """
    trusted = trust_claims and predicate.request.options.get("trust_claims") is True
    for at, run in enumerated(predicate):
        proof = run.proof.device
        if run.device.kind != "gpu" or run.parity.verdict == "FAIL" or proof == "verified":
            continue
        if not (trusted and proof == "not verified"):
            why = f"that {run.device.device} computed is {proof or 'not told'}"
            yield Finding("RCPT-NOT-VERIFIED", f"{at}/proof/device", why)


def gpu_required(predicate: Predicate) -> Findings:
    """A GPU served, by kernels of GPUs that its own clock saw; no GPU API ran on anything else."""
    devices = {run.backend: (f"{at}/device", run.device) for at, run in enumerated(predicate)}
    for at, row, _ in predicate.rows():
        if row.device:
            devices.setdefault(row.backend, (f"{at}/device", row.device))
    for backend, (at, device) in devices.items():
        if device.kind != "gpu" and registry.drives_gpu(backend, unknown=False):
            why = f"{device.device} is a {device.kind} device behind {device.api}"
            yield Finding("RCPT-NOT-A-GPU", f"{at}/kind", why)
    asked = [name for name in predicate.request.backends if registry.drives_gpu(name)]
    only_ops = bool(predicate.ops) and not predicate.runs
    serving = devices.get(predicate.serving or "")
    if asked and not only_ops and (serving is None or serving[1].kind != "gpu"):
        why = f"{', '.join(asked)} asked for, {predicate.serving or 'nothing'} serves"
        yield Finding("RCPT-FALLBACK-ONLY", "/predicate/serving", why)
    if not any(map(op_shows_gpu, predicate.ops) if only_ops else map(shows_gpu, predicate.runs)):
        yield Finding("RCPT-NO-GPU-KERNELS", "/predicate", "nothing in it has kernels that a GPU's own clock saw")


def shows_gpu(run: Run) -> bool:
    """Positive proof: a GPU, all kernels of GPU dialects, counted, and a step that took time on the device's clock."""
    kernels = [kernel for kernel in run.kernels if kernel.dispatches]
    timed = bool(run.step_ns) or any(kernel.device_ns for kernel in kernels)
    counted = bool(kernels) and run.proof.dispatches_counted and run.proof.device_clock and timed
    return (
        counted
        and run.device.kind == "gpu"
        and run.proof.device != "refuted"
        and all(is_gpu_kernel(each.id, run.backend) for each in kernels)
    )


def op_shows_gpu(row: Row) -> bool:
    """Positive proof: a GPU, a kernel of a GPU dialect, counted, verified, timed by the device's clock."""
    here = row.device is not None and row.device.kind == "gpu" and registry.drives_gpu(row.backend, unknown=False)
    timed = bool(row.dispatches and row.seconds) and row.clock == "device" and row.verified
    return here and timed and is_gpu_kernel(row.kernel, row.backend)
