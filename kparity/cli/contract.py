"""``kparity contract``: validate, show, coverage and check, for the shipped contracts and for anybody's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.table import Table

    from kparity.contracts.files import ContractFile
    from kparity.contracts.nodes import Outcome, Reference

F = TypeVar("F", bound=Callable[..., Any])


def _targets(function: F) -> F:
    """Which contracts: ids or paths, and where ids are looked up."""
    for option in (
        click.option(
            "--contracts", "places", multiple=True, metavar="DIR_OR_FILE",
            help="Take contracts from here [default: the shipped ones]. Repeatable.",
        ),
        click.argument("targets", nargs=-1, metavar="[ID_OR_PATH]..."),
    ):  # fmt: skip
        function = option(function)
    return function


@click.group()
def contract() -> None:
    """Contracts: the shipped ones by id, your own by path (a file or a folder) or with --contracts."""


@contract.command()
@_targets
@click.pass_context
def validate(ctx: click.Context, targets: tuple[str, ...], places: tuple[str, ...]) -> None:
    """Hold contracts against the schema and the rules beyond it: ids, tests, thresholds, versions, evidence.

    One line per problem on stdout. Exit codes: 0 clean, 1 problems, 2 no contract to read, 3 something could not be
    checked.
    """
    from kparity.contracts import files
    from kparity.contracts import validate as rules
    from kparity.device import registry

    found = rules.validate(files.resolve(targets, places), registry.names())
    for problem in found.problems:
        click.echo(str(problem))
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    for line in found.unchecked:
        click.echo(f"not checked: {line}", err=True)
    said = f"contracts: {len(found.contracts)}, problems: {len(found.problems)}"
    click.echo(f"{said}, not checked: {len(found.unchecked)}" if found.unchecked else said)
    ctx.exit(found.exit_code)


def _read(targets: tuple[str, ...], places: tuple[str, ...]) -> list[ContractFile]:
    from kparity.contracts import files

    return files.read_all(files.resolve(targets, places))


@contract.command()
@_targets
@click.option("--json", "as_json", is_flag=True, help="Print the documents as JSON.")
def show(targets: tuple[str, ...], places: tuple[str, ...], as_json: bool) -> None:
    """Show a contract: thresholds with their basis, falsifiers with their evidence, obligations, known issues."""
    found = _read(targets, places)
    if as_json:
        import json

        documents = [each.document for each in found]
        click.echo(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2, ensure_ascii=False))
        return
    for each in found:
        _print(each)


def _table(title: str, *columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(each: ContractFile) -> None:
    from rich.text import Text

    from kparity.cli.table import console
    from kparity.contracts import RULES, evidence

    document, shown, out = each.document, evidence.read(each.evidence), console()
    metadata = document["metadata"]
    out.print(Text(f"{each.id} {each.version} ({metadata['status']})", style="bold"))
    out.print(Text(" ".join(metadata["summary"].split())))
    sections: list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]] = [
        ("Equations", ("name", "formula", "domain", "codomain"),
         [(name, e["formula"], e["domain"], e["codomain"]) for name, e in document["equations"].items()]),
        ("Fixes, either of", ("equation", "fix"),
         [(name, fix) for name, e in document["equations"].items() for fix in e.get("fixes", ())]),
        ("Preconditions", ("id", "of", "requires", "if violated"),
         [(e["id"], ", ".join(e["of"]), e["requires"], e["if_violated"]) for e in document.get("preconditions", [])]),
        ("Thresholds", ("name", "limit", "basis"),
         [(name, f"{RULES[e['rule']][0]} {e['value']:g}", e["basis"])
          for name, e in document.get("thresholds", {}).items()]),
        ("Required fields", ("field", "status", "meaning"),
         [(name, e["status"], e["meaning"]) for name, e in document.get("required_fields", {}).items()]),
        ("Falsification tests", ("id", "status", "evidence", "prediction"),
         [(e["id"], e["status"],
           evidence.outcome_of(shown, each.id, "falsification_tests", e["id"], e["test"]), e["prediction"])
          for e in document["falsification_tests"]]),
        ("Proof obligations", ("id", "type", "property", "formal"),
         [(e["id"], e["type"], e["property"], e["formal"]) for e in document["proof_obligations"]]),
        ("Harnesses", ("id", "obligation", "strategy", "bound"),
         [(e["id"], e["obligation"], e["strategy"], e["bound"]) for e in document.get("harnesses", [])]),
        ("Known issues", ("id", "backend", "status", "symptom"),
         [(e["id"], e["backend"], e["status"], e["symptom"]) for e in document.get("known_issues", [])]),
        ("Refuted hypotheses", ("hypothesis", "refuted by"),
         [(e["hypothesis"], e["refuted_by"]) for e in document.get("refuted_hypotheses", [])]),
        ("Five whys", ("why", "because"), [(e["why"], e["because"]) for e in document.get("five_whys", [])]),
    ]  # fmt: skip
    for title, columns, rows in sections:
        if rows:
            table = _table(title, *columns)
            for row in rows:
                table.add_row(*(Text(" ".join(str(cell).split())) for cell in row))
            out.print(table)


@contract.command()
@_targets
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
def coverage(targets: tuple[str, ...], places: tuple[str, ...], as_json: bool, markdown: bool) -> None:
    """The scoreboard: falsifiers discharged, functional and partial, thresholds enforced, tests with evidence."""
    from kparity.contracts import coverage as board

    scores = [board.score(each) for each in _read(targets, places)]
    if as_json:
        import json

        document = {"contracts": [each.as_dict() for each in scores], "total": board.total(scores).as_dict()}
        click.echo(json.dumps(document, indent=2))
    elif markdown:
        click.echo(board.markdown(scores))
    else:
        from kparity.cli.table import console

        table = _table("", *board.HEADER)
        for each in scores:
            table.add_row(*board.cells(each))
        table.add_section()
        table.add_row(*board.cells(board.total(scores)))
        console().print(table)


@contract.command()
@_targets
@click.option(
    "--evidence", "place", type=click.Path(dir_okay=False), metavar="FILE",
    help="Write the evidence of one contract here [default: evidence/ID.json beside the contract].",
)  # fmt: skip
@click.pass_context
def check(ctx: click.Context, targets: tuple[str, ...], places: tuple[str, ...], place: str | None) -> None:
    """Run every test that contracts name (falsifiers, obligations, harnesses, closing tests) and write the evidence.

    Exit codes: 0 every test passed, 1 a test failed or does not exist, 2 no contract to read, 3 tests were skipped or
    could not be run: a skip is no pass.
    """
    from kparity.errors import WrongInput

    found = _read(targets, places)
    if place and len(found) != 1:
        raise WrongInput(f"--evidence names one file, {len(found)} contracts were given; name one contract")
    devices = _devices()
    codes = [_check(each, Path(place) if place else each.evidence, devices) for each in found]
    ctx.exit(1 if 1 in codes else max(codes))


def _check(each: ContractFile, place: Path, devices: dict[str, str]) -> int:
    """Run the tests of one contract, write its evidence, print its lines; the exit code of it."""
    from kparity.contracts import evidence, files, nodes

    root = each.root()
    if root is None:
        click.echo(f"{each.id}: not checked: no project (pyproject.toml or .git) above {each.path}", err=True)
        return 3
    wanted = nodes.references(each)
    try:
        outcomes = nodes.run(root, [reference.node for reference in wanted], sys.stderr.fileno())
    except nodes.NoPytest as error:
        click.echo(f"{each.id}: not checked: {error}", err=True)
        return 3
    results = [(reference, outcomes[reference.node]) for reference in wanted]
    command = ["kparity", "contract", "check", files.shown(each.path)]
    evidence.write(place, evidence.document(each, root, results, command, devices))
    for reference, outcome in results:
        _say(each, reference, outcome)
    said = {outcome.outcome for _, outcome in results}
    passed = sum(outcome.outcome == "passed" for _, outcome in results)
    click.echo(f"{each.id} {each.version}: {passed} of {len(results)} passed; evidence in {files.shown(place)}")
    return 1 if said & {"failed", "missing"} else 0 if said == {"passed"} else 3


def _say(each: ContractFile, reference: Reference, outcome: Outcome) -> None:
    if outcome.outcome != "passed":
        said = f": {outcome.said}" if outcome.said else ""
        click.echo(f"{each.id}: {reference.where}: {outcome.outcome}: {reference.node}{said}")


def _devices() -> dict[str, str]:
    """The devices that open here, by backend, each tried in a process of its own."""
    from kparity.device import registry
    from kparity.probe import runner

    with runner.probing(registry.names(), runner.Request(depth="open", timeout=60.0)) as rows:
        return {row.backend: row.label for row, _ in rows if row.label}
