"""The library of mutants: those of every op, beside its sources, those of the engine, and the models that they need.

Some defects of the host's code need a model of their own: what the embedded one cannot show, since its base is the
usual 10,000, its activation SiLU, and all of its heads and scales are ordinary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from kparity import ops
from kparity.errors import WrongInput, named
from kparity.host.plugins import imported, registered
from kparity.model import writer
from kparity.model.gguf_header import STRING
from kparity.model.writer import F32, Key, Spec
from kparity.mutate import barriers
from kparity.mutate.cell import CONTROL, ENGINE
from kparity.ops.assemble import TEXTS
from kparity.ops.mutant import Mutant
from kparity.process import inside
from kparity.process.ask import NoAnswer, tried

EMBEDDED = ""
"""Stands for the model that is part of the package."""
SMALL = replace(writer.TINY, arch="bitnet-b1.58", layers=3, heads=4, kv_heads=2)
ROPE = f"{SMALL.arch}.rope"


@dataclass(frozen=True)
class Made:
    """A model of random weights, and the keys that it has beside the usual ones."""

    spec: Spec
    keys: tuple[Key, ...] = ()


MODELS: Mapping[str, Made] = {
    "b158": Made(SMALL),  # relu², base 500,000
    "eps": Made(replace(SMALL, eps=0.05)),
    "peaks": Made(replace(SMALL, ffn_gain=30.0)),  # products beyond the range of f16
    "scales": Made(replace(SMALL, scale_tensors=True)),
    "llama3": Made(replace(SMALL, arch="llama", rope_freqs=True)),
    "qwen3": Made(replace(SMALL, arch="qwen3")),
    "stretched": Made(SMALL, ((f"{ROPE}.scaling.type", STRING, "linear"), (f"{ROPE}.scaling.factor", F32, 4.0))),
}
"""Name → model. Each has controls of its own: right engines pass on it."""


def path_of(name: str, folder: Path) -> Path | None:
    """The file of a model, written unless it is there; None for the embedded one."""
    if name == EMBEDDED:
        return None
    path, made = folder / f"{name}.gguf", MODELS[name]
    if not path.exists():
        usual = [key for key in writer.keys(made.spec) if key[0] not in {each[0] for each in made.keys}]
        writer.write_file(path, [*usual, *made.keys], list(writer.tensors(made.spec)))
    return path


GROUP = "kparity.mutants"
"""Entry points of other packages: ``op = "module:MUTANTS"``, more mutants of an op of kparity's or of a package's."""
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Subject:
    """One mutant: of an op, of the engine, or none at all."""

    op: str
    name: str
    what: str
    mutant: Mutant | None = None
    model: str = EMBEDDED
    """The model that the probe runs: a name of ``MODELS``."""
    soaks: bool = False
    """Whether it is soaked behind the probe."""

    @property
    def label(self) -> str:
        """``op/name``."""
        return f"{self.op}/{self.name}"


CONTROLS = (
    Subject(CONTROL, "fused", "Nothing is wrong: the fused graph, which every gate must pass."),
    Subject(CONTROL, "unfused", "Nothing is wrong: the unfused graph, which every gate must pass."),
    Subject(CONTROL, "fused-soaked", "Nothing is wrong: two engines on one device.", soaks=True),
    *(Subject(CONTROL, f"fused-{name}", f"Nothing is wrong, on the model {name!r}.", model=name) for name in MODELS),
)


def of_op(op: str) -> Mapping[str, Mutant]:
    """The mutants of one op by name, those of other packages last; raises WrongInput where a list breaks a rule of
    ``kparity.ops.mutant``, or takes a name that is there.
    """
    module = f"kparity.kernels.{op}.mutants"
    own: Mapping[str, Mutant] = {}
    if op in ops.BUILTIN and find_spec(module) is not None:
        own = {**import_module(module).MUTANTS, **(barriers.of_op(op) if op in ops.NAMES else {})}
        _obey(own, f"kernels/{op}/mutants.py")
    target = theirs().get(op)
    if target is None:
        return own
    added = _added(op, target)
    _obey(added, target)
    if taken := [name for name in added if name in own]:
        raise WrongInput(f"{target}: {op} has a mutant {taken[0]!r} already; give yours another name")
    return {**own, **added}


@lru_cache(maxsize=1)
def theirs() -> Mapping[str, str]:
    """Op → ``module:MUTANTS`` of another package."""
    return registered(GROUP, "set of mutants", {})


def _added(op: str, target: str) -> Mapping[str, Mutant]:
    """The mutants of another package, which is imported in a child first, unless this is one."""
    module, _, attribute = target.partition(":")
    try:
        if not inside.begun:
            tried(module)
        found = getattr(imported(module), attribute)
    except (ImportError, AttributeError, NoAnswer) as problem:
        raise WrongInput(f"mutants of {op!r}: {target} cannot be imported ({problem})") from problem
    if not (isinstance(found, dict) and all(isinstance(each, Mutant) for each in found.values())):
        raise WrongInput(f"mutants of {op!r}: {target} is no dict of name to kparity.ops.mutant.Mutant")
    return found


def _obey(mutants: Mapping[str, Mutant], where: str) -> None:
    """Raise WrongInput where a list breaks a rule of ``kparity.ops.mutant``."""
    for name, mutant in mutants.items():
        if not NAME.fullmatch(str(name)):
            raise WrongInput(f"{where}: {name!r} is no lower-case name with hyphens")
        unknown = (set(mutant.patches) | set(mutant.equivalent)) - set(TEXTS)
        if unknown:
            raise WrongInput(f"{where}: {name}: unknown dialects {', '.join(sorted(unknown))}")
        if set(mutant.equivalent) - set(mutant.patches):
            raise WrongInput(f"{where}: {name}: equivalent in a dialect that it has no patch for")


def known() -> list[str]:
    """The ops that can have mutants: those of this package, and those that other packages have mutants of.

    Raises UnknownName for mutants of an op that nobody has.
    """
    return named([*ops.BUILTIN, *(op for op in theirs() if op not in ops.NAMES)], "op", ops.names())


def every() -> list[Subject]:
    """All mutants, op by op in the order of a forward pass, then those of other packages' ops, the engine's last."""
    from kparity.mutate import makers

    kernels = [Subject(op, name, mutant.what, mutant) for op in known() for name, mutant in of_op(op).items()]
    return [*kernels, *makers.every()[0]]


def select(chosen_ops: Sequence[str] = (), pattern: str = "*") -> list[Subject]:
    """The mutants of some ops (all without any) whose name, or ``op/name``, matches a shell pattern.

    Raises UnknownName for an op that is not known, and WrongInput where nothing matches.
    """
    chosen_ops = named(chosen_ops, "op", [*known(), ENGINE])
    chosen = [
        subject
        for subject in every()
        if (not chosen_ops or subject.op in chosen_ops)
        and (fnmatchcase(subject.name, pattern) or fnmatchcase(subject.label, pattern))
    ]
    if not chosen:
        raise WrongInput(f"no mutant matches {pattern!r}" + (f" among {', '.join(chosen_ops)}" if chosen_ops else ""))
    return chosen
