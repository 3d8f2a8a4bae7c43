"""A folder of receipts as a table: a row per measurement, queried with SQL (DuckDB)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kparity.errors import WrongInput
from kparity.host import files, install
from kparity.receipts import document, sign, verify
from kparity.receipts.cutover import is_cutover
from kparity.receipts.findings import Finding
from kparity.receipts.record import Predicate, Run, Statement
from kparity.receipts.rules import identity

COLUMNS = {
    "file": "VARCHAR", "time": "TIMESTAMP", "commit": "VARCHAR", "dirty": "BOOLEAN", "backend": "VARCHAR",
    "device": "VARCHAR", "kind": "VARCHAR", "driver": "VARCHAR", "model": "VARCHAR", "measurement": "VARCHAR",
    "tokens_per_s": "DOUBLE", "low": "DOUBLE", "high": "DOUBLE", "parity": "VARCHAR", "valid": "BOOLEAN",
}  # fmt: skip
"""Columns of the table ``receipts``; times are UTC. A baseline has its name as backend and no parity; a receipt without
measurements has one row for each run. An op is measured in no tokens: its row has no speed.
"""
QUERY = """
SELECT measurement, backend, device, kind, tokens_per_s, low, high, parity, valid, file, time, left(commit, 8) AS commit
FROM receipts ORDER BY measurement, tokens_per_s DESC NULLS LAST, file
"""


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


def load_folder(folder: Path) -> tuple[list[Stored], list[str]]:
    """The receipts below a folder, each verified, and why other JSON files are none.

    A receipt in bad form has no content to list: it is among the others, with its first finding. Raises WrongInput for
    what is no folder.
    """
    paths, others = files.below(folder, "*.json", "a folder of receipts", deep=True)
    documents = {}
    for path in paths:
        try:
            read = document.read(path)
        except WrongInput as error:
            others.append(str(error))
            continue
        if document.is_receipt(read) or is_cutover(read):
            documents[str(path.relative_to(folder))] = read
        else:
            others.append(f"{path}: not a receipt")
    receipts, malformed = verified(documents)
    return receipts, others + malformed


def verified(documents: Mapping[str, dict[str, Any]]) -> tuple[list[Stored], list[str]]:
    """Receipts by the name of their file, with what is wrong with each, and why others are in bad form."""
    receipts, others = list[Stored](), list[str]()
    for name, read in documents.items():
        try:
            plain = sign.statement_of(read)
            statement, malformed = identity.form(plain)
        except WrongInput as error:
            others.append(f"{name}: {error}")
            continue
        if is_cutover(plain):
            others.append(f"{name}: of a cutover, which measures nothing; kparity receipt show tells it")
        elif statement is None:
            others.append(f"{name}: {malformed[0]}")
        else:
            receipts.append(Stored(name, statement, verify.verify(read)))
    replayed = verify.replays([(each.file, each.statement) for each in receipts])
    for each in receipts:
        each.findings += replayed.get(each.file, [])
    return receipts, others


def rows(stored: Sequence[Stored]) -> list[dict[str, Any]]:
    """A row per measurement, with the names of ``COLUMNS``."""
    table = []
    for each in stored:
        predicate = each.predicate
        ended = identity.moment(predicate.ended)
        shared = {
            "file": each.file, "time": ended.replace(tzinfo=None) if ended else None,
            "model": predicate.model.name if predicate.model else "",
            "commit": predicate.harness.commit, "dirty": predicate.harness.dirty, "valid": each.valid,
        }  # fmt: skip
        for _, owner in predicate.owners():
            if isinstance(owner, Run):
                who = {name: getattr(owner.device, name) for name in ("device", "kind", "driver")}
                who |= {"backend": owner.backend, "parity": owner.parity.verdict}
            elif owner.measurements:
                who = {"backend": owner.name, "device": predicate.host.cpu, "kind": "cpu", "driver": ""}
            else:
                continue
            speeds = [
                dict(zip(("measurement", "tokens_per_s", "low", "high"), (row.name, *row.rates), strict=True))
                for row in owner.measurements
            ]
            table += [{**dict.fromkeys(COLUMNS), **shared, **who, **speed} for speed in speeds or [{}]]
        for row in predicate.ops:
            who = {name: getattr(row.device, name, None) for name in ("device", "kind", "driver")}
            who |= {"backend": row.backend, "measurement": row.name, "parity": "PASS" if row.verified else None}
            table.append({**dict.fromkeys(COLUMNS), **shared, **who})
    return table


def query(table: Sequence[dict[str, Any]], sql: str = QUERY) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows that a query over the table ``receipts`` gives; it can reach nothing else.

    Raises WrongInput for SQL that DuckDB refuses, and where DuckDB is missing.
    """
    duckdb = install.library("duckdb", "reports", "the list of receipts")
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
            return [column[0] for column in done.description or []], done.fetchall()
        except duckdb.Error as error:
            why, known = str(error).splitlines()[0], ", ".join(COLUMNS)
            raise WrongInput(f"--sql: {why}; the table is receipts, its columns are {known}") from error
