"""The page: the verdict of everything in a folder on top, then a section for each document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from kparity import __version__
from kparity.bisect.record import Bisection
from kparity.check.document import Document as Check
from kparity.diagnose.document import Document as Diagnosis
from kparity.gates.verdict import Verdict
from kparity.host.html import render
from kparity.host.text import number
from kparity.ladder.record import Document as Ladder
from kparity.probe.document import Document as Probe
from kparity.report import ladder, others
from kparity.report.documents import Folder
from kparity.report.section import Section, together
from kparity.traces.diff import TraceDiff

SECTIONS: dict[type, Callable[[str, Any], Section]] = {
    Ladder: ladder.section,
    Diagnosis: others.diagnosis,
    Bisection: others.bisection,
    TraceDiff: others.traces,
    Probe: others.probe,
    Check: others.check,
}
"""Record → what makes its section."""


def sections(found: Folder) -> list[Section]:
    """The documents in the order of the page, receipts last."""
    made = [SECTIONS[type(record)](file, record) for file, record in found.documents.items()]
    return made + ([others.receipts(found.receipts)] if found.receipts else [])


def html(found: Folder) -> str:
    """The page; raises WrongInput where Jinja2 is missing. What cannot be read could be a failure: with it nothing
    passes.
    """
    every = sections(found)
    lost: list[Verdict] = ["INCONCLUSIVE"] if found.unreadable else []
    verdict = together([*(each.verdict for each in every), *lost])
    first = next((each for each in every if each.verdict == verdict), every[0])
    data = msgspec.json.encode({f"d{at}": each.data for at, each in enumerate(every) if each.data}).decode()
    for character in "<>&":  # inside of a script element nothing is an entity
        data = data.replace(character, f"\\u{ord(character):04x}")
    return render(
        __package__ or "", sections=every, verdict=verdict, first=first, unreadable=found.unreadable, data=data,
        number=number, version=__version__,
    )  # fmt: skip
