"""A log as a table of DuckDB, read where it lies."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import msgspec

from kparity.burnin.record import BUCKETS, Fault, Mode, Row
from kparity.errors import WrongInput
from kparity.host import files, install
from kparity.host.streams import log as say

SIDE = {"ms": "DOUBLE", "bytes": "BIGINT", "fault": "VARCHAR"}
TEXTS = {
    "first_ms": "DOUBLE", "text": "VARCHAR", "raw": "VARCHAR", "why": "VARCHAR", "status": "INT", "finish": "VARCHAR",
    "prompt_tokens": "BIGINT", "tokens": "BIGINT", "model": "VARCHAR", "fingerprint": "VARCHAR",
}  # fmt: skip
NUMBERS = {
    "round": "BIGINT", "time": "VARCHAR", "elapsed": "DOUBLE", "digest": "VARCHAR", "mode": "VARCHAR",
    "bucket": "VARCHAR", "prefix": "BIGINT", "margin": "DOUBLE", "noise": "DOUBLE", "clock": "DOUBLE",
    "kind": "VARCHAR",
}  # fmt: skip
OTHERS = {"prompt": "BIGINT", "asked": "VARCHAR", "tie": "VARCHAR"}
"""Columns of a side and of a row: those that are counted, and those that are only told of."""
COUNTED = """CREATE TEMP TABLE rounds AS SELECT round::INT AS round, time::TIMESTAMP AS time, elapsed,
    hash(digest) AS id, (hash(kind) % 65536)::USMALLINT AS kind, mode::modes AS mode, bucket::buckets AS bucket,
    prefix::INT AS prefix, clock <> 0 AS jumped,
    v1.ms::FLOAT AS v1_ms, v2.ms::FLOAT AS v2_ms, v1.fault::faults AS v1_fault, v2.fault::faults AS v2_fault,
    coalesce(v1.bytes, 0) = 0 AND coalesce(v2.bytes, 0) = 0 AS empty, margin::FLOAT AS margin, noise::FLOAT AS noise
FROM """
"""65 bytes a row, so that ten million of them lie in memory."""
WORDS = {"modes": get_args(Mode), "buckets": BUCKETS, "faults": get_args(Fault)[1:]}
"""Enumerations; no fault is NULL."""
MEMORY = "850MB"


class Table:
    """The rounds of a log, as the table ``rounds``, which has numbers and no texts."""

    def __init__(self, database: Any, path: Path) -> None:
        self.database, self.path = database, path

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a query gives."""
        found: list[tuple[Any, ...]] = self.database.execute(sql).fetchall()
        return found

    def row(self, sql: str) -> tuple[Any, ...]:
        """The only row of it."""
        return self.rows(sql)[0]

    def columns(self, sql: str) -> dict[str, Any]:
        """What a query gives as arrays."""
        found: dict[str, Any] = self.database.execute(sql).fetchnumpy()
        return found


@contextmanager
def opened(path: Path, since: str = "") -> Iterator[Table]:
    """A log whose rows are whole and in order, with the rounds ``since`` a time; raises WrongInput."""
    duckdb = install.library("duckdb", "reports", "the statistics of a burn-in")
    with files.opened(path, "the log of a burn-in") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(size - 1, 0))
        torn = file.read(1) != b"\n"
    if not size:
        raise WrongInput(f"{path} is empty; kparity burnin run fills it")
    with TemporaryDirectory(prefix="kparity-") as spill, duckdb.connect(":memory:") as database:
        database.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = '{spill}'")
        database.execute("SET preserve_insertion_order = false")  # nothing that is counted depends on it: half the time
        for name, words in WORDS.items():
            database.execute(f"CREATE TYPE {name} AS ENUM {words}")
        table = Table(database, path)
        try:
            database.execute(COUNTED + _reader(path))
        except duckdb.Error as error:
            raise WrongInput(
                f"{path} is no log of a burn-in: {str(error).splitlines()[0]}; name another file"
            ) from error
        _refuse_broken(table, torn)
        if since:
            database.execute("DELETE FROM rounds WHERE time < ?", [moment(since)])
        yield table


def _reader(path: Path, others: Mapping[str, str] | None = None, texts: Mapping[str, str] | None = None) -> str:
    """The function of DuckDB that reads the rows of a log; a line that is no row has nothing but NULL."""
    side = ", ".join(f"{name} {kind}" for name, kind in {**SIDE, **(texts or {})}.items())
    columns = {**NUMBERS, **(others or {}), "v1": f"STRUCT({side})", "v2": f"STRUCT({side})"}
    place = re.sub(r"([*?\[])", r"[\1]", str(path)).replace("'", "''")  # a name is no pattern
    listed = ", ".join(f"{name}: '{kind}'" for name, kind in columns.items())
    return f"read_json('{place}', format = 'newline_delimited', columns = {{{listed}}}, ignore_errors = true)"


def _refuse_broken(table: Table, torn: bool) -> None:
    """Raise WrongInput for lines that are no rounds, and for rounds that are missing; a torn last line is only said."""
    bad, n, last = table.row("SELECT count(*) FILTER (round IS NULL), count(round), max(round) FROM rounds")
    if torn and bad:
        say(f"{table.path}: the last round is not whole, and is left out")
        bad -= 1
    if bad:
        raise WrongInput(f"{table.path}: {bad} lines are no rounds; repair them, or name another file")
    table.database.execute("DELETE FROM rounds WHERE round IS NULL")
    if not n:
        raise WrongInput(f"{table.path} holds no whole round; name the log of a burn-in")
    if last != n:
        raise WrongInput(
            f"{table.path} has {n} rounds and its last one is round {last}: some are missing or stand twice; name the "
            "log as it was written"
        )


def picked(table: Table, rounds: Collection[int]) -> list[Row]:
    """Whole rows by their numbers, the last first."""
    found, first, last = list[Row](), min(rounds, default=1), max(rounds, default=0)
    with files.opened(table.path, "the log of a burn-in") as file:
        for number, line in enumerate(islice(file, last), 1):
            if number >= first and number in rounds:
                found.append(msgspec.json.decode(line, type=Row))
    return found[::-1]


def last(table: Table, count: int, differing: bool = False) -> list[Row]:
    """The last rounds, the newest first; ``differing``: of those whose replies differ."""
    which = "WHERE bucket IN ('prefix-only', 'no-match')" if differing else ""
    wanted = table.rows(f"SELECT round FROM rounds {which} ORDER BY round DESC LIMIT {count}")
    return picked(table, {each[0] for each in wanted})


def export(table: Table, output: str) -> None:
    """Every row, as Parquet or CSV by the name of the output; raises WrongInput for another one."""
    forms = {".parquet": "FORMAT parquet", ".csv": "FORMAT csv, HEADER"}
    form = forms.get(Path(output).suffix)
    if form is None:
        raise WrongInput(f"{output} is neither .parquet nor .csv; name it by what it shall be")
    with TemporaryDirectory(prefix="kparity-") as folder:
        made, rows = Path(folder, "rows"), _reader(table.path, OTHERS, TEXTS)
        table.database.execute("SET preserve_insertion_order = true")
        table.database.execute(f"COPY (SELECT * FROM {rows} WHERE round IS NOT NULL) TO '{made}' ({form})")
        files.write(output, made.read_bytes())


def moment(text: str) -> str:
    """A time as rows hold it, in UTC; one without a zone is UTC. Raises WrongInput."""
    try:
        found = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        raise WrongInput(f"{text!r} is no time; write one such as 2026-04-19T00:00:00Z") from None
    zoned = found if found.tzinfo else found.replace(tzinfo=timezone.utc)
    return zoned.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
