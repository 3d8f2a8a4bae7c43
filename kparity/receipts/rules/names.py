"""Whether names are what they look like: nothing hidden, no letters that pass for others."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from kparity.host.text import printable
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.record import Statement

HARDWARE = ("device", "api", "driver", "library", "uuid", "detail")
EAST_ASIAN = ("CJK", "HANGUL", "HIRAGANA", "KATAKANA")
"""Scripts, by the first word of a character's name, none of whose letters looks like one of ASCII."""
TWINS = ("CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU")
"""Scripts with letters that look like those of ASCII."""


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0].partition("-")[0]


def disguised(text: str, hardware: bool) -> str:
    """The first character of a name that passes for another; empty where there is none. The names of ``hardware`` are
    ASCII or East Asian, but for signs such as ™; those of files may be of any script, but a word of one only.
    """
    for word in text.split(" "):
        ascii_letters = any(each.isascii() and each.isalpha() for each in word)
        for each in word:
            if each.isascii() or unicodedata.category(each) == "So":
                continue
            if unicodedata.normalize("NFKC", each).isascii():
                return each
            if hardware and not _script(each).startswith(EAST_ASIAN):
                return each
            if ascii_letters and _script(each) in TWINS:
                return each
    return ""


def _names(statement: Statement) -> Iterator[tuple[str, str, bool]]:
    """Pointer, name, and whether it is one of hardware or software."""
    predicate = statement.predicate
    host = predicate.host
    yield from ((f"/subject/{at}/name", each.name, False) for at, each in enumerate(statement.subject))
    for name in ("system", "machine", "cpu", "python"):
        yield f"/predicate/host/{name}", getattr(host, name), True
    yield from ((f"/predicate/libraries/{name}", f"{name} {version}", True)
                for name, version in predicate.libraries.items())  # fmt: skip
    yield "/predicate/harness/version", predicate.harness.version, True
    yield "/predicate/nonce", predicate.nonce, False
    devices = [(f"/predicate/runs/{at}/device", run.device) for at, run in enumerate(predicate.runs)]
    devices += [(f"/predicate/ops/{at}/device", row.device) for at, row in enumerate(predicate.ops) if row.device]
    for at, device in devices:
        yield from ((f"{at}/{name}", getattr(device, name), True) for name in HARDWARE)
    for number, owner in enumerate(predicate.baselines):
        yield f"/predicate/baselines/{number}/name", owner.name, False
        yield f"/predicate/baselines/{number}/version", owner.version, False
    yield from ((f"{at}/name", row.name, False) for at, row, _ in predicate.rows())


def shown(statement: Statement) -> Findings:
    """No name holds a character that is not shown, that turns the direction, or that passes for one of ASCII."""
    for at, name, hardware in _names(statement):
        if printable(name) != name:
            yield Finding("RCPT-NAME", at, f"{printable(name)[:200]} holds a character that is not shown")
        elif each := disguised(name, hardware):
            what = unicodedata.name(each, f"U+{ord(each):04X}")
            yield Finding("RCPT-NAME", at, f"{name[:200]} holds {what}, which passes for another character")
