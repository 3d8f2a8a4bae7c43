"""Whether what is told is what it looks like: nothing hidden, no letters that pass for others."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import msgspec

from kparity.host.text import printable
from kparity.receipts.cutover import CutoverStatement
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.record import Statement

HARDWARE = re.compile(r"/predicate/(host|libraries|harness/version|.*/device)(/|$)")
"""Where the names of hardware and software stand: in ASCII or East Asian, but for signs such as ™."""
PROSE = re.compile(r"/(reason|what|doubt|needs|errors/\d+|request/(command|options/.*))(/\d+)?$")
"""Where sentences stand that quote compilers, drivers and people: of any letters, and of several lines."""
TURNS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that turn the direction of a line."""
UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters, marks and signs that show nothing, whatever their category says."""
EAST_ASIAN = ("CJK", "HANGUL", "HIRAGANA", "KATAKANA")
"""Scripts, by the first word of a character's name, of whose letters only TWINS look like those of ASCII."""
SCRIPTS = ("CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU")
"""Scripts of which no letter stands beside one of ASCII in a word."""
TWINS = frozenset("АВСЕНІЈКМОРЅТХУаеорсухіјѕһԁԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧονıҮӀՕօսー一丨丶〇ノニエロ口工卜ㅡㅣㅇㅏㅓ")
"""Letters that pass for one of ASCII, for a digit or for a line."""


def disguised(text: str, hardware: bool) -> str:
    """The first character of a name that passes for another; empty where there is none.

    No sign is an ASCII one in other clothes, no mark lies over a letter, dashes and slashes are those of ASCII; and in
    a word, a run of letters and digits, no twin of ASCII stands beside ASCII or alone.
    """
    for each in text:
        kind = unicodedata.category(each)
        if each.isascii() or kind == "So":
            continue
        if unicodedata.normalize("NFKC", each).isascii() or (hardware and not _script(each).startswith(EAST_ASIAN)):
            return each
        if _script(each) == "COMBINING" or kind == "Pd" or each in "−⁄∕∣":
            return each
    words: list[str] = re.findall(r"\w+", text)
    for word in words:
        twins = [each for each in word if each in TWINS or (each >= "ƀ" and _script(each) == "LATIN"
                                                            and not unicodedata.decomposition(each))]  # fmt: skip
        mixed = any(each.isascii() and each.isalpha() for each in word)
        beside = [each for each in word if mixed and _script(each) in SCRIPTS]
        if beside or (twins and all(each.isascii() or each in twins for each in word)):
            return (beside or twins)[0]
    return ""


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0].partition("-")[0]


def _strings(value: Any, at: str) -> Iterator[tuple[str, str]]:
    """Pointer and content of every text in a document, its keys among them."""
    if isinstance(value, str):
        yield at, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in pairs:
        if isinstance(key, str):
            yield at, key
        if not isinstance(each, (int, float)):
            yield from _strings(each, f"{at}/{key}")


def shown(statement: Statement | CutoverStatement) -> Findings:
    """No text holds a character that is not shown or turns the direction, no name one that passes for one of ASCII."""
    for at, text in _strings(msgspec.to_builtins(statement), ""):
        if text.isascii() and text.isprintable():
            continue
        prose, at_most = PROSE.search(at) is not None, printable(text)[:200]
        if TURNS.search(text) or not (prose or (printable(text) == text and not UNSEEN.search(text))):
            yield Finding("RCPT-NAME", at, f"{at_most} holds a character that is not shown")
        elif each := "" if prose else disguised(text, HARDWARE.match(at) is not None):
            what = unicodedata.name(each, f"U+{ord(each):04X}")
            yield Finding("RCPT-NAME", at, f"{at_most} holds {what}, which passes for another character")
