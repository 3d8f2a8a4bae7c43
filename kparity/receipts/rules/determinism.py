"""Whether the same input gave the same bits each time."""

from __future__ import annotations

from kparity.contracts import Contract
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.record import Predicate
from kparity.receipts.rules.device import enumerated


def repeated(predicate: Predicate, contract: Contract) -> Findings:
    """A run that passed was repeated, bit for bit, and not more often than anything ran."""
    for at, run in enumerated(predicate):
        seen = run.determinism if run.parity.verdict == "PASS" else None
        most = run.graph.replays.step + run.graph.replays.chunk if run.graph else 0
        if seen and not (seen.identical and contract.threshold("repeats").holds(seen.repeats) and seen.repeats <= most):
            why = f"{seen.repeats} repeats, identical: {seen.identical}"
            yield Finding("RCPT-DETERMINISM", f"{at}/determinism", why)
