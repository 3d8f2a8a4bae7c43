"""The gate ``open``, judged by the parent from what the device says of itself: nothing is computed for it."""

from __future__ import annotations

from collections.abc import Iterable

from kparity.contracts.known import Issue
from kparity.device.adapter import DeviceInfo
from kparity.device.registry import host_has_gpu, named_software
from kparity.gates.verdict import Gate


def gate_open(info: DeviceInfo, require_gpu: bool, issues: Iterable[Issue] = ()) -> Gate:
    """The device does not contradict itself, no open known issue is about it, and with ``require_gpu`` it is a GPU."""
    name = info.device or info.backend
    if info.kind != "gpu" and require_gpu:
        return _failed("KP-NOT-GPU", f"{name} is a {info.kind} device, a GPU is required")
    if info.kind == "gpu" and named_software(info):
        return _failed("KP-FALSE-GPU", f"{name} claims to be a GPU, its name is that of a software device")
    if info.kind == "gpu" and not host_has_gpu():
        return _failed("KP-FALSE-GPU", f"{name} claims to be a GPU, the host has no GPU device")
    known = [issue for issue in issues if issue.backend == info.backend and issue.matches(info.as_dict())]
    if known:
        more = f"; and {', '.join(issue.id for issue in known[1:])}" if len(known) > 1 else ""
        return _failed("KP-KNOWN-BAD", f"{known[0].reason}{more}")
    return Gate("open", "PASS", note=info.kind)


def _failed(code: str, reason: str) -> Gate:
    return Gate("open", "FAIL", code=code, reason=reason)
