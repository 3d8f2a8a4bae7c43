"""A log as a table of DuckDB: its lines are read once, by native code, and what is counted of them lies in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import msgspec
import numpy as np

from kparity.burnin.record import BUCKETS, Fault, Mode, Row
from kparity.errors import Refused, WrongInput
from kparity.host import files, install
from kparity.host.processors import processors
from kparity.host.streams import log as say
from kparity.ops.spec import Array

SIDE = {
    "ms": "DOUBLE", "bytes": "BIGINT", "fault": "VARCHAR", "first_ms": "DOUBLE", "text": "VARCHAR", "raw": "VARCHAR",
    "why": "VARCHAR", "status": "INT", "finish": "VARCHAR", "prompt_tokens": "BIGINT", "tokens": "BIGINT",
    "model": "VARCHAR", "fingerprint": "VARCHAR",
}  # fmt: skip
ROW = {
    "round": "BIGINT", "time": "VARCHAR", "elapsed": "DOUBLE", "digest": "VARCHAR", "mode": "VARCHAR",
    "bucket": "VARCHAR", "prefix": "BIGINT", "margin": "DOUBLE", "noise": "DOUBLE", "clock": "DOUBLE",
    "kind": "VARCHAR", "prompt": "BIGINT", "asked": "VARCHAR", "tie": "VARCHAR",
}  # fmt: skip
"""Columns of a side and of a row, as they are exported."""
COUNTED = """SELECT round, make_timestamp(time) AS time, elapsed, digest AS id, kind, {mode} AS mode,
    {bucket} AS bucket, prefix, jumped <> 0 AS jumped, v1_ms, v2_ms, {v1_fault} AS v1_fault, {v2_fault} AS v2_fault,
    empty <> 0 AS empty, margin, noise FROM columns"""
"""64 bytes a row, so that ten million of them lie in memory."""
PIECE = 1 << 25
"""Bytes of a log that a thread reads at a time."""
WORDS = {"modes": get_args(Mode), "buckets": BUCKETS, "faults": get_args(Fault)}
"""Enumerations; no fault is NULL."""
ENUMERATED = {"mode": "modes", "bucket": "buckets", "v1_fault": "faults", "v2_fault": "faults"}
MEMORY = "250MB"
"""Of DuckDB, beside the columns."""
SHORTEST = 128
"""Fewer bytes than the line of a round has."""


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
    with (
        files.opened(path, "the log of a burn-in") as file, TemporaryDirectory(prefix="kparity-") as spill,
        duckdb.connect(":memory:") as database,
    ):  # fmt: skip
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise WrongInput(f"{path} is empty; kparity burnin run fills it")
        file.seek(size - 1)
        torn = file.read(1) != b"\n"
        columns, bad = _read(file.fileno(), size)
        database.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = '{spill}'")
        database.execute("SET preserve_insertion_order = false")  # nothing that is counted depends on it
        for name, words in WORDS.items():
            database.execute(f"CREATE TYPE {name} AS ENUM {tuple(filter(None, words))}")
        database.register("columns", columns)
        when = f"WHERE make_timestamp(time) >= '{moment(since)}'" if since else ""
        spelt = {column: _spelt(column, kind) for column, kind in ENUMERATED.items()}
        database.execute(f"CREATE VIEW rounds AS {COUNTED.format(**spelt)} {when}")
        _refuse_broken(path, columns["round"], bad, torn)
        yield Table(database, path)


def _read(file: int, size: int) -> tuple[dict[str, Array], int]:
    """What is counted of the rounds of an open file, as columns [rounds]; and how many of its lines are none."""
    try:
        from kparity._native import burnin_rounds
    except ImportError:
        raise Refused(
            "the native module of kparity, which reads logs, is missing or older than the rest; install it anew"
        ) from None
    columns, n, bad, most = dict[str, Array](), 0, 0, size // SHORTEST + 1  # memory that nobody fills is not taken
    with ThreadPoolExecutor(processors()) as pool:
        pieces = pool.map(
            lambda begin: burnin_rounds(file, begin, min(begin + PIECE, size), *WORDS.values()), range(0, size, PIECE)
        )
        for rows, none in pieces:
            for name in rows.dtype.names:
                columns.setdefault(name, np.empty(most, rows.dtype[name]))[n : n + rows.size] = rows[name]
            n, bad = n + rows.size, bad + none
    return {name: values[:n] for name, values in columns.items()}, bad


def _spelt(column: str, kind: str) -> str:
    """A number that stands for a word, as the word."""
    cases = " ".join(f"WHEN {at} THEN '{word}'::{kind}" for at, word in enumerate(WORDS[kind]) if word)
    return f"CASE {column} {cases} END"


def _refuse_broken(path: Path, rounds: Array, bad: int, torn: bool) -> None:
    """Raise WrongInput for lines that are no rounds, and for rounds that are missing; a torn last line is only said."""
    if torn and bad:
        say(f"{path}: the last round is not whole, and is left out")
        bad -= 1
    if bad:
        raise WrongInput(f"{path}: {bad} lines are no rounds; repair them, or name another file")
    if not rounds.size:
        raise WrongInput(f"{path} holds no whole round; name the log of a burn-in")
    if (last := int(rounds.max())) != rounds.size:
        raise WrongInput(
            f"{path} has {rounds.size} rounds and its last one is round {last}: some are missing or stand twice; "
            "name the log as it was written"
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
        made = Path(folder, "rows")
        side = ", ".join(f"{name} {kind}" for name, kind in SIDE.items())
        row = ", ".join(
            f"{name}: '{kind}'" for name, kind in {**ROW, "v1": f"STRUCT({side})", "v2": f"STRUCT({side})"}.items()
        )
        place = re.sub(r"([*?\[])", r"[\1]", str(table.path)).replace("'", "''")  # a name is no pattern
        rows = f"read_json('{place}', format = 'newline_delimited', columns = {{{row}}}, ignore_errors = true)"
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
