"""Receipts for people: one as a page, a table of many, the difference of two."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from kparity.cli.table import console, table_of
from kparity.receipts.diff import Difference, Speeds
from kparity.receipts.findings import Finding
from kparity.receipts.record import Predicate, Run

WIDEST = 1000
"""Columns of a log; a table takes what it needs."""


def print_rows(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """What a query gave; a row is one line where it is not for a terminal."""
    Console(width=None if sys.stdout.isatty() else WIDEST, highlight=False).print(table_of(names, rows))


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
    runs: list[tuple[Any, ...]] = []
    speeds: list[tuple[Any, ...]] = []
    for _, owner in predicate.owners():
        name, verdict = (owner.backend, owner.parity.verdict) if isinstance(owner, Run) else (owner.name, None)
        if isinstance(owner, Run):
            gates, device = owner.parity.gates, owner.device
            passed = f"{sum(gate.passed for gate in gates)} of {len(gates)}"
            counts = [kernel.dispatches for kernel in owner.kernels]
            runs.append((name, device.device, device.kind, device.driver, verdict, passed, len(counts), sum(counts)))
        speeds += [
            (name, each.name, *each.rates, each.gb_per_s, each.of_bandwidth, len(each.samples_s), verdict)
            for each in owner.measurements
        ]
    of_runs = ("backend", "device", "kind", "driver", "parity", "gates", "kernels", "dispatches")
    of_speeds = ("backend", "measurement", "tokens/s", "low", "high", "GB/s", "of bandwidth", "samples", "parity")
    for columns, rows in ((of_runs, runs), (of_speeds, speeds)):
        if rows:
            console().print(table_of(columns, rows))


def print_diff(differences: Sequence[Difference], speeds: Sequence[Speeds]) -> None:
    """Fields that differ, then the speeds of both."""
    fields = table_of(("field", "a", "b"), [(each.where, each.a, each.b) for each in differences])
    rows = [(each.backend, each.name, each.a, each.b, each.ratio) for each in speeds]
    table = table_of(("backend", "measurement", "a, tokens/s", "b, tokens/s", "b ÷ a"), rows)
    for shown, why in ((fields, "nothing differs"), (table, "no speeds")):
        console().print(shown if shown.row_count else Text(why))
