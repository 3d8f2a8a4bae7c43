"""The table of ``kparity bench``: a row per engine and measurement, with parity beside every number."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kparity.cli.table import STYLES, console
from kparity.receipts.record import Baseline, Predicate, Run

COLUMNS = ("backend", "measurement", "tokens/s", "95 % interval", "ms/token p50", "p99", "GB/s", "of bandwidth",
           "device ms", "J/token", "parity", "note")  # fmt: skip
LEFT = ("backend", "measurement", "parity", "note")


def print_bench(predicate: Predicate) -> None:
    """Print what was measured, what was left out and why, bandwidths, and ratios."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in COLUMNS:
        table.add_column(
            column, justify="left" if column in LEFT else "right", overflow="fold", no_wrap=column != "note"
        )
    owners: list[Run | Baseline] = [*predicate.runs, *predicate.baselines]
    for owner in owners:
        _add_run(table, owner)
    out = console()
    out.print(table)
    for run in predicate.runs:
        out.print(_about(run))
    for baseline in predicate.baselines:
        for each in baseline.ratios:
            interval = f"{each.low:.2f} … {each.high:.2f}"
            line = f"{each.backend} {each.name}: {each.ratio:.2f} × {baseline.name} ({interval})"
            out.print(line)


def _add_run(table: Table, run: Run | Baseline) -> None:
    """The measurements of an engine, and those that were not made."""
    head, parity = (run.backend, run.parity.verdict) if isinstance(run, Run) else (run.name, "baseline")
    verdict = Text(parity, style=STYLES.get(parity, "bold red" if isinstance(run, Run) else ""))
    for row in run.measurements:
        table.add_row(
            head, row.name, f"{row.tokens_per_s:.1f}", f"{row.low:.1f} … {row.high:.1f}",
            f"{row.ms_per_token.p50:.3f}", f"{row.ms_per_token.p99:.3f}", _number(row.gb_per_s, 1),
            _share(row.of_bandwidth), _number(_median(row.device_s), 3, 1e3), _number(row.energy_j_per_token, 4),
            verdict, "; ".join([*([row.limit] if row.limit else []), *row.errors]),
        )  # fmt: skip
        head = ""
    for each in run.skipped:
        table.add_row(head, each.name, "—", "", "", "", "", "", "", "", "", each.reason)
        head = ""
    for error in run.errors:
        table.add_row(head, "", "", "", "", "", "", "", "", "", Text("ERROR", style="bold red"), error)
        head = ""
    table.add_section()


def _about(run: Run) -> str:
    """Device, bandwidth and the check of the timed output."""
    device, timed, repeats = run.device, run.timed_output, run.determinism
    parts = [f"{run.backend}: {device.device} ({device.kind})"]
    if run.bandwidth:
        parts.append(f"{run.bandwidth.what} {run.bandwidth.bytes_per_s * 1e-9:.1f} GB/s")
    if timed and timed.cosine is not None:
        parts.append(f"timed output: cosine {timed.cosine:.6f} (≥ {timed.limit:g})")
    if repeats:
        parts.append(f"{repeats.repeats} repetitions, {'the same bits' if repeats.identical else 'OTHER BITS'}")
    return ", ".join(parts)


def _median(values: list[float] | None) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    return "" if value is None else f"{value * factor:.{digits}f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"
