"""SHA-256 of a model file; that of a large file is remembered, so that a cached verdict does not wait for it."""

from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from kparity.errors import BadModel
from kparity.host import cachedir, files, progress

_LARGE = 1 << 24
"""Files below this are hashed in some milliseconds and not remembered."""
CHANGED = "changed while it was read; wait until it is complete, and run this again"
_SETTLED_S = 2.0
"""A file that was written later than so long ago is not remembered: another change would leave it the same time."""


def file_sha256(path: Path) -> str:
    """Hex digest of the whole file. Remembered by real path, size, inode and the times of its last changes.

    Raises WrongInput for what is no regular file, and BadModel for one that changes meanwhile.
    """
    with files.opened(path, "a GGUF file") as stream:
        status = os.fstat(stream.fileno())
        if status.st_size < _LARGE or time.time() - status.st_ctime < _SETTLED_S:
            return sha256_of(path, stream)
        key = repr((str(path.resolve()), *identity(status))).encode("utf-8", "surrogateescape")
        try:
            entry = cachedir.folder("sha256") / hashlib.sha256(key).hexdigest()
        except OSError:  # a cache that cannot be used is no error
            return sha256_of(path, stream)
        with suppress(OSError, UnicodeDecodeError):
            known = cachedir.read(entry).decode()
            if re.fullmatch("[0-9a-f]{64}", known):
                return known
        digest = sha256_of(path, stream)
    with suppress(OSError):
        cachedir.write(entry, digest.encode())
    return digest


def sha256_of(path: Path, stream: BinaryIO) -> str:
    """Of the bytes of an open file, read now instead of mapped: pages of a mapping would count as this process's
    memory. ``path`` is named where the file changes meanwhile, which raises BadModel.
    """
    before = identity(os.fstat(stream.fileno()))
    with progress.task(f"sha256 of {path.name}", os.fstat(stream.fileno()).st_size) as task:
        digest = cachedir.sha256_of(stream, task.advance)
    if identity(os.fstat(stream.fileno())) != before:
        raise BadModel(f"{path}: {CHANGED}")
    return digest


def identity(status: os.stat_result) -> tuple[int, ...]:
    """What tells a file from a later one of the same name: device, inode, bytes, the times of the last changes; that
    of the inode cannot be set back.
    """
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
