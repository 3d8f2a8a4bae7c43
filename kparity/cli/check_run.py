"""Drives a sweep for the command line: progress on stderr, and an end that an interrupt does not spoil."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kparity.check.document import Request, Result
from kparity.check.record import FAIL, SKIPPED
from kparity.check.runner import Limits, Sweep
from kparity.device import registry
from kparity.host import progress
from kparity.host.signals import Stopped
from kparity.host.streams import log

if TYPE_CHECKING:
    from kparity.check.select import Selected


def run(chosen: Sequence[Selected], request: Request, seed: int, limits: Limits, dump: str = "") -> Result:
    """Run the chosen cases on the backends that were asked for; on all that open, where none was. What fails goes to
    the folder ``dump``.
    """
    asked = bool(request.backends)
    request.backends = request.backends or registry.usual()
    result = Result(request, seed)
    if not chosen:
        return result
    sweep = Sweep(request.backends, chosen, seed, limits, dump=dump)
    started, records = time.monotonic(), sweep.records()
    try:
        with progress.task("check", sum(unit.left for unit in sweep.units)) as task:
            for record in records:
                result.records.append(record)
                task.advance(record.runs)
                task.stage(record.op, note=f"on {record.backend}")
                if record.outcome == FAIL:
                    log(f"FAIL {record.backend} {record.label}: {record.reason}")
    except Stopped as stopped:
        result.interrupted = stopped.number
        records.close()  # ends the worker
        sweep.stop("interrupted")
        result.records += sweep.records()
    result.seconds = time.monotonic() - started
    if not asked and not result.interrupted:
        _leave_out_absent(result)
    return result


def _leave_out_absent(result: Result) -> None:
    """Backends that nobody asked for and that do not open here are no part of the result, but are named."""
    seen = {record.backend for record in result.records if record.outcome != SKIPPED}
    if seen:
        result.absent = {each.backend: each.reason for each in result.records if each.backend not in seen}
        result.records = [record for record in result.records if record.backend in seen]
        result.request.backends = [name for name in result.request.backends if name in seen]
