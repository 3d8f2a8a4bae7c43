"""Somebody's own kernel, built once in a child before the sweep: what is wrong with it is one sentence."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import msgspec

from kparity import ops
from kparity.check.own_cuda import OwnCuda
from kparity.check.own_function import OwnFunction
from kparity.check.own_library import OwnLibrary
from kparity.errors import Unavailable, WrongInput
from kparity.ops.spec import Case
from kparity.process import Child, Failed, Family, Link, failure
from kparity.process.messages import Message

AnyOwn = OwnCuda | OwnFunction | OwnLibrary
SILENT_SECONDS = 120.0
"""What opening a device, or an import, and building one kernel may take on a busy machine."""


class Trial(msgspec.Struct, frozen=True):
    """Which kernel to build on the first of these backends that opens; at no case, only open."""

    own: AnyOwn
    order: list[str]
    index: int
    options: tuple[str, ...]
    case: Case | None


class Built(Message, frozen=True, tag="built"):
    """It was built on this backend."""

    backend: str


def tried(trial: Trial) -> str:
    """The backend on which a child built it; raises Unavailable where none opens, WrongInput otherwise."""
    with Family() as family, closing(Child[Any](family, __name__, Built | Failed)) as child:
        child.send(trial)
        said = child.receive(SILENT_SECONDS)
        if isinstance(said, Built):
            return said.backend
        if isinstance(said, Failed) and said.status == "unavailable":
            raise Unavailable(f"{trial.own.path}: {said.reason.removeprefix('unavailable: ')}", "", said.code)
        if isinstance(said, Failed):
            raise WrongInput(said.reason)
        what = trial.own.building
        reason = child.ended(what) or f"{what} takes longer than {SILENT_SECONDS:g} s"
    raise WrongInput(f"{trial.own.path}: {reason}")


def main(link: Link) -> int:
    """The child of ``tried``."""
    trial = link.request(Trial)
    closed = []
    try:
        for name in trial.order:
            try:
                device = trial.own.adapter(name).open(trial.index, **dict.fromkeys(trial.options, True))
            except (Unavailable, ImportError) as problem:
                closed.append(f"{name}: {problem}")
                continue
            if trial.case is not None:
                device.build(ops.get(trial.own.op), trial.case)
            link.send(Built(name))
            device.close()
            return 0
        raise Unavailable(f"nothing here executes it ({'; '.join(closed)})", "", trial.own.missing)
    except Exception as error:  # the boundary: whatever it is, the parent tells it
        link.send(failure(error))
    return 0
