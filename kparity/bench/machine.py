"""What a device has: the size of its last cache, the peak of its memory, and the clocks it runs at."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path
from typing import Any

from kparity.device.adapter import DeviceInfo

UNKNOWN_CACHE = 256 << 20
"""Assumed where no API tells the size of a device's last cache: larger than those of all but a few GPUs."""
L2_CACHE_SIZE, MEMORY_CLOCK_RATE, MEMORY_BUS_WIDTH = 38, 36, 37
"""Values of CUdevice_attribute."""
SYSTEM = Path("/sys/devices/system/cpu")
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


def identity(info: DeviceInfo) -> dict[str, str]:
    """What a time was measured on, for a row: ``backend``, and of its device name, kind, api, driver, uuid, detail."""
    return {"backend": info.backend, "device": info.device, "kind": info.kind, "api": info.api, "driver": info.driver,
            "uuid": info.uuid, "detail": info.detail}  # fmt: skip


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
