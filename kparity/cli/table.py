"""Tables for people: colours and widths only where there is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
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
    "accepted": "bold green",
    "rejected": "bold red",
    "unavailable": "yellow",
}


def console() -> Console:
    """stdout; as wide as its lines where it is not a terminal, so that nothing is cut in a log."""
    terminal = sys.stdout.isatty()
    # Names and reasons are not ours: what looks like markup in them is text.
    return Console(width=None if terminal else 160, highlight=False, soft_wrap=False, markup=False, emoji=False)


def table_of(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> Table:
    """A table of any values: four digits of a float, — for None, verdicts in their colour."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _cell(value: Any) -> Text:
    if isinstance(value, float):
        return Text(f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}")
    return _styled("—" if value is None else str(value))


def _styled(text: str) -> Text:
    return Text(text, style=STYLES.get(text, ""))


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.6g}"


def _device(row: Row) -> tuple[str, str]:
    if row.device is None:
        return "—", "—"
    return str(row.device["device"]), str(row.device["kind"])


def print_probe(outcome: Outcome, timings: bool) -> None:
    """One block per backend: a line per measured number with its threshold, then the verdict."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column, justify in (
        ("backend", "left"),
        ("device", "left"),
        ("kind", "left"),
        ("gate", "left"),
        ("measured", "right"),
        ("threshold", "left"),
        ("verdict", "left"),
        ("ms", "right"),
    ):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in outcome.rows:
        _add_row(table, row, row.backend == outcome.serving)
    out = console()
    out.print(table)
    if timings:
        _print_timings(out, outcome)


def _add_row(table: Table, row: Row, serving: bool) -> None:
    device, kind = _device(row)
    head: tuple[str, str, str] = (row.backend, device, kind)
    for gate in row.gates:
        for cells in _gate_lines(gate):
            table.add_row(*head, *cells)
            head = ("", "", "")
    said = "serves" if serving else ("cached" if row.cached else "")
    note = (
        f"{row.code} {row.reason}"
        if row.code
        else ", ".join(part for part in (f"vs {row.reference}" if row.reference else "", said) if part)
    )
    table.add_row(
        *head, Text("→", style="dim"), "", Text(note), _styled(row.status), f"{row.elapsed_ms:.0f}", end_section=True
    )


def _gate_lines(gate: Gate) -> list[tuple[str, str, str, Text, str]]:
    ms = f"{gate.elapsed_ms:.0f}" if gate.elapsed_ms else ""
    if not gate.measures:
        note = "not run (--depth bos)" if gate.verdict == "INCONCLUSIVE" else gate.note
        return [(gate.name, note, "", _styled(gate.verdict), ms)]
    lines = []
    for index, measure in enumerate(gate.measures):
        verdict = _styled("PASS" if measure.holds else "FAIL")
        threshold = f"{measure.sign} {measure.limit:g} {measure.threshold}"
        lines.append(
            (gate.name if index == 0 else "", _number(measure.value), threshold, verdict, ms if index == 0 else "")
        )
    return lines


def _print_timings(out: Console, outcome: Outcome) -> None:
    out.print("Where the time went (ms in each probe's process)")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    rows = outcome.rows
    table.add_column("")
    for row in rows:
        table.add_column(row.backend, justify="right")
    for stage in dict.fromkeys(stage for row in rows for stage in row.timings_ms):
        table.add_row(stage, *(f"{row.timings_ms[stage]:.0f}" if stage in row.timings_ms else "" for row in rows))
    table.add_row("process", *(f"{row.elapsed_ms:.0f}" for row in rows))
    steps = (f"{row.device_step_ms:.2f}" if row.device_step_ms is not None else "" for row in rows)
    table.add_row("step on device", *steps)
    out.print(table)
