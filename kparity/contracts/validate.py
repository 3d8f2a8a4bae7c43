"""The rules that a set of contracts must keep beyond its schema; each names its violations."""

from __future__ import annotations

import ast
import itertools
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kparity import contracts as shipped
from kparity.contracts import Contract, evidence, files, history, issues, known, nodes
from kparity.contracts.coverage import mentioned
from kparity.contracts.files import Problem, problem
from kparity.contracts.nodes import NoPytest, Reference
from kparity.contracts.plain_yaml import parse
from kparity.errors import UnknownName, WrongInput
from kparity.host import progress

LISTS = ("preconditions", "falsification_tests", "proof_obligations", "harnesses", "known_issues")
"""Sections whose entries have ids."""


@dataclass
class Findings:
    """What a validation found: problems, what it could not check, and remarks that change nothing."""

    contracts: list[Contract] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 clean, 1 problems, 3 something could not be checked."""
        return 1 if self.problems else 3 if self.unchecked or not self.contracts else 0


def validate(
    paths: Sequence[Path],
    backends: Collection[str] = (),
    run: bool | None = None,
    say: Callable[[str], object] = lambda line: None,
    probed: issues.Probed | None = None,
) -> Findings:
    """Every rule over a set of contract files.

    ``backends`` are the names that a known issue may have. Whether the tests exist is asked of pytest, which runs code
    of the project: of the shipped contracts always, of others where ``run`` is true, of none where it is false; ``say``
    gets a line before. ``probed`` reads receipts. Raises WrongInput for a file that is no YAML document where it is the
    only one: of several it is a problem.
    """
    found = Findings()
    for path in paths:
        try:
            contract, problems = files.read(path)
        except WrongInput as error:
            if len(paths) == 1:
                raise
            what, _, remedy = str(error).rpartition("; ")
            contract, problems = None, [Problem(files.shown(path), "", what, remedy)]
        found.problems += problems
        found.contracts += [contract] if contract is not None else []
    found.problems += unique_ids(found.contracts)
    for contract in found.contracts:
        found.problems += [*changelog(contract), *links(contract), *scope(contract), *status(contract)]
        found.problems += [*issues.rules(contract, backends, probed), *issues.cited(contract)]
        for each in version(contract):
            (found.problems if isinstance(each, Problem) else found.notes).append(each)  # type: ignore[arg-type]
    thresholds(found)
    references(found, run, say)
    return found


def unique_ids(contracts: Sequence[Contract]) -> Iterator[Problem]:
    """Ids of contracts and of their entries, which nothing else in the set may have."""
    seen: dict[str, str] = {}
    for contract in contracts:
        ids = [("metadata.id", contract.id)]
        ids += [
            (f"{section}.{index}.id", entry.id)
            for section in LISTS
            for index, entry in enumerate(getattr(contract.sections, section))
        ]
        for where, name in ids:
            if name in seen:
                yield problem(contract, where, f"{name} is the id of {seen[name]} too", "give it another id")
            seen.setdefault(name, f"{contract.path.name} {where}")


def changelog(contract: Contract) -> Iterator[Problem]:
    """Versions that rise, the last of them the contract's own."""
    log = [entry.version for entry in contract.sections.metadata.changelog]
    if log[-1] != contract.version:
        what = f"ends with {log[-1]}, the version is {contract.version}"
        yield problem(contract, "metadata.changelog", what, f"say what changed in {contract.version}")
    if any(history.numbers(a) >= history.numbers(b) for a, b in itertools.pairwise(log)):
        yield problem(contract, "metadata.changelog", "versions do not rise", "put them in order")


def links(contract: Contract) -> Iterator[Problem]:
    """Harnesses of no obligation, and preconditions of no threshold or equation."""
    sections = contract.sections
    obligations, judged = {each.id for each in sections.proof_obligations}, {*sections.thresholds, *sections.equations}
    wanted = [(f"harnesses.{each.id}.obligation", each.obligation, obligations) for each in sections.harnesses]
    wanted += [(f"preconditions.{each.id}.of", name, judged) for each in sections.preconditions for name in each.of]
    for where, name, there in wanted:
        if name not in there:
            yield problem(contract, where, f"there is no {name} here", f"name one of {', '.join(sorted(there))}")


def scope(contract: Contract) -> Iterator[Problem]:
    """A claim about GPUs in a version that has the CPU only, without evidence of one, or beside an open issue."""
    if "gpu" not in contract.sections.metadata.devices:
        return
    shown = evidence.read(contract.evidence)
    if history.numbers(contract.version)[0] < 2:
        yield problem(contract, "metadata.devices", f"gpu in {contract.version}: 1.x is the CPU's", "make it 2.0.0")
    if shown is None or "gpu" not in shown.kinds:
        remedy = f"run kparity contract check {files.shown(contract.path)} with one, or say [cpu]"
        yield problem(contract, "metadata.devices", "gpu, but the evidence is of none", remedy)
    for entry in contract.sections.known_issues:
        if entry.status == "open":
            yield problem(contract, "metadata.devices", f"gpu, but {entry.id} is open", "close it, or say [cpu]")


def status(contract: Contract) -> Iterator[Problem]:
    """Falsifiers that claim more than the evidence shows."""
    shown, remedy = evidence.shown(contract), f"run kparity contract check {files.shown(contract.path)}"
    for each in contract.sections.falsification_tests:
        if each.status != "discharged":
            continue
        where = f"falsification_tests.{each.id}.status"
        outcome = shown.outcome(Reference("falsification_tests", each.id, each.test))
        if outcome not in evidence.PASSED:
            why = "nothing shows that its test ran" if outcome == "none" else f"its test {outcome}"
            yield problem(contract, where, f"discharged, but {why}", f"{remedy}, or say functional or partial")
        if contract.draft:
            what = "discharged in a draft: the code that it judges is still to come"
            yield problem(contract, where, what, "say partial")


def version(contract: Contract) -> Iterator[Problem | str]:
    """The bump that the changes since the git version before ask for; a remark where there is none, and where the
    evidence is that of another version or of other code.
    """
    path, stale = files.shown(contract.path), evidence.shown(contract).stale
    old, commit = history.previous(contract.path, lambda text: parse(text, contract.path.name))
    if old is None:
        yield f"{path}: version rule skipped: {commit}"
    else:
        before, now = old["metadata"]["version"], history.numbers(contract.version)
        lower = now < history.numbers(before)
        if lower:
            what = f"{contract.version} is lower than {before} of {commit}"
            yield problem(contract, "metadata.version", what, f"make it at least {before}")
        for change in history.changes(old, contract.document) if not lower else ():
            least, under = history.least(before, change.level), f"under version {contract.version}"
            if now < history.numbers(least):
                what = f"{change.what} since {before} ({commit}), a {change.level} change, {under}"
                yield problem(contract, change.where, what, f"make the version at least {least}")
    if stale and contract.root() is not None:
        yield f"{path}: the evidence is {stale}; kparity contract check brings it up to date"


def thresholds(found: Findings) -> None:
    """Thresholds that code uses and no contract has, and those of contracts in force that no code uses."""
    owners: dict[tuple[Path, str], list[Contract]] = {}
    for contract in found.contracts:
        root, path = contract.root(), files.shown(contract.path)
        if root is None:
            continue
        names, limits = contract.sections.enforced_by, contract.sections.thresholds
        texts = files.sources(contract, root)
        missing = [name for name in names if name not in texts]
        for name in missing:
            what = f"{name} is no file in {root}"
            found.problems.append(problem(contract, "enforced_by", what, "name a file of the project"))
        for name in texts:
            owners.setdefault((root, name), []).append(contract)
        idle = [name for name in limits if not missing and not mentioned(name, texts.values())]
        if idle and contract.draft:
            why = f"draft: {len(idle)} of {len(limits)} thresholds have no code yet"
            found.notes.append(f"{path}: {why}: {', '.join(idle)}")
        for name in idle if not contract.draft else ():
            what = f"no code of {', '.join(names)} uses it"
            found.problems.append(problem(contract, f"thresholds.{name}", what, "enforce it or remove it"))
    homeless = ", ".join(contract.id for contract in found.contracts if contract.root() is None)
    if homeless:
        found.unchecked.append(f"code and tests of {homeless}: no project (pyproject.toml or .git) above them")
    for (root, name), contracts in owners.items():
        found.problems += _unknown(root / name, name, contracts)


def _unknown(path: Path, name: str, owners: Sequence[Contract]) -> Iterator[Problem]:
    """Names at the calls of one file that none of its contracts has."""
    try:
        uses = list(asked_for(path.read_text(encoding="utf-8")))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield problem(owners[0], "enforced_by", f"cannot be read as Python: {error}", "correct the file")
        return
    known = {limit for owner in owners for limit in owner.sections.thresholds}
    for line, limit in uses:
        if limit not in known:
            ids = " nor ".join(owner.id for owner in owners)
            what, remedy = f"{limit!r} is used here and not in {ids}", "add it to the contract or correct the name"
            yield Problem(name, f"line {line}", what, remedy)


def asked_for(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of the thresholds that a source asks for: at ``.threshold("…")``, ``.measure("…")`` and
    ``Measure.of(contract, "…")``, and at calls of its own functions that pass a parameter on to one of these.

    Raises SyntaxError. A name that comes out of a table or a variable is refused by ``Contract.threshold`` at run time.
    """
    tree = ast.parse(source)
    takers = {".threshold": {0}, ".measure": {0}, "Measure.of": {1}}  # what is called → where the name stands
    helpers = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    for helper in helpers:
        names = [argument.arg for argument in (*helper.args.posonlyargs, *helper.args.args)]
        passed = {each.id for each in _names_at(helper, takers) if isinstance(each, ast.Name) and each.id in names}
        bound = bool(names) and names[0] in ("self", "cls")
        if passed:
            takers[f".{helper.name}" if bound else helper.name] = {names.index(each) - bound for each in passed}
    for each in _names_at(tree, takers):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.lineno, each.value


def _names_at(tree: ast.AST, takers: Mapping[str, set[int]]) -> Iterator[ast.expr]:
    """The arguments of calls that stand where a taker has the name of a threshold."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = ast.unparse(call.func)
        places = takers.get(called) or takers.get(f".{called.rpartition('.')[2]}" if "." in called else "", set())
        yield from (argument for at, argument in enumerate(call.args) if at in places)


def references(found: Findings, run: bool | None, say: Callable[[str], object]) -> None:
    """Every test that a contract names is a pytest node that exists: one collection per project, where it may be."""
    by_root: dict[Path, list[Contract]] = {}
    for contract in found.contracts:
        root = contract.root()
        if root is not None:
            by_root.setdefault(root, []).append(contract)
    for root, contracts in by_root.items():
        wanted = [(contract, each) for contract in contracts for each in nodes.references(contract)]
        lost = [pair for pair in wanted if not files.inside(root, nodes.file_of(pair[1].node))]
        for contract, each in lost:
            found.problems.append(problem(contract, each.where, *_absent(root, each.node, (), {})))
        ids = ", ".join(contract.id for contract in contracts)
        if run is None and any(contract.path.resolve().parent != shipped.folder() for contract in contracts):
            why = f"asking pytest for them runs code of {root}: --run allows it, --no-run leaves it out"
            found.unchecked.append(f"tests of {ids}: {why}")
        elif run is False:
            found.notes.append(f"tests of {ids}: left out by --no-run")
        else:
            say(f"runs code of {root}: pytest collects the tests of {ids} (--no-run leaves it out)")
            _collected(found, root, [pair for pair in wanted if pair not in lost])


def _collected(found: Findings, root: Path, wanted: Sequence[tuple[Contract, Reference]]) -> None:
    """Nodes that pytest does not know."""
    try:
        with progress.task(f"pytest collects the tests of {root}"):
            ids, broken = nodes.collect(root, [each.node for _, each in wanted])
    except NoPytest as error:
        found.unchecked.append(f"tests of {root}: {error}")
        return
    for contract, each in wanted:
        if not nodes.named(each.node, ids):
            found.problems.append(problem(contract, each.where, *_absent(root, each.node, ids, broken)))
    _closed(found, root, {contract.id: contract for contract, _ in wanted})


def _closed(found: Findings, root: Path, contracts: Mapping[str, Contract]) -> None:
    """Closing tests that fail here although their issue is closed by them: evidence can be written by hand."""
    closed = [(contract, known.reference_of(entry)) for contract in contracts.values()
              for entry in contract.sections.known_issues if entry.closed_by == "a"]  # fmt: skip
    try:
        results = nodes.run(root, [each for _, each in closed], subprocess.DEVNULL)
    except NoPytest as error:
        found.unchecked.append(f"closing tests of {root}: {error}")
        return
    for (contract, each), result in zip(closed, results, strict=True):
        if result.outcome in ("skipped", "incomplete"):
            found.notes.append(
                f"{contract.id}: {each.where}: its closing test was {result.outcome} here: {result.said}"
            )
        elif result.outcome not in ("passed", "missing"):  # what is missing was told
            what = f"its closing test fails here ({result.outcome}: {result.said})"
            found.problems.append(problem(contract, each.where, what, "correct what it tests, or say open"))


def _absent(root: Path, node: str, ids: Sequence[str], broken: Mapping[str, str]) -> tuple[str, str]:
    """Why a test cannot be found, and what to do."""
    file, _, name = node.partition("::")
    if not files.inside(root, file):
        return f"{file} is no file in {root}", "correct the path, which starts at the project's root and stays inside"
    if file in broken:
        return f"{file} cannot be collected: {broken[file]}", "correct the file"
    tests = {each.partition("::")[2] for each in ids if each.startswith(f"{file}::")}
    near = UnknownName(f"test of {file}", name, tests | {each.partition("[")[0] for each in tests}).nearest
    return f"{file} has no test {name}", f"did you mean {near!r}?" if near else "write the test first"
