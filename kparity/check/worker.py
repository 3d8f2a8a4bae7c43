"""The process in which cases run: it may crash, hang or be killed without harm to the sweep.

Started by ``kparity.check.runner`` with units of work in order; it reports each record as soon as it is there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kparity import ops
from kparity.check import dump
from kparity.check.core import blank_record, checking, fault
from kparity.check.facts import remember
from kparity.check.messages import Begun, Checked, Ended, Missing, SweepRequest
from kparity.device import registry
from kparity.device.adapter import Backend
from kparity.errors import Unavailable
from kparity.ops.spec import Case
from kparity.process import Done, Link


class Devices:
    """Backends, each opened when its first case comes, or what prevented that."""

    def __init__(self) -> None:
        self._opened: dict[str, Backend | Exception] = {}

    def get(self, name: str) -> Backend | Exception:
        """The open backend, or the exception that opening raised."""
        if name not in self._opened:
            try:
                self._opened[name] = registry.open_backend(name)
            except Exception as problem:  # whatever keeps a device from opening is told, once per case
                self._opened[name] = problem
        return self._opened[name]

    def close(self) -> None:
        """Release every device."""
        for backend in self._opened.values():
            if isinstance(backend, Backend):
                backend.close()


def work(request: SweepRequest, link: Link) -> None:
    """Run every unit and report it."""
    devices = Devices()
    for unit in request.units:
        link.send(Begun(unit.number))
        op, name = ops.get(unit.op), unit.backend
        case = Case.make(op.name, **unit.params)
        device = devices.get(name)
        if isinstance(device, (Unavailable, ImportError)):
            code = f"[{device.code}] " if isinstance(device, Unavailable) else ""
            link.send(Missing(unit.number, f"{code}{device}"))
        elif isinstance(device, Exception):
            about = replace(blank_record(name, op, case, request.seed), runs=len(unit.kinds))
            link.send(Checked(unit.number, fault(about, device).as_dict()))
        else:
            if unit.replay:  # the latest facts are always remembered: they stand for those that the seed would make
                remember(unit.kinds[0], request.seed, dump.load(Path(unit.replay)).facts)
            for record in checking(device, op, case, seed=request.seed, kinds=unit.kinds, dump=request.dump):
                link.send(Checked(unit.number, record.as_dict()))
        link.send(Ended(unit.number))
    link.send(Done())
    devices.close()


def main(link: Link) -> int:
    """Work on the request."""
    work(link.request(SweepRequest), link)
    return 0
