"""The tables of ``kparity bench``: parity beside every number."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_high
from typing import TYPE_CHECKING

from rich.text import Text

from kparity.cli.table import STYLES, Table, say
from kparity.host.text import markdown_table, number, percent

if TYPE_CHECKING:
    from kparity.bench.comparison import Compared
    from kparity.receipts.record import Baseline, Predicate, Row, Run

SPEED = ("backend", "measurement", "tokens/s", "parity", "95 % interval", "ms/token p50", "p99", "GB/s", "of bandwidth",
         "device ms", "J/token", "note")  # fmt: skip
OPS = ("op", "µs", "95 % interval", "× baseline", "floor µs", "GB/s", "GFLOP/s", "of bandwidth", "clock", "note")
COMPARED = ("measurement", "B is faster by", "verdict", "95 % interval", "A", "B", "note")
SHARED = ("device", "backend", "model", "measurement", "tokens/s", "of bandwidth", "parity", "device proof", "receipt")
WRONG = "bold red"


def _wrong(errors: Sequence[str]) -> Text:
    return Text(f"ERROR {'; '.join(errors)}", style=WRONG)


def _number(value: float | None, factor: float = 1.0) -> str:
    """Empty where there is none."""
    return "" if value is None else number(value * factor)


def _interval(low: float, high: float, factor: float = 1.0) -> str:
    return f"{number(low * factor)} … {number(high * factor)}"


# --- models ---


def print_bench(predicate: Predicate) -> None:
    """Print what was measured, what was left out and why, bandwidths, and ratios: rows by engine and measurement."""
    table = Table(*SPEED, right={*SPEED[2:11]} - {"parity"})
    for run in predicate.runs:
        verdict = run.parity.verdict
        _add(table, run.backend, run, Text(verdict, style=STYLES.get(verdict, WRONG)))
    for baseline in predicate.baselines:
        _add(table, baseline.name, baseline, Text("baseline"))
    table.print()
    for run in predicate.runs:
        say(_about(run))
    for baseline in predicate.baselines:
        for each in baseline.ratios:
            told = f"{number(each.ratio)} × {baseline.name} ({_interval(each.low, each.high)})"
            doubt = f"not comparable with {baseline.name}: {each.doubt}"
            say(f"{each.backend} {each.name}: {doubt if each.doubt else told}")


def _add(table: Table, name: str, run: Run | Baseline, verdict: Text) -> None:
    """The measurements of an engine, those that were not made, and its errors."""
    rows = [_model_cells(row, verdict) for row in run.measurements]
    rows += [[each.name, None, *[""] * 8, each.reason] for each in run.skipped]
    rows += [["", "", "ERROR", *[""] * 7, error] for error in run.errors]
    for at, cells in enumerate(rows):
        table.add("" if at else name, *cells)


def _model_cells(row: Row, verdict: Text) -> list[str | Text | None]:
    """One line."""
    rate, low, high = row.rates
    middle, late = (row.ms_per_token.p50, row.ms_per_token.p99) if row.ms_per_token else (None, None)
    return [
        row.name, number(rate), verdict, _interval(low, high), _number(middle), _number(late), _number(row.gb_per_s),
        percent(row.of_bandwidth), _number(median_high(row.device_s) if row.device_s else None, 1e3),
        _number(row.energy_j_per_token), "; ".join(filter(None, [row.limit, *row.errors])),
    ]  # fmt: skip


def community(predicate: Predicate, sha256: str) -> str:
    """Rows of a table in Markdown that people share, one a backend: its decode at the least depth, and what proves it.

    A speed whose output was not judged right is not told.
    """
    rows = []
    for run in predicate.runs:
        decoded = min(
            (row for row in run.measurements if row.phase == "decode"), key=lambda row: row.depth, default=None
        )
        right = run.parity.verdict == "PASS" and not run.errors
        told = [number(decoded.rates[0]), percent(decoded.of_bandwidth)] if right and decoded else ["", ""]
        model = predicate.model.name if predicate.model else ""
        rows.append([
            run.device.device, run.backend, model, decoded.name if decoded else "", *told, run.parity.verdict,
            run.proof.device or "no GPU", sha256[:16],
        ])  # fmt: skip
    return markdown_table(SHARED, rows, left=4)


def _about(run: Run) -> str:
    """Device, bandwidth and the check of the timed output."""
    output, repeats = run.timed_output, run.determinism
    parts = [f"{run.backend}: {run.device.device} ({run.device.kind})"]
    if run.bandwidth:
        parts.append(f"{run.bandwidth.what} {number(run.bandwidth.bytes_per_s * 1e-9)} GB/s")
    if output and output.cosine is not None:
        parts.append(f"timed output: cosine {number(output.cosine, output.limit)} (≥ {output.limit:g})")
    if repeats:
        parts.append(f"{repeats.repeats} repetitions, {'the same bits' if repeats.identical else 'OTHER BITS'}")
    return ", ".join(parts)


# --- ops ---


def print_ops(rows: Sequence[Row]) -> None:
    """Print a row per backend, case and state, and what a launch by itself takes."""
    table = Table(*OPS, right={*OPS} - {"op", "clock", "note"})
    empty = [row for row in rows if row.tag == "empty launch"]
    for row in (row for row in rows if row.tag != "empty launch"):
        table.add(*_cells(row))
    table.print()
    took = ", ".join(f"{row.backend} {number(row.unit_s * 1e6)} µs" for row in empty if row.unit_s)
    if took:
        say(f"an empty launch, which every other time contains: {took}")


def _cells(row: Row) -> list[str | Text]:
    """One line."""
    if not (row.unit_s and row.low_s and row.high_s):
        return [row.name, *[""] * 8, row.unsupported or _wrong(row.errors)]
    over = " ".join(
        f"{each.baseline.split()[2]}: not comparable"
        if each.doubt
        else f"{number(each.ratio)} {each.baseline.split()[2]}"
        for each in row.ratios
    )
    doubts = [each.doubt for each in row.ratios if each.doubt]
    return [
        row.name, number(row.unit_s * 1e6), _interval(row.low_s, row.high_s, 1e6), over, _number(row.floor_s, 1e6),
        _number(row.gb_per_s), _number(row.gflop_per_s), percent(row.of_bandwidth), row.clock,
        _wrong(row.errors) if row.errors else "; ".join(filter(None, [row.limit, *doubts])),
    ]  # fmt: skip


# --- comparisons ---


def print_compared(rows: Sequence[Compared]) -> None:
    """Print a line per measurement."""
    table = Table(*COMPARED, right={*COMPARED[1:6]} - {"verdict"})
    for row in rows:
        ratio, interval = "", ""
        if row.ratio is not None and row.low is not None and row.high is not None:
            ratio, interval = f"{number(row.ratio)} ×", _interval(row.low, row.high)
        table.add(row.name, ratio, row.verdict, interval, _time(row.a_median_s), _time(row.b_median_s), row.reason)
    if rows:
        table.print()


def _time(seconds: float | None) -> str:
    """A median in the unit that fits it."""
    if seconds is None:
        return ""
    factor, unit = next(((f, u) for f, u in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")) if seconds * f >= 1), (1e9, "ns"))
    return f"{number(seconds * factor)} {unit}"
