"""The scoreboard of contracts: how far each falsifier, obligation and threshold is backed by code and evidence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from kparity.contracts import Contract, evidence, files, nodes
from kparity.host.text import markdown_table

HEADER = (
    "contract", "version", "status", "discharged", "functional", "partial", "obligations", "harnesses",
    "thresholds enforced", "open issues", "tests passed",
)  # fmt: skip
FAMILY = re.compile(r"""\bf["'](\w{4,})\{""")
"""How an f-string begins that is the name of several thresholds: ``f"peer_ratio_{dtype}"``."""


@dataclass(frozen=True)
class Score:
    """Counts of one contract, or of all of them.

    ``stale`` of its ``tests`` passed for another version or other code (``note`` says which); ``enforced``, ``passed``
    and ``stale`` are None where there is no project to tell from.
    """

    id: str
    version: str
    status: str
    discharged: int = 0
    functional: int = 0
    partial: int = 0
    obligations: int = 0
    harnesses: int = 0
    thresholds: int = 0
    enforced: int | None = 0
    open_issues: int = 0
    tests: int = 0
    passed: int | None = 0
    stale: int | None = 0
    note: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """One row of the table."""
        counts = (self.discharged, self.functional, self.partial, self.obligations, self.harnesses)
        enforced = "unknown" if self.enforced is None else f"{self.enforced} / {self.thresholds}"
        passed = "unknown" if self.passed is None else f"{self.passed} / {self.tests}"
        passed += f", {self.stale} stale" if self.stale else ""
        return (self.id, self.version, self.status, *map(str, counts), enforced, str(self.open_issues), passed)


def score(contract: Contract) -> Score:
    """The counts of one contract; ``passed`` of its ``tests`` have evidence of a pass with the code that is here."""
    sections, shown, root = contract.sections, evidence.shown(contract), contract.root()
    statuses = [entry.status for entry in sections.falsification_tests]
    texts = files.sources(contract, root).values() if root is not None else ()
    outcomes = [shown.outcome(each) for each in nodes.references(contract)]
    known = root is not None
    return Score(
        contract.id, contract.version, sections.metadata.status,
        statuses.count("discharged"), statuses.count("functional"), statuses.count("partial"),
        len(sections.proof_obligations), len(sections.harnesses), len(sections.thresholds),
        sum(mentioned(name, texts) for name in sections.thresholds) if known else None,
        sum(entry.status == "open" for entry in sections.known_issues), len(outcomes),
        outcomes.count("passed") if known else None, outcomes.count("stale") if known else None,
        shown.stale if known else "",
    )  # fmt: skip


def mentioned(threshold: str, texts: Iterable[str]) -> bool:
    """Whether sources have the name of a threshold in quotes, as the table of gates has, or an f-string that begins
    like it.
    """
    return any(
        f'"{threshold}"' in text or f"'{threshold}'" in text or threshold.startswith(tuple(FAMILY.findall(text)))
        for text in texts
    )


def total(scores: Sequence[Score]) -> Score:
    """The sum of every column; None where one of its numbers is."""
    values: dict[str, Any] = {}
    for name in (column.name for column in fields(Score) if column.name not in ("id", "version", "status", "note")):
        counts = [getattr(each, name) for each in scores]
        values[name] = None if None in counts else sum(counts)
    return Score("total", "", "", **values)


def markdown(scores: Sequence[Score]) -> str:
    """The table as Markdown, with the totals in its last row."""
    return markdown_table(HEADER, [each.cells for each in (*scores, total(scores))], left=3)
