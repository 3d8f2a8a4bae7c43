"""A whole run of ``kparity bench --ops``: a worker process per backend and baseline, one case after the other on all of
them, samples in turn, rows with everything that a time is held against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from kparity.bench import llamacpp
from kparity.bench.ops.cases import plan
from kparity.bench.timing import Sample, Timed, interleave, judge, noted
from kparity.host import progress
from kparity.host.text import number
from kparity.numerics.statistics import ratio
from kparity.ops.spec import Case
from kparity.process.worker import Worker, WorkerFailed
from kparity.receipts.record import CEILINGS, BaselineRatio, Row
from kparity.receipts.rules.ratios import doubt

LIMITS_S = {"device": 60.0, "sample": 120.0, "release": 60.0}
"""What a call may take; the others lay out gigabytes or compute truth."""
LONGEST_S = 600.0
SESSION = "kparity.bench.ops.session:Session"
BASELINES = {
    "torch": "kparity.bench.torch_baseline:TorchSession",
    llamacpp.NAME: "kparity.bench.ggml_baseline:GgmlSession",
}
"""Whose own products can stand beside the GEMVs."""
BASELINE = "baseline "
"""In front of the name of one that is not there."""


@dataclass(frozen=True)
class Request:
    """What is to be run: backends in order, an expression (``cases.plan``), and how."""

    backends: Sequence[str]
    text: str | None = None
    baselines: Sequence[str] = ()
    """Names of ``BASELINES``."""
    threads: int = 0
    index: int = 0
    isa: str = ""
    seed: int = 0
    seconds: float = 3.0
    """Of sampling for each case, all backends together."""
    cold_mib: int = 1024

    def options(self, backend: str) -> dict[str, Any]:
        """Of one worker's session."""
        names = ("index", "isa", "threads", "cold_mib", "seed")
        return {"backend": backend, **{name: getattr(self, name) for name in names}}


@dataclass
class Result:
    """Rows in the order in which they came, and why a backend is not among them."""

    rows: list[Row] = field(default_factory=list)
    absent: dict[str, WorkerFailed] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """1 where a row has an error, 3 where nothing was measured or a baseline that was asked for was not there."""
        if any(row.errors for row in self.rows):
            return 1
        measured = any(row.unit_s and row.tag for row in self.rows)
        return 0 if measured and not any(name.startswith(BASELINE) for name in self.absent) else 3


@dataclass
class Participant:
    """A backend or a baseline in the run."""

    name: str
    call: Callable[..., Any]
    """Calls a method of its ``session.Group`` by name and keywords; raises whatever made it fail."""
    baseline: bool = False
    kind: str = ""
    ceiling: float = 0.0
    """Bytes per second that the memory moves at most: the device's own, or measured."""
    bandwidth: float = 0.0
    """Bytes per second as measured in this run."""
    measured: bool = True
    products: int = 0
    """Series of cases that it made."""

    def opened(self) -> None:
        """Ask for the kind of its device and the peak of its memory."""
        device = self.call("device")
        self.kind, self.ceiling, self.measured = device["kind"], device["peak"], not device["peak"]

    def made(self, method: str, **arguments: Any) -> list[Timed]:
        """The series that it makes; one with the reason where it fails altogether."""
        op = arguments.get("op", method)
        row = Row(name=f"{self.name} {op}", backend=self.name, op=op, baseline=self.baseline)
        with noted(row.errors):
            made: list[Timed] = [Remote(self, at, *each) for at, each in enumerate(self.call(method, **arguments))]
            self.products += len(made) * (method == "build")
            return made
        return [Timed(row)]


class Remote(Timed):
    """A series of a participant, by its place in the table."""

    def __init__(self, side: Participant, at: int, row: Mapping[str, Any], flops: int) -> None:
        super().__init__(msgspec.convert(row, Row), flops)
        self.side, self.at, self.row.baseline = side, at, side.baseline

    def sample(self) -> Sample:
        """As ``Timed.sample``, over there."""
        return Sample(*self.side.call("sample", at=self.at))

    def check(self) -> str | None:
        """As ``Timed.check``; what was counted comes with it."""
        reply = self.side.call("check", at=self.at)
        self.row.dispatches, self.row.replays = reply["dispatches"], reply["replays"]
        wrong: str | None = reply["wrong"]
        return wrong


def run(
    request: Request, tell: Callable[[Row], None] = lambda row: None,
    lost: Callable[[str, WorkerFailed], None] = lambda name, why: None,
) -> Result:  # fmt: skip
    """Run it; ``tell`` gets every row as it comes, ``lost`` who does not open, before anything is measured. Raises
    WrongInput where the expression admits nothing.
    """
    cases, result = plan(request.text), Result()
    with ExitStack() as stack:
        task = stack.enter_context(progress.task("bench", 1 + len(cases)))
        task.stage("opening backends")
        sides = [side for name in request.backends for side in _opened(request, name, False, result, stack)]
        if sides:
            sides += [side for name in request.baselines for side in _opened(request, name, True, result, stack)]
        for name, why in result.absent.items():
            lost(name, why)
        if not sides:
            return result
        for made in (ceilings(sides, request.seconds), *(rows_of(*each, sides, request.seconds) for each in cases)):
            for row in made:
                result.rows.append(row)
                tell(row)
                task.stage(row.op)
            task.advance()
        for side in sides:
            if side.baseline and not side.products:
                why = WorkerFailed("unavailable", "KP-BENCH-BASELINE", f"{side.name} has no product beside these cases")
                result.absent[f"{BASELINE}{side.name}"] = why
                lost(f"{BASELINE}{side.name}", why)
    return result


def _opened(request: Request, name: str, baseline: bool, result: Result, stack: ExitStack) -> Sequence[Participant]:
    """A worker with an open backend, or none, with the reason noted."""
    worker = Worker(name, BASELINES[name] if baseline else SESSION, request.options(name))
    stack.callback(worker.close)
    side = Participant(name, partial(_call, worker), baseline)
    try:
        worker.opened(LONGEST_S)
        side.opened()
    except WorkerFailed as error:
        result.absent[f"{BASELINE}{name}" if baseline else name] = error
        return []
    return [side]


def _call(worker: Worker, method: str, **arguments: Any) -> Any:
    return worker.call(method, LIMITS_S.get(method, LONGEST_S), **arguments)


def ceilings(sides: Sequence[Participant], seconds: float) -> list[Row]:
    """Measure every side's bandwidth and note it there; a row for each.

    Where no driver tells the peak, the ceiling is the best that any API of the same kind of device reached.
    """
    tables = [(side, side.made("ceiling")) for side in sides]
    interleave([series for _, table in tables for series in table], seconds=seconds)
    rows = []
    for side, table in tables:
        for series in table:
            rows.append(judge(series, side.ceiling, slack=False))
            side.bandwidth = _rate(rows[-1])
        side.call("release")
    for side in sides:
        if side.measured:
            side.ceiling = max(each.bandwidth for each in sides if each.kind == side.kind)
    return rows


def rows_of(case: Case, tag: str, sides: Sequence[Participant], seconds: float = Request.seconds) -> list[Row]:
    """Time one case on all sides in turn: a row per backend and state (cold, hot), the baselines' products last.

    A row is ``judge``'s with ``tag``, ``of_bandwidth`` (share of the bandwidth measured in the same turns; None where
    the case is not cold), and ``ratios`` over the baselines' products.
    """
    held = [(side, side.made("build", op=case.op, params=dict(case.params))) for side in sides]
    interleave([series for _, table in held for series in table], seconds=seconds)
    rows = []
    for side, table in held:
        beside = [judge(series) for series in table if series.row.op in CEILINGS]
        bandwidth = max(map(_rate, beside), default=0.0) or side.bandwidth
        # A measured ceiling may be of a busier minute than these turns.
        ceiling = max(side.ceiling, bandwidth) if side.measured else side.ceiling
        for series in table:
            if series.row.op not in CEILINGS:
                row = judge(series, ceiling, side.measured)
                row.tag = tag
                row.of_bandwidth = row.gb_per_s * 1e9 / bandwidth if row.cold and bandwidth and row.gb_per_s else None
                rows.append(row)
        with suppress(Exception):  # a worker that died has said so in its row
            side.call("release")
    theirs = [row for row in rows if row.baseline and row.unit_s]
    bandwidth = min((side.ceiling for side in sides if side.ceiling), default=0.0)
    for row in rows:
        if row.unit_s and not row.baseline:
            row.ratios = [_ratio(row, each, bandwidth) for each in theirs if each.cold == row.cold]
    return rows


def _rate(row: Row) -> float:
    """Bytes per second of a row; 0 where it has an error."""
    return 0.0 if row.errors else (row.gb_per_s or 0.0) * 1e9


def _ratio(row: Row, theirs: Row, bandwidth: float) -> BaselineRatio:
    """How many times faster than theirs, per launch; what a launch computes counts as much as a quarter byte for two
    operations, which is what a step takes from memory for them.
    """
    middle, low, high = ratio(theirs.seconds, row.seconds)
    moved = max(row.bytes, (row.gflop_per_s or 0.0) * 1e9 * (row.unit_s or 0.0) / 8)
    share = moved / theirs.unit_s / bandwidth if theirs.unit_s and bandwidth else None
    return BaselineRatio(baseline=theirs.name, ratio=middle, low=low, high=high, doubt=doubt(middle, low, high, share))


def line(row: Row) -> str:
    """A row for people."""
    if not (row.unit_s and row.low_s and row.high_s):
        return f"{row.name}: {row.unsupported or '; '.join(row.errors)}"
    told = ["{} µs ({}, {})".format(*(number(each * 1e6) for each in (row.unit_s, row.low_s, row.high_s)))]
    told += [f"{number(row.gb_per_s)} GB/s"] if row.gb_per_s else []
    told += [f"{number(100 * row.of_bandwidth)} % of the bandwidth"] if row.of_bandwidth else []
    for each in row.ratios:
        doubt = f"not comparable with {each.baseline}: {each.doubt}"
        told.append(doubt if each.doubt else f"{number(each.ratio)} × {each.baseline}")
    return f"{row.name}: {', '.join(told)}{''.join(f' ERROR {error}' for error in row.errors)}"
