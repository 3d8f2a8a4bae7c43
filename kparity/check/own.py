"""Somebody's own kernel in the place of an op's: where it is, which op it computes, and what a mapping says of it.

The class of a backend is extended by what runs that one kernel, so that cases, bounds, sentinels, dumps and reports are
those of any other: ``own_cuda``, ``own_function``, ``own_library``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from kparity import ops
from kparity.check.formula import calculated, number
from kparity.contracts.plain_yaml import parse
from kparity.device.adapter import Backend
from kparity.errors import UnknownName, WrongInput
from kparity.host import files
from kparity.ops.spec import Case

Formula = int | float | str
Type = Literal["i32", "u32", "i64", "u64", "f32", "f64"]
TYPES: Mapping[str, Any] = {
    "i32": np.int32, "u32": np.uint32, "i64": np.int64, "u64": np.uint64, "f32": np.float32, "f64": np.float64,
}  # fmt: skip


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a kernel is called: formulas are of the case's parameters and of the op's defines (``kparity ops OP``)."""

    arguments: list[Formula | dict[Type, Formula]]
    """In order: the name of a buffer of the op, or a formula: an int, a float where it is none, or ``{i64: N * K}``."""
    cases: str = ""
    """The condition under which it supports a case; empty for always."""


C = TypeVar("C", bound=Call)


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel and the op that it computes; without a mapping it is called as that op's ABI says."""

    path: str
    kernel: str
    op: str
    map_path: str = ""
    map: Call | None = None

    @property
    def content(self) -> bytes:
        """What is judged, as its digest has it."""
        raise NotImplementedError

    @property
    def sha256(self) -> str:
        """Digest of what is judged."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def words(self) -> tuple[str, ...]:
        """The words that name it on the command line."""
        raise NotImplementedError

    def adapter(self, name: str) -> type[Backend]:
        """The class of a backend with this kernel for the op's; raises WrongInput for one that does not take it."""
        raise NotImplementedError

    def names(self, case: Case) -> dict[str, Any]:
        """What formulas may name."""
        return {**ops.get(self.op).defines(case), **dict(case.params)}

    def takes(self, case: Case) -> bool:
        """Whether the mapping's condition holds."""
        if self.map is None or not self.map.cases:
            return True
        with self.naming("cases"):
            return bool(calculated(self.map.cases, self.names(case)))

    def arguments(self, case: Case) -> list[tuple[str, Any]]:
        """The mapping's arguments at a case: the name of each in messages, and its value; None for a buffer.

        Raises WrongInput where one does not fit the op, and where an output is not among them.
        """
        op, values = ops.get(self.op), self.names(case)
        buffers = [arg.name for arg in op.args(case)]
        given = self.map.arguments if self.map else []
        found = [self._argument(at, each, buffers, values) for at, each in enumerate(given)]
        named = {name for name, value in found if value is None}
        for arg in op.outputs_of(case):
            if arg.name not in named:
                raise WrongInput(f"{self.map_path}: {arg.name}, which {self.op} writes, is none of the arguments")
        return found

    def _argument(self, at: int, given: Any, buffers: Sequence[str], values: Mapping[str, Any]) -> tuple[str, Any]:
        if given in buffers:
            return str(given), None
        kind, formula = next(iter(given.items())) if isinstance(given, dict) and len(given) == 1 else ("", given)
        if isinstance(formula, dict):
            raise WrongInput(f"{self.map_path}: argument {at} has {len(formula)} types; give one, as in {{i64: N * K}}")
        try:
            found = number(formula, values)
            kind = kind or ("f32" if isinstance(found, float) else "i32")
            if isinstance(found, float) and kind[0] != "f":
                raise WrongInput(f"{formula} is {found}, no {kind}")
            made = TYPES[kind](found)
        except OverflowError as problem:
            raise WrongInput(
                f"{self.map_path}: argument {at}: {formula} is {found}, too large for its type"
            ) from problem
        except (WrongInput, UnknownName) as problem:
            known = ", ".join(buffers)
            raise WrongInput(
                f"{self.map_path}: argument {at} is no buffer of {self.op} ({known}): {problem}"
            ) from problem
        return str(formula), made

    @contextmanager
    def naming(self, what: str) -> Iterator[None]:
        """What is wrong in a part of the mapping is told with its name."""
        try:
            yield
        except (WrongInput, UnknownName) as problem:
            raise WrongInput(f"{self.map_path}: {what}: {problem}") from problem


def read_map(path: str | None, kind: type[C], page: str) -> C | None:
    """A mapping, where one is named; raises WrongInput for what is none, with the page that says what it has."""
    if not path:
        return None
    try:
        return msgspec.convert(parse(files.read_text(path, "a mapping (YAML)"), path, "mapping"), kind)
    except msgspec.ValidationError as problem:
        raise WrongInput(f"{path}: {problem}; {page} says what a mapping has") from problem
