"""Text that is not ours, made printable for people."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

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
