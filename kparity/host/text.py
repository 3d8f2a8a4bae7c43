"""Text that is not ours, made printable for people."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Categories of Unicode that print nothing, move the cursor, turn the direction or end the line."""


def printable(text: str, keep: str = "") -> str:
    """The text with every character that is not shown as itself written as an escape (``\\x1b``, ``\\u202e``), but for
    those to ``keep``.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        each.encode("unicode_escape", "surrogatepass").decode()
        if unicodedata.category(each) in HIDDEN and each not in keep
        else each
        for each in text
    )


def number(value: float, beside: float | None = None) -> str:
    """A whole number as it is, another in three significant digits: in up to six where fewer would put it on or across
    1, and in as many as it takes for the limit that it stands ``beside``.
    """
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    text = f"{value:.3g}"
    for digits in range(3, 18):
        text = f"{value:.{digits}g}"
        points = (1.0 if digits < 6 else None, beside)
        if all((float(text) > at, float(text) < at) == (value > at, value < at) for at in points if at is not None):
            break
    return format(Decimal(text), "f") if 1e-4 <= abs(value) < 1e9 else text


def percent(share: float | None) -> str:
    """A share; empty where there is none."""
    return "" if share is None else f"{number(100 * share)} %"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> str:
    """A table in Markdown; all columns but the first ``left`` hold numbers and stand to the right."""
    sides = ["---" if at < left else "---:" for at in range(len(head))]
    lines = ([str(cell).replace("|", "/") for cell in row] for row in (head, sides, *rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seconds(text: str) -> float:
    """Of a span of time such as 30s, 10m or 2h (seconds without a unit); 0 for what is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    return float(found[1]) * {"m": 60, "h": 3600}.get(found[2], 1) if found else 0.0


def escaped(text: str) -> str:
    """The value of a label in the text format of Prometheus."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
