"""A receipt of a cutover as typed records: the gates' table, and what it was counted from; the source of its JSON
Schema (``kparity schema cutover-receipt``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from kparity.contracts import Threshold
from kparity.receipts.record import Count, Head, Record, Sha256, Subject, Text

Kind = Literal["https://kparity.dev/cutover/v1"]
PREDICATE: Kind = "https://kparity.dev/cutover/v1"
GATES = (
    "exact_rate", "kind_exact_rate", "rounds", "distinct_prompts", "v2_unreachable", "p95_gap_ms", "latency_ratio",
    "no_match_per_hour", "falling_trend", "ppl_delta", "parity_receipts", "halts",
)  # fmt: skip
"""Thresholds of the contract, each of which is a gate."""
State = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Word = Literal["ALLOWED", "BLOCKED", "WAITING"]
WORDS: dict[State, Word] = {"PASS": "ALLOWED", "FAIL": "BLOCKED", "INCONCLUSIVE": "WAITING"}


class Gate(Struct, forbid_unknown_fields=True):
    """A threshold of the contract, what is there (with its interval, where it has one), and what is still needed."""

    name: str
    target: str
    current: float | None
    state: State
    low: float | None = None
    high: float | None = None
    needs: str = ""


def target(limit: Threshold) -> str:
    """A threshold as a gate shows it."""
    return f"{limit.sign} {limit.value:g}"


def verdict_of(gates: Iterable[Gate]) -> State:
    """The worst of them: nothing is green that is not there yet."""
    found = {gate.state for gate in gates}
    return "FAIL" if "FAIL" in found else "INCONCLUSIVE" if "INCONCLUSIVE" in found else "PASS"


class Evidence(Record):
    """A file that gates were counted from. Of a log, which goes on growing, ``sha256`` is that of its first ``lines``,
    the rounds that were counted (``head -n LINES LOG | sha256sum``); of another it is the whole file's.
    """

    kind: Literal["log", "ppl", "receipt"]
    name: Text
    sha256: Sha256
    lines: Count = 0


class Cutover(Head):
    """What was decided, and from which files; ``since``: of rounds since then alone."""

    since: str
    decision: Word
    gates: list[Gate]
    evidence: Annotated[list[Evidence], Meta(min_length=1)]
    sha256: Sha256

    def subjects(self) -> list[tuple[str, str]]:
        """Name and SHA-256 of every file."""
        return [(each.name, each.sha256) for each in self.evidence]

    def gaps(self) -> Iterator[tuple[str, str]]:
        """Place and name of what such a receipt must have."""
        kinds = [each.kind for each in self.evidence]
        if kinds.count("log") != 1 or kinds.count("ppl") > 1:
            yield "/evidence", "it is of one log, and of one perplexity at most"


class CutoverStatement(Record):
    """An in-toto Statement v1 of a cutover."""

    type: Literal["https://in-toto.io/Statement/v1"] = field(name="_type")
    subject: Annotated[list[Subject], Meta(min_length=1)]
    type_of_predicate: Kind = field(name="predicateType")
    predicate: Cutover


def is_cutover(document: dict[str, Any]) -> bool:
    """Whether a statement calls itself one of a cutover."""
    return document.get("predicateType") == PREDICATE
