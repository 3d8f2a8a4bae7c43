"""The rules that a set of contracts must keep beyond its schema; each names its violations."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kparity.contracts import evidence, files, history, known, nodes
from kparity.contracts.files import ContractFile, Problem
from kparity.contracts.nodes import NoPytest
from kparity.errors import UnknownName, WrongInput

LISTS = ("preconditions", "falsification_tests", "proof_obligations", "harnesses", "known_issues")
"""Sections whose entries have ids."""


@dataclass
class Findings:
    """What a validation found: problems, what it could not check, and remarks that change nothing."""

    contracts: list[ContractFile] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 clean, 1 problems, 3 something could not be checked."""
        if self.problems:
            return 1
        return 3 if self.unchecked or not self.contracts else 0


def validate(paths: Sequence[Path], backends: Iterable[str] = ()) -> Findings:
    """Every rule over a set of contract files. ``backends`` are the names that a known issue may have.

    Raises WrongInput for a file that is no YAML document.
    """
    found = Findings()
    for path in paths:
        contract, problems = files.read(path)
        found.problems += problems
        if contract is not None:
            found.contracts.append(contract)
    found.problems += unique_ids(found.contracts)
    names = list(backends)
    for contract in found.contracts:
        found.problems += [*changelog(contract), *links(contract), *status(contract)]
        found.problems += known_issues(contract, names)
        for problems, remark in (version(contract), *stale(contract)):
            found.problems += problems
            found.notes += [remark] if remark else []
    for check in (thresholds, references):
        check(found)
    return found


def _problem(contract: ContractFile, where: str, what: str, remedy: str) -> Problem:
    return Problem(files.shown(contract.path), where, what, remedy)


def unique_ids(contracts: Sequence[ContractFile]) -> list[Problem]:
    """Ids of contracts and of their entries, which nothing else in the set may have."""
    seen: dict[str, str] = {}
    found = []
    for contract in contracts:
        entries = [("metadata.id", contract.id)]
        entries += [
            (f"{section}.{index}.id", entry["id"])
            for section in LISTS
            for index, entry in enumerate(contract.document.get(section, []))
        ]
        for where, name in entries:
            if name in seen:
                found.append(_problem(contract, where, f"{name} is the id of {seen[name]} too", "give it another id"))
            seen.setdefault(name, f"{contract.path.name} {where}")
    return found


def changelog(contract: ContractFile) -> list[Problem]:
    """Versions that rise, the last of them the contract's own."""
    log = [entry["version"] for entry in contract.document["metadata"]["changelog"]]
    found = []
    if log[-1] != contract.version:
        what = f"ends with {log[-1]}, the version is {contract.version}"
        found.append(_problem(contract, "metadata.changelog", what, f"say what changed in {contract.version}"))
    if any(history.numbers(a) >= history.numbers(b) for a, b in itertools.pairwise(log)):
        found.append(_problem(contract, "metadata.changelog", "versions do not rise", "put them in order"))
    return found


def links(contract: ContractFile) -> list[Problem]:
    """Harnesses of no obligation, and preconditions of no threshold or equation."""
    document = contract.document
    there = {entry["id"] for entry in document["proof_obligations"]}
    judged = {*document.get("thresholds", {}), *document["equations"]}
    wanted = [(f"harnesses.{e['id']}.obligation", e["obligation"], there) for e in document.get("harnesses", [])]
    wanted += [
        (f"preconditions.{e['id']}.of", name, judged) for e in document.get("preconditions", []) for name in e["of"]
    ]
    return [
        _problem(contract, where, f"there is no {name} here", f"name one of {', '.join(sorted(known_names))}")
        for where, name, known_names in wanted
        if name not in known_names
    ]


def status(contract: ContractFile) -> list[Problem]:
    """Falsifiers that claim more than the evidence shows, and closed issues without it."""
    shown = evidence.read(contract.evidence)
    run = f"run kparity contract check {files.shown(contract.path)}"
    found = []
    for entry in contract.document["falsification_tests"]:
        if entry["status"] != "discharged":
            continue
        outcome = evidence.outcome_of(shown, contract.id, "falsification_tests", entry["id"], entry["test"])
        if outcome != "passed":
            what = (
                f"discharged, but {'nothing shows that its test ran' if outcome == 'none' else f'its test {outcome}'}"
            )
            remedy = f"{run}, or say functional or partial"
            found.append(_problem(contract, f"falsification_tests.{entry['id']}.status", what, remedy))
        if contract.draft:
            what = "discharged in a draft: the code that it judges is still to come"
            found.append(_problem(contract, f"falsification_tests.{entry['id']}.status", what, "say partial"))
    for entry in contract.document.get("known_issues", []):
        if entry.get("closed_by") == "a":
            outcome = evidence.outcome_of(shown, contract.id, "known_issues", entry["id"], entry["closing_test"])
            if outcome != "passed":
                said = "nothing shows that its closing test ran" if outcome == "none" else f"its closing test {outcome}"
                what = f"closed by a, but {said}"
                found.append(_problem(contract, f"known_issues.{entry['id']}.status", what, run))
    return found


def stale(contract: ContractFile) -> list[tuple[list[Problem], str]]:
    """A remark where the evidence is that of another version."""
    shown = evidence.read(contract.evidence)
    if shown is None or shown["contract"]["version"] == contract.version:
        return []
    said = f"the evidence is of version {shown['contract']['version']}"
    return [([], f"{files.shown(contract.path)}: {said}; kparity contract check brings it up to date")]


def known_issues(contract: ContractFile, backends: Sequence[str]) -> list[Problem]:
    """Patterns that do not compile, and backends that do not exist: an issue that can never match refuses nothing."""
    found = []
    for entry in contract.document.get("known_issues", []):
        at = f"known_issues.{entry['id']}"
        try:
            known.Issue.of(contract, entry)
        except WrongInput as error:
            found.append(_problem(contract, f"{at}.match", str(error), "correct it"))
        if backends and entry["backend"] not in backends:
            what = str(UnknownName("backend", entry["backend"], backends))
            found.append(_problem(contract, f"{at}.backend", what, "an issue of no backend refuses nothing"))
        if entry.get("closed_by") and entry["closed_by"] not in entry["closure"]:
            what = f"closed by {entry['closed_by']}, which the closure does not name"
            found.append(_problem(contract, f"{at}.closed_by", what, "name what closed it under closure"))
    return found


def version(contract: ContractFile) -> tuple[list[Problem], str]:
    """The bump that the changes since the git version before ask for."""
    old, commit = history.previous(contract.path, lambda text: files.parse(text, contract.path.name))
    if old is None:
        return [], f"{files.shown(contract.path)}: version rule skipped: {commit}"
    before = old["metadata"]["version"]
    now = history.numbers(contract.version)
    if now < history.numbers(before):
        what = f"{contract.version} is lower than {before} of {commit}"
        return [_problem(contract, "metadata.version", what, f"make it at least {before}")], ""
    found = []
    for change in history.changes(old, contract.document):
        enough = history.least(before, change.level)
        if now < history.numbers(enough):
            what = f"{change.what} since {before} ({commit}), a {change.level} change, under version {contract.version}"
            found.append(_problem(contract, change.where, what, f"make the version at least {enough}"))
    return found, ""


def thresholds(found: Findings) -> None:
    """Thresholds that code uses and no contract has, and those of contracts in force that no code uses."""
    by_file: dict[tuple[Path, str], list[ContractFile]] = {}
    for contract in found.contracts:
        root = contract.root()
        names = contract.document.get("enforced_by", [])
        if root is None:
            found.unchecked += [
                f"{files.shown(contract.path)}: thresholds against code: no project (pyproject.toml or .git) above"
            ]
            continue
        for name in names:
            if (root / name).is_file():
                by_file.setdefault((root, name), []).append(contract)
            else:
                what, remedy = f"{name} does not exist in {root}", "name a file of the project"
                found.problems.append(_problem(contract, "enforced_by", what, remedy))
        if all((root / name).is_file() for name in names):
            _unused(contract, root, names, found)
    for (root, name), owners in by_file.items():
        _unknown(root, name, owners, found)


def _unused(contract: ContractFile, root: Path, names: Sequence[str], found: Findings) -> None:
    limits: Mapping[str, object] = contract.document.get("thresholds", {})
    texts = [(root / name).read_text(encoding="utf-8", errors="replace") for name in names]
    idle = [name for name in limits if not files.mentioned(name, texts)]
    if contract.draft:
        if idle:
            said = f"draft: {len(idle)} of {len(limits)} thresholds have no code yet"
            found.notes.append(f"{files.shown(contract.path)}: {said}: {', '.join(idle)}")
        return
    for name in idle:
        what = f"no code of {', '.join(names)} uses it"
        found.problems.append(_problem(contract, f"thresholds.{name}", what, "enforce it or remove it"))


CALL = re.compile(r"""(?:\.(?:threshold|measure)\(|\bMeasure\.of\([\w.]+,)\s*["'](\w+)["']""")
"""The name of a threshold where it is asked for. One that comes out of a table or a variable is refused by
``Contract.threshold`` at run time.
"""


def _unknown(root: Path, name: str, owners: Sequence[ContractFile], found: Findings) -> None:
    """Names at the calls of one file that none of its contracts has."""
    try:
        text = (root / name).read_text(encoding="utf-8")
        ast.parse(text)
    except (SyntaxError, ValueError) as error:
        what = f"cannot be read as Python: {error}"
        found.problems.append(_problem(owners[0], "enforced_by", what, "correct the file"))
        return
    known = {limit for owner in owners for limit in owner.document.get("thresholds", {})}
    for call in CALL.finditer(text):
        if call[1] not in known:
            ids, line = " nor ".join(owner.id for owner in owners), text.count("\n", 0, call.start(1)) + 1
            what, remedy = f"{call[1]!r} is used here and not in {ids}", "add it to the contract or correct the name"
            found.problems.append(Problem(name, f"line {line}", what, remedy))


def references(found: Findings) -> None:
    """Every test that a contract names is a pytest node that exists: one collection per project."""
    by_root: dict[Path, list[ContractFile]] = {}
    for contract in found.contracts:
        root = contract.root()
        if root is None:
            found.unchecked.append(f"{files.shown(contract.path)}: tests: no project (pyproject.toml or .git) above")
        else:
            by_root.setdefault(root, []).append(contract)
    for root, contracts in by_root.items():
        wanted = [(contract, each) for contract in contracts for each in nodes.references(contract)]
        try:
            ids, broken = nodes.collect(root, [each.node for _, each in wanted])
        except NoPytest as error:
            found.unchecked.append(f"tests of {', '.join(contract.id for contract in contracts)}: {error}")
            continue
        for contract, each in wanted:
            if not nodes.named(each.node, ids):
                what, remedy = _absent(root, each.node, ids, broken)
                found.problems.append(_problem(contract, each.where, what, remedy))


def _absent(root: Path, node: str, ids: Sequence[str], broken: Mapping[str, str]) -> tuple[str, str]:
    """Why a test cannot be found, and what to do."""
    file, _, name = node.partition("::")
    if not (root / file).is_file():
        return f"{file} does not exist in {root}", "correct the path, which starts at the project's root"
    if file in broken:
        return f"{file} cannot be collected: {broken[file]}", "correct the file"
    tests = {each.partition("::")[2] for each in ids if each.startswith(f"{file}::")}
    try:
        raise UnknownName(f"test of {file}", name, tests | {each.partition("[")[0] for each in tests})
    except UnknownName as error:
        near = f"did you mean {error.nearest!r}?" if error.nearest else "write the test first"
    return f"{file} has no test {name}", near
