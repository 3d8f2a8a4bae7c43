"""The other documents on the page: traces as layers × slots; diagnosis, bisection, probe, check and receipts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from kparity import contracts
from kparity.bisect.record import Bisection
from kparity.check.document import Document as Check
from kparity.diagnose.document import Document as Diagnosed
from kparity.gates.verdict import Row, Verdict
from kparity.host.text import number
from kparity.ladder.record import Diagnosis
from kparity.probe.document import Document as Probe
from kparity.receipts.store import Stored
from kparity.report.section import Section, explained, few, of_exit, together
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


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of each its name; a verdict is shown as one, a float in a few digits."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | float]]


@dataclass(frozen=True)
class Plain:
    """Lines, each with a command or none, tables, and what was found."""

    lines: Sequence[tuple[str, str]]
    tables: Sequence[Table]
    diagnosis: Diagnosis | None = None


def diagnosis(file: str, found: Diagnosed) -> Section:
    """Why a pair differs, or whether an engine repeats itself."""
    pair = found.request.candidate + (f" against {found.request.reference}" if found.diagnosis else " in other batches")
    at = f", first at position {found.position}" if found.position >= 0 else ""
    first = f"{pair} failed{at}: {found.reason}." if found.reason else f"{pair}: nothing failed."
    count = sum(each.first >= 0 for each in found.repeats)
    second = f"{count} of {len(found.repeats)} runs have other bits" if found.repeats else "Nothing that is known fits"
    told = explained(found.diagnosis) or (second if found.reason or found.repeats else "Nothing had to be explained")
    rows = [(each.run, "PASS" if each.first < 0 else "FAIL", each.text) for each in found.repeats]
    shown = Plain([], [Table("Runs of the same tokens", ("run", "verdict", "bits"), rows)], found.diagnosis)
    return Section("plain", file, f"diagnosis of {pair}", found.verdict, (first, f"{told}."), shown)


def bisection(file: str, found: Bisection) -> Section:
    """Where a pair begins to differ."""
    where = found.found
    place = [where.kind, f"layer {where.layer}" if where.layer >= 0 else "", where.slot, where.op and f"op {where.op}"]
    at = f", first at position {where.position}" if where.position >= 0 else ""
    wrong = f"At fault: {', '.join(filter(None, place))}{at}; {where.sentence}."
    first = f"Nothing was found: {where.sentence}." if where.kind == "nothing" else wrong
    healed = {True: "With the other side's values there the logits are right",
              False: "With the other side's values there the logits are still wrong: it is not wrong there alone",
              None: "No value was swapped in"}[where.heals]  # fmt: skip
    second = f"{healed}; {found.evaluations} evaluations over {found.tokens} tokens and {found.layers} layers."
    lines = [("the case: " + where.case, ""), ("what the wrong elements have in common: " + where.pattern, ""),
             ("that case again:", where.replay and f"kparity check --replay {where.replay}")]  # fmt: skip
    fed = ("fed as", "first bad position", "with one less it is right", "runs")
    ways = [(way.name, way.first_bad if way.first_bad >= 0 else "none", "yes" if way.verified else "", way.runs)
            for way in found.ways]  # fmt: skip
    slots = [(Key.parse(each.key).place, each.error, each.explained, each.worst_position) for each in found.slots]
    shown = Plain(
        [each for each in lines if each[1] or not each[0].endswith(": ")] + [(note, "") for note in found.notes],
        [Table("Ways of feeding the tokens", fed, ways),
         Table("Slots that do not follow from their inputs",
               ("slot", "error", "would follow", "worst position"), slots)],
    )  # fmt: skip
    title = f"bisection of {found.request.candidate} against {found.request.reference}"
    return Section("plain", file, title, of_exit(found.exit_code), (first, second), shown)


def probe(file: str, found: Probe) -> Section:
    """A probe: a row per backend."""
    serves = f"{found.serving} may" if found.serving else "nothing may"
    refused = [f"{each.backend} ({each.code})" for each in found.rows if not each.accepted]
    told = f"Not accepted: {few(refused)}" if refused else "Every backend that was asked for was accepted"
    first = f"Of {', '.join(found.request.backends)}, {serves} serve {found.model.name}."
    rows = [
        (row.backend, f"{'✓' if row.accepted else '✗'} {row.status}", row.label,
         ", ".join(f"{gate.name} {gate.verdict}" for gate in row.gates),
         ": ".join(filter(None, (row.code, row.reason))) or "; ".join(_nearest(row)))
        for row in found.rows
    ]  # fmt: skip
    head = ("backend", "status", "device", "gates", "why, or nearest to a limit")
    shown = Plain([(f"judged by {found.contract.id} {found.contract.version}", "")], [Table("Backends", head, rows)])
    title = f"probe of {', '.join(found.request.backends)}"
    return Section("plain", file, title, of_exit(found.exit_code), (first, f"{told}."), shown)


def _nearest(row: Row) -> list[str]:
    """The measures that use most of their limit."""
    limited = (each for gate in row.gates for each in gate.measures if each.sign == "≤" and each.limit > 0)
    return [
        f"{each.threshold} {each.text()}" for each in sorted(limited, key=lambda each: -each.value / each.limit)[:3]
    ]


def check(file: str, found: Check) -> Section:
    """A sweep of ops: counts of each backend, and what failed."""
    failed = [each for each in found.records if each.outcome == "FAIL"]
    whole = [each for each in found.counts if each.op is None]
    passed, runs = sum(each.PASS for each in whole), sum(each.runs for each in whole)
    ops = sorted({f"{each.op} on {each.backend}" for each in failed})
    told = f"Wrong: {few(ops)}" if failed else f"Absent: {few([*found.absent])}" if found.absent else "Nothing failed"
    cut = ", interrupted" if found.interrupted else ""
    first = f"{passed} of {runs} runs of {few(found.request.ops)} passed against fp64 truth{cut}."
    counts = [(each.backend, each.cases, each.runs, each.PASS, each.FAIL, each.UNSUPPORTED, each.SKIPPED)
              for each in whole]  # fmt: skip
    wrong = [(f"{each.op} on {each.backend}, {each.label}", "FAIL", each.reason or ", ".join(each.failed), each.rerun)
             for each in failed[:FAILED]]  # fmt: skip
    head = ("backend", "cases", "runs", "PASS", "FAIL", "UNSUPPORTED", "SKIPPED")
    title = f"Failed: {len(failed)}, of which {len(wrong)} here"
    shown = Plain([], [Table("Runs", head, counts), Table(title, ("run", "verdict", "why", "again"), wrong)])
    title = f"check of {', '.join(found.request.backends)}"
    return Section("plain", file, title, of_exit(found.exit_code), (first, f"{told}."), shown)


FAILED = 50
"""Failed runs that are shown."""


def receipts(stored: Sequence[Stored]) -> Section:
    """All receipts of the folder."""
    rows, verdicts, refused, wrong = list[Sequence[str | float]](), list[Verdict](), list[str](), list[str]()
    for each in stored:
        told, harness = each.predicate, each.predicate.harness
        bad = [run.backend for run in told.runs if run.parity.verdict != "PASS"]
        refused += [each.file] if each.findings else []
        wrong += [f"{each.file} ({', '.join(bad)})"] if bad and not each.findings else []
        verdicts.append("FAIL" if each.findings or bad else "PASS")
        runs = (f"{run.backend} on {run.device.device} ({run.device.kind}): {run.parity.verdict}" for run in told.runs)
        commit = harness.commit[:12] + (" with changes" if harness.dirty else "")
        rows.append((each.file, verdicts[-1], f"{told.kind}, {told.ended}, {commit}", "; ".join(runs),
                     "; ".join(map(str, each.findings)) or "nothing"))  # fmt: skip
    told_of = [f"refused: {few(refused)}"] if refused else []
    told_of += [f"with output that is not right: {few(wrong)}"] if wrong else []
    first = f"{len(stored) - len(refused)} of {len(stored)} receipts may be believed."
    second = f"Some are {'; some are '.join(told_of)}." if told_of else "Every run that they speak of passed its gates."
    table = Table("Receipts", ("receipt", "verdict", "made", "runs", "what is wrong"), rows)
    shown = Plain([("speeds beside their verdicts:", "kparity receipt page")], [table])
    return Section("plain", few([each.file for each in stored]), "receipts", together(verdicts), (first, second), shown)
