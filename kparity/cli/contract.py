"""``kparity contract``: validate, show, coverage and check, for the shipped contracts and for anybody's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kparity.cli import names
from kparity.cli.command import Group
from kparity.cli.names import completing
from kparity.cli.options import FILE, OUT, json_option
from kparity.host.files import write_json
from kparity.host.streams import log
from kparity.host.text import printable

if TYPE_CHECKING:
    from kparity.contracts import Contract

F = TypeVar("F", bound=Callable[..., Any])

SECTIONS = {
    "equations": ("name", "formula", "domain", "codomain"),
    "fixes, either of": ("equation", "fix"),
    "preconditions": ("id", "of", "requires", "if_violated"),
    "thresholds": ("name", "limit", "basis"),
    "required_fields": ("field", "status", "meaning"),
    "falsification_tests": ("id", "status", "evidence", "prediction"),
    "proof_obligations": ("id", "type", "property", "formal"),
    "harnesses": ("id", "obligation", "strategy", "bound"),
    "known_issues": ("id", "backend", "status", "symptom"),
    "refuted_hypotheses": ("hypothesis", "refuted_by"),
    "five_whys": ("why", "because"),
}
"""The tables of ``show``: section → columns."""


def _targets(function: F) -> F:
    """Which contracts: ids or paths, and where ids are looked up."""
    for option in (
        click.option(
            "--contracts", "places", type=FILE, multiple=True, metavar="DIR_OR_FILE",
            help="Take contracts from here [default: the shipped ones]. Repeatable.",
        ),
        click.argument("targets", nargs=-1, metavar="[ID_OR_PATH]...", shell_complete=completing(names.contracts)),
    ):  # fmt: skip
        function = option(function)
    return function


@click.group(cls=Group)
def contract() -> None:
    """Contracts: the shipped ones by id, your own by path (a file or a folder) or with --contracts."""


@contract.command(
    examples=(
        "kparity contract validate",
        "kparity contract validate receipt-v1 --json",
    ),
)
@_targets
@click.option(
    "--run/--no-run", default=None,
    help="Ask pytest whether the tests exist, which runs code of the contract's project [default: for the shipped "
    "contracts --run; for others it is not done and said, which is exit code 3].",
)  # fmt: skip
@json_option
def validate(targets: tuple[str, ...], places: tuple[str, ...], run: bool | None, json_path: str | None) -> int:
    """Hold contracts against the schema and the rules beyond it: ids, tests, thresholds, versions, evidence.

    One line per problem on stdout. Exit codes: 0 clean, 1 problems, 2 no contract to read, 3 something could not be
    checked. With --run it runs code of the project that a contract lies in: pytest imports its tests.
    """
    from kparity.cli.table import say
    from kparity.contracts import files, validate
    from kparity.device import registry

    paths = files.resolve(targets, places)
    found = validate.validate(paths, registry.names(), run, log, _probed)
    if json_path:
        names = ("problems", "notes", "unchecked")
        told = {name: [str(each) for each in getattr(found, name)] for name in names}
        ids = [each.id for each in found.contracts]
        write_json(json_path, {"contracts": ids, **told, "exit_code": found.exit_code})
    if json_path == "-":
        return found.exit_code
    for problem in found.problems:
        say(str(problem))
    for note in found.notes:
        log(f"note: {note}")
    for line in found.unchecked:
        log(f"not checked: {line}")
    unchecked = f", not checked: {len(found.unchecked)}" if found.unchecked else ""
    say(f"contracts: {len(found.contracts)}, problems: {len(found.problems)}{unchecked}")
    return found.exit_code


def _probed(path: Path) -> list[dict[str, Any]]:
    """The devices of a receipt that passed the probe; raises WrongInput for a receipt that is refused."""
    from msgspec import to_builtins

    from kparity.errors import WrongInput
    from kparity.receipts import document, sign, verify
    from kparity.receipts.rules import identity

    read = document.read(path)
    findings = verify.verify(read, require_parity=True)
    statement, _ = identity.form(sign.statement_of(read)) if not findings else (None, [])
    if statement is None:
        raise WrongInput(f"{path}: {findings[0]}")
    return [to_builtins(run.device) for run in statement.predicate.runs if run.parity.verdict == "PASS"]


def _read(targets: tuple[str, ...], places: tuple[str, ...]) -> list[Contract]:
    from kparity.contracts import files

    return files.read_all(files.resolve(targets, places))


@contract.command(
    examples=("kparity contract show receipt-v1",),
)
@_targets
@json_option
def show(targets: tuple[str, ...], places: tuple[str, ...], json_path: str | None) -> None:
    """Show a contract: thresholds with their basis, falsifiers with their evidence, obligations, known issues."""
    contracts = _read(targets, places)
    if json_path:
        documents = [each.document for each in contracts]
        write_json(json_path, documents[0] if len(documents) == 1 else documents)
        return
    for each in contracts:
        _print(each)


def _print(each: Contract) -> None:
    from kparity.cli.table import Table, say

    metadata = each.sections.metadata
    say((f"{each.id} {each.version} ({metadata.status})", "bold"))
    say(" ".join(metadata.summary.split()))
    for section, columns in SECTIONS.items():
        rows = [[" ".join(str(entry[name]).split()) for name in columns] for entry in _entries(each, section)]
        if rows:
            say("")
            table = Table(*(name.replace("_", " ") for name in columns), title=section.replace("_", " ").capitalize())
            for row in rows:
                table.add(*row)
            table.print()


def _entries(each: Contract, section: str) -> list[dict[str, Any]]:
    """The entries of a section with what its table shows."""
    from kparity.contracts import RULES, evidence
    from kparity.contracts.nodes import Reference

    content: Any = each.document.get(section, [])
    if section == "fixes, either of":
        equations = each.sections.equations.items()
        return [{"equation": name, "fix": fix} for name, equation in equations for fix in equation.fixes]
    if section == "thresholds":
        content = {name: {**e, "limit": f"{RULES[e['rule']][0]} {e['value']:g}"} for name, e in dict(content).items()}
    elif section == "preconditions":
        content = [{**e, "of": ", ".join(e["of"])} for e in content]
    elif section == "falsification_tests":
        shown = evidence.shown(each)
        content = [{**e, "evidence": shown.outcome(Reference(section, e["id"], e["test"]))} for e in content]
    if isinstance(content, dict):
        return [{"name": name, "field": name, **entry} for name, entry in content.items()]
    return list(content)


@contract.command(
    examples=("kparity contract coverage --markdown",),
)
@_targets
@json_option
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
def coverage(targets: tuple[str, ...], places: tuple[str, ...], json_path: str | None, markdown: bool) -> None:
    """The scoreboard: falsifiers discharged, functional and partial, thresholds enforced, tests with evidence.

    A test passed where the evidence shows it for this version of the contract and for the code that is here. Stale is a
    pass of another version or of other code: kparity contract check runs the tests again. An installed package, which
    has no tests, shows unknown.
    """
    from dataclasses import asdict

    from kparity.contracts import coverage

    scores = [coverage.score(each) for each in _read(targets, places)]
    total = coverage.total(scores)
    if json_path:
        write_json(json_path, {"contracts": [asdict(each) for each in scores], "total": asdict(total)})
    elif markdown:
        click.echo(printable(coverage.markdown(scores), "\n"))
    else:
        from kparity.cli.table import Table

        table = Table(*coverage.HEADER, right=coverage.HEADER[3:])
        for each in (*scores, total):
            table.add(*each.cells)
        table.print()
        for each in scores:
            if each.note:
                log(f"{each.id}: the evidence is {each.note}")


@contract.command(
    examples=("kparity contract check receipt-v1 --evidence evidence.json",),
)
@_targets
@click.option(
    "--evidence", "place", type=OUT, metavar="FILE",
    help="Write the evidence of one contract here [default: evidence/ID.json beside the contract].",
)  # fmt: skip
def check(targets: tuple[str, ...], places: tuple[str, ...], place: str | None) -> int:
    """Run every test that contracts name (falsifiers, obligations, harnesses, closing tests) and write the evidence.

    It runs code of the project that a contract lies in, as its author wrote it.
    Exit codes: 0 every test passed, 1 a test failed or does not exist, 2 no contract to read, 3 tests were skipped or
    could not be run: a skip is no pass.
    """
    from kparity.device import registry
    from kparity.errors import WrongInput
    from kparity.probe import messages, runner

    registry.refuse_environment()
    contracts = _read(targets, places)
    if place and len(contracts) != 1:
        raise WrongInput(f"--evidence names one file, {len(contracts)} contracts were given; name one contract")
    # The devices that open here, each tried in a process of its own.
    with runner.probing(registry.names(), messages.Request(depth="open", timeout=60.0)) as rows:
        opened = [(row.backend, row.label, row.device["kind"]) for row, *_ in rows if row.device is not None]
    codes = [_check(each, Path(place) if place else each.evidence, opened) for each in contracts]
    return 1 if 1 in codes else max(codes)


def _check(each: Contract, place: Path, opened: list[tuple[str, str, str]]) -> int:
    """Run the tests of one contract, write its evidence with the devices (backend, label, kind) that open here, print
    its lines; the exit code of it.
    """
    from kparity.cli.table import say
    from kparity.contracts import code, evidence, files, nodes

    root = each.root()
    if root is None:
        log(f"{each.id}: not checked: no project (pyproject.toml or .git) above {each.path}")
        return 3
    log(f"{each.id}: runs code of {root}: the tests that it names")
    ran = code.of(each)
    try:
        results = nodes.run(root, nodes.references(each), sys.stderr.fileno())
    except nodes.NoPytest as error:
        log(f"{each.id}: not checked: {error}")
        return 3
    command = ["kparity", "contract", "check", files.shown(each.path)]
    devices, kinds = {name: label for name, label, _ in opened}, {kind for _, _, kind in opened}
    evidence.write(place, evidence.of(each, root, results, command, devices, kinds, ran))
    for result in results:
        if result.outcome != "passed":
            why = f": {result.said}" if result.said else ""
            say(f"{each.id}: {result.where}: {result.outcome}: {result.node}{why}")
    seen = [result.outcome for result in results]
    passed = f"{seen.count('passed')} of {len(seen)} passed"
    say(f"{each.id} {each.version}: {passed}; evidence in {files.shown(place)}")
    return 1 if {"failed", "missing"} & {*seen} else 0 if {*seen} == {"passed"} else 3
