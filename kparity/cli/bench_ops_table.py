"""The table of ``kparity bench --ops``: a row per backend, case and state, and what a launch by itself takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kparity.cli.table import console

COLUMNS = ("op", "µs", "95 % interval", "floor µs", "GB/s", "GFLOP/s", "of bandwidth", "clock", "× baseline", "note")
LEFT = ("op", "clock", "note")


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows of ``kparity.bench.ops.run``."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in COLUMNS:
        justify = "left" if column in LEFT else "right"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column == "op")  # type: ignore[arg-type]
    case = None
    for row in rows:
        if row.get("tag") != "empty launch":
            if case is not None and row.get("case") != case and not row.get("baseline"):
                table.add_section()
            case = case if row.get("baseline") else row.get("case")
            table.add_row(*_cells(row))
    out = console()
    out.print(table)
    empty = [row for row in rows if row.get("tag") == "empty launch" and "us" in row]
    if empty:
        told = ", ".join(f"{row['backend']} {row['us']:.2f} µs" for row in empty)
        out.print(f"an empty launch, which every other time contains: {told}")


def _cells(row: Mapping[str, Any]) -> list[str | Text]:
    """One line."""
    if "us" not in row:
        return [row["name"], *[""] * 8, row.get("unsupported") or _errors(row)]
    over = " ".join(f"{each['ratio']:.2f} {each['baseline'].split()[2]}" for each in row.get("ratios", []))
    return [
        row["name"], f"{row['us']:.2f}", f"{row['us_low']:.2f} … {row['us_high']:.2f}",
        f"{row['floor_us']:.2f}" if row["cold"] and "floor_us" in row else "", _rate(row.get("gb_per_s")),
        _rate(row.get("gflop_per_s")), f"{100 * row['of_bandwidth']:.1f} %" if row.get("of_bandwidth") else "",
        row.get("clock", ""), over, _errors(row) if row["errors"] else row.get("limit", ""),
    ]  # fmt: skip


def _rate(value: float | None) -> str:
    return f"{value:.1f}" if value else ""


def _errors(row: Mapping[str, Any]) -> Text:
    return Text(f"ERROR {'; '.join(row['errors'])}", style="bold red")
