"""Which device a Vulkan adapter is, asked of the loader beside whoever opened it: WebGPU tells neither bus nor UUID."""

from __future__ import annotations

import ctypes
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

SUCCESS = 0
NONE = 0xFFFFFFFF
"""Of a bus: the driver did not fill it in."""
VERSION = 1 << 22 | 1 << 12
"""Vulkan 1.1, which has vkGetPhysicalDeviceProperties2."""
MOST = 64
"""Adapters that are asked."""
HEAD = (("type", ctypes.c_uint32), ("next", ctypes.c_void_p))
"""How each structure begins: its VkStructureType, and the next of the chain."""


class Application(ctypes.Structure):
    """VkApplicationInfo."""

    _fields_ = (
        *HEAD,
        ("name", ctypes.c_char_p), ("version", ctypes.c_uint32), ("engine", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32), ("api", ctypes.c_uint32),
    )  # fmt: skip


class Create(ctypes.Structure):
    """VkInstanceCreateInfo."""

    _fields_ = (
        *HEAD,
        ("flags", ctypes.c_uint32), ("application", ctypes.POINTER(Application)), ("layers", ctypes.c_uint32),
        ("layer_names", ctypes.c_void_p), ("extensions", ctypes.c_uint32), ("extension_names", ctypes.c_void_p),
    )  # fmt: skip


class Ids(ctypes.Structure):
    """VkPhysicalDeviceIDProperties."""

    _fields_ = (
        *HEAD,
        ("device", ctypes.c_ubyte * 16), ("driver", ctypes.c_ubyte * 16), ("luid", ctypes.c_ubyte * 8),
        ("mask", ctypes.c_uint32), ("luid_valid", ctypes.c_uint32),
    )  # fmt: skip


class Bus(ctypes.Structure):
    """VkPhysicalDevicePCIBusInfoPropertiesEXT; a driver without VK_EXT_pci_bus_info leaves it as it is."""

    _fields_ = (*HEAD, *((name, ctypes.c_uint32) for name in ("domain", "bus", "slot", "function")))


class Properties(ctypes.Structure):
    """VkPhysicalDeviceProperties2; of the limits behind the name nothing is read (they are 532 bytes)."""

    _fields_ = (
        *HEAD,
        ("api", ctypes.c_uint32), ("driver", ctypes.c_uint32), ("vendor", ctypes.c_uint32), ("model", ctypes.c_uint32),
        ("kind", ctypes.c_uint32), ("name", ctypes.c_char * 256), ("rest", ctypes.c_ubyte * 1024),
    )  # fmt: skip


class Adapter(NamedTuple):
    """A physical device: PCI ids of its model, its name, and what tells it from another one, or empty strings."""

    vendor: int
    model: int
    name: str
    place: str
    uuid: str


def loader() -> Any:
    """The Vulkan loader of this system, or None."""
    for name in ("libvulkan.so.1", "vulkan-1.dll", "libvulkan.1.dylib"):
        with suppress(OSError):
            return ctypes.CDLL(name)
    return None


def adapters(library: Any) -> list[Adapter]:
    """Every adapter that the loader knows; none where it is missing, too old, or fails."""
    told = Application(0, None, b"kparity", 0, None, 0, VERSION)
    create, instance = Create(1, None, 0, ctypes.pointer(told), 0, None, 0, None), ctypes.c_void_p()
    with suppress(AttributeError):
        if library is None or library.vkCreateInstance(ctypes.byref(create), None, ctypes.byref(instance)) != SUCCESS:
            return []
        try:
            return list(_asked(library, instance))
        finally:
            library.vkDestroyInstance(instance, None)
    return []


def _asked(library: Any, instance: Any) -> Iterator[Adapter]:
    count, handles = ctypes.c_uint32(MOST), (ctypes.c_void_p * MOST)()
    if library.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles) != SUCCESS:
        return
    for handle in handles[: count.value]:
        bus = Bus(1000212000, None, NONE, NONE, NONE, NONE)
        ids = Ids(1000071004, ctypes.cast(ctypes.pointer(bus), ctypes.c_void_p))
        found = Properties(1000059001, ctypes.cast(ctypes.pointer(ids), ctypes.c_void_p))
        library.vkGetPhysicalDeviceProperties2(ctypes.c_void_p(handle), ctypes.byref(found))
        place = "" if bus.domain == NONE else f"pci {bus.domain:04x}:{bus.bus:02x}:{bus.slot:02x}.{bus.function:x}"
        raw = bytes(ids.device)
        name = found.name.decode(errors="replace")
        yield Adapter(found.vendor, found.model, name, place, str(uuid.UUID(bytes=raw)) if any(raw) else "")


def identity(every: Sequence[Adapter], vendor: int, model: int, name: str) -> str:
    """Bus or UUID of the only adapter with these ids and this name; empty where there are several or none.

    The bus comes first: drivers made the UUIDs of two equal cards from their model alone. Two drivers of one card have
    one bus.
    """
    found = [each for each in every if (each.vendor, each.model, each.name) == (vendor, model, name)]
    if len(found) == 1:
        return found[0].place or found[0].uuid
    places = {each.place for each in found}
    return places.pop() if len(places) == 1 else ""
