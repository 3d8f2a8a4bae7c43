"""YAML as contracts may have it: tables, lists, text, numbers as JSON has them, true, false and null, and no more.

A file may come from anybody, so its size, depth and every number are bounded, and nothing in it means two things:
what YAML 1.1 takes for base 60, octal, a date or a truth (``1:30``, ``010``, ``2026-01-01``, ``on``) is text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from kparity.errors import WrongInput
from kparity.host.text import printable

DEPTH, ENTRIES, NODES, CHARACTERS = 16, 1000, 20_000, 10_000
"""Most levels of a document, entries of one table or list, values in all, and characters of one of them."""
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_ENDLESS = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    form: word == "true" for word in ("true", "false") for form in (word, word.title(), word.upper())
}


def parse(text: str, name: str, what: str = "contract") -> Any:
    """The one document of a text; raises WrongInput, with ``name`` and the line, for what cannot be read or must not
    be there: a key twice, an anchor or an alias (which could expand without end), a tag, a number that is not finite,
    is lost in rounding or has more than 64 bits, a character that is not shown, and more than the most of anything.
    """
    import yaml  # costs 15 ms; `import kparity` must not pay it

    try:
        return _Reader(yaml, yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))).document()
    except (yaml.YAMLError, RecursionError) as error:
        why = str(getattr(error, "problem", None) or error).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise WrongInput(f"{name}{line}: not a {what} that can be read: {why}; correct the YAML") from error


class _Reader:
    """Makes plain values of the events of a parser, which expand nothing."""

    def __init__(self, yaml: Any, events: Iterator[Any]) -> None:
        self.yaml, self.events, self.nodes = yaml, events, 0

    def document(self) -> Any:
        """The value of the stream; None where it is empty."""
        next(self.events)
        if isinstance(next(self.events), self.yaml.StreamEndEvent):
            return None
        whole = self.value(next(self.events), 0)
        next(self.events)
        if not isinstance(after := next(self.events), self.yaml.StreamEndEvent):
            self.refuse("a second document", after)
        return whole

    def refuse(self, what: str, event: Any) -> None:
        """Raise the error of the parser at an event."""
        raise self.yaml.MarkedYAMLError(problem=what, problem_mark=event.start_mark)

    def value(self, event: Any, depth: int) -> Any:
        """What begins with an event, to its end."""
        self.nodes += 1
        self.plain(event)
        if depth > DEPTH or self.nodes > NODES:
            self.refuse(f"more than {DEPTH} levels" if depth > DEPTH else f"more than {NODES} values", event)
        if isinstance(event, self.yaml.ScalarEvent):
            return self.scalar(event)
        whole: Any = {} if isinstance(event, self.yaml.MappingStartEvent) else []
        ends = (self.yaml.MappingEndEvent, self.yaml.SequenceEndEvent)
        while not isinstance(each := next(self.events), ends):
            if len(whole) == ENTRIES:
                self.refuse(f"more than {ENTRIES} entries", each)
            if isinstance(whole, list):
                whole.append(self.value(each, depth + 1))
            else:
                key = self.key(each)
                if key in whole:
                    self.refuse(f"{key!r} twice", each)
                whole[key] = self.value(next(self.events), depth + 1)
        return whole

    def plain(self, event: Any) -> None:
        """Refuse what refers to another place of the document, or has a type of its own."""
        if event.anchor:
            self.refuse(f"an {'alias' if isinstance(event, self.yaml.AliasEvent) else 'anchor'}", event)
        if event.tag:
            self.refuse(f"the tag {event.tag[:40]}", event)

    def key(self, event: Any) -> str:
        """A name of a table, which is text whatever it looks like."""
        self.plain(event)
        if not isinstance(event, self.yaml.ScalarEvent):
            self.refuse("a key that is no text", event)
        return self.text(event)

    def text(self, event: Any) -> str:
        """The characters of a scalar."""
        text: str = event.value
        if len(text) > CHARACTERS:
            self.refuse(f"a value of {len(text)} characters, {CHARACTERS} are the most", event)
        line = text.replace("\n", "").replace("\t", "")
        if not line.isprintable() and printable(line) != line:
            self.refuse("a character that is not shown", event)
        return text

    def scalar(self, event: Any) -> Any:
        """Text, or what text without quotes stands for."""
        text = self.text(event)
        if not event.implicit[0]:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 64:
                self.refuse(f"{text[:20]}… is an integer of more than 64 bits", event)
            return int(text)
        if _ENDLESS.fullmatch(text) or (_FLOAT.fullmatch(text) and not math.isfinite(float(text))):
            self.refuse(f"{text[:20]} is not a finite number", event)
        if not _FLOAT.fullmatch(text):
            return text
        if float(text) == 0 and re.search("[1-9]", text.lower().partition("e")[0]):
            self.refuse(f"{text[:20]} is too small a number", event)
        return float(text)
