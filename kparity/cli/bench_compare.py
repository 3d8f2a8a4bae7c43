"""``kparity bench compare``: two benchmark documents against each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kparity.bench.comparison import SpeedComparison


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
    from kparity.bench import comparison
    from kparity.check.select import named
    from kparity.cli.bench_table import print_compared

    allowed = named(across, "fact", tuple(comparison.ADVICE))
    left, right = comparison.read(a), comparison.read(b)
    result = comparison.compare(left, right, allowed)
    if json_path:
        text = json.dumps(comparison.as_json(left, right, result, fail_below), indent=1, ensure_ascii=False) + "\n"
        with click.open_file(json_path, "w", encoding="utf-8") as file:
            file.write(text)
    if json_path != "-":
        print_compared(result.rows)
    _warn(result)
    ctx.exit(result.exit_code(fail_below))


def _warn(result: SpeedComparison) -> None:
    """What was not compared, and what was although it differs."""
    for side, names in (("A", result.only_a), ("B", result.only_b)):
        if names:
            click.echo(f"only in {side}: {', '.join(names)}", err=True)
    for fact, (one, other) in result.differs.items():
        click.echo(f"compared across {fact}: {one or 'unknown'} and {other or 'unknown'}", err=True)
    if not result.rows:
        click.echo("nothing in common", err=True)
