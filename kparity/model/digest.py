"""SHA-256 of a model file; that of a large file is remembered, so that a cached verdict does not wait for it."""

from __future__ import annotations

import hashlib
import re
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
    identity = repr((str(real), stat.st_size, stat.st_mtime_ns, stat.st_ino)).encode("utf-8", "surrogateescape")
    try:
        entry = cachedir.folder("sha256") / hashlib.sha256(identity).hexdigest()
    except OSError:  # a cache that cannot be used is no error
        return _hash(real)
    with suppress(OSError, UnicodeDecodeError):
        known = cachedir.read(entry).decode()
        if re.fullmatch("[0-9a-f]{64}", known):
            return known
    digest = _hash(real)
    with suppress(OSError):
        cachedir.write(entry, digest.encode())
    return digest


def _hash(path: Path) -> str:
    """Reads instead of mapping: pages of a mapping would count as this process's memory."""
    with path.open("rb") as stream:
        return cachedir.sha256_of(stream)
