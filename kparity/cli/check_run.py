"""Drives a sweep for the command line: progress on stderr, and an end that an interrupt does not spoil."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kparity.check.document import Request, Result
from kparity.check.record import FAIL, SKIPPED, Record
from kparity.check.runner import Limits, Sweep
from kparity.device import registry

if TYPE_CHECKING:
    from kparity.check.select import Selected


def run(chosen: Sequence[Selected], request: Request, seed: int, limits: Limits, dump: str = "") -> Result:
    """Run the chosen cases on the backends that were asked for; on all that open, where none was. What fails goes to
    the folder ``dump``.
    """
    asked = bool(request.backends)
    request.backends = request.backends or registry.names()
    result = Result(request, seed)
    if not chosen:
        return result
    sweep = Sweep(request.backends, chosen, seed, limits, dump=dump)
    total = sum(unit.left for unit in sweep.units)
    progress = Bar(total)
    started, records = time.monotonic(), sweep.records()
    try:
        for record in records:
            result.records.append(record)
            progress.update(record)
    except KeyboardInterrupt:
        result.interrupted = True
        records.close()  # ends the worker
        sweep.stop("interrupted")
        result.records += sweep.records()
    finally:
        progress.close()
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


class Bar:
    """A bar on a terminal, elsewhere a line per op; on both a line per failure."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.total, self.done, self.failed, self.op = total, 0, 0, ""
        self.started, self.console = time.monotonic(), Console(stderr=True, highlight=False, markup=False)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("", total=total)
        self.bar.start()

    def update(self, record: Record) -> None:
        """Count one record."""
        if self.op and record.op != self.op:
            self._end_op()
        self.op = record.op
        self.done += record.runs
        self.bar.update(self.task, advance=record.runs, description=f"{record.op} on {record.backend}")
        if record.outcome == FAIL:
            self.failed += record.runs
            failure = f"FAIL {record.backend} {record.label}: {record.reason}"
            self.console.print(failure, style="red", soft_wrap=True)

    def _end_op(self) -> None:
        if not self.console.is_terminal:
            counts = f"{self.done} of {self.total} runs, {self.failed} failed"
            self.console.print(f"{self.op}: {counts}, {time.monotonic() - self.started:.1f} s", soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.bar.stop()
        self._end_op()
