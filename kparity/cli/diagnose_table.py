"""A diagnosis for people: the findings, best first, with what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kparity.cli.table import STYLES, Table, say

if TYPE_CHECKING:
    from kparity.diagnose.document import Document
    from kparity.ladder.record import Diagnosis


def print_diagnosis(found: Document) -> None:
    """Findings or repeats, and the verdict."""
    if found.repeats:
        table = Table("run", "of the same tokens")
        for each in found.repeats:
            table.add(each.run, each.text)
        table.print()
    if found.diagnosis:
        print_findings(found.diagnosis)
    if found.reason:
        say(f"failed: {found.reason}", hang=8)
    tried = found.diagnosis.tried if found.diagnosis and found.exit_code == 3 else ()
    if tried:
        say(f"nothing that is known fits; tried: {', '.join(tried)}", hang=2)
    say((found.verdict, STYLES[found.verdict]), f"; {found.seconds:.1f} s")


def print_findings(told: Diagnosis, most: int | None = None) -> None:
    """Each with its cause, evidence, next command and fix; ``most`` of them."""
    for each in told.findings[:most]:
        side = " (the reference)" if each.side == "reference" else ""
        say(f"{each.confidence:.0%} {each.pattern}: {each.cause}{side}", hang=4)
        for title, text in (("evidence", each.evidence), ("next", each.next), ("fix", each.fix)):
            say(f"{title}: {text}", indent=4, hang=6)
    for note in told.notes:
        say(f"note: {note}", hang=6)
