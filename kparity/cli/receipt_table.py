"""Receipts for people: one as a page, a table of many, the difference of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kparity.cli.bench_table import print_ops
from kparity.cli.burnin_table import print_gates
from kparity.cli.table import Table, say
from kparity.host.text import percent
from kparity.receipts.cutover import Cutover
from kparity.receipts.diff import Difference, Speeds
from kparity.receipts.findings import Finding
from kparity.receipts.record import Head, Predicate, Run


def print_rows(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """What a query gave."""
    numbers = {name for at, name in enumerate(names) if any(isinstance(row[at], (int, float)) for row in rows)}
    table = Table(*names, right=numbers)
    for row in rows:
        table.add(*row)
    table.print()


def print_receipt(predicate: Predicate, findings: Sequence[Finding]) -> None:
    """What was measured, on what, by what; then the verdicts, the speeds, and what is wrong with it."""
    model, table = predicate.model, _head(predicate, predicate.kind)
    known = f"{model.name}, {model.bytes} bytes, sha256 {model.sha256[:12]}…" if model else "none: single ops"
    table.add("model", known)
    table.add("requested", ", ".join(predicate.request.backends))
    table.add("serving", predicate.serving or "nothing")
    for each in predicate.fallback:
        if each.status != "accepted":
            table.add("", f"{each.backend} {each.status}: {each.code}: {each.reason}")
    table.print()
    _print_runs(predicate)
    _print_findings(findings)


def print_cutover(predicate: Cutover, findings: Sequence[Finding]) -> None:
    """What was decided, from which files; then the gates, and what is wrong with it."""
    table = _head(predicate, "cutover")
    for each in predicate.evidence:
        table.add(each.kind, f"{each.name}, sha256 {each.sha256}{f' of {each.lines} lines' if each.lines else ''}")
    table.add("decision", predicate.decision)
    table.print()
    print_gates(predicate.gates)
    _print_findings(findings)


def _head(predicate: Head, kind: str) -> Table:
    """What every receipt tells of itself."""
    harness, host, table = predicate.harness, predicate.host, Table("", "")
    state = {True: ", changed", False: "", None: ", changes unknown"}[harness.dirty]
    table.add("receipt", f"{kind} {predicate.id}")
    table.add("time", f"{predicate.begun} … {predicate.ended}")
    table.add("harness", f"kparity {harness.version}, commit {harness.commit[:12]}{state}")
    table.add("host", f"{host.cpu or host.machine}, {host.cpus} cores, {host.system}")
    table.add("contract", f"{predicate.contract.id} {predicate.contract.version}")
    return table


def _print_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        say((str(finding), "bold red"))
    say(("refused", "bold red") if findings else ("PASS", "green"))


def _print_runs(predicate: Predicate) -> None:
    runs = Table("backend", "parity", "gates", "kernels", "dispatches", "kind", "device", "driver",
                 right={"kernels", "dispatches"})  # fmt: skip
    of_speeds = ("backend", "measurement", "tokens/s", "parity", "low", "high", "GB/s", "of bandwidth", "samples")
    speeds = Table(*of_speeds, right={*of_speeds[2:]} - {"parity"})
    for _, owner in predicate.owners():
        name, verdict = (owner.backend, owner.parity.verdict) if isinstance(owner, Run) else (owner.name, None)
        if isinstance(owner, Run):
            gates, device = owner.parity.gates, owner.device
            passed = f"{sum(gate.passed for gate in gates)} of {len(gates)}"
            counts = [kernel.dispatches for kernel in owner.kernels]
            runs.add(name, verdict, passed, len(counts), sum(counts), device.kind, device.device, device.driver)
        for each in owner.measurements:
            rate, low, high = each.rates
            share = percent(each.of_bandwidth)
            speeds.add(name, each.name, rate, verdict, low, high, each.gb_per_s, share, len(each.samples_s))
    for table in (runs, speeds):
        if table.rows:
            say("")
            table.print()
    if predicate.ops:
        say("")
        print_ops(predicate.ops)


def print_diff(differences: Sequence[Difference], speeds: Sequence[Speeds]) -> None:
    """Fields that differ, then the speeds of both."""
    names = ("backend", "measurement", "b ÷ a", "a, tokens/s", "b, tokens/s")
    fields, table = Table("field", "a", "b"), Table(*names, right=names[2:])
    for each in differences:
        fields.add(each.where, each.a, each.b)
    for speed in speeds:
        table.add(speed.backend, speed.name, speed.ratio, speed.a, speed.b)
    for shown, why in ((fields, "nothing differs"), (table, "no speeds")):
        if shown.rows:
            shown.print()
        else:
            say(why)
