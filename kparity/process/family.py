"""What a parent starts: children, whatever they start, and a folder. Nothing of it outlives the parent."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from kparity.errors import WrongInput
from kparity.process import keeper


class Family:
    """A context: inside it children may be started, and ``folder`` is theirs and the parent's.

    Every child has the family's mark in its environment, and so has what it starts, in whatever session or group.
    Leaving the context kills what is left and removes the folder; if the parent never comes to that, its keeper does.
    """

    def __init__(self) -> None:
        self.mark = f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="kparity-"))
        except OSError as error:  # it says in which folders it looked
            raise WrongInput(f"no folder for temporary files: {error.strerror}; set TMPDIR to one of yours") from error
        mine, self._held = os.pipe()
        arguments = [self.mark, str(self.folder), str(os.getpid())]
        try:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, *arguments],
                stdin=mine, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(mine)

    def environment(self, defaults: dict[str, str]) -> dict[str, str]:
        """A child's environment: the parent's, the defaults where it has no other value, and the mark."""
        marks = [mark for mark in os.environ.get(keeper.VARIABLE, "").split(":") if mark]
        return {**defaults, **os.environ, keeper.VARIABLE: ":".join([*marks, self.mark])}

    def close(self) -> None:
        """End every process of the family and remove its folder; does nothing the second time."""
        if self._held < 0:
            return
        keeper.end(self.mark)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._held)
        self._held = -1
        with suppress(subprocess.TimeoutExpired):
            self._keeper.wait(keeper.END_SECONDS)

    def __enter__(self) -> Family:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
