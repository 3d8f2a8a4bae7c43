"""``kparity bench compare``: two benchmark documents against each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kparity.bench.comparison import Row, SpeedComparison

STYLES = {"faster": "green", "slower": "bold red", "invalid": "bold red", "too few samples": "yellow"}
COLUMNS = ("measurement", "A", "B", "B is faster by", "95 % interval", "verdict", "note")
LEFT = ("measurement", "verdict", "note")


@click.command()
@click.argument("a", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("b", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--fail-below", type=click.FloatRange(min=0, min_open=True), metavar="RATIO",
              help="Exit 1 where B's speed over A's lies below this with its whole interval.")  # fmt: skip
@click.option("--across", multiple=True, metavar="FACT[,FACT]",
              help="Compare although these differ: device, driver, model, threads.")  # fmt: skip
@click.option("--json", "json_path", metavar="FILE|-", help="Write everything as JSON; - is stdout.")
@click.pass_context
def compare(
    ctx: click.Context, a: Path, b: Path, fail_below: float | None, across: tuple[str, ...], json_path: str | None
) -> None:
    """Compare the measurements that A and B have in common: the speed of B over that of A.

    A and B are receipts of kparity bench, its --json, or files of pytest-benchmark. A ratio has a 95 % interval from
    the raw samples; it is "faster" or "slower" where the interval leaves 1 out. The interval tells of these two runs:
    whatever changed between them besides the code is in it too. Exit codes: 0 compared, 1 an interval lies below
    --fail-below or a number of B does not count, 2 no such documents, or measured on different things, 3 nothing in
    common.
    """
    from kparity.bench.comparison import as_json
    from kparity.bench.comparison import compare as compared
    from kparity.bench.comparison_read import FACTS, read
    from kparity.check.select import parse_names

    allowed = parse_names(across, "fact", FACTS)
    left, right = read(a), read(b)
    found = compared(left, right, allowed)
    if json_path:
        text = json.dumps(as_json(left, right, found, fail_below), indent=1, ensure_ascii=False) + "\n"
        if json_path == "-":
            click.echo(text, nl=False)
        else:
            Path(json_path).write_text(text, encoding="utf-8")
    if json_path != "-":
        _print(found)
    _warn(found)
    ctx.exit(found.exit_code(fail_below))


def _warn(found: SpeedComparison) -> None:
    """What was not compared, and what was although it differs."""
    for side, names in (("A", found.only_a), ("B", found.only_b)):
        if names:
            click.echo(f"only in {side}: {', '.join(names)}", err=True)
    for fact, (one, other) in found.differs.items():
        click.echo(f"compared across {fact}: {one or 'unknown'} and {other or 'unknown'}", err=True)
    if not found.rows:
        click.echo("nothing in common", err=True)


def _print(found: SpeedComparison) -> None:
    """A line per measurement."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from kparity.cli.table import console

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in LEFT else "right", overflow="fold")
    for row in found.rows:
        verdict = Text(row.verdict, style=STYLES.get(row.verdict, ""))
        table.add_row(row.name, _time(row.a_median_s), _time(row.b_median_s), *_ratio(row), verdict, row.reason)
    if found.rows:
        console().print(table)


def _ratio(row: Row) -> tuple[str, str]:
    if row.ratio is None:
        return "", ""
    return f"{row.ratio:.3f} ×", f"{row.low:.3f} … {row.high:.3f}"


def _time(seconds: float | None) -> str:
    """A median in the unit that fits it."""
    if seconds is None:
        return ""
    factor, unit = next(((f, u) for f, u in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")) if seconds * f >= 1), (1e9, "ns"))
    return f"{seconds * factor:.4g} {unit}"
