"""How far a contract's version must move: what changed since the version before it in git."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kparity.contracts.form import CPU_ONLY
from kparity.errors import WrongInput
from kparity.host.revision import commit, git

LEVELS = ("none", "patch", "minor", "major")

Document = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One difference between two versions of a contract, and the least bump that it asks for."""

    where: str
    what: str
    level: str


MEANING: dict[str, dict[str, tuple[str, ...]]] = {
    "thresholds": {"major": ("value", "rule")},
    "equations": {"major": ("formula", "domain", "codomain"), "minor": ("invariants",)},
    "preconditions": {"major": ("of", "requires", "if_violated")},
    "falsification_tests": {"major": ("rule", "prediction"), "none": ("status", "evidence")},
    "proof_obligations": {"major": ("formal", "tolerance")},
    "harnesses": {"major": ("obligation",), "minor": ("bound", "strategy")},
    "known_issues": {
        "major": ("backend", "match"), "minor": ("closure", "closing_test", "status", "closed_by"),
    },
    "required_fields": {"minor": ("status",)},
}  # fmt: skip
"""Section → level → the fields in which a change asks for it: another promise is major, as is the removal of an entry;
work added or shifted without breaking a promise minor; code that catches up with the contract none. Every other change
of wording is a patch.
"""


def changes(old: Document, new: Document) -> list[Change]:
    """Every difference that asks for a bump, in the order of the document."""
    found = [change for section in MEANING for change in _section(section, old, new)]
    if old.get("log") != new.get("log"):
        found.append(Change("log", "the shape of the log lines changed", "major"))
    rest = {*old, *new} - {*MEANING, "log", "metadata"}
    found += [Change(key, "changed", "patch") for key in sorted(rest) if old.get(key) != new.get(key)]
    before, after = old.get("metadata", {}), new.get("metadata", {})
    if {*before.get("devices", CPU_ONLY)} != {*after.get("devices", CPU_ONLY)}:
        found.append(Change("metadata.devices", "changed", "major"))
    loose = [key for key in ("summary", "references", "status", "scope") if before.get(key) != after.get(key)]
    return [*found, *(Change(f"metadata.{key}", "changed", "patch") for key in loose)]


def _entries(document: Document, section: str) -> dict[str, Document]:
    """The entries of a section by name, whether it is a table or a list of entries with ids."""
    entries = document.get(section) or {}
    pairs = [(entry["id"], entry) for entry in entries] if isinstance(entries, list) else list(entries.items())
    return {name: entry for name, entry in pairs if isinstance(entry, dict)}


def _section(section: str, old: Document, new: Document) -> Iterator[Change]:
    before, after = _entries(old, section), _entries(new, section)
    yield from (Change(f"{section}.{name}", "removed", "major") for name in before.keys() - after.keys())
    yield from (Change(f"{section}.{name}", "added", "minor") for name in after.keys() - before.keys())
    for name in before.keys() & after.keys():
        for key in sorted({*before[name], *after[name]}):
            level = next((level for level, keys in MEANING[section].items() if key in keys), "patch")
            if level != "none" and before[name].get(key) != after[name].get(key):
                yield Change(f"{section}.{name}.{key}", "changed", level)


def numbers(version: str) -> tuple[int, int, int]:
    """``1.2.0`` as numbers."""
    major, minor, patch = (int(part) for part in version.split("."))
    return major, minor, patch


def least(version: str, level: str) -> str:
    """The least version after ``version`` that a bump of this level makes."""
    major, minor, patch = numbers(version)
    return {
        "none": version,
        "patch": f"{major}.{minor}.{patch + 1}",
        "minor": f"{major}.{minor + 1}.0",
        "major": f"{major + 1}.0.0",
    }[level]


def previous(path: Path, parse: Callable[[str], Any]) -> tuple[Document | None, str]:
    """The document of the git version before this one, with its commit; None with the reason where there is none.

    Before a changed working copy stands HEAD; before an unchanged one, the last commit in which the content differed.
    """
    folder, text = path.resolve().parent, path.read_text(encoding="utf-8")
    if git(folder, "rev-parse", "--show-toplevel") is None:
        return None, "not in a git repository"
    commits = (git(folder, "log", "--format=%H", "--", path.name) or "").split()
    for each in ["HEAD", *commits]:
        before = git(folder, "show", f"{each}:./{path.name}")
        if before is not None and before != text:
            try:
                document = parse(before)
                numbers(document["metadata"]["version"])
            except (WrongInput, KeyError, TypeError, ValueError, AttributeError):
                return None, f"the version of commit {each[:12]} cannot be read"
            return document, each[:12]
    return None, "git has no other version"


def commit_of(folder: Path) -> str:
    """The commit that is checked out, with ``+`` where tracked files differ from it; empty outside of git."""
    head = commit(folder)
    if head is None:
        return ""
    return head + ("+" if (git(folder, "status", "--porcelain", "-uno") or "").strip() else "")
