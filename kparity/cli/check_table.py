"""The result of a sweep for people: what failed and by how much, then every denominator."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kparity import contracts
from kparity.check.core import CONTRACT
from kparity.check.document import Result
from kparity.check.dump import folder_of
from kparity.check.record import FAIL, OUTCOMES, PASS, SKIPPED, UNSUPPORTED, OutputRecord, Record, Tally
from kparity.cli.table import console, make_table

SHOWN = 3
"""Failures of one backend that are shown in full; the files have all of them."""
STYLES = {PASS: "green", FAIL: "bold red", UNSUPPORTED: "yellow", SKIPPED: "yellow"}


def print_result(result: Result) -> None:
    """Failures, reasons of what did not run, the table of counts, and one line that says what it comes to."""
    out = console()
    for backend in dict.fromkeys(record.backend for record in result.records):
        records = [each for each in result.records if each.outcome == FAIL and each.backend == backend]
        for record in records[:SHOWN]:
            _print_failure(out, record, result.request.replay)
        if len(records) > SHOWN:
            left = len(records) - SHOWN
            out.print(f"… and {left} more failures of {backend}; --json, --junit and --csv have all of them\n")
    _print_reasons(out, result)
    if result.records:
        out.print(_table(result))
    out.print(_verdict(result), soft_wrap=True)


def _print_failure(out: Console, record: Record, replay: str | None) -> None:
    out.print(Text.assemble(("FAIL ", STYLES[FAIL]), f"{record.backend}: {record.label}"), soft_wrap=True)
    out.print(Text(f"  {record.reason}"), soft_wrap=True)
    for output in record.outputs:
        out.print(Text(f"  {_line(output)}", style="dim"), soft_wrap=True)
    about = [f"seed {record.seed}"]
    if record.inputs_sha256:
        about.append(f"inputs {record.inputs_sha256[:16]}")
    about += [part for part in (record.kernel, record.device, ", ".join(record.failed)) if part]
    out.print(Text("  " + " · ".join(about), style="dim"), soft_wrap=True)
    again = record.rerun
    if replay:
        place = folder_of(Path(replay), record)
        where = str(place if place.is_dir() else replay)
        again = shlex.join(["kparity", "check", "--replay", where, "-b", record.backend])
    out.print(Text(f"  rerun: {again}"), soft_wrap=True)


def _line(output: OutputRecord) -> str:
    ratio = "" if output.peer_ratio is None else f" = {output.peer_ratio:.3g} × peer"
    return (
        f"{output.name} {output.dtype}: {output.wrong}/{output.count} wrong, utilisation {output.utilisation:.3g}; "
        f"rmse {output.rmse:.3g}{ratio}; nmse {output.nmse:.3g}, cosine {output.cosine:.9f}, "
        f"max {output.max_ulp:g} ULP; {output.nan_count} NaN, {output.inf_count} inf"
    )


def _print_reasons(out: Console, result: Result) -> None:
    """Why runs were unsupported or skipped, each reason once with its count; and the backends that are not here."""
    reasons: Counter[tuple[str, str, str]] = Counter()
    for record in result.records:
        if record.outcome in (UNSUPPORTED, SKIPPED):
            reasons[record.outcome, record.backend, record.reason] += record.runs
    for (outcome, backend, reason), runs in reasons.items():
        out.print(Text.assemble((outcome, STYLES[outcome]), f" {backend}, {runs} runs: {reason}"), soft_wrap=True)
    for backend, reason in result.absent.items():
        out.print(Text(f"not here: {backend}: {reason}", style="dim"), soft_wrap=True)


def _table(result: Result) -> Table:
    counts = ("cases", "kinds", "runs", "passed", "failed", "unsupported", "skipped", "utilisation", "peer ratio", "s")
    table = make_table("backend", "op", *counts, right=counts)
    summary = result.summary
    for backend, whole in summary.by_backend.items():
        rows = [tally for (name, _), tally in summary.by_op.items() if name == backend]
        if len(rows) > 1:
            rows.append(whole)
        for at, tally in enumerate(rows):
            table.add_row("" if at else backend, *_cells(tally), end_section=tally is rows[-1])
    return table


def _cells(tally: Tally) -> list[str | Text]:
    counts = (Text(str(n), style=STYLES[outcome] if n else "dim") for outcome, n in tally.runs.items())
    used, ratio = f"{tally.utilisation:.3f}", f"{tally.peer_ratio:.2f}"
    worst = (used, ratio) if tally.measured else ("—", "—")
    head = (tally.op or "all", str(len(tally.cases)), str(len(tally.kinds)), str(tally.total))
    return [*head, *counts, *worst, f"{tally.elapsed_ms / 1e3:.1f}"]


def _verdict(result: Result) -> Text:
    summary, contract = result.summary, contracts.load(CONTRACT)
    planned = sum(tally.total for tally in summary.by_backend.values())
    verdicts = {0: ("PASS", "bold green"), 1: ("FAIL", "bold red"), 3: ("INCONCLUSIVE", "bold yellow")}
    verdict = verdicts[result.exit_code]
    if not planned:
        return Text.assemble(verdict, ": no case was selected, nothing ran")
    counts = ", ".join(f"{summary.count(outcome)} {outcome}" for outcome in OUTCOMES)
    ended = "; interrupted, the rest was skipped" if result.interrupted else ""
    return Text.assemble(
        verdict, f": {counts} of {planned} runs on {', '.join(summary.by_backend)}; seed {result.seed}, "
        f"{contract.id} {contract.version}, {result.seconds:.1f} s{ended}",
    )  # fmt: skip
