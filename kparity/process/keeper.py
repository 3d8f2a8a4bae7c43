"""Ends a family of processes when its parent is gone, and removes the family's folder.

Run as a script in an isolated interpreter with the family's mark, its folder and the parent's id: standard library
only. It waits for the end of its standard input, whose other end nobody but the parent holds: the system closes it
whatever ends the parent, SIGKILL too.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

VARIABLE = "KPARITY_FAMILY"
"""Marks of the families that a process belongs to, the oldest first, with colons between them."""
LOOK_SECONDS = 1.0
"""How often the keeper looks whether its parent is still there: a process that the parent forked may hold the pipe."""
END_SECONDS = 10.0
"""How long processes are killed that keep starting others."""


def members(mark: str) -> list[int]:
    """Ids of the processes, but this one, that carry the mark in the environment they were started with.

    Empty where the system has no /proc: there a family is known by its process groups alone.
    """
    return [pid for path in Path("/proc").glob("[0-9]*") if (pid := int(path.name)) != os.getpid() and _has(path, mark)]


def _has(process: Path, mark: str) -> bool:
    try:
        variables = (process / "environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is another user's
        return False
    marks = next((each for each in variables if each.startswith(f"{VARIABLE}=".encode())), b"")
    return mark.encode() in marks.partition(b"=")[2].split(b":")


def end(mark: str) -> None:
    """Kill every process with the mark, until none is left."""
    until = time.monotonic() + END_SECONDS
    while (pids := members(mark)) and time.monotonic() < until:
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def main() -> None:
    """Wait for the parent's end, then clean up."""
    mark, folder, parent = sys.argv[1], sys.argv[2], int(sys.argv[3])
    while os.getppid() == parent:
        if select.select([0], [], [], LOOK_SECONDS)[0] and not os.read(0, 1):
            break
    end(mark)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
