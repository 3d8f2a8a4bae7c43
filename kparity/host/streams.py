"""Standard output and error of a command: a reader who left ends nothing, what an encoding lacks is spelt out, and a
closed stream is never taken for a file that is opened later.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import select
import sys
import unicodedata
from collections.abc import Callable
from typing import Any, TextIO

from kparity.host.text import printable

GLYPHS = dict.fromkeys(map(chr, range(0x2500, 0x2580)), "+") | {
    "─": "-", "━": "-", "│": "|", "—": "-", "–": "-", "−": "-", "…": "...", "·": "*", "•": "*", "●": "*", "✓": "+",
    "✗": "x", "≥": ">=", "≤": "<=", "≠": "!=", "≈": "~", "×": "x", "÷": "/", "±": "+-", "→": "->", "←": "<-", "⇒": "=>",
    "⇔": "<=>", "√": "sqrt ", "∞": "inf", "Σ": "sum ", "µ": "u", "μ": "u", "‖": "||", "∀": "for all ", "∈": "in",
    "∉": "not in", "∧": "and", "¬": "not ", "∅": "{}", "∩": "and", "‘": "'", "’": "'", "“": "'", "”": "'", "«": "<<",
    "»": ">>", "®": "(R)", "™": "(TM)", "°": " deg", "ŷ": "y^", "\xa0": " ",
}  # fmt: skip
"""What stands for a glyph where the encoding has none, beside Greek letters and high and low ones."""
SPELT, JSON = "kparity-spelt", "kparity-json"
"""Error handlers of codecs: glyphs spelt out, for people; escapes that JSON reads back, for programs."""
ASCII = "kparity_ascii"
"""ASCII by another name: click takes a stream of that encoding for a mistake, and writes UTF-8 into it."""

COERCED = ("C.UTF-8", "C.utf8", "UTF-8")
"""What Python puts into LC_CTYPE where the locale is C (PEP 538)."""


def _spell(glyph: str) -> str:
    """ASCII that reads like a glyph, or its escape as in JSON."""
    kind, *code = unicodedata.decomposition(glyph).split()[:2] or [""]
    mark = {"<super>": "^", "<sub>": "_", "<font>": ""}.get(kind)
    if glyph in GLYPHS or mark is None:
        name = unicodedata.name(glyph, "")
        return GLYPHS.get(glyph) or (name.split()[-1].lower() if name.startswith("GREEK ") else json.dumps(glyph)[1:-1])
    return mark + _spell(chr(int(code[0], 16)))


def _handled(text_of: Callable[[str], str]) -> Callable[[UnicodeError], tuple[str, int]]:
    """A handler of codecs that writes something else for what an encoding lacks."""

    def handler(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return text_of(error.object[error.start : error.end]), error.end

    return handler


def _codec(name: str) -> codecs.CodecInfo | None:
    if name.replace("-", "_") != ASCII:
        return None
    same = codecs.lookup("ascii")
    return codecs.CodecInfo(
        same.encode, same.decode, incrementalencoder=same.incrementalencoder,
        incrementaldecoder=same.incrementaldecoder, name=ASCII,
    )  # fmt: skip


codecs.register_error(SPELT, _handled(lambda lacking: "".join(map(_spell, lacking))))
codecs.register_error(JSON, _handled(lambda lacking: json.dumps(lacking)[1:-1]))
codecs.register(_codec)


def shown(text: str) -> str:
    """The text as it will stand on standard output: one line, no control characters, glyphs spelt out where it lacks
    them.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return printable(text).encode(encoding, SPELT).decode(encoding)


def log(text: str) -> None:
    """A line on standard error, whatever the text holds."""
    print(printable(text), file=sys.stderr, flush=True)


class Outlet(io.RawIOBase):
    """A descriptor that takes whatever is written: what it refuses is dropped, with the reason kept in ``error``."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return self.descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self.descriptor)

    def write(self, data: object) -> int:
        """Write some of the bytes; all of them, into nothing, once the descriptor has refused."""
        view = memoryview(data)  # type: ignore[arg-type]
        try:
            return len(view) if self.error else os.write(self.descriptor, view)
        except BlockingIOError:  # shared with a program that made it so
            select.select([], [self.descriptor], [])
            return self.write(data)
        except OSError as error:
            self.error = error
            return len(view)


def guard() -> None:
    """Put ``Outlet`` under standard output and error, and the null device where one of the three streams is closed:
    the next file that is opened would get its number.
    """
    for descriptor in range(3):
        if not _open(descriptor):
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is sys.__stdout__:  # not where a test or a host program has its own
        sys.stdout = _guarded(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _guarded(2, sys.stderr)


def _open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _locale_is_c() -> bool:
    """Whether somebody chose the C locale, in which Python writes UTF-8 all the same and puts that into LC_CTYPE."""
    given = os.environ.get
    if given("PYTHONIOENCODING") or given("PYTHONUTF8"):
        return False
    kind = "" if given("LC_CTYPE") in COERCED else given("LC_CTYPE")
    return (given("LC_ALL") or kind or given("LANG")) in ("C", "POSIX")


def _guarded(descriptor: int, old: Any) -> TextIO:
    encoding = old.encoding if old else "utf-8"
    if _locale_is_c() or codecs.lookup(encoding).name == "ascii":
        encoding = ASCII
    at_once = old is None or old.line_buffering or old.write_through
    return io.TextIOWrapper(io.BufferedWriter(Outlet(descriptor)), encoding, SPELT, line_buffering=at_once)


def finish() -> str:
    """Write what is left; why standard output took no result, or nothing, also where its reader has left."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    error = raw.error if isinstance(raw, Outlet) else None
    if error is None or error.errno == errno.EPIPE:
        return ""
    return f"standard output cannot be written: {error.strerror}; send it where there is room"
