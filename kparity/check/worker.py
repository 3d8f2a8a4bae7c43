"""The process in which cases run: it may crash, hang or be killed without harm to the sweep; and what it is asked and
says. It reports each record as soon as it is there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from kparity import ops
from kparity.check import dump
from kparity.check.core import blank_record, checking, fault
from kparity.check.facts import remember
from kparity.check.own_trial import AnyOwn
from kparity.check.select import Selected
from kparity.device import registry
from kparity.device.adapter import Backend
from kparity.errors import Unavailable
from kparity.process import Done, Link
from kparity.process.messages import Message, Text


@dataclass
class Unit:
    """One case on one backend, and how far it came."""

    backend: str
    selected: Selected
    seen: int = 0
    """Kinds of input that have a record."""

    @property
    def left(self) -> int:
        """Kinds of input without a record."""
        return len(self.selected.kinds) - self.seen


class SweepRequest(msgspec.Struct, frozen=True):
    """Units of work by their place in the sweep, in order."""

    seed: int
    units: dict[int, Unit]
    index: int = 0
    dump: str = ""
    """The folder that takes what failed (``kparity.check.dump``); empty for none."""
    options: tuple[str, ...] = ()
    """Switches of a backend's ``open``."""
    own: AnyOwn | None = None
    """The kernel in the place of the op's."""
    words: tuple[str, ...] = ()
    """``Record.words``."""


class Begun(Message, frozen=True, tag="begin"):
    """A unit begins."""

    unit: int


class Missing(Message, frozen=True, tag="unavailable"):
    """The unit's backend does not open here: nothing of it will run."""

    unit: int
    reason: Text


class Checked(Message, frozen=True, tag="record"):
    """One kind of input of a unit (``Record.as_dict``)."""

    unit: int
    record: dict[str, Any]


class Ended(Message, frozen=True, tag="end"):
    """A unit is done."""

    unit: int


OfUnit = Begun | Missing | Checked | Ended
Said = OfUnit | Done


class Devices(dict[str, Backend | Exception]):
    """The backends of a request, each opened when its first case comes, or the exception that opening raised."""

    def __init__(self, request: SweepRequest) -> None:
        super().__init__()
        self.request = request

    def __missing__(self, name: str) -> Backend | Exception:
        self[name] = _opened(name, self.request)
        return self[name]


def _opened(name: str, request: SweepRequest) -> Backend | Exception:
    options = dict.fromkeys(request.options, True)
    try:
        if request.own is not None:
            return request.own.adapter(name).open(request.index, **options)
        return registry.open_backend(name, request.index, **options)
    except Exception as problem:  # whatever keeps a device from opening is told, once per case
        return problem


def work(number: int, unit: Unit, devices: Devices, link: Link) -> None:
    """Run a unit and report it."""
    link.send(Begun(number))
    request, case, kinds, device = devices.request, unit.selected.case, unit.selected.kinds, devices[unit.backend]
    op = ops.get(case.op)
    if isinstance(device, (Unavailable, ImportError)):
        code = f"[{device.code}] " if isinstance(device, Unavailable) else ""
        link.send(Missing(number, f"{code}{device}"))
        return
    if isinstance(device, Exception):
        about = replace(blank_record(unit.backend, op, case, request.seed), runs=len(kinds))
        link.send(Checked(number, fault(about, device).as_dict()))
    else:
        if unit.selected.replay:  # the latest facts are always kept: they stand for those that the seed would make
            remember(kinds[0], request.seed, dump.load(Path(unit.selected.replay)).facts)
        for record in checking(
            device, op, case, seed=request.seed, kinds=kinds, dump=request.dump, words=request.words
        ):
            link.send(Checked(number, record.as_dict()))
    link.send(Ended(number))


def main(link: Link) -> int:
    """Run every unit of the request; then release the devices."""
    devices = Devices(link.request(SweepRequest))
    for number, unit in devices.request.units.items():
        work(number, unit, devices, link)
    link.send(Done())
    for device in devices.values():
        if isinstance(device, Backend):
            device.close()
    return 0
