"""The tables of ``kparity bench``: parity beside every number."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_high
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from kparity.cli.table import STYLES, console, make_table, number, percent

if TYPE_CHECKING:
    from kparity.bench.comparison import Compared
    from kparity.receipts.record import Baseline, Predicate, Row, Run

SPEED = ("backend", "measurement", "tokens/s", "95 % interval", "ms/token p50", "p99", "GB/s", "of bandwidth",
         "device ms", "J/token", "parity", "note")  # fmt: skip
OPS = ("op", "µs", "95 % interval", "floor µs", "GB/s", "GFLOP/s", "of bandwidth", "clock", "× baseline", "note")
COMPARED = ("measurement", "A", "B", "B is faster by", "95 % interval", "verdict", "note")
WRONG = "bold red"
VERDICTS = {
    "faster": "green",
    "slower": WRONG,
    "invalid": WRONG,
    "too few samples": "yellow",
    "not comparable": "yellow",
}


def _wrong(errors: Sequence[str]) -> Text:
    return Text(f"ERROR {'; '.join(errors)}", style=WRONG)


# --- models ---


def print_bench(predicate: Predicate) -> None:
    """Print what was measured, what was left out and why, bandwidths, and ratios: rows by engine and measurement."""
    table = make_table(*SPEED, right=SPEED[2:10], folds=("note",))
    for run in predicate.runs:
        style = STYLES.get(run.parity.verdict, WRONG)
        _add(table, run.backend, run, Text(run.parity.verdict, style=style))
    for baseline in predicate.baselines:
        _add(table, baseline.name, baseline, Text("baseline"))
    out = console()
    out.print(table)
    for run in predicate.runs:
        out.print(_about(run))
    for baseline in predicate.baselines:
        for each in baseline.ratios:
            told = f"{each.ratio:.2f} × {baseline.name} ({each.low:.2f} … {each.high:.2f})"
            doubt = f"not comparable with {baseline.name}: {each.doubt}"
            out.print(f"{each.backend} {each.name}: {doubt if each.doubt else told}")


def _add(table: Table, name: str, run: Run | Baseline, verdict: Text) -> None:
    """The measurements of an engine, those that were not made, and its errors."""
    rows = [_model_cells(row, verdict) for row in run.measurements]
    rows += [[each.name, "—", *[""] * 8, each.reason] for each in run.skipped]
    rows += [[*[""] * 9, Text("ERROR", style=WRONG), error] for error in run.errors]
    for at, cells in enumerate(rows):
        table.add_row("" if at else name, *cells)
    table.add_section()


def _model_cells(row: Row, verdict: Text) -> list[str | Text]:
    """One line."""
    rate, low, high = row.rates
    middle, late = (row.ms_per_token.p50, row.ms_per_token.p99) if row.ms_per_token else (None, None)
    return [
        row.name, f"{rate:.1f}", f"{low:.1f} … {high:.1f}", number(middle, 3), number(late, 3), number(row.gb_per_s),
        percent(row.of_bandwidth), number(median_high(row.device_s) if row.device_s else None, 3, 1e3),
        number(row.energy_j_per_token, 4), verdict, "; ".join(filter(None, [row.limit, *row.errors])),
    ]  # fmt: skip


def _about(run: Run) -> str:
    """Device, bandwidth and the check of the timed output."""
    output, repeats = run.timed_output, run.determinism
    parts = [f"{run.backend}: {run.device.device} ({run.device.kind})"]
    if run.bandwidth:
        parts.append(f"{run.bandwidth.what} {run.bandwidth.bytes_per_s * 1e-9:.1f} GB/s")
    if output and output.cosine is not None:
        parts.append(f"timed output: cosine {output.cosine:.6f} (≥ {output.limit:g})")
    if repeats:
        parts.append(f"{repeats.repeats} repetitions, {'the same bits' if repeats.identical else 'OTHER BITS'}")
    return ", ".join(parts)


# --- ops ---


def print_ops(rows: Sequence[Row]) -> None:
    """Print a row per backend, case and state, and what a launch by itself takes."""
    table, case = make_table(*OPS, right={*OPS} - {"op", "clock", "note"}, folds=OPS[1:]), ""
    empty = [row for row in rows if row.tag == "empty launch"]
    for row in (row for row in rows if row.tag != "empty launch"):
        if case and row.case != case and not row.baseline:
            table.add_section()
        case = case if row.baseline else row.case
        table.add_row(*_cells(row))
    out = console()
    out.print(table)
    took = ", ".join(f"{row.backend} {row.unit_s * 1e6:.2f} µs" for row in empty if row.unit_s)
    if took:
        out.print(f"an empty launch, which every other time contains: {took}")


def _cells(row: Row) -> list[str | Text]:
    """One line."""
    if not (row.unit_s and row.low_s and row.high_s):
        return [row.name, *[""] * 8, row.unsupported or _wrong(row.errors)]
    over = " ".join(
        f"{each.baseline.split()[2]}: not comparable" if each.doubt else f"{each.ratio:.2f} {each.baseline.split()[2]}"
        for each in row.ratios
    )
    doubts = [each.doubt for each in row.ratios if each.doubt]
    return [
        row.name, number(row.unit_s, 2, 1e6), f"{row.low_s * 1e6:.2f} … {row.high_s * 1e6:.2f}",
        number(row.floor_s, 2, 1e6), number(row.gb_per_s), number(row.gflop_per_s),
        percent(row.of_bandwidth), row.clock, over,
        _wrong(row.errors) if row.errors else "; ".join(filter(None, [row.limit, *doubts])),
    ]  # fmt: skip


# --- comparisons ---


def print_compared(rows: Sequence[Compared]) -> None:
    """Print a line per measurement."""
    table = make_table(*COMPARED, right=COMPARED[1:5])
    for row in rows:
        ratio = ("", "") if row.ratio is None else (f"{row.ratio:.3f} ×", f"{row.low:.3f} … {row.high:.3f}")
        verdict = Text(row.verdict, style=VERDICTS.get(row.verdict, ""))
        table.add_row(row.name, _time(row.a_median_s), _time(row.b_median_s), *ratio, verdict, row.reason)
    if rows:
        console().print(table)


def _time(seconds: float | None) -> str:
    """A median in the unit that fits it."""
    if seconds is None:
        return ""
    factor, unit = next(((f, u) for f, u in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")) if seconds * f >= 1), (1e9, "ns"))
    return f"{seconds * factor:.4g} {unit}"
