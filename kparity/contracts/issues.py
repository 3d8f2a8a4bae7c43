"""The rules that a known issue must keep: it can match, a page warns of it, and it closes with proof only. And what a
contract cites is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from kparity.contracts import Contract, evidence, files, known
from kparity.contracts.files import Problem, problem
from kparity.contracts.form import KnownIssue
from kparity.errors import UnknownName, WrongInput
from kparity.host.files import read
from kparity.host.revision import git

Probed = Callable[[Path], Iterable[Mapping[str, Any]]]
"""Receipt → the devices in it that passed the probe; raises WrongInput for one that may not be believed."""
_CITED = re.compile(r"([\w./+-]+/[\w.+-]+\.[A-Za-z]\w*|[\w.+-]+\.(?:md|rst|py))(?:#([\w-]+))?(?:::([\w.:\[\]-]+))?")
"""A file of a project, its anchor, and a test in it."""
_COMMIT = re.compile(r"\bcommit ([0-9a-f]{7,40})\b")
_HEADING = re.compile(r"^#+ +(.*?)[ #]*$", re.MULTILINE)


def rules(contract: Contract, backends: Collection[str], probed: Probed | None) -> Iterator[Problem]:
    """What is wrong with the known issues of a contract: one that can never match refuses nothing."""
    shown = evidence.shown(contract)
    for entry in contract.sections.known_issues:
        at = f"known_issues.{entry.id}"
        try:
            known.Issue.of(contract, entry)
        except WrongInput as error:
            yield problem(contract, f"{at}.match", str(error), "correct it")
            continue
        if backends and entry.backend not in backends and entry.closed_by != "b":
            what = str(UnknownName("backend", entry.backend, backends))
            yield problem(contract, f"{at}.backend", what, "an issue of no backend refuses nothing")
        if entry.closed_by and entry.closed_by not in entry.closure:
            what = f"closed by {entry.closed_by}, which the closure does not name"
            yield problem(contract, f"{at}.closed_by", what, "name what closed it under closure")
        lacking = known.unproven(entry, shown, backends) or _no_newer(contract, entry, probed)
        if lacking:
            remedy = f"show it (kparity contract check {files.shown(contract.path)}; proof), or say open"
            yield problem(contract, f"{at}.closed_by", f"closed by {entry.closed_by}, but {lacking}", remedy)
        root = contract.root()
        if root is not None and entry.closed_by not in ("a", "b") and not _warns(root, entry):
            what = f"no page that the reference names has {entry.id}"
            yield problem(contract, f"{at}.reference", what, "warn of it in a page (*.md), and name that here")


def _no_newer(contract: Contract, entry: KnownIssue, probed: Probed | None) -> str:
    """Why no newer driver of such a device is known to be right; empty where one is, or where nothing says so."""
    root = contract.root()
    if entry.closed_by != "c" or root is None or probed is None:
        return ""
    path = files.inside(root, entry.proof) if entry.proof else None
    if path is None:
        return "its proof, the receipt of a probe with a newer driver, is not there"
    try:
        passed = list(probed(path))
    except WrongInput as error:
        return f"its proof is refused: {error}"
    issue = known.Issue.of(contract, entry)
    alike = replace(issue, match=replace(issue.match, driver=""))
    if not any(alike.matches(info) and not issue.matches(info) for info in passed):
        return f"in {entry.proof} no such device passed with a driver that the issue does not match"
    return ""


def _warns(root: Path, entry: KnownIssue) -> bool:
    """Whether a page that an issue names has its id."""
    pages = [files.inside(root, name) for name, _, _ in _citations(entry.reference) if name.endswith(".md")]
    return any(re.search(rf"\b{entry.id}\b(?!-)", _text(page)) for page in pages if page)


def _text(path: Path) -> str:
    return read(path).decode(errors="replace")


def cited(contract: Contract) -> Iterator[Problem]:
    """Pages, anchors, files, tests and commits under ``references`` and ``reference`` that are not there."""
    root, sections = contract.root(), contract.sections
    if root is None:
        return
    texts = [(f"metadata.references.{at}", each) for at, each in enumerate(sections.metadata.references)]
    texts += [(f"known_issues.{each.id}.reference", each.reference) for each in sections.known_issues]
    for where, text in texts:
        for what in _absent(root, text):
            yield problem(contract, where, f"{what} is not there", "correct it, or cite what is there")


def _citations(text: str) -> Iterator[tuple[str, str, str]]:
    """File, anchor and test, each time that a text names one; an address (``https://…``) is of somewhere else."""
    for word in re.split(r"[\s,;()\"'`]+", text):
        if found := _CITED.fullmatch(word.rstrip(".:")):
            yield found[1], found[2] or "", found[3] or ""


def _absent(root: Path, text: str) -> Iterator[str]:
    """What a text cites of the project and is not there."""
    for commit in _COMMIT.findall(text) if git(root, "rev-parse", "--git-dir") else ():
        if git(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
            yield f"commit {commit}"
    for name, anchor, test in _citations(text):
        path = files.inside(root, name)
        if path is None:
            yield name
        elif anchor and path.suffix == ".md" and anchor not in map(_slug, _HEADING.findall(_text(path))):
            yield f"{name}#{anchor}"
        elif test and not re.search(
            rf"\b(?:def|class) {re.escape(test.partition('[')[0].rpartition('::')[2])}\b", _text(path)
        ):
            yield f"{name}::{test}"


def _slug(heading: str) -> str:
    """The anchor that a heading of Markdown has."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
