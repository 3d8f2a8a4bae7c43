"""Two benchmark documents against each other: ratios with intervals from the raw samples, and a verdict for each.

A document is a receipt, bare or in a DSSE envelope, or the JSON of pytest-benchmark.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kparity.device.adapter import Device
from kparity.errors import WrongInput
from kparity.numerics.statistics import ratio
from kparity.receipts import sign, verify
from kparity.receipts.document import PREDICATE
from kparity.receipts.document import read as read_json
from kparity.receipts.record import Baseline, Predicate, Run, Seconds, Statement
from kparity.receipts.rules.ratios import doubt

LEAST = 5
"""Samples below which the interval of a median says nothing."""
FASTER, SLOWER, SAME = "faster", "slower", "no difference"
TOO_FEW, INVALID, ABSURD = "too few samples", "invalid", "not comparable"
DECIDED = (FASTER, SLOWER, SAME)
ADVICE = {"device": "devices", "driver": "drivers", "model": "models", "threads": "numbers of threads"}
"""What two measurements must have in common unless told otherwise, and how a refusal calls it."""
EXPECTED = "expected a receipt of kparity bench or the JSON of pytest-benchmark"
MOST = 1 << 20
"""Samples of a document: what is resampled takes time by their number."""
UNVERIFIED, REFUSED = "its output was not verified", "kparity receipt verify refuses it"


# --- documents ---


@dataclass(frozen=True)
class Measured:
    """One measurement: seconds of each sample, what it was measured on, and why it does not count."""

    name: str
    samples_s: list[float]
    facts: dict[str, str]
    fault: str = ""


@dataclass(frozen=True)
class Document:
    """A file that was read."""

    path: str
    kind: str
    commit: str
    dirty: bool | None
    measured: list[Measured] = field(default_factory=list)


class Info(msgspec.Struct):
    """The ``extra_info`` of a benchmark, as far as it is ours."""

    device: Device | None = None
    model: str = ""
    verified: bool = True


class Stats(msgspec.Struct):
    """Raw samples, which ``--benchmark-json`` keeps."""

    data: Seconds | None = None


class Benchmark(msgspec.Struct):
    """A benchmark of pytest-benchmark."""

    fullname: str
    stats: Stats
    extra_info: Info = msgspec.field(default_factory=Info)


class Processor(msgspec.Struct):
    """What is known of a processor."""

    brand_raw: str = ""


class Machine(msgspec.Struct):
    """Where a suite ran."""

    cpu: Processor = msgspec.field(default_factory=Processor)
    node: str = ""


class Commit(msgspec.Struct):
    """What was checked out."""

    id: str | None = None
    dirty: bool | None = None


class Suite(msgspec.Struct):
    """The JSON of pytest-benchmark, as far as it is needed."""

    machine_info: Machine
    commit_info: Commit
    benchmarks: list[Benchmark]


def read(path: Path) -> Document:
    """Read one file; raises WrongInput where it is not there, no JSON, or no such document. Nothing counts of a receipt
    that ``kparity receipt verify`` refuses.
    """
    try:
        whole = read_json(path)
        content = sign.statement_of(whole)
    except WrongInput as error:
        where = "" if str(path) in str(error) else f"{path}: "
        raise WrongInput(f"{where}{error}; {EXPECTED}") from error
    try:
        if content.get("predicateType") == PREDICATE:
            predicate = msgspec.convert(content, Statement).predicate
            if predicate.kind != "bench":
                raise WrongInput(f"{path} is a receipt of kparity {predicate.kind}, which holds no speed; {EXPECTED}")
            harness, refused = predicate.harness, next(iter(verify.verify(whole)), None)
            measured = list(_of_receipt(predicate, f"{REFUSED}: {refused}" if refused else ""))
            document = Document(str(path), "receipt", harness.commit, harness.dirty, measured)
        elif "benchmarks" in content:
            suite = msgspec.convert(content, Suite)
            commit, measured = suite.commit_info, list(_of_suite(path, suite))
            document = Document(str(path), "pytest-benchmark", commit.id or "unknown", commit.dirty, measured)
        else:
            raise WrongInput(f"{path} is another kind of document; {EXPECTED}")
    except msgspec.ValidationError as error:
        raise WrongInput(f"{path} lacks what a benchmark holds ({error}); {EXPECTED}") from error
    if sum(len(each.samples_s) for each in document.measured) > MOST:
        raise WrongInput(f"{path} holds more than {MOST} samples; {EXPECTED}")
    twice = [name for name, count in Counter(each.name for each in document.measured).items() if count > 1]
    if twice:
        raise WrongInput(f"{path} holds {twice[0]} twice: it is not one run")
    return document


def _of_receipt(predicate: Predicate, refused: str) -> Iterator[Measured]:
    """Measurements of every run, and the rows of ops; of a prompt the whole, of an op a launch. ``refused`` says why
    nothing of it counts.
    """
    for _, row, owner in predicate.rows():
        if isinstance(owner, Baseline) or not row.seconds:
            continue
        if isinstance(owner, Run):
            name, samples = f"{owner.backend} {row.name}", row.samples_s
            facts = {**facts_of(owner.device), "model": predicate.model.sha256 if predicate.model else ""}
            fault = _fault(owner) or "; ".join([*owner.errors, *row.errors])
        else:
            name, samples = " ".join(filter(None, (row.backend, row.case or row.op, row.state))), row.seconds
            facts = facts_of(row.device) if row.device else {}
            fault = "; ".join(row.errors) or ("" if row.verified else UNVERIFIED)
        yield Measured(name, samples, facts, fault or refused)


def _fault(run: Run) -> str:
    """Why nothing of a run counts."""
    if run.parity.verdict != "PASS":
        return f"the parity verdict is {run.parity.verdict}"
    verified = run.timed_output and run.timed_output.passed
    return "" if verified else "the output of the timed run was not verified"


def _of_suite(path: Path, suite: Suite) -> Iterator[Measured]:
    """Benchmarks of pytest-benchmark; where one does not tell its device, the machine's processor stands for it."""
    cpu = {"device": suite.machine_info.cpu.brand_raw or suite.machine_info.node}
    for each in suite.benchmarks:
        data, info = each.stats.data, each.extra_info
        if data is None:
            raise WrongInput(
                f"{path} holds no raw samples of {each.fullname}; use --benchmark-json or --benchmark-save-data"
            )
        facts = {**(facts_of(info.device) if info.device else cpu), "model": info.model}
        yield Measured(each.fullname, data, facts, "" if info.verified else UNVERIFIED)


def facts_of(place: Device) -> dict[str, str]:
    """Device, driver and threads."""
    threads = re.search(r"(\d+) threads?\b", place.detail)
    device = ", ".join(filter(None, (place.device, place.kind, place.api, place.uuid)))
    return {"device": device, "driver": place.driver, "threads": threads[1] if threads else ""}


# --- verdicts ---


@dataclass(frozen=True)
class Compared:
    """One measurement that both documents hold; ``ratio`` is B's speed over A's, null where there is no verdict."""

    name: str
    verdict: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    a_median_s: float | None = None
    b_median_s: float | None = None
    a_samples: int = 0
    b_samples: int = 0
    reason: str = ""


@dataclass(frozen=True)
class SpeedComparison:
    """All rows, what only one side has, and the facts in which the sides differ (only those that were allowed)."""

    rows: list[Compared]
    only_a: list[str]
    only_b: list[str]
    differs: dict[str, list[str]]

    def exit_code(self, fail_below: float | None) -> int:
        """1 where an interval lies below ``fail_below``, or B's number does not count; 3 where nothing was decided."""
        if fail_below is not None:
            below = any(row.high is not None and row.high < fail_below for row in self.rows)
            if below or any(row.verdict == INVALID and row.reason.startswith("B") for row in self.rows):
                return 1
        return 0 if any(row.verdict in DECIDED for row in self.rows) else 3


def compare(a: Document, b: Document, across: Collection[str] = ()) -> SpeedComparison:
    """Every measurement of the same name in both.

    Raises WrongInput where a pair differs in a fact (``ADVICE``) that ``across`` does not name.
    """
    left, right = ({each.name: each for each in document.measured} for document in (a, b))
    common = [name for name in left if name in right]
    differs: dict[str, list[str]] = {}
    for name in common:
        for fact, advice in ADVICE.items():
            pair = [side[name].facts.get(fact) or "" for side in (left, right)]
            if pair[0] == pair[1]:
                continue
            if fact not in across:
                one, other = (each or "unknown" for each in pair)
                raise WrongInput(
                    f"{name} was measured on different {advice}: {one} in {a.path}, {other} in {b.path}; "
                    f"give --across {fact} to compare them nevertheless"
                )
            differs[fact] = pair
    rows = [_row(left[name], right[name]) for name in common]
    only_a, only_b = ([name for name in one if name not in common] for one in (left, right))
    return SpeedComparison(rows, only_a, only_b, differs)


def _row(one: Measured, other: Measured) -> Compared:
    """The verdict of one pair."""
    a, b = len(one.samples_s), len(other.samples_s)
    for side, measured in (("A", one), ("B", other)):
        if measured.fault:
            return Compared(one.name, INVALID, a_samples=a, b_samples=b, reason=f"{side}: {measured.fault}")
    if min(a, b) < LEAST:
        return Compared(one.name, TOO_FEW, a_samples=a, b_samples=b, reason=f"an interval needs {LEAST} samples a side")
    middle, low, high = ratio(one.samples_s, other.samples_s)
    verdict, absurd = FASTER if low > 1 else SLOWER if high < 1 else SAME, doubt(middle, low, high)
    each_s = [float(np.median(each.samples_s)) for each in (one, other)]
    return Compared(one.name, ABSURD if absurd else verdict, middle, low, high, each_s[0], each_s[1], a, b, absurd)


def as_json(a: Document, b: Document, comparison: SpeedComparison, fail_below: float | None) -> dict[str, Any]:
    """Plain values; times in seconds."""
    origins = [{name: value for name, value in vars(each).items() if name != "measured"} for each in (a, b)]
    return {
        "schema": "kparity-bench-compare-v1", "a": origins[0], "b": origins[1], **asdict(comparison),
        "fail_below": fail_below, "exit_code": comparison.exit_code(fail_below),
    }  # fmt: skip
