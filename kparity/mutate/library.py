"""The library of mutants: those of every op, beside its sources, and those of the engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec

from kparity import ops
from kparity.errors import UnknownName, WrongInput
from kparity.mutate import models
from kparity.mutate.cell import CONTROL, ENGINE
from kparity.mutate.models import EMBEDDED
from kparity.mutate.patch import original
from kparity.ops.assemble import TEXTS, file_of
from kparity.ops.mutant import Mutant

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Subject:
    """One mutant: of an op, of the engine, or none at all."""

    op: str
    name: str
    what: str
    mutant: Mutant | None = None
    model: str = EMBEDDED
    """The model that the probe runs (``kparity.mutate.models``)."""

    @property
    def label(self) -> str:
        """``op/name``."""
        return f"{self.op}/{self.name}"


CONTROLS = (
    *(
        Subject(CONTROL, graph, f"Nothing is wrong: the {graph} graph, which every gate must pass.")
        for graph in ("fused", "unfused")
    ),
    *(
        Subject(CONTROL, f"fused-{model}", f"Nothing is wrong, on the model {model!r}.", model=model)
        for model in models.MODELS
    ),
)


def of_op(op: str) -> tuple[Mutant, ...]:
    """The mutants of one op; raises WrongInput where the list breaks a rule of ``kparity.ops.mutant``."""
    module = f"kparity.kernels.{op}.mutants"
    if find_spec(module) is None:
        return ()
    mutants: tuple[Mutant, ...] = import_module(module).MUTANTS
    where = f"kernels/{op}/mutants.py"
    names = [mutant.name for mutant in mutants]
    for mutant in mutants:
        if not NAME.fullmatch(mutant.name) or names.count(mutant.name) > 1:
            raise WrongInput(f"{where}: {mutant.name!r} is no unique lower-case name with hyphens")
        unknown = (set(mutant.patches) | set(mutant.equivalent)) - set(TEXTS)
        if unknown:
            raise WrongInput(f"{where}: {mutant.name}: unknown dialects {', '.join(sorted(unknown))}")
        if set(mutant.equivalent) - set(mutant.patches):
            raise WrongInput(f"{where}: {mutant.name}: equivalent in a dialect that it has no patch for")
    return mutants


def sources(subject: Subject, dialect: str) -> dict[str, str]:
    """Path below ``kernels/`` → patched text; raises WrongInput where a patch does not fit its file any more."""
    mutant = subject.mutant
    if mutant is None:
        return {}
    paths = {patch.file or file_of(subject.op, dialect) for patch in mutant.patches[dialect]}
    return mutant.sources(subject.op, dialect, {path: original(path) for path in paths})


def every() -> list[Subject]:
    """All mutants, op by op in the order of a forward pass, the engine's last."""
    from kparity.mutate.engine import MUTANTS

    found = [Subject(op, mutant.name, mutant.what, mutant) for op in ops.NAMES for mutant in of_op(op)]
    return [*found, *(Subject(ENGINE, mutant.name, mutant.what, model=mutant.model) for mutant in MUTANTS)]


def select(chosen_ops: Sequence[str] = (), pattern: str = "*") -> list[Subject]:
    """The mutants of some ops (all without any) whose name, or ``op/name``, matches a shell pattern.

    Raises UnknownName for an op that is not known, and WrongInput where nothing matches.
    """
    known = [*ops.NAMES, ENGINE]
    for op in chosen_ops:
        if op not in known:
            raise UnknownName("op", op, known)
    found = [
        subject
        for subject in every()
        if (not chosen_ops or subject.op in chosen_ops)
        and (fnmatchcase(subject.name, pattern) or fnmatchcase(subject.label, pattern))
    ]
    if not found:
        raise WrongInput(f"no mutant matches {pattern!r}" + (f" among {', '.join(chosen_ops)}" if chosen_ops else ""))
    return found
