"""A document on the page: what it is, its verdict, what that means, and what the template and its script draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kparity.gates.verdict import Verdict
from kparity.ladder.record import Diagnosis

Kind = Literal["ladder", "trace", "plain"]


@dataclass(frozen=True)
class Section:
    """``meaning`` is two sentences, ``shown`` what the template of its kind draws, ``data`` what the script reads."""

    kind: Kind
    file: str
    title: str
    verdict: Verdict
    meaning: tuple[str, str]
    shown: Any
    data: Any = None


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """FAIL where one failed, PASS where every one passed."""
    return "FAIL" if "FAIL" in verdicts else "PASS" if {*verdicts} == {"PASS"} else "INCONCLUSIVE"


def of_exit(code: int) -> Verdict:
    """The verdict of a document that has an exit code alone."""
    return "PASS" if code == 0 else "FAIL" if code == 1 else "INCONCLUSIVE"


def explained(found: Diagnosis | None) -> str:
    """The best finding as a sentence without its point; empty where there is none."""
    best = next((each for each in found.findings if each.defect), None) if found else None
    return f"What fits best ({100 * best.confidence:.0f} %): {best.cause}; evidence: {best.evidence}" if best else ""


def few(names: Sequence[str], most: int = 4) -> str:
    """Some names in a sentence."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")
