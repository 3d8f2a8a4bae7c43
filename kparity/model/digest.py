"""SHA-256 of a model file; that of a large file is remembered, so that a cached verdict does not wait for it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

_LARGE = 1 << 24
"""Files below this are hashed in some milliseconds and not remembered."""
_CHUNK = 1 << 20


def file_sha256(path: Path) -> str:
    """Hex digest of the whole file. Remembered by real path, size, modification time and inode."""
    real = path.resolve()
    stat = real.stat()
    if stat.st_size < _LARGE:
        return _hash(real)
    identity: list[str | int] = [str(real), stat.st_size, stat.st_mtime_ns, stat.st_ino]
    entry = _cache_folder() / f"{hashlib.sha256(str(real).encode('utf-8', 'surrogateescape')).hexdigest()}.json"
    known = _recall(entry, identity)
    if known is not None:
        return known
    digest = _hash(real)
    _remember(entry, identity, digest)
    return digest


def _hash(path: Path) -> str:
    """Reads instead of mapping: pages of a mapping would count as this process's memory."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(root) / "kparity" / "sha256"


def _recall(entry: Path, identity: list[str | int]) -> str | None:
    try:
        stored = json.loads(entry.read_text(encoding="utf-8"))
        digest = stored["sha256"] if stored["file"] == identity else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    return digest if isinstance(digest, str) and len(digest) == 64 else None


def _remember(entry: Path, identity: list[str | int], digest: str) -> None:
    """Written beside and renamed, so that no reader sees half of it; a cache that cannot be written is no error."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=entry.parent, delete=False, encoding="utf-8") as stream:
            json.dump({"file": identity, "sha256": digest}, stream)
        Path(stream.name).replace(entry)
    except OSError:
        return
