"""What a backend declares, as a record. That of another package is read in a child: its import may do anything."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated

import msgspec

from kparity.device.remedies import Reason
from kparity.host import progress
from kparity.process import Link, failure
from kparity.process.ask import NoAnswer, Question, about, ask, asked
from kparity.process.messages import Message

if TYPE_CHECKING:
    from kparity.device.adapter import Backend


class Declared(Message, frozen=True, tag="declared"):
    """The members of ``Backend`` of the same names, and what its ``kernel_dialects()`` says; by itself, what is assumed
    of a backend that nobody can read.
    """

    dialect: str = ""
    api: str = ""
    id_dialects: tuple[str, ...] = ()
    drives_gpu: bool = True
    packages: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    manifests: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    driver_files: tuple[
        Annotated[str, msgspec.Meta(pattern=r"^/(?!.*\*\*)")], ...
    ] = ()  # no walk through the whole disk
    environment: tuple[str, ...] = ()
    software: tuple[str, ...] = ()
    reasons: Mapping[str, Reason] = msgspec.field(default_factory=dict)
    kernel_dialects: tuple[str, ...] = ()

    @classmethod
    def of(cls, backend: type[Backend]) -> Declared:
        """What a class says."""
        members = {name: getattr(backend, name) for name in cls.__struct_fields__}
        return cls(**{**members, "kernel_dialects": backend.kernel_dialects()})


def foreign(name: str) -> Declared:
    """What a backend of another package declares; raises NoAnswer where its import is not survived."""
    answer = _answered(about(name))
    if isinstance(answer, NoAnswer):
        raise answer
    return answer


@cache
def _answered(question: Question) -> Declared | NoAnswer:
    """Asked once: silence would be waited for again."""
    try:
        with progress.task(f"{question.name}: what it declares"):
            return ask(__name__, Declared, question)
    except NoAnswer as problem:
        return problem


def main(link: Link) -> int:
    """The child: the record of one backend."""
    from kparity.device.registry import backend_class

    try:
        link.send(Declared.of(backend_class(asked(link))))
    except Exception as error:
        link.send(failure(error))
    return 0
