"""What runs on a node: the local command in a process of its own, whose receipt goes back as bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar, NamedTuple

from kparity.process import Family

TAIL = 4096
"""Bytes of the standard error that are kept."""
LARGEST = 16 << 20
"""Bytes that a receipt may have."""


class Errand(NamedTuple):
    """What came of a command: ``exit_code`` is that of the shell's habit, minus the signal that ended it; ``receipt``
    None where there is none, ``problem`` why there is none that could be sent.
    """

    exit_code: int
    seconds: float
    tail: str
    receipt: bytes | None
    late: bool = False
    problem: str = ""


class Hand:
    """An actor that holds one device for as long as it lives."""

    threads: ClassVar = 1
    """Calls at once."""

    def where(self) -> str:
        """Which accelerator Ray gave it; empty where it asked for none."""
        return accelerators()

    def run(self, words: list[str], option: str, limit: float) -> Errand:
        """Run ``kparity words…`` with ``option FILE`` for its receipt, for ``limit`` seconds at most."""
        with Family() as family:
            return run(words, option, limit, family)


def accelerators() -> str:
    """Which ones Ray gave this process; empty where it asked for none, and without Ray."""
    if "ray" not in sys.modules:
        return ""
    import ray

    if not ray.is_initialized():
        return ""
    given = ray.get_runtime_context().get_accelerator_ids()
    return ",".join(str(each) for ids in given.values() for each in ids)


def run(words: list[str], option: str, limit: float, family: Family, name: str = "receipt.json") -> Errand:
    """As ``Hand.run``, as a child of a family, which ends all of its processes; ``name`` is that of the file."""
    paper, log, begun = family.folder / name, family.folder / "stderr", time.monotonic()
    command = [sys.executable, "-m", "kparity", *words, option, str(paper)]
    with log.open("wb") as stderr:
        child = subprocess.Popen(
            command, cwd=family.folder, env=family.environment({}), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=stderr,
        )  # fmt: skip
        try:
            code, late = child.wait(limit), False
        except subprocess.TimeoutExpired:
            code, late = -signal.SIGKILL, True
            child.kill()
            child.wait()
    size = paper.stat().st_size if paper.is_file() else -1
    receipt = paper.read_bytes() if 0 <= size <= LARGEST and not late else None
    problem = f"its receipt has {size} bytes, and one has at most {LARGEST}" if size > LARGEST else ""
    return Errand(code, time.monotonic() - begun, _tail(log), receipt, late, problem)


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - TAIL, 0))
        return file.read(TAIL).decode("utf-8", "replace").strip()
