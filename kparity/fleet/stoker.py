"""What runs a burn-in on a node, and gives its log piece by piece."""

from __future__ import annotations

from typing import ClassVar

from kparity.fleet.hand import Errand, accelerators, run
from kparity.process import Family

PIECE = 4 << 20
"""Bytes that are fetched at a time at most, but for a line that is longer."""
LOG = "burnin.jsonl"


class Stoker:
    """An actor that runs one burn-in, and gives what its log has grown by."""

    threads: ClassVar = 2
    """Calls at once: ``run``, and ``more`` beside it."""

    def __init__(self) -> None:
        self.family: Family | None = None

    def where(self) -> str:
        """Which accelerator Ray gave it; empty where it asked for none."""
        return accelerators()

    def run(self, words: list[str], log: bytes, limit: float) -> Errand:
        """Run ``kparity words… --log FILE``, which goes on with ``log``, for ``limit`` seconds at most. Nothing of it
        is sent back here: ``more`` has it, also when the command is over.
        """
        family = Family()
        (family.folder / LOG).write_bytes(log)
        self.family = family
        return run(words, "--log", limit, family, LOG)._replace(receipt=None)

    def more(self, offset: int) -> bytes:
        """Whole lines of the log from a byte on; empty where there are none."""
        if self.family is None:
            return b""
        with (self.family.folder / LOG).open("rb") as file:
            file.seek(offset)
            data = file.read(PIECE)
            if b"\n" not in data:
                data += file.readline()
        return data[: data.rfind(b"\n") + 1]

    def close(self) -> None:
        """End the burn-in."""
        if self.family:
            self.family.close()
