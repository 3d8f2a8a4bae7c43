"""What a device has: the size of its last cache, the peak of its memory, the clocks it runs at, and its energy counter,
where the system lets one read it: RAPL for processors, NVML for NVIDIA's GPUs.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kparity.device.adapter import DeviceInfo

UNKNOWN_CACHE = 256 << 20
"""Assumed where no API tells the size of a device's last cache: larger than those of all but a few GPUs."""
L2_CACHE_SIZE, MEMORY_CLOCK_RATE, MEMORY_BUS_WIDTH = 38, 36, 37
"""Values of CUdevice_attribute."""
SYSTEM, POWERCAP = Path("/sys/devices/system/cpu"), Path("/sys/class/powercap")
QUERIED = ("name", "uuid", "driver_version", "pstate", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
           "temperature.gpu", "power.draw", "memory.used", "utilization.gpu")  # fmt: skip


def nvidia_attribute(attribute: int, index: int = 0) -> int:
    """A device attribute from the CUDA driver, whatever API is benchmarked; 0 where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    value = ctypes.c_int(0)
    failed = driver.cuInit(0) or driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, index)
    return 0 if failed else value.value


def _is_nvidia(info: DeviceInfo) -> bool:
    label = f"{info.device} {info.driver}".lower()
    return info.kind == "gpu" and (info.api == "CUDA" or "nvidia" in label)


def cache_bytes(info: DeviceInfo) -> int:
    """Bytes of the last cache between the device and its memory."""
    if info.kind == "gpu":
        return (nvidia_attribute(L2_CACHE_SIZE) if _is_nvidia(info) else 0) or UNKNOWN_CACHE
    sizes = []
    for path in (SYSTEM / "cpu0" / "cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text.rstrip("KM")) << {"K": 10, "M": 20}.get(text[-1:], 0))
    return max(sizes, default=UNKNOWN_CACHE)


def cold_bytes(info: DeviceInfo, most: int = 1 << 30) -> int:
    """Bytes of distinct data to walk through: four caches of a GPU, two of a processor, within ``most``."""
    return min((4 if info.kind == "gpu" else 2) * cache_bytes(info), most)


def peak_bandwidth(info: DeviceInfo) -> float:
    """Bytes per second that the memory can move by its clock and width; 0 where the driver does not tell."""
    if not _is_nvidia(info):
        return 0.0
    return 2.0 * nvidia_attribute(MEMORY_CLOCK_RATE) * 1e3 * nvidia_attribute(MEMORY_BUS_WIDTH) / 8


def gpu_state() -> list[dict[str, str]]:
    """Clocks, temperature and power of NVIDIA's devices as they are; empty where nvidia-smi does not answer."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(QUERIED)}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    return [dict(zip(QUERIED, map(str.strip, line.split(",")), strict=False)) for line in done.stdout.splitlines()]


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def cpu_state() -> dict[str, Any]:
    """Load, and where the system tells: clocks in MHz and temperatures in °C; null where it does not (a guest)."""
    clocks = [_number(path) for path in sorted(SYSTEM.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))]
    zones = [_number(path) for path in sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp"))]
    governor = SYSTEM / "cpu0" / "cpufreq" / "scaling_governor"
    return {
        "load": os.getloadavg()[0],
        "mhz": [each / 1e3 for each in clocks if each is not None] or None,
        "celsius": [each / 1e3 for each in zones if each is not None] or None,
        "governor": governor.read_text().strip() if governor.is_file() else None,
    }


def clocks() -> dict[str, Any]:
    """State of the processor and of the GPUs: taken before and after a run, so that a throttled one shows."""
    return {"cpu": cpu_state(), "gpus": gpu_state()}


# --- energy ---


@dataclass(frozen=True)
class Meter:
    """A counter of joules; where there is none, ``read`` gives None and ``reason`` says why."""

    source: str | None
    reason: str | None
    read: Callable[[], float | None]


def _no_meter(reason: str) -> Meter:
    return Meter(None, reason, lambda: None)


def spent(before: float | None, after: float | None) -> float | None:
    """Joules between two readings; None where a counter is missing or began anew in between."""
    return None if before is None or after is None or after < before else after - before


def meter(info: DeviceInfo, powercap: Path = POWERCAP) -> Meter:
    """The counter of a device: NVML for an NVIDIA GPU, RAPL packages for whatever a processor computes."""
    return _nvml(info.uuid) if info.kind == "gpu" else _rapl(powercap)


def _rapl(powercap: Path) -> Meter:
    """The sum over the packages (``intel-rapl:0``, …; AMD's bear the same names)."""
    files = [path for path in powercap.glob("intel-rapl:*/energy_uj") if path.parent.name.count(":") == 1]
    if not files:
        return _no_meter(f"no RAPL counter in {powercap} (a virtual machine, or a processor without one)")

    def read() -> float | None:
        try:
            return sum(int(file.read_text()) for file in files) * 1e-6
        except (OSError, ValueError):
            return None

    if read() is None:
        return _no_meter(f"{files[0]} cannot be read (root only on most systems)")
    return Meter("RAPL package", None, read)


def _nvml(uuid: str) -> Meter:
    """Energy since the driver was loaded, by NVML; Volta and newer."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return _no_meter("no NVML (libnvidia-ml.so.1)")
    device, value = ctypes.c_void_p(), ctypes.c_ulonglong()
    if library.nvmlInit_v2() != 0:
        return _no_meter("NVML cannot be initialised")
    if library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(device)) != 0:
        return _no_meter(f"NVML knows no device {uuid or 'without a UUID'}")

    def read() -> float | None:
        failed = library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(value))
        return None if failed else value.value * 1e-3

    if read() is None:
        return _no_meter("NVML has no energy counter for this device")
    return Meter("NVML", None, read)
