"""``kparity mutate``: the matrix of known-wrong kernels and engines against the gates, and the scores."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kparity.cli import names
from kparity.cli.command import Command, File, for_people, outputs
from kparity.cli.options import Number, backends_option, json_option, ops_option, quiet_option
from kparity.host import progress
from kparity.host.streams import log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kparity.mutate.cell import Cell
    from kparity.mutate.library import Subject

OUT = File(written=True, path_type=Path)


@click.command(
    cls=Command,
    examples=(
        "kparity mutate --list",
        "kparity mutate -b numpy -o rope --mutant position-* --json mutants.json",
    ),
)
@backends_option("Backends to run on [default: all that open here].")
@ops_option("Mutants of these ops, or 'engine'.", names.subjects)
@click.option("--mutant", "pattern", metavar="GLOB", default="*", help="Mutants whose name or op/name matches.")
@click.option("--list", "as_list", is_flag=True, help="List the mutants and run nothing.")
@click.option("--jobs", type=click.IntRange(min=1), help="Cells side by side [default: the number of processors].")
@click.option("--timeout", type=Number(min=1), default=60.0, show_default=True, metavar="SECONDS",
              help="A cell that says nothing for so long hangs.")  # fmt: skip
@click.option("--resume", type=OUT, metavar="FILE", help="Keep cells in FILE (JSONL), and skip those that it holds.")
@json_option
@quiet_option
@click.option("--html", "html_file", type=OUT, metavar="FILE", help="Write the matrix as one page (needs Jinja2).")
@click.option("--png", "png_file", type=OUT, metavar="FILE", help="Write the matrix as a picture (needs matplotlib).")
@click.option("--markdown", "markdown_file", type=OUT, metavar="FILE", help="Write the scores as Markdown.")
def mutate(
    backends: tuple[str, ...] | None, op_names: tuple[str, ...] | None, pattern: str, as_list: bool, jobs: int | None,
    timeout: float, resume: Path | None, json_path: str | None, quiet: bool, html_file: Path | None,
    png_file: Path | None, markdown_file: Path | None,
) -> int:  # fmt: skip
    """Run known-wrong kernels and engines through every gate, and show which gate rejects which.

    Each mutant is a patch on the real source of a dialect, or a defect of the code around the kernels; each runs in a
    process of its own. Runs without any defect stand beside them: where a gate rejects one of those, nothing is
    concluded.
    """
    from kparity.errors import WrongInput
    from kparity.mutate import library

    subjects = library.select(op_names or (), pattern)
    if as_list:
        if given := outputs():
            raise WrongInput(f"--list runs nothing: leave {' and '.join(given)} out")
        return _list(subjects)
    from kparity.device import registry
    from kparity.host import files, html, install
    from kparity.mutate import report
    from kparity.mutate.score import exit_code
    from kparity.probe.dispatcher import parse_order

    if png_file:
        install.library("matplotlib", "reports", "the picture of mutants")
    if html_file:
        html.engine()
    chosen = parse_order(backends or [name for name in registry.BUILTIN if not registry.slow(name)])
    cells, alarms = _run(subjects, chosen, jobs or 0, timeout, resume)
    code = exit_code(cells, alarms)
    if for_people():
        _print(cells, alarms)
    as_json = partial(report.as_json, code=code)
    forms = ((json_path, as_json), (html_file, report.page), (markdown_file, report.markdown))
    for path, form in forms:
        if path:
            files.write(path, form(cells, alarms))
    if png_file:
        files.write(png_file, report.drawn(cells))
    return code


def _list(subjects: Sequence[Subject]) -> int:
    from kparity.cli.table import Table, say

    table = Table("mutant", "dialects", "what is wrong")
    for subject in subjects:
        dialects = "any backend" if subject.mutant is None else ",".join(subject.mutant.patches)
        table.add(subject.label, dialects, subject.what)
    table.print()
    say(f"{len(subjects)} mutants")
    return 0


def _print(cells: Sequence[Cell], alarms: Sequence[str]) -> None:
    """Scores per backend, targets, and whatever was not rejected."""
    from kparity.cli.table import Table
    from kparity.mutate import report
    from kparity.mutate.score import TITLES, scores

    table, lines = Table("backend", *TITLES.values(), "not counted"), Table("", "")
    for name, score in scores(cells, "backend").items():
        left = ", ".join(f"{len(some)} {each}" for each in report.UNCOUNTED if (some := score.with_status(each)))
        table.add(name, *score.tallies.values(), left)
    for kind, text in report.summary(cells, alarms):
        lines.add(kind, text)
    table.print()
    lines.print()


def _run(
    subjects: Sequence[Subject], backends: list[str], jobs: int, timeout: float, resume: Path | None
) -> tuple[list[Cell], list[str]]:
    from kparity.mutate import library, proof, runner
    from kparity.mutate.cell import Store
    from kparity.mutate.score import false_alarms

    plans, cells = runner.planned(subjects, backends)
    store = Store(resume)
    stored = [(plan, store.known(plan.blank)) for plan in plans]
    known, waiting = [cell for _, cell in stored if cell], [plan for plan, cell in stored if cell is None]
    if known:
        log(f"{len(known)} cells are in {resume}, {len(waiting)} are left")

    with progress.task("mutate", len(waiting)) as task:

        def done(cell: Cell) -> None:
            store.add(cell)
            task.advance()
            result = ", ".join(cell.caught_by()) or ("survived" if cell.status == "ran" else cell.status)
            task.stage(f"{cell.op} on {cell.backend}", note=f"{cell.mutant}: {result}")
            if cell.status == "invalid":
                log(f"{cell.key}: invalid: {cell.reason}")

        cells += [*known, *runner.execute(waiting, jobs, timeout, done)]
        proof.mark_reach(cells)
        task.stage("proofs and witnesses")
        proof.excuse(cells, subjects)
        alarms = [*false_alarms(cells), *proof.verify_witnesses(cells, timeout)]
    order = {f"{subject.op}/{subject.name}": at for at, subject in enumerate((*library.CONTROLS, *subjects))}
    cells.sort(key=lambda cell: (backends.index(cell.backend), order[f"{cell.op}/{cell.mutant}"]))
    return cells, alarms
