"""A sweep as JSON (its JSON Schema is ``kparity schema check``), for CI and as CSV."""

from __future__ import annotations

import csv
import json
import os
import platform
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from io import StringIO
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec import field as named

import kparity
from kparity import contracts
from kparity.check.core import CONTRACT
from kparity.check.record import FAIL, OUTCOMES, PASS, UNSUPPORTED, Count, OutputRecord, Record, Summary, Tally, plain
from kparity.device import fingerprint
from kparity.host import ci
from kparity.host.revision import checkout, commit

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Part(Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of the JSON."""


class Host(Part):
    """Where it ran; ``devices_sha256`` is of all devices and drivers."""

    system: str
    machine: str
    cpus: int | None
    python: str
    devices_sha256: Sha256


class Contract(Part):
    """What judged, by which limits."""

    id: str
    version: Annotated[str, Meta(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]
    thresholds: Annotated[dict[str, float], Meta(min_length=1)]


class Text(Part):
    """Somebody's own kernel: its files, as they were named, and the digest of the text."""

    path: str
    kernel: str
    sha256: Sha256
    map: str | None


class Request(Part):
    """What was asked for."""

    backends: list[str]
    ops: list[str]
    expression: str | None
    kinds: list[str]
    quick: bool
    max_seconds: float | None
    replay: str | None
    own: Text | None = None


class Counts(Part):
    """The outcomes of a backend, or of an op on it."""

    backend: str
    op: str | None
    cases: Count
    kinds: Count
    runs: Count
    PASS: Count
    FAIL: Count
    UNSUPPORTED: Count
    SKIPPED: Count


class Document(Part):
    """The whole sweep, records and counts, bound to host, seed and contract."""

    form: Literal["kparity-check-v1"] = named(name="schema")
    kparity: str
    commit: Annotated[str, Meta(pattern="^[0-9a-f]{40,64}$")] | None
    kernels_sha256: Sha256
    time: str
    host: Host
    contract: Contract
    seed: Count
    request: Request
    absent: dict[str, Annotated[str, Meta(min_length=1)]]
    interrupted: bool
    seconds: Annotated[float, Meta(ge=0)]
    exit_code: Annotated[int, Meta(ge=0, le=255)]
    counts: list[Counts]
    records: list[Record]

    def __post_init__(self) -> None:
        """Raise ValueError where it proves less than it says."""
        outcomes = {record.outcome for record in self.records}
        if self.exit_code == 0 and not {PASS} <= outcomes <= {PASS, UNSUPPORTED}:
            raise ValueError("the exit code is 0 without a PASS, or with something else")
        if flaw := next((record.flaw for record in self.records if record.flaw), ""):
            raise ValueError(flaw)


@dataclass
class Result:
    """What a sweep was asked, and what came of it."""

    request: Request
    seed: int
    records: list[Record] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """Backends that were not asked for by name and do not open here → reason."""
    interrupted: int = 0
    """The signal that ended it early; 0 for none."""
    seconds: float = 0.0

    @property
    def summary(self) -> Summary:
        """The counts."""
        return Summary(self.records)

    @property
    def exit_code(self) -> int:
        """0, 1 or 3; of a sweep that was interrupted, 128 and the signal."""
        return 128 + self.interrupted if self.interrupted else self.summary.exit_code(self.request.backends)


def as_json(result: Result) -> str:
    """A ``Document``, one line per record, to be searched and compared. A number that is not finite is its name."""
    contract, summary = contracts.load(CONTRACT), result.summary
    whole = Document(
        form="kparity-check-v1", kparity=kparity.__version__, commit=commit(checkout()),
        kernels_sha256=fingerprint.kernels(), time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        host=Host(
            system=platform.platform(), machine=platform.machine(), cpus=os.cpu_count(),
            python=platform.python_version(), devices_sha256=fingerprint.host(),
        ),
        contract=Contract(
            id=contract.id, version=contract.version,
            thresholds={name: entry["value"] for name, entry in contract.document["thresholds"].items()},
        ),
        seed=result.seed, request=result.request, absent=result.absent, interrupted=bool(result.interrupted),
        seconds=round(result.seconds, 3), exit_code=result.exit_code, records=result.records,
        counts=[_counts(tally) for tally in (*summary.by_backend.values(), *summary.by_op.values())],
    )  # fmt: skip
    values = {**plain(msgspec.to_builtins(whole)), "records": []}
    head, _, tail = json.dumps(values, indent=1, ensure_ascii=False).rpartition("[]")
    lines = ",\n".join(json.dumps(each.as_dict(), ensure_ascii=False, allow_nan=False) for each in result.records)
    return f"{head}[\n{lines}\n ]{tail}\n"


def _counts(tally: Tally) -> Counts:
    return Counts(
        backend=tally.backend, op=tally.op or None, cases=len(tally.cases), kinds=len(tally.kinds), runs=tally.total,
        **{outcome: tally.runs[outcome] for outcome in OUTCOMES},
    )  # fmt: skip


def _suites(result: Result) -> ci.Suites:
    """A suite per backend, a test per record; UNSUPPORTED and SKIPPED are skipped tests with a reason."""
    suites: dict[str, list[ci.Test]] = {}
    own = result.request.own.path if result.request.own else ""
    for record in result.records:
        suites.setdefault(f"kparity check {record.backend}", []).append(_test(record, own))
    return suites


def as_junit(result: Result) -> str:
    """JUnit XML."""
    return ci.junit("kparity check", result.seconds, _suites(result))


def as_ctrf(result: Result) -> str:
    """CTRF."""
    return ci.ctrf("kparity check", result.seconds, _suites(result))


def as_sarif(result: Result) -> str:
    """SARIF."""
    return ci.sarif("kparity check", _suites(result))


def _test(record: Record, own: str) -> ci.Test:
    test = ci.Test(f"{record.backend}.{record.op}", record.label, record.elapsed_ms / 1e3, place=own)
    if record.outcome == PASS:
        return test
    if record.outcome != FAIL:
        stood_for = f" ({record.runs} kinds of input)" if record.runs > 1 else ""
        return replace(test, skipped=f"{record.outcome}{stood_for}: {record.reason}")
    details = {"rerun": record.rerun, **record.as_dict(), "outputs": [*map(_brief, record.outputs)]}
    return replace(
        test, failure=record.reason or FAIL, type=", ".join(record.failed),
        details=json.dumps(details, indent=1, ensure_ascii=False),
    )  # fmt: skip


def to_github(result: Result) -> None:
    """An error for each failure, with the command that makes it again; a table with the counts of each backend."""
    failures = [record for record in result.records if record.outcome == FAIL]
    said: list[tuple[ci.Level, str, str]] = [
        ("error", f"kparity check: {each.backend} {each.op}", f"{each.label}: {each.reason}\nrerun: {each.rerun}")
        for each in failures
    ]
    if result.exit_code == 3:
        said.append(("error", "kparity check", "inconclusive: something that was asked for did not run"))
    rows = [
        (tally.backend, len(tally.cases), tally.total, *(tally.runs[outcome] for outcome in OUTCOMES))
        for tally in result.summary.by_backend.values()
    ]
    ci.github("kparity check", said, ("backend", "cases", "runs", *OUTCOMES), rows)


def _brief(output: OutputRecord) -> str:
    return (
        f"{output.name}: {output.wrong} of {output.count} wrong, worst {list(output.worst_index)}, got {output.got!r}, "
        f"want {output.want!r}, error {output.error!r}, limit {output.limit!r} ({output.derivation})"
    )


def as_csv(result: Result) -> str:
    """A line per output; a record without outputs has one line."""
    plain_fields = [each.name for each in fields(Record) if each.name not in ("params", "failed", "counts", "outputs")]
    columns = [each.name for each in fields(OutputRecord)]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*plain_fields, "failed", *(f"output_{name}" for name in columns)])
    for record in result.records:
        values = record.as_dict()
        head = [*(values[name] for name in plain_fields), " ".join(record.failed)]
        for output in values["outputs"] or [{}]:
            cells = [output.get(name) for name in columns]
            writer.writerow(head + [" ".join(map(str, cell)) if isinstance(cell, list) else cell for cell in cells])
    return text.getvalue()
