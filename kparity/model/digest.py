"""SHA-256 of a model file; that of a large file is remembered, so that a cached verdict does not wait for it."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from kparity.host import cachedir

_LARGE = 1 << 24
"""Files below this are hashed in some milliseconds and not remembered."""


def file_sha256(path: Path) -> str:
    """Hex digest of the whole file. Remembered by real path, size, modification time and inode."""
    real = path.resolve()
    stat = real.stat()
    if stat.st_size < _LARGE:
        return _hash(real)
    identity: list[str | int] = [str(real), stat.st_size, stat.st_mtime_ns, stat.st_ino]
    try:
        cache = cachedir.folder("sha256")
    except OSError:  # a cache that cannot be used is no error
        return _hash(real)
    entry = cache / f"{hashlib.sha256(str(real).encode('utf-8', 'surrogateescape')).hexdigest()}.json"
    known = _recall(entry, identity)
    if known is not None:
        return known
    digest = _hash(real)
    with suppress(OSError):
        cachedir.write(entry, json.dumps({"file": identity, "sha256": digest}).encode())
    return digest


def _hash(path: Path) -> str:
    """Reads instead of mapping: pages of a mapping would count as this process's memory."""
    with path.open("rb") as stream:
        return cachedir.sha256_of(stream)


def _recall(entry: Path, identity: list[str | int]) -> str | None:
    try:
        stored = json.loads(cachedir.read(entry))
        digest = stored["sha256"] if stored["file"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) and len(digest) == 64 else None
