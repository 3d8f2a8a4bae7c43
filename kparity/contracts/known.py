"""Known issues: devices that a contract knows as bad, refused until the closing test has passed on this host."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
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
_CLAUSE = re.compile(r"\s*(<=|>=|==|!=|<|>)\s*(\d+(?:\.\d+)*)\s*")
_NUMBER = re.compile(r"\d+(?:\.\d+)+|\d+")
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

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(msgspec.to_builtins(self))


def fits(pattern: str, text: str, key: str) -> bool:
    """Whether a pattern fits what a device says of itself; raises WrongInput for one that cannot be read.

    A driver that shows no version fits every comparison: nothing says that it is a good one.
    """
    if key != "driver" or not pattern.lstrip().startswith(("<", ">", "=", "!")):
        try:
            return re.search(pattern, text, flags=re.IGNORECASE) is not None
        except re.error as error:
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


def issues_of(contract: Contract) -> list[Issue]:
    """The issues of a contract that refuse on this host now."""
    entries = contract.sections.known_issues
    shown = evidence.read(contract.evidence) if entries else None
    issues = [Issue.of(contract, entry, _state(contract, entry, shown)) for entry in entries]
    return [issue for issue in issues if issue.state]


def _state(contract: Contract, entry: KnownIssue, shown: evidence.Evidence | None) -> str:
    """Why an issue still refuses; empty where it does not."""
    if entry.status == "closed":
        return "documented as unsupported" if entry.closed_by == "c" else ""
    again, test = "kparity contract check", Reference("known_issues", entry.id, entry.closing_test)
    outcome = evidence.outcome_of(shown, contract.id, test)
    if shown is None or outcome == "none":
        return f"open; its closing test has not run: {again}"
    if outcome != "passed":
        return f"open; its closing test {outcome}"
    if shown.contract.version != contract.version:
        return f"open; its closing test passed for version {shown.contract.version} only: {again}"
    if shown.devices_sha256 != fingerprint.host():
        return f"open; its closing test passed with other devices or drivers: {again}"
    return ""


def load_issues(places: Sequence[str | Path], backends: Iterable[str]) -> tuple[Issue, ...]:
    """Every issue that refuses on this host: of the shipped contracts, and of the files and folders given.

    Raises WrongInput for a contract in bad form, UnknownName for an issue about a backend that does not exist.
    """
    theirs = files.read_all([path for place in places for path in files.in_folder(Path(place))])
    # Shipped contracts without known issues are not parsed: a probe has no time for them.
    paths = [path for path in files.in_folder(contracts.folder()) if "\nknown_issues:" in path.read_text("utf-8")]
    shipped = [contracts.load(path.stem) for path in paths]
    names, issues = list(backends), []
    for contract in (*shipped, *theirs):
        for issue in issues_of(contract):
            if issue.backend not in names:
                raise UnknownName(f"backend of known issue {issue.id} in {contract.path}", issue.backend, names)
            issues.append(issue)
    return tuple(dict.fromkeys(issues))
