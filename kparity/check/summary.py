"""The denominators of a sweep, and the exit code that follows from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kparity.check.record import FAIL, OUTCOMES, PASS, SKIPPED, Record


@dataclass
class Tally:
    """Counts of one op on one backend, or of a whole backend."""

    backend: str
    op: str = ""
    cases: set[str] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)
    runs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    """Outcome → kinds of input of cases. The four add up to all that was planned."""
    utilisation: float = 0.0
    """The largest; infinite where an error has no limit, NaN where nothing was measured."""
    peer_ratio: float = 0.0
    elapsed_ms: float = 0.0
    measured: int = 0
    """Outputs that were compared."""

    @property
    def total(self) -> int:
        """Runs that were planned."""
        return sum(self.runs.values())

    def add(self, record: Record) -> None:
        """Count one record."""
        self.cases.add(record.case)
        if record.kind:
            self.kinds.add(record.kind)
        self.runs[record.outcome] += record.runs
        self.elapsed_ms += record.elapsed_ms
        self.measured += len(record.outputs)
        for output in record.outputs:
            used = math.inf if math.isnan(output.utilisation) else output.utilisation
            self.utilisation = max(self.utilisation, used)
            self.peer_ratio = max(self.peer_ratio, output.peer_ratio or 0.0)


@dataclass
class Summary:
    """Tallies per backend and op and per backend, in the order in which they came."""

    by_op: dict[tuple[str, str], Tally] = field(default_factory=dict)
    by_backend: dict[str, Tally] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Summary:
        """Count records."""
        found = cls()
        for record in records:
            found.add(record)
        return found

    def add(self, record: Record) -> None:
        """Count one record."""
        self.by_op.setdefault((record.backend, record.op), Tally(record.backend, record.op)).add(record)
        self.by_backend.setdefault(record.backend, Tally(record.backend)).add(record)

    def count(self, outcome: str) -> int:
        """Runs with an outcome, over all backends."""
        return sum(tally.runs[outcome] for tally in self.by_backend.values())

    def exit_code(self, wanted: Sequence[str]) -> int:
        """1 where anything failed; else 3 where a run was skipped or one of the wanted backends passed nothing; else 0.

        UNSUPPORTED alone is no failure, but a backend that supports nothing of what was asked has shown nothing.
        """
        if self.count(FAIL):
            return 1
        passed = all(name in self.by_backend and self.by_backend[name].runs[PASS] for name in wanted)
        return 0 if wanted and passed and not self.count(SKIPPED) else 3
