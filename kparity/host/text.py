"""Text: what is not ours made printable for people, and files that are replaced whole or not at all."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kparity.errors import WrongInput

HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Categories of Unicode that print nothing, move the cursor, turn the direction or end the line."""


def printable(text: str) -> str:
    """The text with every character that is not shown as itself written as an escape (``\\x1b``, ``\\u202e``)."""
    return "".join(
        each.encode("unicode_escape", "surrogatepass").decode() if unicodedata.category(each) in HIDDEN else each
        for each in text
    )


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> str:
    """A table in Markdown; all columns but the first ``left`` hold numbers and stand to the right."""
    sides = ["---" if at < left else "---:" for at in range(len(head))]
    lines = ([str(cell).replace("|", "/") for cell in row] for row in (head, sides, *rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file by a text, whole or not at all; raises WrongInput where the folder cannot be written."""
    name = ""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            name = file.name
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise WrongInput(f"{path} cannot be written: {error.strerror}; name a writable folder") from error
