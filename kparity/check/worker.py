"""The process in which cases run: it may crash, hang or be killed without harm to the sweep.

Started by ``kparity.check.runner`` with a JSON request on stdin: the pipe to report to, the seed, and units of work
(backend, op, parameters, kinds) in order. Each line that it writes to the pipe is one event.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import IO, Any

from kparity import ops, registry
from kparity.adapter import Backend
from kparity.check.core import blank_record, checking, fault
from kparity.errors import Unavailable
from kparity.spec import Case


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


def work(request: dict[str, Any], out: IO[str]) -> None:
    """Run every unit and report it."""
    devices = Devices()
    for number, unit in request["units"]:
        _send(out, event="begin", unit=number)
        op, name = ops.get(unit["op"]), unit["backend"]
        case = Case.make(op.name, **unit["params"])
        device = devices.get(name)
        if isinstance(device, (Unavailable, ImportError)):
            code = f"[{device.code}] " if isinstance(device, Unavailable) else ""
            _send(out, event="unavailable", unit=number, reason=f"{code}{device}")
        elif isinstance(device, Exception):
            about = replace(blank_record(name, op, case, request["seed"]), runs=len(unit["kinds"]))
            _send(out, event="record", unit=number, record=fault(about, device).as_dict())
        else:
            for record in checking(device, op, case, seed=request["seed"], kinds=unit["kinds"]):
                _send(out, event="record", unit=number, record=record.as_dict())
        _send(out, event="end", unit=number)
    _send(out, event="done")
    devices.close()


def _send(out: IO[str], **event: Any) -> None:
    out.write(json.dumps(event, allow_nan=False) + "\n")
    out.flush()


def main() -> int:
    """Read the request and work on it."""
    request = json.load(sys.stdin)
    os.set_inheritable(request["pipe"], False)  # a compiler that outlives this process must not keep it open
    with os.fdopen(request["pipe"], "w", encoding="utf-8") as out:
        work(request, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
