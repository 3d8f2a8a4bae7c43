"""Receipts for people: one as a page, a table of many, the difference of two."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kparity.cli.table import STYLES, console
from kparity.receipts.diff import Difference, Speeds
from kparity.receipts.findings import Finding
from kparity.receipts.record import Measurement, Predicate

WIDEST = 1000
"""Columns of a log; a table takes what it needs."""
VERDICTS = {**STYLES, "INVALID-CORRECTNESS": "bold red"}


def _table(*columns: str, title: str = "") -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _cell(value: Any) -> Text:
    if isinstance(value, float):
        return Text(f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}")
    text = "—" if value is None else str(value)
    return Text(text, style=VERDICTS.get(text, ""))


def print_rows(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """What a query gave; a row is one line where it is not for a terminal."""
    table = _table(*names)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    Console(width=None if sys.stdout.isatty() else WIDEST, highlight=False).print(table)


def print_receipt(predicate: Predicate, findings: Sequence[Finding]) -> None:
    """What was measured, on what, by what; then the verdicts, the speeds, and what is wrong with it."""
    out = console()
    harness, host, model = predicate.harness, predicate.host, predicate.model
    state = {True: ", changed", False: "", None: ", changes unknown"}[harness.dirty]
    facts = {
        "receipt": f"{predicate.kind} {predicate.id}",
        "time": f"{predicate.begun} … {predicate.ended}",
        "harness": f"kparity {harness.version}, commit {harness.commit[:12]}{state}",
        "host": f"{host.cpu or host.machine}, {host.cpus} cores, {host.system}",
        "model": f"{model.name}, {model.bytes} bytes, sha256 {model.sha256[:12]}…",
        "contract": f"{predicate.contract.id} {predicate.contract.version}",
        "requested": ", ".join(predicate.request.backends),
        "serving": predicate.serving or "nothing",
    }
    for name, value in facts.items():
        out.print(Text(f"{name:<10}{value}"))
    for each in predicate.fallback:
        if each.status != "accepted":
            out.print(Text(f"{'':<10}{each.backend} {each.status}: {each.code}: {each.reason}"))
    _print_runs(predicate)
    for finding in findings:
        out.print(Text(str(finding), style="bold red"))
    out.print(Text("refused" if findings else "PASS", style="bold red" if findings else "green"))


def _print_runs(predicate: Predicate) -> None:
    runs = _table("backend", "device", "kind", "driver", "parity", "gates", "kernels", "dispatches")
    speeds = _table("backend", "measurement", "tokens/s", "low", "high", "GB/s", "of bandwidth", "samples", "parity")
    for run in predicate.runs:
        verdict, gates = run.parity.verdict, run.parity.gates
        passed = f"{sum(gate.passed for gate in gates)} of {len(gates)}"
        device, counts = run.device, [kernel.dispatches for kernel in run.kernels]
        row = (run.backend, device.device, device.kind, device.driver, verdict, passed, len(counts), sum(counts))
        runs.add_row(*(_cell(value) for value in row))
        for each in run.measurements:
            _add_speed(speeds, run.backend, each, verdict)
    for baseline in predicate.baselines:
        for each in baseline.measurements:
            _add_speed(speeds, baseline.name, each, None)
    for table in (runs, speeds):
        if table.row_count:
            console().print(table)


def _add_speed(table: Table, owner: str, each: Measurement, verdict: str | None) -> None:
    figures = (getattr(each, name) for name in ("tokens_per_s", "low", "high", "gb_per_s", "of_bandwidth"))
    table.add_row(*(_cell(value) for value in (owner, each.name, *figures, len(each.samples_s), verdict)))


def print_diff(differences: Sequence[Difference], speeds: Sequence[Speeds]) -> None:
    """Fields that differ, then the speeds of both."""
    fields = _table("field", "a", "b")
    for each in differences:
        fields.add_row(*(_cell(value) for value in (each.where, each.a, each.b)))
    table = _table("backend", "measurement", "a, tokens/s", "b, tokens/s", "b ÷ a")
    for speed in speeds:
        table.add_row(*(_cell(value) for value in (speed.backend, speed.name, speed.a, speed.b, speed.ratio)))
    for shown, said in ((fields, "nothing differs"), (table, "no speeds")):
        console().print(shown if shown.row_count else Text(said))
