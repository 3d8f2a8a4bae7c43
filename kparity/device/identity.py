"""What a device is, beyond what its API says: names of software devices and of processors, and the GPUs of the host."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from kparity.device import registry
from kparity.device.adapter import Device

PROCESSOR = re.compile(r"\bcpu\b|\bxeon\b|\bepyc\b|\bthreadripper\b|\bcore\(tm\)|pthread", re.I)
"""Names of processors, which no GPU has."""
NODES = (
    "/dev/nvidia*", "/dev/kfd", "/dev/dri/renderD*", "/dev/dxg", "/dev/nvhost*", "/dev/mali*", "/dev/kgsl*",
    "/dev/accel/*",
)  # fmt: skip
"""Device nodes of GPU drivers, of those too that no backend asks for."""


def named_software(info: Device) -> bool:
    """Whether a device has the name of a software device that kparity, or the backend itself, knows."""
    judges = [*registry.builtin().values(), registry.declared(info.backend)]
    return any(judge.named_software(info.device, info.driver, info.detail) for judge in judges if judge is not None)


def host_has_gpu() -> bool:
    """Whether the host shows any trace of a GPU: a PCI display or accelerator device, or a device node of a GPU driver.

    Where no such trace can exist (another system than Linux) the answer is yes: it is used to refute claims only.
    """
    if sys.platform != "linux":
        return True
    if any(True for node in NODES for _ in Path("/").glob(node.lstrip("/"))):
        return True
    classes = [path.read_text().strip() for path in Path("/sys/bus/pci/devices").glob("*/class")]
    return any(code.startswith(("0x03", "0x12", "0x0b40")) for code in classes)
