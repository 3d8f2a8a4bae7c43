"""Lines and tables for people: as wide as the terminal, or as what they hold where there is none."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from kparity.host.streams import shown
from kparity.host.text import number

STYLES = {
    "PASS": "green",
    "FAIL": "bold red",
    "ERROR": "bold red",
    "INVALID-CORRECTNESS": "bold red",
    "INCONCLUSIVE": "yellow",
    "MISTRUSTED": "bold red",
    "OK": "green",
    "SUSPECT": "bold red",
    "ok": "green",
    "wrong": "bold red",
    "doubtful": "yellow",
    "accepted": "bold green",
    "serves": "bold green",
    "rejected": "bold red",
    "unavailable": "yellow",
    "mistrusted": "bold red",
    "faster": "green",
    "slower": "bold red",
    "invalid": "bold red",
    "too few samples": "yellow",
    "not comparable": "yellow",
}
SHELL_WORD = re.compile(r"""(?:'[^']*'|"[^"]*"|\\.|\S)+""")
"""A word of a shell's line, with its quotes."""
NONE = "—"
"""What stands in a cell without a value."""
NARROWEST, LEAST_TEXT = 20, 24
"""Columns that a terminal has at least; columns that a text gets beside others, or it goes beneath them."""
GAP, INDENT = "  ", "  "
WORD = re.compile(r"\s*(?:\S?[≤≥<>]=? )?\S+")
"""A sign and its number are one."""

Part = str | tuple[str, str]
"""Text, or text and its style."""


def width() -> int | None:
    """Columns of the terminal, or of the variable COLUMNS; None where a line may be as long as it is."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return max(int(given), NARROWEST)
    try:
        return max(os.get_terminal_size(sys.stdout.fileno()).columns or 80, NARROWEST)
    except (OSError, ValueError):
        return None


def console() -> Console:
    """stdout, which neither crops nor wraps: lines come in the right length. Colours as rich does, but no escape
    sequence at all with NO_COLOR.
    """
    # Names and reasons are not ours: what looks like markup in them is text.
    return Console(
        width=width() or 1 << 16, height=25, color_system=None if os.environ.get("NO_COLOR") else "auto",
        highlight=False, markup=False, emoji=False, soft_wrap=True,
    )  # fmt: skip


def say(*parts: Part, indent: int = 0, hang: int = 2) -> None:
    """A line, whatever its parts hold; on a terminal it goes on below itself, by ``hang`` further in."""
    text = Text.assemble(*((shown(part), "") if isinstance(part, str) else (shown(part[0]), part[1]) for part in parts))
    _print(_wrapped(text, width(), " " * indent, " " * (indent + hang)))


def say_command(title: str, command: str) -> None:
    """A command to be run again: broken between words, in a way that a shell joins."""
    words, limit = [shown(word) for word in SHELL_WORD.findall(command)], width()
    lines, line = [], title
    for word in words:
        if limit and line and Text(f"{line} {word} \\").cell_len > limit:
            lines.append(f"{line} \\")
            line = f"{INDENT} {word}"
        else:
            line = f"{line} {word}"
    _print(map(Text, [*lines, line]))


class Table:
    """Rows under names. Columns that a terminal has no room for go on beneath their row as ``name: value``, so the
    first ones are the most important; a text that has some room is wrapped in it. Nothing is cut.
    """

    def __init__(self, *columns: str, right: Collection[str] = (), title: str = "") -> None:
        """Numbers stand to the ``right``."""
        self.columns, self.right, self.title = columns, right, title
        self.rows: list[tuple[list[Text], list[Text]]] = []

    def add(self, *cells: Any, beneath: Iterable[str] = ()) -> None:
        """A row: a value per column, verdicts in their colour; and texts that stand beneath it at any width."""
        self.rows.append(([_cell(cell) for cell in cells], [Text(shown(text)) for text in beneath]))

    def print(self) -> None:
        """On stdout."""
        _print(self.lines(width()))

    def lines(self, limit: int | None) -> Iterator[Text]:
        """The table in at most ``limit`` columns, or in as many as it takes; a word of more is not broken."""
        used = [at for at in range(len(self.columns)) if not self.rows or any(cells[at] for cells, _ in self.rows)]
        widths = self._widths(used, limit)
        if self.title:
            yield from _wrapped(Text(shown(self.title), style="italic"), limit)
        if any(self.columns) and used:
            names = [Text(shown(name), style="bold") for name in self.columns]
            yield from self._row(names, used, widths)
            yield Text(shown("─" * (sum(widths) + len(GAP) * (len(widths) - 1))), style="dim")
        for cells, beneath in self.rows:
            beside = len(widths) - (len(widths) > 1 and _longest(cells[used[len(widths) - 1]]) > widths[-1])
            yield from self._row(cells, used, widths[:beside])
            rest = ((self.columns[at], cells[at]) for at in used[beside:])
            yield from _flow([_named(*each) for each in rest if each[1].plain not in ("", shown(NONE))], limit)
            for text in beneath:
                yield from _wrapped(text, limit, INDENT)

    def _widths(self, used: Sequence[int], limit: int | None) -> list[int]:
        """Of the columns that stand side by side: all without a limit, else the first ones for which there is room."""
        widths: list[int] = []
        room = limit or 0
        for at in used:
            texts = [Text(shown(self.columns[at])), *(cells[at] for cells, _ in self.rows)]
            natural, gap = max(text.cell_len for text in texts), len(GAP) if widths else 0
            if limit is None or natural + gap <= room:
                widths.append(natural)
                room -= natural + gap
                continue
            if not widths or (room - gap >= max(LEAST_TEXT, limit // 3) and self.columns[at] not in self.right):
                widths.append(room - gap)
            break
        return widths

    def _row(self, cells: Sequence[Text], used: Sequence[int], widths: Sequence[int]) -> Iterator[Text]:
        """The lines of the columns that stand side by side."""
        kept = used[: len(widths)]
        columns = [_wrapped(cells[at], size) for at, size in zip(kept, widths, strict=True)]
        for parts in zip_longest(*columns, fillvalue=Text()):
            line = Text()
            for at, size, part in zip(kept, widths, parts, strict=True):
                sides = [part, Text(" " * (size - part.cell_len))]
                line = Text.assemble(line, *(sides[::-1] if self.columns[at] in self.right else sides), GAP)
            line.rstrip()
            yield line


def _cell(value: Any) -> Text:
    if isinstance(value, Text):
        return Text(shown(value.plain), style=value.style)
    text = NONE if value is None else number(value) if isinstance(value, float) else str(value)
    return Text(shown(text), style=STYLES.get(text, ""))


def _longest(text: Text) -> int:
    """Columns of its longest word."""
    return max((cell_len(word.strip()) for word in WORD.findall(text.plain)), default=0)


def _named(name: str, value: Text) -> Text:
    return Text.assemble((f"{shown(name)}: " if name else "", "dim"), value)


def _wrapped(text: Text, limit: int | None, first: str = "", later: str = "") -> list[Text]:
    """A text between words, each line behind an indent; the later ones by default behind the same."""
    later = later or first
    if limit is None or text.cell_len + len(first) <= limit:
        return [Text.assemble(first, text)]
    breaks, room = [], limit - len(first)
    for word in WORD.finditer(text.plain):
        room -= cell_len(word[0])
        if room < 0 and word.start():
            breaks.append(word.end() - len(word[0].lstrip()))
            room = limit - len(later) - cell_len(word[0].lstrip())
    lines = [line for line in text.divide(breaks) if line.plain.strip()] or [Text()]
    for line in lines:
        line.rstrip()
    return [Text.assemble(later if at else first, line) for at, line in enumerate(lines)]


def _flow(items: Sequence[Text], limit: int | None) -> Iterator[Text]:
    """Items one after another, as many in a line as have room; a longer one is wrapped in lines of its own."""
    line = Text()
    for item in items:
        if line and limit and line.cell_len + len(GAP) + item.cell_len > limit:
            yield line
            line = Text()
        line = Text.assemble(line or INDENT, GAP if line else "", item)
        if limit and line.cell_len > limit:
            yield from _wrapped(item, limit, INDENT, INDENT * 2)
            line = Text()
    if line:
        yield line


def _print(lines: Iterable[Text]) -> None:
    out = console()
    for line in lines:
        out.print(line)
