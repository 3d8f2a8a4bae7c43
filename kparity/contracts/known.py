"""Known issues: devices that a contract knows as bad, refused until the closing test has passed on this host."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from kparity import contracts
from kparity.contracts import Contract, evidence, files
from kparity.contracts.form import KnownIssue, Match
from kparity.contracts.nodes import Reference
from kparity.device import fingerprint
from kparity.errors import UnknownName, WrongInput

COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_DOTTED = r"\d{1,18}(?:\.\d{1,18})"
_CLAUSE = re.compile(rf"\s*(<=|>=|==|!=|<|>)\s*({_DOTTED}*)\s*")
_NUMBER = re.compile(rf"{_DOTTED}+|\d{{1,18}}")
_OTHERS = re.compile(r"\b(?:CUDA|HIP|ROCm|OpenCL|LLVM)\s+[\d.]+")
"""Versions in a driver's description that are not the driver's own (``CUDA 13.0, release 580.65``)."""


class Issue(Struct, frozen=True):
    """A known issue that is not closed, and the devices that it is about: every pattern given must fit.

    ``device`` and ``api`` are regular expressions, found anywhere, whatever the case; ``driver`` is either comparisons
    of versions (``>= 550, < 560.35``) or a regular expression too. No pattern fits every device of the backend.
    """

    id: str
    contract: str
    version: str
    backend: str
    symptom: str
    closing_test: str
    state: str
    match: Match

    @classmethod
    def of(cls, contract: Contract, entry: KnownIssue, state: str = "") -> Issue:
        """An entry of ``known_issues``; raises WrongInput for a pattern that cannot be read."""
        for key, pattern in asdict(entry.match).items():
            fits(pattern, "", key)
        symptom, test = " ".join(entry.symptom.split()), entry.closing_test
        return cls(entry.id, contract.id, contract.version, entry.backend, symptom, test, state, entry.match)

    def matches(self, info: Mapping[str, Any]) -> bool:
        """Whether a device (``DeviceInfo.as_dict()``) is one of those that the issue is about."""
        patterns = asdict(self.match).items()
        return self.backend == info["backend"] and all(fits(pattern, str(info[key]), key) for key, pattern in patterns)

    @property
    def reason(self) -> str:
        """What the rejection says."""
        return f"{self.id} of {self.contract} {self.version}: {self.symptom} ({self.state})"


def fits(pattern: str, text: str, key: str) -> bool:
    """Whether a pattern fits what a device says of itself; raises WrongInput for one that cannot be read.

    A driver that shows no version fits every comparison: nothing says that it is a good one.
    """
    if key != "driver" or not pattern.lstrip().startswith(("<", ">", "=", "!")):
        try:
            return re.search(pattern, text, flags=re.IGNORECASE) is not None
        except (re.error, RecursionError, OverflowError) as error:
            raise WrongInput(f"{key}: {pattern!r} is not a regular expression: {error}") from error
    number, good = _NUMBER.search(_OTHERS.sub("", text)), True
    for part in pattern.split(","):
        clause = _CLAUSE.fullmatch(part)
        if clause is None:
            raise WrongInput(f"driver: {part.strip()!r} is no comparison such as '<= 550.1'")
        good &= number is None or COMPARISONS[clause[1]](_version(number[0]), _version(clause[2]))
    return good


def _version(text: str) -> tuple[int, ...]:
    """Numbers of a version without zeros at its end: 550 and 550.0 are the same."""
    return tuple(map(int, re.sub(r"(\.0+)+$", "", text).split(".")))


def issues_of(contract: Contract, backends: Collection[str]) -> list[Issue]:
    """The issues of a contract that refuse on this host now, where these are the backends that there are."""
    entries = contract.sections.known_issues
    shown = evidence.shown(contract) if entries else evidence.Shown(contract, None)
    issues = [Issue.of(contract, entry, _state(entry, shown, backends)) for entry in entries]
    return [issue for issue in issues if issue.state]


def reference_of(entry: KnownIssue) -> Reference:
    """The closing test of an issue."""
    return Reference("known_issues", entry.id, entry.closing_test)


def unproven(entry: KnownIssue, shown: evidence.Shown, backends: Collection[str]) -> str:
    """Why an issue is not closed in the way that it says; empty where it is."""
    outcome = shown.outcome(reference_of(entry))
    if entry.closed_by == "a" and outcome not in ("passed", "unknown"):
        return "nothing shows that its closing test ran" if outcome == "none" else f"its closing test {outcome}"
    if entry.closed_by == "b" and entry.backend in backends:
        return f"the backend {entry.backend} is still there"
    return ""


def _state(entry: KnownIssue, shown: evidence.Shown, backends: Collection[str]) -> str:
    """Why an issue still refuses; empty where it does not."""
    if entry.status == "closed":
        lacking = unproven(entry, shown, backends)
        if lacking:
            return f"closed by {entry.closed_by}, but {lacking}"
        return "right with a newer driver" if entry.closed_by == "c" else ""
    again, outcome = "kparity contract check", shown.outcome(reference_of(entry))
    if shown.evidence is None or outcome == "none":
        return f"open; its closing test has not run: {again}"
    if outcome == "stale":
        return f"open; its closing test passed, {shown.stale}: {again}"
    if outcome == "unknown":
        return "open; an installed package has no tests that could close it"
    if outcome != "passed":
        return f"open; its closing test {outcome}"
    if shown.evidence.devices_sha256 != fingerprint.host():
        return f"open; its closing test passed with other devices or drivers: {again}"
    return ""


def load_issues(places: Sequence[str | Path], backends: Iterable[str]) -> tuple[Issue, ...]:
    """Every issue that refuses on this host: of the shipped contracts, those of other packages, and of the
    files and folders given.

    Raises WrongInput for a contract in bad form, UnknownName for an issue about a backend that does not exist.
    """
    theirs = files.read_all([path for place in (*files.installed(), *places) for path in files.in_folder(Path(place))])
    # Shipped contracts without known issues, or an empty list, are not parsed: a probe has no time for them.
    paths = [path for path in files.in_folder(contracts.folder()) if "\nknown_issues:\n" in path.read_text("utf-8")]
    shipped = [contracts.load(path.stem) for path in paths]
    names, issues = list(backends), []
    for contract in (*shipped, *theirs):
        for issue in issues_of(contract, names):
            if issue.backend not in names:
                raise UnknownName(f"backend of known issue {issue.id} in {contract.path}", issue.backend, names)
            issues.append(issue)
    return tuple(dict.fromkeys(issues))
