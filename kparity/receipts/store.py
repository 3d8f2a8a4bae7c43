"""A folder of receipts as a table: a row per measurement, queried with SQL (DuckDB)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from kparity.errors import WrongInput
from kparity.receipts import document, sign, verify
from kparity.receipts.findings import Finding
from kparity.receipts.record import Measurement, Predicate, Statement
from kparity.receipts.rules import identity

COLUMNS = {
    "file": "VARCHAR", "time": "TIMESTAMP", "commit": "VARCHAR", "dirty": "BOOLEAN", "backend": "VARCHAR",
    "device": "VARCHAR", "kind": "VARCHAR", "driver": "VARCHAR", "model": "VARCHAR", "measurement": "VARCHAR",
    "tokens_per_s": "DOUBLE", "low": "DOUBLE", "high": "DOUBLE", "parity": "VARCHAR", "valid": "BOOLEAN",
}  # fmt: skip
"""Columns of the table ``receipts``; times are UTC. A baseline has its name as backend and no parity; a receipt without
measurements has one row for each run.
"""
QUERY = """
SELECT measurement, backend, device, kind, tokens_per_s, low, high, parity, valid, file, time, left(commit, 8) AS commit
FROM receipts ORDER BY measurement, tokens_per_s DESC NULLS LAST, file
"""
EXTRA = "receipt list needs the library duckdb: pip install 'kparity[receipts]'"


@dataclass
class Stored:
    """A receipt of a folder with what was found wrong with it."""

    file: str
    statement: Statement
    findings: list[Finding] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def predicate(self) -> Predicate:
        """The content."""
        return self.statement.predicate


def gather(folder: Path) -> tuple[list[Stored], list[str]]:
    """The receipts below a folder, each verified, and why other JSON files are none.

    A receipt in bad form has no content to list: it is among the others, with its first finding. Raises WrongInput for
    what is no folder.
    """
    if not folder.is_dir():
        raise WrongInput(f"{folder} is no folder; name a folder of receipts")
    found, others = [], []
    for path in sorted(folder.rglob("*.json")):
        try:
            read = document.read(path)
            if not document.is_receipt(read):
                others.append(f"{path}: not a receipt")
                continue
            statement, malformed = identity.form(sign.statement_of(read))
            if statement is None:
                others.append(f"{path}: {malformed[0]}")
                continue
            found.append(Stored(str(path.relative_to(folder)), statement, verify.verify(read)))
        except WrongInput as error:
            others.append(str(error))
    replayed = verify.replays([(each.file, each.statement) for each in found])
    for each in found:
        each.findings += replayed.get(each.file, [])
    return found, others


def rows(stored: Sequence[Stored]) -> list[dict[str, Any]]:
    """A row per measurement, with the names of ``COLUMNS``."""
    return [row for each in stored for row in _rows(each)]


def _rows(stored: Stored) -> list[dict[str, Any]]:
    predicate = stored.predicate
    shared = {
        "file": stored.file, "time": _utc(predicate.ended), "commit": predicate.harness.commit,
        "dirty": predicate.harness.dirty, "model": predicate.model.name, "valid": stored.valid,
    }  # fmt: skip
    found = []
    for run in predicate.runs:
        device, parity = run.device, run.parity.verdict
        told = {
            "backend": run.backend,
            "device": device.device,
            "kind": device.kind,
            "driver": device.driver,
        }
        found += [{**shared, **told, "parity": parity, **_speed(each)} for each in run.measurements or (None,)]
    for baseline in predicate.baselines:
        told = {"backend": baseline.name, "device": predicate.host.cpu, "kind": "cpu", "driver": ""}
        found += [{**shared, **told, "parity": None, **_speed(each)} for each in baseline.measurements]
    return found


def _utc(text: str) -> datetime | None:
    """A time without its zone, as SQL's TIMESTAMP wants it."""
    found = identity.moment(text)
    return found.replace(tzinfo=None) if found else None


def _speed(measurement: Measurement | None) -> dict[str, Any]:
    names = ("tokens_per_s", "low", "high")
    if measurement is None:
        return {"measurement": None, **dict.fromkeys(names)}
    return {"measurement": measurement.name, **{name: getattr(measurement, name) for name in names}}


def query(table: Sequence[dict[str, Any]], sql: str = QUERY) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows that a query over the table ``receipts`` gives; it can reach nothing else.

    Raises WrongInput for SQL that DuckDB refuses, and where DuckDB is missing.
    """
    try:
        import duckdb
    except ImportError as error:
        raise WrongInput(EXTRA) from error
    with duckdb.connect(":memory:") as database:
        columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        database.execute(f"CREATE TABLE receipts ({columns})")
        if table:
            places = ", ".join("?" * len(COLUMNS))
            values = [[row[name] for name in COLUMNS] for row in table]
            database.executemany(f"INSERT INTO receipts VALUES ({places})", values)
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        try:
            done = database.execute(sql)
            names = [column[0] for column in done.description or []]
            return names, done.fetchall()
        except duckdb.Error as error:
            said = str(error).splitlines()[0]
            known = ", ".join(COLUMNS)
            raise WrongInput(f"--sql: {said}; the table is receipts, its columns are {known}") from error
