"""Tables of a fleet, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from kparity.cli.table import Table, say
from kparity.fleet.record import MEANS, Tried
from kparity.fleet.report import BURNT, Report, burnt
from kparity.host.text import number

SHOWN = 20
"""Rows of a table, and names in a line, at most."""


def print_round(found: Mapping[str, Tried], place: str) -> None:
    """What became of each device of a round, by outcome."""
    table = Table("outcome", "devices", "means", right={"devices"})
    for outcome, count in Counter(each.outcome for each in found.values()).most_common():
        table.add(outcome, count, MEANS[outcome])
    table.print()
    again = [name for name, each in sorted(found.items()) if each.attempt > 1 and each.outcome == "passed"]
    if again:
        say(f"passed when tried again: {_some(again)}")
    say(f"kparity fleet report {place} shows what differs")


def print_report(found: Report) -> None:
    """Everything that a report has."""
    how = "bytes held against the ledger" if found.verified else "as the ledger has them; --verify reads them, too"
    say(f"{found.devices} devices, {found.rounds} rounds, {found.receipts} receipts ({how})")
    say("last round: " + ", ".join(f"{count} {outcome}" for outcome, count in found.outcomes.items()))
    matrix = Table("device", "backend", "driver", "passed", "failed", "codes", right={"passed", "failed"})
    for cell in found.matrix:
        codes = ", ".join(f"{code} × {count}" for code, count in cell.codes.items())
        matrix.add(cell.model, cell.backend, cell.driver or None, cell.passed, cell.failed, codes or None)
    if found.matrix:
        matrix.print()
    _rows("not passed in the last round", ("device", "outcome", "attempt", "reason"),
          [(each.device, each.outcome, each.attempt, each.reason) for each in found.named])  # fmt: skip
    _rows("passed when tried again", ("device", "attempt"), [(each.device, each.attempt) for each in found.again])
    _rows("other bits than most of their equals", ("device", "model", "backend", "receipts", "equals", "worst error"), [
        (each.device, each.model, each.backend, f"{each.times} of {each.of}", each.equals,
         f"{each.error} × {number(each.ratio)}" if each.ratio else None) for each in found.odd])  # fmt: skip
    _rows("no majority among equals", ("model", "backend", "driver", "devices", "different bits"),
          [(each.model, each.backend, each.driver, each.devices, each.bits) for each in found.split])  # fmt: skip
    _rows("far from the median of their equals", ("device", "model", "backend", "what", "value", "median", "ratio"), [
        (each.device, each.model, each.backend, each.what, each.value, each.median, each.ratio)
        for each in found.far])  # fmt: skip
    _rows("burn-ins", BURNT, burnt(found.burnins))
    _rows("one device by its UUID", ("uuid", "backend", "devices"),
          [(each.uuid, each.backend, _some(each.devices)) for each in found.twins])  # fmt: skip
    _rows("since the round before", ("what", "devices", "which"),
          [(each.what, len(each.devices), _some(each.devices, 5)) for each in found.drift])  # fmt: skip
    _rows("receipts that are not what the ledger says", ("receipt",), [(each,) for each in found.damaged])
    if found.unfinished:
        say(f"a round is not over in {_some(found.unfinished)}; --resume goes on; without a line: "
            f"{_some(found.waiting) or 'nobody'}")  # fmt: skip


def _rows(title: str, names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    if not rows:
        return
    table = Table(*names, title=f"{title} ({len(rows)})")
    for row in rows[:SHOWN]:
        table.add(*row)
    table.print()
    if len(rows) > SHOWN:
        say(f"and {len(rows) - SHOWN} more (--json has all)")


def _some(names: Collection[str], most: int = SHOWN) -> str:
    named = [*names]
    return ", ".join(named[:most]) + (f" and {len(named) - most} more" if len(named) > most else "")
