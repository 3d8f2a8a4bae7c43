"""What takes long says so on standard error: a bar with an estimate on a terminal, a line per stage elsewhere.

A library is silent: a command calls ``show``. Nothing is shown of what is over within ``QUIET_SECONDS``, nothing is
written to standard output, and what other code writes to standard error stands above the bar.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kparity.host.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress

QUIET_SECONDS = 1.0
RENEW_SECONDS = 0.2
"""Between two looks at what is under way."""
_asked = threading.Event()


def show(wanted: bool = True) -> None:
    """Whether tasks of this process show themselves from now on."""
    (_asked.set if wanted else _asked.clear)()


class Task:
    """Work that takes long: ``done`` of ``total`` units (None: nobody knows how many), at some stages."""

    def __init__(self, what: str, total: float | None = None) -> None:
        self.what, self.total, self.done = what, total, 0.0
        self.stages: tuple[str, ...] = ()
        self.note = ""
        self.began = time.monotonic()

    def advance(self, units: float = 1) -> None:
        """Some more of it is done."""
        self.done += units

    def stage(self, *names: str, note: str = "") -> None:
        """What it is at, a name for each of several that work side by side. ``note``, which only a terminal shows, may
        change as often as it likes.
        """
        self.stages, self.note = names, note


@contextmanager
def task(what: str, total: float | None = None) -> Iterator[Task]:
    """A task that is shown until the block ends, however it does. One within another takes its place meanwhile."""
    made = Task(what, total)
    if not _asked.is_set():
        yield made
        return
    _display.begin(made)
    try:
        yield made
    finally:
        _display.end(made)


class Display:
    """Shows the innermost task, from a thread of its own, so that nobody has to call it."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self._seen: dict[str, float] = {}
        self._bar: Progress | None = None
        self._shown: Task | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, made: Task) -> None:
        """Show a task once it has taken long enough."""
        self.tasks.append(made)
        if self._thread is None:
            self._over.clear()
            self._seen.clear()
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()

    def end(self, made: Task) -> None:
        """Show it no longer; after the last one the terminal is as it was."""
        self.tasks.remove(made)
        if not self.tasks and self._thread:
            self._over.set()
            self._thread.join()
            self._thread = None

    def _look(self) -> None:
        try:
            while not self._over.wait(RENEW_SECONDS):
                for task in self.tasks[-1:]:
                    if not _is_terminal():
                        self._tell(task)
                    elif time.monotonic() - task.began >= QUIET_SECONDS:
                        self._renew(task)
        finally:
            if self._bar:
                self._bar.stop()
            self._bar = self._shown = None

    def _tell(self, task: Task) -> None:
        """A line, once, for each stage that was first seen long enough ago."""
        now = time.monotonic()
        for stage in task.stages or ("",):
            line = printable(": ".join(filter(None, (task.what, stage))))
            if now - self._seen.setdefault(line, now) >= QUIET_SECONDS:
                self._seen[line] = math.inf
                done = f", {task.done:g} of {task.total:g}" if task.total else ""
                print(f"{line}{done}, after {now - task.began:.0f} s", file=sys.stderr, flush=True)

    def _renew(self, task: Task) -> None:
        bar = self._bar or _new_bar()
        if task is not self._shown:  # an estimate is of one task
            for other in bar.task_ids:
                bar.remove_task(other)
            bar.add_task("", total=task.total)
            bar.tasks[0].start_time = task.began
            self._shown = task
        stages = "; ".join(filter(None, (*task.stages, task.note)))
        text = printable(": ".join(filter(None, (task.what, stages))))
        bar.update(bar.task_ids[0], description=text, completed=task.done)
        if self._bar is None:
            self._bar = bar
            bar.start()
            bar.console.show_cursor(True)  # so that nothing has to bring it back, whatever ends this process
        bar.refresh()


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def _new_bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    text = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=text), BarColumn(20), TaskProgressColumn(),
        TimeElapsedColumn(), TimeRemainingColumn(), console=console, auto_refresh=False, transient=True,
        redirect_stdout=False, expand=True,
    )  # fmt: skip


_display = Display()
