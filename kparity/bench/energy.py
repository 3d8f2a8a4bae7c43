"""Energy counters, where the system lets one read them: RAPL for processors, NVML for NVIDIA's GPUs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kparity.device.adapter import DeviceInfo

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Meter:
    """A counter of joules; where there is none, ``read`` gives None and ``reason`` says why."""

    source: str | None
    reason: str | None
    read: Callable[[], float | None]


def no_meter(reason: str) -> Meter:
    """A meter that reads nothing."""
    return Meter(None, reason, lambda: None)


def spent(before: float | None, after: float | None) -> float | None:
    """Joules between two readings; None where a counter is missing or began anew in between."""
    return None if before is None or after is None or after < before else after - before


def meter(info: DeviceInfo, powercap: Path = POWERCAP) -> Meter:
    """The counter of a device: NVML for an NVIDIA GPU, RAPL packages for whatever a processor computes."""
    if info.kind == "gpu":
        return _nvml(info.uuid)
    return _rapl(powercap)


def _rapl(powercap: Path) -> Meter:
    """The sum over the packages (``intel-rapl:0``, …; AMD's bear the same names)."""
    files = [path for path in powercap.glob("intel-rapl:*/energy_uj") if path.parent.name.count(":") == 1]
    if not files:
        return no_meter(f"no RAPL counter in {powercap} (a virtual machine, or a processor without one)")

    def read() -> float | None:
        try:
            return sum(int(file.read_text()) for file in files) * 1e-6
        except (OSError, ValueError):
            return None

    if read() is None:
        return no_meter(f"{files[0]} cannot be read (root only on most systems)")
    return Meter("RAPL package", None, read)


def _nvml(uuid: str) -> Meter:
    """Energy since the driver was loaded, by NVML; Volta and newer."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return no_meter("no NVML (libnvidia-ml.so.1)")
    device, value = ctypes.c_void_p(), ctypes.c_ulonglong()
    if library.nvmlInit_v2() != 0:
        return no_meter("NVML cannot be initialised")
    if library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(device)) != 0:
        return no_meter(f"NVML knows no device {uuid or 'without a UUID'}")

    def read() -> float | None:
        failed = library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(value))
        return None if failed else value.value * 1e-3

    if read() is None:
        return no_meter("NVML has no energy counter for this device")
    return Meter("NVML", None, read)
