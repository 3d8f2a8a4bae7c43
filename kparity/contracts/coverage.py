"""The scoreboard of contracts: how far each falsifier, obligation and threshold is backed by code and evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from kparity.contracts import evidence, nodes
from kparity.contracts.files import ContractFile, mentioned


@dataclass(frozen=True)
class Score:
    """Counts of one contract, or of all of them."""

    id: str
    version: str
    status: str
    discharged: int = 0
    functional: int = 0
    partial: int = 0
    obligations: int = 0
    harnesses: int = 0
    thresholds: int = 0
    enforced: int = 0
    open_issues: int = 0
    tests: int = 0
    passed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def score(contract: ContractFile) -> Score:
    """The counts of one contract; ``passed`` of its ``tests`` have evidence of a pass."""
    document, shown, root = contract.document, evidence.read(contract.evidence), contract.root()
    statuses = [entry["status"] for entry in document["falsification_tests"]]
    limits = document.get("thresholds", {})
    sources = [root / name for name in document.get("enforced_by", [])] if root is not None else []
    texts = [path.read_text(encoding="utf-8") for path in sources if path.is_file()]
    wanted = nodes.references(contract)
    passed = [
        each for each in wanted if evidence.outcome_of(shown, contract.id, each.kind, each.id, each.node) == "passed"
    ]
    return Score(
        contract.id, contract.version, document["metadata"]["status"],
        statuses.count("discharged"), statuses.count("functional"), statuses.count("partial"),
        len(document["proof_obligations"]), len(document.get("harnesses", [])),
        len(limits), sum(mentioned(name, texts) for name in limits),
        sum(entry["status"] == "open" for entry in document.get("known_issues", [])), len(wanted), len(passed),
    )  # fmt: skip


def total(scores: Sequence[Score]) -> Score:
    """The sum of every column."""
    columns = [column.name for column in fields(Score)][3:]
    return Score("total", "", "", *(sum(getattr(each, name) for each in scores) for name in columns))


HEADER = (
    "contract", "version", "status", "discharged", "functional", "partial", "obligations", "harnesses",
    "thresholds enforced", "open issues", "tests passed",
)  # fmt: skip


def cells(each: Score) -> tuple[str, ...]:
    """One row of the table."""
    return (
        each.id, each.version, each.status, str(each.discharged), str(each.functional), str(each.partial),
        str(each.obligations), str(each.harnesses), f"{each.enforced} / {each.thresholds}", str(each.open_issues),
        f"{each.passed} / {each.tests}",
    )  # fmt: skip


def markdown(scores: Sequence[Score]) -> str:
    """The table as Markdown, with the totals in its last row."""
    rows = [HEADER, tuple("---" if at < 3 else "--:" for at in range(len(HEADER)))]
    rows += [cells(each) for each in (*scores, total(scores))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
