"""Runs the command line as a user does, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from kparity.device import fingerprint

TAG = "backend-output-parity-v1"
LIARS = Path(__file__).parent / "liars"


LOADED = {sys.executable: fingerprint.state(sys.executable)}
"""What a made verdict says that its process had loaded."""
PROGRESS = re.compile(r"^[^\n]*, after \d+ s\n", re.M)


def run(
    *arguments: str, liars: bool = False, env: dict[str, str] | None = None, progress: bool = False
) -> subprocess.CompletedProcess[str]:
    """``kparity ARGUMENTS`` with text output; ``liars`` puts the lying backends on the path. Lines of progress, which
    depend on how fast this machine is, are left out unless asked for.
    """
    environment = {**os.environ, "COLUMNS": "200", **(env or {})}
    if liars:
        environment["PYTHONPATH"] = os.pathsep.join([str(LIARS), environment.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-m", "kparity.cli.main", *arguments],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    done.stderr = done.stderr if progress else PROGRESS.sub("", done.stderr)
    return done


def python(code: str, *arguments: str, env: dict[str, str] | None = None) -> str:
    """What a fresh interpreter prints that runs this code to its end; ``env`` is added to the environment."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **(env or {})})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
