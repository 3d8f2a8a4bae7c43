"""A file in memory that one process writes and others read: once sealed, nobody can write it, whoever they are."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from kparity.errors import WrongInput

F_ADD_SEALS, SEALS = 1033, 0x1 | 0x2 | 0x4 | 0x8
"""fcntl(2): against further seals, shrinking, growing and writing."""


class Sealed:
    """``writer`` is for the process that fills it; ``reader`` was opened for reading alone. WrongInput on a Linux
    without /proc.
    """

    def __init__(self, folder: Path) -> None:
        if hasattr(os, "memfd_create"):
            self.writer = os.memfd_create("kparity-reference", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                self.reader = os.open(f"/proc/self/fd/{self.writer}", os.O_RDONLY)
            except OSError as error:
                os.close(self.writer)
                raise WrongInput(f"the reference cannot be sealed: {error}; mount /proc") from error
        else:  # a system without files in memory: one without a name, and a descriptor that cannot write
            self.writer, name = tempfile.mkstemp(dir=folder)
            self.reader = os.open(name, os.O_RDONLY)
            Path(name).unlink()

    def seal(self) -> None:
        """From here on it stays as it is; to be called when its writer has ended."""
        if hasattr(os, "memfd_create"):
            import fcntl

            fcntl.fcntl(self.writer, F_ADD_SEALS, SEALS)

    def close(self) -> None:
        """Give both descriptors back."""
        os.close(self.writer)
        os.close(self.reader)
