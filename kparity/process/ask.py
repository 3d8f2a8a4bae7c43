"""One question to a child that is started for it: code of other packages may end, kill or hang the process it is in."""

from __future__ import annotations

import sys
from contextlib import closing
from importlib import import_module
from typing import Any, TypeVar

import msgspec

from kparity.process.family import Family
from kparity.process.inside import Link
from kparity.process.messages import Done, Failed, failure
from kparity.process.parent import Child, Garbled

T = TypeVar("T")
SILENT_SECONDS = 60.0
"""What an answer may take: an import of large libraries on a busy machine."""


class NoAnswer(Exception):
    """What became of the child instead, for a person."""


class Question(msgspec.Struct, frozen=True):
    """About a ``name``, with the ``path`` on which the parent looks for modules."""

    name: str
    path: tuple[str, ...]


def about(name: str) -> Question:
    """A question of this process."""
    return Question(name, tuple(filter(None, sys.path)))


def ask(program: str, answer: type[T], question: Question) -> T:
    """What ``main(link)`` of the module ``program`` answers; raises NoAnswer where it does not."""
    with Family() as family, closing(Child[Any](family, program, answer | Failed)) as child:
        child.send(question)
        try:
            said = child.receive(SILENT_SECONDS)
        except Garbled as problem:
            raise NoAnswer(f"its process said what is no message: {problem}") from None
        if said is None:
            raise NoAnswer(child.ended("its import") or f"silent for {SILENT_SECONDS:g} s in its import")
        if isinstance(said, Failed):
            raise NoAnswer(said.reason.removeprefix("unavailable: "))
        return said  # type: ignore[no-any-return]


def asked(link: Link) -> str:
    """In the child: the name that is asked about, with the parent's path for modules."""
    question = link.request(Question)
    sys.path[:] = question.path
    return question.name


def tried(module: str) -> None:
    """Import a module in a child; raises NoAnswer where that is not survived."""
    ask(__name__, Done, about(module))


def main(link: Link) -> int:
    """The child of ``tried``."""
    try:
        import_module(asked(link))
        link.send(Done())
    except Exception as error:
        link.send(failure(error))
    return 0
