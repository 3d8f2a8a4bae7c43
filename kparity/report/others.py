"""The other documents on the page: two traces as layers × slots, a probe, a check, receipts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from kparity import contracts
from kparity.check.document import Document as Check
from kparity.gates.verdict import Row
from kparity.host.text import number
from kparity.probe.document import Document as Probe
from kparity.receipts.store import Stored
from kparity.report.section import Section, few, of_exit, together
from kparity.traces.diff import SlotDiff, TraceDiff
from kparity.traces.parity import CONTRACT
from kparity.traces.slots import ABSENT, ORDER, Key


@dataclass(frozen=True)
class Cell:
    """A slot of a layer: share of the limit (None where it was not judged), whether it agrees, and all numbers."""

    share: float | None
    agrees: bool | None
    says: str


@dataclass(frozen=True)
class Grid:
    """Layers × slots; a column is a layer, the last one of what is in no layer."""

    found: TraceDiff
    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]


def traces(file: str, found: TraceDiff) -> Section:
    """Two traces."""
    limit = contracts.load(CONTRACT).threshold("local_excess").value
    by_key = {Key.parse(each.key): each for each in found.slots}
    layers = sorted({key.layer for key in by_key} - {ABSENT})
    names = sorted({(ORDER[key.slot], key.head, key.name) for key in by_key})
    places = [*layers, *([ABSENT] if any(key.layer == ABSENT for key in by_key) else [])]
    cells = {(key.layer, key.name): _cell(each, key, limit) for key, each in by_key.items()}
    rows = [(name, [cells.get((layer, name)) for layer in places]) for *_, name in names]
    columns = [f"{layer}" if layer != ABSENT else "–" for layer in places]
    judged = [each for each in found.slots if each.agrees is not None]
    wrong = sum(not each.agrees for each in judged)
    if wrong:
        told = f"{wrong} of {len(judged)} slots that were judged do not follow from their inputs"
    elif judged:
        nearest = max(judged, key=lambda each: each.excess or 0.0)
        told = (f"The error nearest to its limit is at {Key.parse(nearest.key).place}: "
                f"{number(nearest.excess or 0.0)} of at most {number(limit)} times what follows")  # fmt: skip
    else:
        told = "No slot was judged by its tensors"
    title = " against ".join(f"trace {PurePath(each).name or each}" for each in (found.a, found.b))
    reason = found.reason[:1].upper() + found.reason[1:]
    return Section("trace", file, title, found.verdict, (f"{reason}.", f"{told}."), Grid(found, columns, rows))


def _cell(slot: SlotDiff, key: Key, limit: float) -> Cell:
    judged = {True: "follows from its inputs", False: "does not follow from its inputs", None: "not judged"}
    numbers = {
        "error": slot.error, "error of the inputs": slot.error_in, "would follow": slot.explained,
        "cosine": slot.cosine, "largest |error|": slot.max_abs, "ratio of standard deviations": slot.sigma_ratio,
    }  # fmt: skip
    told = [f"{name} {number(value)}" for name, value in numbers.items() if value is not None]
    if slot.excess is not None:
        told.insert(0, f"{number(slot.excess)} times what would follow, of at most {number(limit)}")
    says = [f"{key.place}: {judged[slot.agrees]}", *told, f"worst at position {slot.worst_position}", slot.allowed]
    share = None if slot.excess is None else slot.excess / limit if math.isfinite(slot.excess) else 1e9
    return Cell(share, slot.agrees, "; ".join(filter(None, says)))


def probe(file: str, found: Probe) -> Section:
    """A probe: a row per backend."""
    served = (
        f"{found.serving} may serve {found.model.name}" if found.serving else f"nothing may serve {found.model.name}"
    )
    refused = [f"{each.backend} ({each.code})" for each in found.rows if not each.accepted]
    told = f"Not accepted: {few(refused)}" if refused else "Every backend that was asked for was accepted"
    first = f"{served}, judged by {found.contract.id} {found.contract.version}."
    title = f"probe of {', '.join(found.request.backends)}"
    return Section("probe", file, title, of_exit(found.exit_code), (first, f"{told}."), [*map(_tried, found.rows)])


@dataclass(frozen=True)
class Tried:
    """A backend in a probe."""

    row: Row
    nearest: list[str]
    """The measures nearest to their limits, or beyond."""


def _tried(row: Row) -> Tried:
    measures = [each for gate in row.gates for each in gate.measures]
    bad = [each for each in measures if not each.holds]
    near = sorted((each for each in measures if each.holds and each.sign == "≤" and each.limit > 0),
                  key=lambda each: -each.value / each.limit)  # fmt: skip
    return Tried(row, [f"{each.threshold} {each.text()}" for each in (bad or near)[:3]])


def check(file: str, found: Check) -> Section:
    """A sweep of ops: counts of each backend, and what failed."""
    failed = [each for each in found.records if each.outcome == "FAIL"]
    whole = [each for each in found.counts if each.op is None]
    passed, runs = sum(each.PASS for each in whole), sum(each.runs for each in whole)
    ops = sorted({f"{each.op} on {each.backend}" for each in failed})
    told = f"Wrong: {few(ops)}" if failed else f"Absent: {few([*found.absent])}" if found.absent else "Nothing failed"
    cut = ", interrupted" if found.interrupted else ""
    first = f"{passed} of {runs} runs of {few(found.request.ops)} passed against fp64 truth{cut}."
    title = f"check of {', '.join(found.request.backends)}"
    return Section(
        "check", file, title, of_exit(found.exit_code), (first, f"{told}."), (whole, failed[:FAILED], len(failed))
    )


FAILED = 50
"""Failed runs that are shown."""


def receipts(stored: Sequence[Stored]) -> Section:
    """All receipts of the folder."""
    verdicts = [together(["FAIL" if each.findings else "PASS",
                          *("PASS" if run.parity.verdict == "PASS" else "FAIL" for run in each.predicate.runs)])
                for each in stored]  # fmt: skip
    refused = [each.file for each in stored if each.findings]
    wrong = [
        each.file for each, verdict in zip(stored, verdicts, strict=True) if verdict == "FAIL" and not each.findings
    ]
    told = [f"refused: {few(refused)}"] if refused else []
    told += [f"with output that is not right: {few(wrong)}"] if wrong else []
    first = f"{len(stored) - len(refused)} of {len(stored)} receipts may be believed."
    second = f"Some are {'; some are '.join(told)}." if told else "Every run that they speak of passed its gates."
    files = f"{len(stored)} receipts" if stored[1:] else stored[0].file
    return Section(
        "receipts", files, "receipts", together(verdicts), (first, second), [*zip(stored, verdicts, strict=True)]
    )
