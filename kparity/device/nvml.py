"""What NVIDIA's driver says of processes and memory, through NVML (libnvidia-ml), asked by whoever probes."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any, NamedTuple

SUCCESS, NO_ROOM = 0, 7
NOT_AVAILABLE = 2**64 - 1
"""NVML_VALUE_NOT_AVAILABLE: the driver does not tell it (MIG, Windows)."""
MOST = 1024
"""Processes of one card that are read."""


class Pci(ctypes.Structure):
    """nvmlPciInfo_t, as nvmlDeviceGetPciInfo_v3 fills it."""

    _fields_ = (
        ("legacy", ctypes.c_char * 16), ("domain", ctypes.c_uint), ("bus", ctypes.c_uint), ("device", ctypes.c_uint),
        ("ids", ctypes.c_uint), ("subsystem", ctypes.c_uint), ("bus_id", ctypes.c_char * 32),
    )  # fmt: skip


class Memory(ctypes.Structure):
    """nvmlMemory_t, bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Process(ctypes.Structure):
    """nvmlProcessInfo_t of the functions _v3."""

    _fields_ = (
        ("pid", ctypes.c_uint), ("memory", ctypes.c_ulonglong), ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )  # fmt: skip


class Sample(ctypes.Structure):
    """nvmlProcessUtilizationSample_t; shares in percent."""

    _fields_ = (
        ("pid", ctypes.c_uint), ("at", ctypes.c_ulonglong), ("sm", ctypes.c_uint), ("memory", ctypes.c_uint),
        ("encoder", ctypes.c_uint), ("decoder", ctypes.c_uint),
    )  # fmt: skip


class Card(NamedTuple):
    """One card: PCI address, bytes in use, and pid → bytes (None where they are not told) of the processes on it; None
    where no list of them is told. ``worked`` are the pids that were seen at work.
    """

    place: str
    used: int
    processes: dict[int, int | None] | None
    worked: set[int]


class Nvml:
    """The library, which is loaded and asked; ``cards`` is empty wherever anything is missing."""

    def __init__(self, library: Any = None) -> None:
        self.library = library
        if library is None:
            for name in ("libnvidia-ml.so.1", "nvml.dll"):
                with suppress(OSError):
                    self.library = ctypes.CDLL(name)
                    break
        with suppress(AttributeError):
            self.library = self.library if self.library.nvmlInit_v2() == SUCCESS else None

    def cards(self) -> list[Card]:
        """Every card that this process may see, as it is now."""
        count = ctypes.c_uint()
        with suppress(AttributeError):
            if self.library is not None and self.library.nvmlDeviceGetCount_v2(ctypes.byref(count)) == SUCCESS:
                return [card for index in range(count.value) if (card := self._card(index)) is not None]
        return []

    def _card(self, index: int) -> Card | None:
        handle, pci, memory = ctypes.c_void_p(), Pci(), Memory()
        if (
            self.library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != SUCCESS
            or self.library.nvmlDeviceGetPciInfo_v3(handle, ctypes.byref(pci)) != SUCCESS
            or self.library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != SUCCESS
        ):
            return None
        place = f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0"
        return Card(place, memory.used, self._processes(handle), self._worked(handle))

    def _processes(self, handle: Any) -> dict[int, int | None] | None:
        found: dict[int, int | None] = {}
        told = False
        for kind in ("Compute", "Graphics"):
            count, processes = ctypes.c_uint(MOST), (Process * MOST)()
            ask = getattr(self.library, f"nvmlDeviceGet{kind}RunningProcesses_v3", None)
            if ask is None or ask(handle, ctypes.byref(count), processes) != SUCCESS:
                continue
            told = True
            for each in processes[: count.value]:
                found[each.pid] = None if each.memory == NOT_AVAILABLE else each.memory
        return found if told else None

    def _worked(self, handle: Any) -> set[int]:
        count, samples = ctypes.c_uint(MOST), (Sample * MOST)()
        ask = getattr(self.library, "nvmlDeviceGetProcessUtilization", None)
        if ask is None or ask(handle, samples, ctypes.byref(count), ctypes.c_ulonglong(0)) != SUCCESS:
            return set()
        return {each.pid for each in samples[: count.value] if each.sm}
