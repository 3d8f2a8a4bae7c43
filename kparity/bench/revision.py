"""Which source was measured: the commit, and every file that differs from it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any

UNKNOWN: dict[str, Any] = {"commit": "unknown", "dirty": None, "changed": []}
SOURCES = ("kparity", "backends", "kernels", "csrc")
"""Folders where a file that git does not know counts as a change: it may take part in what runs."""


def checkout() -> Path | None:
    """The source tree that this package is used from, or that WHEELS lies in; None for a package by itself."""
    here = Path(__file__).resolve().parents[2]
    roots = [here, *([Path(os.environ["WHEELS"]).parent] if os.environ.get("WHEELS") else [])]
    return next((root for root in roots if (root / "pyproject.toml").is_file() and (root / "csrc").is_dir()), None)


def revision(root: Path | None = None) -> dict[str, Any]:
    """``commit``, ``dirty`` (null where unknown) and ``changed``: the paths of a source tree that differ from it.

    Without .git, from COMMIT and COMMIT.tree (``git ls-tree -r``) as bench/pack_gpu.sh leaves them in .whl or in the
    folder that WHEELS names. ``unknown`` for an installed wheel.
    """
    root = root or checkout()
    if root is None:
        return dict(UNKNOWN)
    packed = Path(os.environ.get("WHEELS") or root / ".whl")
    if (root / ".git").exists() and shutil.which("git"):
        head = _git(root, "rev-parse", "HEAD")
        if head:
            others = _git(root, "ls-files", "--others", "--exclude-standard", "--", *SOURCES).splitlines()
            return _told(head.strip(), [*_changed(root, _git(root, "ls-tree", "-r", "--full-tree", "HEAD")), *others])
    if (packed / "COMMIT").exists():
        tree = (packed / "COMMIT.tree").read_text()
        return _told((packed / "COMMIT").read_text().strip(), _changed(root, tree))
    return dict(UNKNOWN)


def _told(commit: str, changed: Sequence[str]) -> dict[str, Any]:
    return {"commit": commit, "dirty": bool(changed), "changed": list(changed)}


def _git(root: Path, *arguments: str) -> str:
    """What git prints, or nothing where it fails."""
    command = ["git", "-C", str(root), "-c", f"safe.directory={root}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def _changed(root: Path, tree: str) -> list[str]:
    """Paths whose content is not that of the blob, by git's own hash; a missing file is a changed one."""
    found = []
    for line in tree.splitlines():
        facts, _, path = line.partition("\t")
        (mode, _, blob), file = facts.split(), root / path
        if mode == "120000":  # a link: its blob is its target
            content = str(file.readlink()).encode() if file.is_symlink() else None
        else:
            content = file.read_bytes() if file.is_file() else None
        if content is None or sha1(b"blob %d\0" % len(content) + content).hexdigest() != blob:
            found.append(path)
    return found
