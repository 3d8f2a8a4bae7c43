"""Which source was measured: the commit, and every file that differs from it."""

from __future__ import annotations

import os
import subprocess
from hashlib import sha1
from pathlib import Path
from typing import Any

UNKNOWN: dict[str, Any] = {"commit": "unknown", "dirty": None, "changed": []}
SOURCES = ("kparity", "backends", "kernels", "csrc")
"""Folders where a file that git does not know counts as a change: it may take part in what runs."""


def checkout(root: Path | None = None) -> Path | None:
    """The source tree that this package is imported from, or ``root`` where that is one; None for an installed copy."""
    root = root or Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "csrc").is_dir() else None


def git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", errors="replace") if done.returncode == 0 else None


def commit(folder: Path | None, *options: str) -> str | None:
    """The commit that is checked out in a folder; None outside of git. ``options`` are git's own."""
    head = git(folder, *options, "rev-parse", "HEAD") if folder else None
    return head.strip() if head else None


def revision(root: Path | None = None) -> dict[str, Any]:
    """``commit``, ``dirty`` (null where unknown) and ``changed``: the paths of a source tree that differ from it.

    Without .git, from COMMIT and COMMIT.tree (``git ls-tree -r``) as bench/pack_gpu.sh leaves them in .whl or in the
    folder that WHEELS names. ``unknown`` for an installed wheel.
    """
    wheels = os.environ.get("WHEELS")
    root = root or checkout() or (checkout(Path(wheels).parent) if wheels else None)
    if root is None:
        return dict(UNKNOWN)
    packed, owned = Path(wheels or root / ".whl"), ("-c", f"safe.directory={root}")
    head = commit(root, *owned) if (root / ".git").exists() else None
    if head:
        tree = git(root, *owned, "ls-tree", "-r", "--full-tree", "HEAD") or ""
        others = git(root, *owned, "ls-files", "--others", "--exclude-standard", "--", *SOURCES) or ""
    elif (packed / "COMMIT").exists():
        head, tree, others = (packed / "COMMIT").read_text().strip(), (packed / "COMMIT.tree").read_text(), ""
    else:
        return dict(UNKNOWN)
    changed = [*_changed(root, tree), *others.splitlines()]
    return {"commit": head, "dirty": bool(changed), "changed": changed}


def _changed(root: Path, tree: str) -> list[str]:
    """Paths whose content is not that of the blob, by git's own hash; a missing file is a changed one."""
    changed = []
    for line in tree.splitlines():
        facts, _, path = line.partition("\t")
        (mode, _, blob), file = facts.split(), root / path
        if mode == "120000":  # a link: its blob is its target
            content = str(file.readlink()).encode() if file.is_symlink() else None
        else:
            content = file.read_bytes() if file.is_file() else None
        if content is None or sha1(b"blob %d\0" % len(content) + content).hexdigest() != blob:
            changed.append(path)
    return changed
