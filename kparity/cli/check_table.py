"""The result of a sweep for people: what failed and by how much, then every denominator."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

from rich.text import Text

from kparity import contracts
from kparity.check.core import CONTRACT
from kparity.check.document import Result
from kparity.check.dump import folder_of
from kparity.check.record import FAIL, OUTCOMES, PASS, SKIPPED, UNSUPPORTED, OutputRecord, Record, Tally
from kparity.cli.table import NONE, Part, Table, say, say_command
from kparity.host.text import number

SHOWN = 3
"""Failures of one backend that are shown in full; the files have all of them."""
STYLES = {PASS: "green", FAIL: "bold red", UNSUPPORTED: "yellow", SKIPPED: "yellow"}


def print_result(result: Result) -> None:
    """Failures, reasons of what did not run, the table of counts, and one line that says what it comes to."""
    for backend in dict.fromkeys(record.backend for record in result.records):
        records = [each for each in result.records if each.outcome == FAIL and each.backend == backend]
        for record in records[:SHOWN]:
            _print_failure(record, result.request.replay)
        if len(records) > SHOWN:
            say(f"… and {len(records) - SHOWN} more failures of {backend}; --json, --junit and --csv have all of them")
    _print_reasons(result)
    if result.records:
        _table(result).print()
    say(*_verdict(result))


def _print_failure(record: Record, replay: str | None) -> None:
    say(("FAIL ", STYLES[FAIL]), f"{record.backend}: {record.label}")
    say(record.reason, indent=2)
    for output in record.outputs:
        say((_line(output), "dim"), indent=2)
    about = [f"seed {record.seed}"]
    if record.inputs_sha256:
        about.append(f"inputs {record.inputs_sha256[:16]}")
    about += [part for part in (record.kernel, record.device, ", ".join(record.failed)) if part]
    say((" · ".join(about), "dim"), indent=2)
    again = record.rerun
    if replay:
        place = folder_of(Path(replay), record)
        where = str(place if place.is_dir() else replay)
        again = shlex.join(["kparity", "check", "--replay", where, "-b", record.backend, *record.words])
    say_command("  rerun:", again)


def _line(output: OutputRecord) -> str:
    ratio = "" if output.peer_ratio is None else f" = {number(output.peer_ratio)} × peer"
    return (
        f"{output.name} {output.dtype}: {output.wrong}/{output.count} wrong, utilisation {number(output.utilisation)}; "
        f"rmse {output.rmse:.3g}{ratio}; nmse {output.nmse:.3g}, cosine {output.cosine:.9f}, "
        f"max {output.max_ulp:g} ULP; {output.nan_count} NaN, {output.inf_count} inf"
    )


def _print_reasons(result: Result) -> None:
    """Why runs were unsupported or skipped, each reason once with its count; and the backends that are not here."""
    reasons: Counter[tuple[str, str, str]] = Counter()
    for record in result.records:
        if record.outcome in (UNSUPPORTED, SKIPPED):
            reasons[record.outcome, record.backend, record.reason] += record.runs
    for (outcome, backend, reason), runs in reasons.items():
        say((outcome, STYLES[outcome]), f" {backend}, {runs} runs: {reason}")
    for backend, reason in result.absent.items():
        say((f"not here: {backend}: {reason}", "dim"))


def _table(result: Result) -> Table:
    counts = ("failed", "passed", "runs", "utilisation", "peer ratio", "unsupported", "skipped", "cases", "kinds", "s")
    table = Table("backend", "op", *counts, right=counts)
    summary = result.summary
    for backend, whole in summary.by_backend.items():
        rows = [tally for (name, _), tally in summary.by_op.items() if name == backend]
        for at, tally in enumerate([*rows, whole] if len(rows) > 1 else rows):
            table.add("" if at else backend, *_cells(tally))
    return table


def _cells(tally: Tally) -> list[str | Text]:
    runs = {outcome: Text(str(n), style=STYLES[outcome] if n else "dim") for outcome, n in tally.runs.items()}
    worst = (number(tally.utilisation), number(tally.peer_ratio)) if tally.measured else (NONE, NONE)
    return [
        tally.op or "all", runs[FAIL], runs[PASS], str(tally.total), *worst, runs[UNSUPPORTED], runs[SKIPPED],
        str(len(tally.cases)), str(len(tally.kinds)), number(tally.elapsed_ms / 1e3),
    ]  # fmt: skip


def _verdict(result: Result) -> tuple[Part, ...]:
    summary, contract = result.summary, contracts.load(CONTRACT)
    planned = sum(tally.total for tally in summary.by_backend.values())
    verdicts = {0: ("PASS", "bold green"), 1: ("FAIL", "bold red"), 3: ("INCONCLUSIVE", "bold yellow")}
    verdict = verdicts.get(result.exit_code, verdicts[3])
    if not planned:
        return verdict, ": no case was selected, nothing ran"
    counts = ", ".join(f"{summary.count(outcome)} {outcome}" for outcome in OUTCOMES)
    ended = "; interrupted, the rest was skipped" if result.interrupted else ""
    return (
        verdict, f": {counts} of {planned} runs on {', '.join(summary.by_backend)}; seed {result.seed}, "
        f"{contract.id} {contract.version}, {result.seconds:.1f} s{ended}",
    )  # fmt: skip
