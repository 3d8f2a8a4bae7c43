"""What drivers count of a process, whatever its backend says of itself: files of devices, engine time, memory.

Three sources: ``/proc/PID/fdinfo``, which DRM drivers fill as the kernel's Documentation/gpu/drm-usage-stats.rst says
(amdgpu, i915, xe, nouveau, msm, panfrost, …); ``/sys/class/kfd``, which has what a process of ROCm holds; NVML. Where
lists of processes are hidden, as in containers, the growth of a card's memory is left.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from kparity.device.nvml import Nvml
from kparity.device.registry import NODES

CONTROL = ("/dev/nvidiactl", "/dev/nvidia-*")
"""Files of drivers that are opened without any device."""
PATTERNS = (*NODES, "/dev/dri/card*")
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
KEY = re.compile(r"^drm-(?P<kind>[a-z]+)-(?P<name>\S+?):\s*(?P<value>\d+)\s*(?P<unit>\w*)\s*$")
LEAVES_IDLE_OUT = "amdgpu"
"""Has a line for the engines alone that worked (amdgpu_fdinfo.c): a client without any did nothing there."""
FIRST_NAMESPACE = "pid:[4026531836]"
"""Of processes, the one that has all of a host's (PROC_PID_INIT_INO): drivers list processes by its numbers."""


class Reading(msgspec.Struct, frozen=True):
    """What one driver counts of the process on one device; None where it does not count that."""

    source: str
    place: str
    """PCI address, or empty."""
    worked: bool | None = None
    busy_ns: int | None = None
    memory: int | None = None
    """Bytes."""


class Evidence(msgspec.Struct, frozen=True):
    """Everything that was found of a process; ``files`` is None where the system does not tell what it has open."""

    files: tuple[str, ...] | None
    """Device files of GPU drivers."""
    silent: tuple[str, ...] = ()
    """Those of them behind which no driver counts work."""
    readings: tuple[Reading, ...] = ()
    used: tuple[tuple[str, int, int], ...] = ()
    """PCI address of a card, its bytes in use before the process was started, and now."""
    left: tuple[tuple[str, int], ...] = ()
    """PCI address of a card, and the bytes that came with the process and went with it: a neighbour's stay."""
    cpu_ns: int | None = None
    """Time that the process has spent on processors so far, all of its threads."""

    @property
    def busy_ns(self) -> int:
        """Time that drivers count of it on engines so far."""
        return sum(each.busy_ns or 0 for each in self.readings)


def of_clients(texts: Iterable[str]) -> list[Reading]:
    """What the files of ``fdinfo`` say; a client that several descriptors share counts once, lines of other forms not
    at all.
    """
    clients: dict[tuple[str, str, str], Reading] = {}
    for at, text in enumerate(texts):
        fields = dict(re.findall(r"^(drm-driver|drm-pdev|drm-client-id):\s*(\S+)", text, re.MULTILINE))
        if "drm-driver" not in fields:
            continue
        place = fields.get("drm-pdev", "")
        identity = (fields["drm-driver"], place, fields.get("drm-client-id", f"file {at}"))
        clients[identity] = _client(fields["drm-driver"], place, text)
    return list(clients.values())


def _client(driver: str, place: str, text: str) -> Reading:
    busy: list[int] = []
    cycles: list[int] = []
    regions: dict[str, int] = {}
    for line in text.splitlines():
        match = KEY.match(line)
        if match is None or match["name"].startswith(("capacity-", "cycles-")):  # drm-total-cycles-…: the engine's own
            continue
        value, unit = int(match["value"]), match["unit"]
        if match["kind"] == "engine" and unit == "ns":
            busy.append(value)
        elif match["kind"] == "cycles" and not unit:
            cycles.append(value)
        elif match["kind"] in ("memory", "total", "resident") and unit in UNITS:
            regions[match["name"]] = max(regions.get(match["name"], 0), value * UNITS[unit])
    worked = any([*busy, *cycles]) if busy or cycles else False if driver == LEAVES_IDLE_OUT else None
    return Reading(
        f"fdinfo of {driver}", place, worked,
        sum(busy) if busy else None, sum(regions.values()) if regions else None,
    )  # fmt: skip


class Counters:
    """Sources below ``root``; what cards have in use now is what later growth is counted from."""

    def __init__(self, root: Path = Path("/"), nvml: Nvml | None = None) -> None:
        self.root = root
        self.nvml = nvml or (Nvml() if any(root.glob("dev/nvidia[0-9]*")) else None)
        self.before = self._used()

    def of(self, pid: int) -> Evidence:
        """What is counted of a process that still has its device open."""
        proc = self.root / "proc" / str(pid)
        nodes: dict[str, str] = {}
        try:
            for each in (proc / "fd").iterdir():
                with suppress(FileNotFoundError):  # closed meanwhile
                    nodes |= {each.name: path} if _drives(path := str(each.readlink())) else {}
        except OSError:
            return Evidence(None)
        texts = {name: _text(proc / "fdinfo" / name) for name in nodes}
        kfd, nvidia = [*self._kfd(pid)], [*self._nvidia(pid)]
        counted = {name for name, text in texts.items() if any(each.worked is not None for each in of_clients([text]))}
        silent = {path for name, path in nodes.items() if name not in counted}
        if nvidia:  # its driver tells of the process, and so of all its files
            silent = {path for path in silent if not path.startswith("/dev/nvidia")}
        now = self._used()
        return Evidence(
            tuple(sorted({*nodes.values()})), tuple(sorted(silent)), (*of_clients(texts.values()), *kfd, *nvidia),
            tuple((card, size, now[card]) for card, size in sorted(self.before.items()) if card in now),
            cpu_ns=_cpu_ns(_text(proc / "stat")),
        )  # fmt: skip

    def after(self, found: Evidence) -> Evidence:
        """The same of a process that has ended since."""
        now = self._used()
        both = ((card, min(then - before, then - now.get(card, then))) for card, before, then in found.used)
        return msgspec.structs.replace(found, left=tuple((card, size) for card, size in both if size > 0))

    def _kfd(self, pid: int) -> Iterator[Reading]:
        """Video memory per device, as the driver of ROCm accounts it."""
        kfd = self.root / "sys/class/kfd/kfd"
        places = {}
        for node in kfd.glob("topology/nodes/*"):
            told = dict(line.split() for line in _text(node / "properties").splitlines() if len(line.split()) == 2)
            location, domain = int(told.get("location_id", 0)), int(told.get("domain", 0))
            address = f"{domain:04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}.{location & 7:x}"
            places[_text(node / "gpu_id").strip()] = address
        for file in sorted(kfd.glob(f"proc/{pid}/vram_*")):
            if (size := _text(file).strip()).isdigit():
                yield Reading("KFD", places.get(file.name.removeprefix("vram_"), ""), memory=int(size))

    def _nvidia(self, pid: int) -> Iterator[Reading]:
        """What NVML lists of the process; that it lists nothing counts where it knows processes by our numbers."""
        cards = self.nvml.cards() if self.nvml else []
        own = os.path.realpath(self.root / "proc/self/ns/pid").rpartition("/")[2] == FIRST_NAMESPACE
        listed = [card for card in cards if card.processes is not None and pid in card.processes]
        for card in listed:
            assert card.processes is not None
            yield Reading("NVML", card.place, pid in card.worked or None, memory=card.processes[pid])
        if own and not listed and any(card.processes is not None for card in cards):
            yield Reading("NVML", "", worked=False)

    def _used(self) -> dict[str, int]:
        """Bytes in use of every card that tells."""
        found = {card.place: card.used for card in (self.nvml.cards() if self.nvml else [])}
        for file in self.root.glob("sys/bus/pci/devices/*/mem_info_vram_used"):  # amdgpu
            if (size := _text(file).strip()).isdigit():
                found[file.parent.name] = int(size)
        return found


def _drives(path: str) -> bool:
    wanted = any(fnmatchcase(path, pattern) for pattern in PATTERNS)
    return wanted and not any(fnmatchcase(path, pattern) for pattern in CONTROL)


def _cpu_ns(stat: str) -> int | None:
    """utime and stime of /proc/PID/stat: fields 14 and 15 of proc_pid_stat(5), behind a name that may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK") if len(fields) > 12 else None


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def pci_address(vendor: int, device: int, root: Path = Path("/")) -> str:
    """``pci 0000:01:00.0`` of the only PCI device with these ids; empty where the system shows none of them, or
    several, which nobody can tell apart by that.
    """
    wanted = f"0x{vendor:04x} 0x{device:04x}"
    every = [*root.glob("sys/bus/pci/devices/*")] if sys.platform == "linux" else []
    found = [each.name for each in every if " ".join(_text(each / x).strip() for x in ("vendor", "device")) == wanted]
    return f"pci {found[0]}" if len(found) == 1 else ""
