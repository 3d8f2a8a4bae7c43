"""Drives a sweep for the command line: progress on stderr, and an end that an interrupt does not spoil."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from kparity.check.document import Result
from kparity.check.record import FAIL, SKIPPED, Record
from kparity.check.runner import Limits, Sweep
from kparity.device import registry

if TYPE_CHECKING:
    from kparity.check.select import Selected


class Progress(Protocol):
    """What is told while a sweep runs."""

    def update(self, record: Record) -> None:
        """Count one record."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def run(
    chosen: Sequence[Selected],
    asked: Sequence[str],
    seed: int,
    limits: Limits,
    request: Mapping[str, Any],
    dump: str = "",
) -> Result:
    """Run the chosen cases on the backends that were asked for; on all that open, where none was. What fails goes to
    the folder ``dump``.
    """
    backends = list(asked) or registry.names()
    result = Result(backends, seed, request)
    if not chosen:
        return result
    sweep = Sweep(backends, chosen, seed, limits, dump=dump)
    progress = _progress(sum(unit.left for unit in sweep.units))
    started = time.monotonic()
    records = sweep.records()
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
    if not asked:
        _leave_out_absent(result)
    return result


def _leave_out_absent(result: Result) -> None:
    """Backends that nobody asked for and that do not open here are no part of the result, but are named."""
    seen = {record.backend for record in result.records if record.outcome != SKIPPED}
    result.absent = {r.backend: r.reason for r in result.records if r.backend not in seen}
    if result.interrupted or not seen:
        result.absent = {}
        return
    result.records = [record for record in result.records if record.backend in seen]
    result.backends = [name for name in result.backends if name in seen]


def _progress(total: int) -> Progress:
    return Bar(total) if sys.stderr.isatty() else Lines(total)


class Lines(Progress):
    """A line per op, and one per failure."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.failed, self.op = total, 0, 0, ""
        self.started = time.monotonic()

    def update(self, record: Record) -> None:
        if self.op and record.op != self.op:
            self.close()
        self.op = record.op
        self.done += record.runs
        if record.outcome == FAIL:
            self.failed += record.runs
            print(f"FAIL {record.backend} {record.label}: {record.reason}", file=sys.stderr, flush=True)

    def close(self) -> None:
        seconds = time.monotonic() - self.started
        told = f"{self.op}: {self.done} of {self.total} runs, {self.failed} failed, {seconds:.1f} s"
        print(told, file=sys.stderr, flush=True)


class Bar(Progress):
    """A progress bar, with failures above it."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        )  # fmt: skip
        self.bar = RichProgress(*columns, console=Console(stderr=True, highlight=False), transient=True)
        self.task = self.bar.add_task("", total=total)
        self.bar.start()

    def update(self, record: Record) -> None:
        self.bar.update(self.task, advance=record.runs, description=f"{record.op} on {record.backend}")
        if record.outcome == FAIL:
            self.bar.console.print(f"FAIL {record.backend} {record.label}: {record.reason}", style="red", markup=False)

    def close(self) -> None:
        self.bar.stop()
