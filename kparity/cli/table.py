"""Tables for people: colours and widths only where there is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE_HEAD, Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from kparity.gates.verdict import Gate, Row
    from kparity.probe.dispatcher import Outcome

STYLES = {
    "PASS": "green",
    "FAIL": "bold red",
    "INVALID-CORRECTNESS": "bold red",
    "INCONCLUSIVE": "yellow",
    "OK": "green",
    "SUSPECT": "bold red",
    "accepted": "bold green",
    "rejected": "bold red",
    "unavailable": "yellow",
}


def console() -> Console:
    """stdout; as wide as its lines where it is not a terminal, so that nothing is cut in a log."""
    terminal = sys.stdout.isatty()
    # Names and reasons are not ours: what looks like markup in them is text.
    return Console(width=None if terminal else 160, highlight=False, soft_wrap=False, markup=False, emoji=False)


def make_table(
    *columns: str, right: Collection[str] = (), folds: Collection[str] = (), box: Box | None = SIMPLE_HEAD
) -> Table:
    """A table without rows. Numbers stand to the ``right``; what a column cannot hold goes on in the next line, where
    ``folds`` names columns only in these.
    """
    table = Table(box=box, pad_edge=False, header_style="table.header" if box else "bold")
    for column in columns:
        justify: Literal["right", "left"] = "right" if column in right else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=bool(folds) and column not in folds)
    return table


def table_of(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> Table:
    """A table of any values: four digits of a float, — for None, verdicts in their colour."""
    table = make_table(*columns)
    table.title, table.title_justify = title or None, "left"
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _cell(value: Any) -> Text:
    if isinstance(value, float):
        return Text(f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}")
    return styled("—" if value is None else str(value))


def number(value: float | None, digits: int = 1, factor: float = 1.0) -> str:
    """A rounded number; empty where there is none."""
    return "" if value is None else f"{value * factor:.{digits}f}"


def percent(share: float | None) -> str:
    """A share; empty where there is none."""
    return "" if share is None else f"{100 * share:.1f} %"


def styled(text: str) -> Text:
    """A verdict in its colour."""
    return Text(text, style=STYLES.get(text, ""))


def print_probe(outcome: Outcome, timings: bool) -> None:
    """One block per backend: a line per measured number with its threshold, then the verdict."""
    columns = ("backend", "device", "kind", "gate", "measured", "threshold", "verdict", "ms")
    table = make_table(*columns, right=("measured", "ms"))
    for row in outcome.rows:
        _add_row(table, row, row.backend == outcome.serving)
    console().print(table)
    if timings:
        _print_timings(outcome.rows)


def _add_row(table: Table, row: Row, serving: bool) -> None:
    device = (str(row.device["device"]), str(row.device["kind"])) if row.device else ("—", "—")
    head = [row.backend, *device]
    for gate in row.gates:
        for cells in _gate_lines(gate):
            table.add_row(*head, *cells)
            head = ["", "", ""]
    about = [f"vs {row.reference}" if row.reference else "", "serves" if serving else "cached" if row.cached else ""]
    note = f"{row.code} {row.reason}" if row.code else ", ".join(filter(None, about))
    cells = [Text("→", style="dim"), "", Text(note), styled(row.status), f"{row.elapsed_ms:.0f}"]
    table.add_row(*head, *cells, end_section=True)


def _gate_lines(gate: Gate) -> list[list[str | Text]]:
    ms = f"{gate.elapsed_ms:.0f}" if gate.elapsed_ms else ""
    if not gate.measures:
        note = "not run (--depth bos)" if gate.verdict == "INCONCLUSIVE" else gate.note
        return [[gate.name, note, "", styled(gate.verdict), ms]]
    lines: list[list[str | Text]] = []
    for each in gate.measures:
        value = "0" if each.value == 0 else f"{each.value:.6g}"
        limit = f"{each.sign} {each.limit:g} {each.threshold}"
        first = not lines
        verdict = styled("PASS" if each.holds else "FAIL")
        lines.append([gate.name if first else "", value, limit, verdict, ms if first else ""])
    return lines


def _print_timings(rows: Sequence[Row]) -> None:
    out, names = console(), [row.backend for row in rows]
    out.print("Where the time went (ms in each probe's process)")
    table = make_table("", *names, right=names)
    for stage in dict.fromkeys(stage for row in rows for stage in row.timings_ms):
        table.add_row(stage, *(f"{row.timings_ms[stage]:.0f}" if stage in row.timings_ms else "" for row in rows))
    table.add_row("process", *(f"{row.elapsed_ms:.0f}" for row in rows))
    steps = (f"{row.device_step_ms:.2f}" if row.device_step_ms is not None else "" for row in rows)
    table.add_row("step on device", *steps)
    out.print(table)
