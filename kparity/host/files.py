"""Files that people name: one way to read them and one to write them.

What is named may be a pipe that nobody feeds, a device without an end, a terabyte of zeros or JSON of a million
brackets, put there by somebody else: every such thing is a sentence, at once, and nothing is replaced but files.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from kparity.errors import WrongInput
from kparity.host.streams import JSON, SPELT

T = TypeVar("T")
LARGEST = 64 << 20
"""Bytes of a document; what is larger is something else."""
STDIO = "-"
"""The name that stands for standard input, or output."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFSOCK: "a socket",
}


def opened(path: str | Path, what: str = "a file") -> BinaryIO:
    """A regular file, open for reading; raises WrongInput for anything else, without waiting for a pipe's other end."""
    descriptor = -1
    try:
        mode = Path(path).stat().st_mode  # first, because opening a device can do something
        if stat.S_ISREG(mode):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
            mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError) as error:  # a ValueError is a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise WrongInput(f"{path} cannot be read: {reason}; name {what} that is there") from error
    if not stat.S_ISREG(mode):
        if descriptor >= 0:
            os.close(descriptor)
        raise WrongInput(f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'no file')}; name {what}, a regular file")
    return os.fdopen(descriptor, "rb")


def read(path: str | Path, what: str = "a file", largest: int = LARGEST) -> bytes:
    """All bytes of a regular file, or of standard input for ``-``; raises WrongInput where there are more than may be.

    ``what`` is named in errors: "a receipt".
    """
    if str(path) == STDIO:
        data = sys.stdin.buffer.read(largest + 1)
    else:
        with opened(path, what) as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(largest + 1) if size <= largest else b""
        if size > largest:
            raise WrongInput(f"{path} has {size} bytes, and {what} has at most {largest}; name another file")
    if len(data) > largest:
        raise WrongInput(f"{path} has more than {largest} bytes, the most that {what} has; name another file")
    return data


def below(folder: str | Path, pattern: str, what: str = "a folder", deep: bool = False) -> tuple[list[Path], list[str]]:
    """The files in a folder whose names match, sorted, with ``deep`` those below it too; why folders there cannot be
    read; raises WrongInput where this one cannot.
    """
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise WrongInput(_unreadable(error, what)) from error
    found, problems = list[Path](), list[str]()
    for place, folders, names in os.walk(folder, onerror=lambda error: problems.append(_unreadable(error, what))):
        found += [Path(place, name) for name in names if fnmatchcase(name, pattern)]
        folders[:] = folders if deep else []
    return sorted(found), problems


def _unreadable(error: OSError, what: str) -> str:
    return f"{error.filename} cannot be read: {error.strerror}; name {what} that is there"


def read_text(path: str | Path, what: str = "a file", largest: int = LARGEST) -> str:
    """The same as UTF-8; raises WrongInput for what is none, with the place."""
    data = read(path, what, largest)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise WrongInput(f"{path}, line {line}: byte {data[error.start]:#04x} is no UTF-8; name {what}") from error


def read_json(path: str | Path, what: str = "a document", largest: int = LARGEST) -> Any:
    """What a JSON file holds; raises WrongInput as ``parse_json`` does."""
    return parse_json(read(path, what, largest), str(path), what)


def parse_json(data: str | bytes, name: str, what: str = "a document") -> Any:
    """JSON, read with suspicion.

    Raises WrongInput for what is no JSON, is nested beyond the interpreter's depth, holds a key twice, a number that
    is not finite, an integer of more than 64 bits or text that UTF-8 cannot express. ``name`` says where it came from.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(
            text, parse_constant=_no_constant, parse_float=_finite, parse_int=_bounded, object_pairs_hook=_no_key_twice
        )
        if _SURROGATE.search(text):  # of a pair, most likely; alone it is the end of whoever prints it
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except (ValueError, RecursionError) as error:  # a JSONDecodeError and a UnicodeDecodeError are ValueErrors
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise WrongInput(f"{name} is not {what} that can be read: {reason}; give the file as it was written") from error


def read_record(path: str | Path, kind: type[T], what: str, no: str, then: str, largest: int = 1 << 20) -> T:
    """A typed record that ``write_record`` wrote; raises WrongInput for a file that is ``no`` such thing, with what to
    do ``then``.
    """
    return parse_record(read(path, what, largest), path, kind, no, then)


def parse_record(data: bytes, path: str | Path, kind: type[T], no: str, then: str) -> T:
    """The same of what was read already."""
    import msgspec

    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WrongInput(f"{path} is {no} ({error}); {then}") from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond every float")
    return value


def _bounded(text: str) -> int:
    if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 64:
        raise ValueError(f"{text[:40]} is an integer of more than 64 bits")
    return int(text)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)[:80]!r} stands twice")
    return unique


def refuse_unwritable(*paths: str | Path) -> None:
    """Raise WrongInput where ``write`` could not write: to be called before the work whose results go there."""
    for path in paths:
        _refuse_unwritable(path)


def same(one: str | Path, other: str | Path) -> bool:
    """Whether two names are those of one file, or will be."""
    try:
        return os.path.realpath(one) == os.path.realpath(other) or Path(one).samefile(other)
    except (OSError, ValueError):
        return False


def refuse_no_folder(path: Path) -> None:
    """Make a folder for several files, unless it is there; raises WrongInput where nothing could be written in it."""
    if not path.exists():
        refuse_unwritable(path)  # whether it can be made
    elif not path.is_dir():
        raise WrongInput(f"{path} is {_KINDS.get(stat.S_IFMT(path.stat().st_mode), 'a file')}; name a folder")
    try:
        path.mkdir(exist_ok=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WrongInput(f"{path} cannot be made: {reason}; name another folder") from error
    refuse_unwritable(path / "any")


def _refuse_unwritable(path: str | Path) -> None:
    if str(path) == STDIO:
        return
    try:
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode
    except FileNotFoundError:
        if not target.parent.is_dir():
            reason = f"{target.parent} is not a folder; create it first"
        elif not os.access(target.parent, os.W_OK | os.X_OK):
            reason = f"no permission to write in {target.parent}; name another folder"
        else:
            return
    except (OSError, ValueError) as error:
        reason = f"{error.strerror if isinstance(error, OSError) else error}; name another file"
    else:
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            reason = f"it is {_KINDS.get(stat.S_IFMT(mode), 'no file')}; name a file"
        elif not os.access(target, os.W_OK):
            reason = "no permission; name another file"
        else:
            return
    raise WrongInput(f"{path} cannot be written: {reason}")


def write(path: str | Path, data: str | bytes, mode: int = 0o644) -> None:
    """Write a whole file or, where that fails, leave what was there; raises WrongInput where it cannot be written.

    A link stays, and its target is written; pipes and character devices get the bytes and stay what they are; ``-`` is
    standard output. ``mode`` is that of a new file, before the umask.
    """
    if str(path) == STDIO:
        if isinstance(data, str):  # JSON and XML have escapes of their own for what the encoding lacks
            escape = "xmlcharrefreplace" if data.startswith("<") else JSON if data[:1] in ("{", "[") else SPELT
            encoding = sys.stdout.encoding or "utf-8"
            sys.stdout.write(data.encode(encoding, escape).decode(encoding))
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    raw = data.encode() if isinstance(data, str) else data
    write_pieces(path, lambda: [raw], mode)


def write_pieces(path: str | Path, make: Callable[[], Iterable[bytes]], mode: int = 0o644) -> None:
    """As ``write``, of a file whose bytes ``make`` gives piece by piece, because they are too many to be held."""
    if str(path) == STDIO:
        sys.stdout.flush()
        sys.stdout.buffer.writelines(make())
        sys.stdout.buffer.flush()
        return
    refuse_unwritable(path)
    target = Path(os.path.realpath(path))
    try:
        if target.is_file() or not target.exists():
            _replace(target, make, mode)
        else:
            _into(target, make)
    except OSError as error:
        raise WrongInput(f"{path} cannot be written: {error.strerror}; name another file") from error


def write_json(path: str | Path, content: Any) -> None:
    """Write plain values as JSON, in the same way; of others the text."""
    write(path, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def write_record(path: str | Path, record: Any) -> None:
    """Write a typed record as JSON, in the same way; a number that is not finite is null."""
    import msgspec

    write(path, msgspec.json.format(msgspec.json.encode(record), indent=2).decode() + "\n")


def _replace(target: Path, make: Callable[[], Iterable[bytes]], mode: int) -> None:
    """Give a finished file the name of the target; where its folder allows no new files, write over the old one."""
    kept = stat.S_IMODE(target.stat().st_mode) if target.exists() else mode & ~_umask()
    made = ""
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name[:60]}.", delete=False) as file:
            made = file.name
            file.writelines(make())
            file.flush()
            os.fsync(file.fileno())
        Path(made).chmod(kept)
        Path(made).replace(target)
    except OSError as error:
        if made:
            Path(made).unlink(missing_ok=True)
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EROFS) or not target.exists():
            raise
        _into(target, make)  # a file that is mounted by itself, or lies in a folder of somebody else


def _into(target: Path, make: Callable[[], Iterable[bytes]]) -> None:
    with suppress(BrokenPipeError), os.fdopen(os.open(target, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY), "wb") as file:
        file.writelines(make())
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.truncate()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
