"""The private cache: what kparity keeps between runs, and takes again only where nobody else can have written it.

Every failure is an OSError, a refusal too: whoever can do without the cache goes without it, others show the sentence.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"
"""How the names of unfinished writings end."""
STALE_S = 24 * 3600.0
"""Seconds after which such a one was left by a writer that was killed."""
_ELSEWHERE = "or set XDG_CACHE_HOME to a folder of your own"


def folder(kind: str) -> Path:
    """``$XDG_CACHE_HOME/kparity/<kind>``, else ``~/.cache/kparity/<kind>``, this user's alone, created if need be.

    ``kind`` may have several parts. A relative XDG_CACHE_HOME is ignored, as the XDG Base Directory Specification says,
    and a relative home is none.
    Raises PermissionError, naming the remedy, where ``kparity`` or what is below it belongs to another user or can be
    written by others.
    """
    path = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        path = path if path.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # nobody's
        path = Path()
    if not path.is_absolute():
        raise FileNotFoundError("no home folder for a cache; set XDG_CACHE_HOME to an absolute path")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in ("kparity", *kind.split("/")):
        path /= part
        try:
            path.mkdir()
            path.chmod(0o700)  # whatever the umask
        except FileExistsError:
            _refuse(path, path.stat(), stat.S_ISDIR, "folder")
            if path.lstat().st_uid != os.geteuid():
                raise PermissionError(f"the link {path} is another user's; remove it, {_ELSEWHERE}") from None
    return path


def _refuse(path: Path, status: os.stat_result, right: Callable[[int], bool], kind: str) -> None:
    """Raise PermissionError unless it is of the right kind, this user's, and nobody else can write it."""
    if not right(status.st_mode):
        raise PermissionError(f"{path} is no {kind}; remove it, {_ELSEWHERE}")
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to user {status.st_uid}, not to you; remove it, {_ELSEWHERE}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} can be written by others; run `chmod go-w {path}`, {_ELSEWHERE}")


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A private folder for unfinished files, on the disk of ``parent``; gone at the end, however that comes.

    Those that killed writers left there are swept.
    """
    for old in parent.glob(f"*{PARTIAL}"):
        with suppress(OSError):
            if time.time() - old.lstat().st_mtime > STALE_S:
                shutil.rmtree(old)
    with tempfile.TemporaryDirectory(suffix=PARTIAL, dir=parent) as name:
        Path(name).chmod(0o700)
        yield Path(name)


def write(path: Path, data: bytes) -> None:
    """The whole file or, where that fails, what was there before; readable by this user only."""
    with scratch(path.parent) as unfinished:
        made = unfinished / path.name
        made.write_bytes(data)
        made.chmod(0o600)
        made.replace(path)


def read(path: Path) -> bytes:
    """Raises PermissionError for what is no regular file of this user alone, FileNotFoundError where nothing is."""
    with _opened(path) as file:
        return file.read()


def _opened(path: Path) -> BinaryIO:
    """Without waiting for the other end of a pipe, and without following a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _refuse(path, os.fstat(descriptor), stat.S_ISREG, "regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def seal(made: Path, path: Path) -> None:
    """Give a finished file of ``scratch`` its name, with its SHA-256 beside it: for what is loaded by name."""
    made.chmod(0o600)
    write(_seal_of(path), _sha256(made).encode())
    made.replace(path)


def intact(path: Path) -> bool:
    """Whether a file is still what ``seal`` gave this name to, and this user's alone."""
    with suppress(OSError):
        return read(_seal_of(path)) == _sha256(path).encode()
    return False


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path) -> str:
    with _opened(path) as file:
        return sha256_of(file)


def sha256_of(file: BinaryIO, tick: Callable[[int], object] = lambda count: None) -> str:
    """Hex digest of the rest of an open file, a piece at a time; ``tick`` is told the bytes of each."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
        tick(len(chunk))
    return digest.hexdigest()
