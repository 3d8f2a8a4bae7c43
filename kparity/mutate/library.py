"""The library of mutants: those of every op, beside its sources, and those of the engine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec

from kparity import ops
from kparity.errors import UnknownName, WrongInput
from kparity.mutate import models
from kparity.mutate.cell import CONTROL, ENGINE
from kparity.mutate.models import EMBEDDED
from kparity.ops.assemble import TEXTS
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


def of_op(op: str) -> Mapping[str, Mutant]:
    """The mutants of one op by name; raises WrongInput where the list breaks a rule of ``kparity.ops.mutant``."""
    module = f"kparity.kernels.{op}.mutants"
    if find_spec(module) is None:
        return {}
    mutants: Mapping[str, Mutant] = import_module(module).MUTANTS
    where = f"kernels/{op}/mutants.py"
    for name, mutant in mutants.items():
        if not NAME.fullmatch(name):
            raise WrongInput(f"{where}: {name!r} is no lower-case name with hyphens")
        unknown = (set(mutant.patches) | set(mutant.equivalent)) - set(TEXTS)
        if unknown:
            raise WrongInput(f"{where}: {name}: unknown dialects {', '.join(sorted(unknown))}")
        if set(mutant.equivalent) - set(mutant.patches):
            raise WrongInput(f"{where}: {name}: equivalent in a dialect that it has no patch for")
    return mutants


def every() -> list[Subject]:
    """All mutants, op by op in the order of a forward pass, the engine's last."""
    from kparity.mutate.engine import MUTANTS

    kernels = [Subject(op, name, mutant.what, mutant) for op in ops.NAMES for name, mutant in of_op(op).items()]
    return [*kernels, *(Subject(ENGINE, mutant.name, mutant.what, model=mutant.model) for mutant in MUTANTS)]


def select(chosen_ops: Sequence[str] = (), pattern: str = "*") -> list[Subject]:
    """The mutants of some ops (all without any) whose name, or ``op/name``, matches a shell pattern.

    Raises UnknownName for an op that is not known, and WrongInput where nothing matches.
    """
    known = [*ops.NAMES, ENGINE]
    for op in chosen_ops:
        if op not in known:
            raise UnknownName("op", op, known)
    chosen = [
        subject
        for subject in every()
        if (not chosen_ops or subject.op in chosen_ops)
        and (fnmatchcase(subject.name, pattern) or fnmatchcase(subject.label, pattern))
    ]
    if not chosen:
        raise WrongInput(f"no mutant matches {pattern!r}" + (f" among {', '.join(chosen_ops)}" if chosen_ops else ""))
    return chosen
