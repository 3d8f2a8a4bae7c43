"""What a slow probe shows of itself: one line that renews itself on a terminal, a line per stage elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import IO

QUIET_SECONDS = {True: 1.0, False: 10.0}
"""A probe that is over by then shows nothing: on a terminal, and elsewhere."""
RENEW_SECONDS = 0.2


class Progress:
    """Called again and again with what is under way (``name: stage (note)``, one text for each)."""

    def __init__(self, out: IO[str] | None = None) -> None:
        self.out = out or sys.stderr
        self.terminal = self.out.isatty()
        self.began = time.monotonic()
        self._shown, self._at, self._seen = "", 0.0, set[str]()

    def __call__(self, stages: Sequence[tuple[str, str, str]]) -> None:
        """Show name, stage and note of each process that works, if the time has come."""
        now = time.monotonic()
        if now - self.began < QUIET_SECONDS[self.terminal]:
            return
        seconds = f"{now - self.began:.0f} s"
        if self.terminal:
            if now - self._at > RENEW_SECONDS:
                text = "; ".join(f"{name}: {stage}{f' ({note})' if note else ''}" for name, stage, note in stages)
                self._write(f"{seconds}  {text}"[:100])
                self._at = now
            return
        for name, stage, _ in stages:
            line = f"probe: {name}: {stage}"
            if line not in self._seen:
                self._seen.add(line)
                print(f"{line}, after {seconds}", file=self.out, flush=True)

    def clear(self) -> None:
        """Take the line away, before another is written."""
        if self._shown:
            self._write("")

    def _write(self, text: str) -> None:
        self.out.write(f"\r{text:<{len(self._shown)}}" + ("\r" if not text else ""))
        self.out.flush()
        self._shown = text
