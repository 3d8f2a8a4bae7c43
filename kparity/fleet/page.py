"""The HTML page of a fleet's report."""

from __future__ import annotations

from kparity.fleet.record import MEANS
from kparity.fleet.report import BURNT, Report, burnt
from kparity.host.html import render
from kparity.host.text import number

SHOWN = 500
"""Rows of a table at most; the JSON has all."""


def html(found: Report) -> str:
    """The page; raises WrongInput where Jinja2 is missing."""
    return render(__package__ or "", found=found, means=MEANS, shown=SHOWN, number=number, tables=_tables(found))


def _tables(found: Report) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, names of columns and rows of what is not as it should be, without empty ones."""
    every = [
        ("Not passed in the last round", ["device", "outcome", "attempt", "reason"],
         [[each.device, each.outcome, str(each.attempt), each.reason] for each in found.named]),
        ("Other bits than most of their equals",
         ["device", "model", "backend", "driver", "receipts", "equals", "worst error"],
         [[each.device, each.model, each.backend, each.driver, f"{each.times} of {each.of}", str(each.equals),
           f"{each.error} × {number(each.ratio)}" if each.ratio else ""] for each in found.odd]),
        ("No majority among equals", ["model", "backend", "driver", "devices", "different bits"],
         [[each.model, each.backend, each.driver, str(each.devices), str(each.bits)] for each in found.split]),
        ("Far from the median of their equals", ["device", "model", "backend", "what", "value", "median", "ratio"],
         [[each.device, each.model, each.backend, each.what, *map(number, (each.value, each.median, each.ratio))]
          for each in found.far]),
        ("Burn-ins", [*BURNT], [["" if cell is None else str(cell) for cell in row] for row in burnt(found.burnins)]),
        ("One device by its UUID", ["UUID", "backend", "devices"],
         [[each.uuid, each.backend, ", ".join(each.devices)] for each in found.twins]),
        ("Since the round before", ["what", "devices", "which"],
         [[each.what, str(len(each.devices)), ", ".join(each.devices[:20])] for each in found.drift]),
        ("Passed when tried again", ["device", "attempt"],
         [[each.device, str(each.attempt)] for each in found.again]),
        ("Receipts that are not what the ledger says", ["receipt"], [[each] for each in found.damaged]),
        ("Without a line in a round that is not over", ["device"], [[each] for each in found.waiting]),
    ]  # fmt: skip
    return [table for table in every if table[2]]
