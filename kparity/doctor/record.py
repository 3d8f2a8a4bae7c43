"""What the doctor says of a file: a verdict and its evidence for each item, and what would correct it."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["ok", "wrong", "doubtful", "not applicable"]
Plain = str | int | float | bool | None


class Change(msgspec.Struct, frozen=True):
    """A key that a corrected copy has otherwise: ``value`` is what it becomes, or its new name; ``once`` where it
    stands there again.
    """

    action: Literal["set", "rename", "drop", "once"]
    key: str
    value: Plain = None


class Finding(msgspec.Struct, frozen=True):
    """One item: ``evidence`` is a sentence with what was seen, ``fix`` what a copy would have otherwise."""

    item: str
    verdict: Verdict
    evidence: str
    fix: tuple[Change, ...] = ()


class Report(msgspec.Struct, frozen=True):
    """All items of a file; ``written`` is the corrected copy, empty where there is none."""

    path: str
    bytes: int
    sha256: str
    findings: tuple[Finding, ...]
    written: str = ""
    schema: str = "kparity-doctor-v1"

    @property
    def wrong(self) -> list[str]:
        """Items that are wrong."""
        return [each.item for each in self.findings if each.verdict == "wrong"]

    @property
    def fixes(self) -> list[Change]:
        """Every change, each key once."""
        found = {(each.action, each.key): each for finding in self.findings for each in finding.fix}
        return list(found.values())

    @property
    def exit_code(self) -> int:
        """1 where an item is wrong, else 0."""
        return int(bool(self.wrong))
