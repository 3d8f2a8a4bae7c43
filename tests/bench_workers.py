"""What benchmark workers are given in tests: objects that answer, fail, crash, hang and end."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path
from typing import Any

from kparity.backends.numpy import NumpyBackend
from kparity.bench.ops.session import Group
from kparity.bench.timing import Timed
from kparity.errors import Unavailable
from kparity.ops.spec import Case


class Faulty:
    """Answers ``echo``; every other method ends in its own way."""

    def __init__(self, fault: str = "") -> None:
        print("vendor library: hello", flush=True)
        self.calls = 0
        if fault == "unavailable":
            raise Unavailable("no such device", "plug it in", "KP-TEST-NODEVICE")
        if fault == "exit":
            os._exit(7)

    def echo(self, value: object) -> object:
        """The value, and how often anything was called."""
        self.calls += 1
        return [value, self.calls]

    def spin(self, for_s: float) -> None:
        """Answers at once, with a thread that goes on using a processor."""
        until = time.monotonic() + for_s

        def busy() -> None:
            while time.monotonic() < until:
                pass

        threading.Thread(target=busy, daemon=True).start()

    def error(self) -> None:
        """A mistake in the adapter."""
        raise ZeroDivisionError("division by zero")

    def not_a_number(self) -> float:
        """What JSON cannot hold."""
        return float("nan")

    def crash(self) -> None:
        """A driver that reads address 0."""
        print("vendor library: about to fall", flush=True)
        ctypes.string_at(0)

    def garble(self) -> None:
        """A library that writes its log to every pipe."""
        for path in Path("/proc/self/fd").iterdir():
            if int(path.name) > 2 and path.is_fifo():
                os.write(int(path.name), b"[INFO] tuning\n")

    def hang(self) -> None:
        """A driver that never answers."""
        time.sleep(600)

    def close(self) -> None:
        """Nothing to release."""


class Idle(Group):
    """A baseline that has no product beside any case."""

    def __init__(self, **_: Any) -> None:
        super().__init__(NumpyBackend().info, 0)

    def made(self, case: Case) -> list[Timed]:
        return []
