"""Text that is not ours, made printable for people."""

from __future__ import annotations

import unicodedata

HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Categories of Unicode that print nothing, move the cursor, turn the direction or end the line."""


def printable(text: str) -> str:
    """The text with every character that is not shown as itself written as an escape (``\\x1b``, ``\\u202e``)."""
    return "".join(
        each.encode("unicode_escape", "surrogatepass").decode() if unicodedata.category(each) in HIDDEN else each
        for each in text
    )
