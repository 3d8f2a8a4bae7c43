"""Which cases a sweep runs: ops by name, and a boolean expression of substrings over case ids and kinds of input."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from kparity import ops
from kparity.errors import WrongInput
from kparity.ops.spec import Case

Matches = Callable[[str], bool]

_TOKEN = re.compile(r"\s*([()]|[^\s()]+)")


@dataclass(frozen=True)
class Selected:
    """A case with those of its kinds of input that were asked for."""

    case: Case
    kinds: tuple[str, ...]
    replay: str = ""
    """A folder with the inputs (``kparity.check.dump``); empty where they are made from the seed."""
    backend: str = ""
    """The only backend to run on; empty for all."""


def expression(text: str) -> Matches:
    """Parse ``a and not (b or c)``: each name is a substring, upper and lower case alike; ``not`` binds before ``and``,
    and ``and`` before ``or``. Raises WrongInput with the column of what cannot be read.
    """
    parser = _Parser(text)
    found = parser.either()
    if parser.token:
        parser.refuse("'and', 'or' or the end")
    return found


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.token, self.column = "", 0
        self._next()

    def either(self) -> Matches:
        """Terms joined by ``or``."""
        terms = [self._both()]
        while self._takes("or"):
            terms.append(self._both())
        return terms[0] if len(terms) == 1 else lambda label: any(term(label) for term in terms)

    def _both(self) -> Matches:
        factors = [self._one()]
        while self._takes("and"):
            factors.append(self._one())
        return factors[0] if len(factors) == 1 else lambda label: all(factor(label) for factor in factors)

    def _one(self) -> Matches:
        if self._takes("not"):
            inner = self._one()
            return lambda label: not inner(label)
        if self._takes("("):
            inside = self.either()
            if not self._takes(")"):
                self.refuse("')'")
            return inside
        if self.token in ("", ")", "and", "or"):
            self.refuse("a name, 'not' or '('")
        name = self.token.lower()
        self._next()
        return lambda label: name in label.lower()

    def _takes(self, word: str) -> bool:
        if self.token != word:
            return False
        self._next()
        return True

    def _next(self) -> None:
        found = _TOKEN.match(self.text, self.at)
        self.token = found.group(1) if found else ""
        self.column = found.start(1) + 1 if found else len(self.text.rstrip()) + 1
        self.at = found.end() if found else len(self.text)

    def refuse(self, expected: str) -> None:
        """Raise WrongInput at the present token."""
        got = repr(self.token) if self.token else "the end"
        raise WrongInput(f"-k {self.text!r}, column {self.column}: expected {expected}, found {got}")


def named(given: Sequence[str], kind: str, known: Sequence[str]) -> list[str]:
    """The names in comma-separated lists, each once, in the order given; raises UnknownName with the nearest one."""
    from kparity.errors import UnknownName

    found = [name.strip() for text in given for name in text.split(",")]
    for name in found:
        if name not in known:
            raise UnknownName(kind, name, known)
    return list(dict.fromkeys(found))


def kinds_of(names: Sequence[str]) -> list[str]:
    """Every kind of input of the named ops (of all, where none is named)."""
    found = [kind for op in map(ops.get, names or ops.names()) for case in op.sweep() for kind in op.kinds(case)]
    return list(dict.fromkeys(found))


def selected(
    names: Sequence[str], quick: bool, text: str | None, only: Collection[str] | None = None
) -> list[Selected]:
    """Cases of the named ops (all, where none is named) with the kinds that the expression ``text`` admits, and those
    of ``only`` alone, if it is given.
    """
    matches: Matches = expression(text) if text is not None else lambda label: True
    found = []
    for name in names or ops.names():
        op = ops.get(name)
        for case in unique(op.cases() if quick else op.sweep()):
            kinds = tuple(
                kind for kind in op.kinds(case) if (not only or kind in only) and matches(f"{case.id} {kind}")
            )
            if kinds:
                found.append(Selected(case, kinds))
    return found


def unique(cases: Sequence[Case]) -> list[Case]:
    """Each case once, in order."""
    return list(dict.fromkeys(cases))


def as_request(chosen: Sequence[Selected]) -> list[dict[str, Any]]:
    """Plain values for the worker."""
    return [{"op": each.case.op, "params": dict(each.case.params), "kinds": list(each.kinds)} for each in chosen]
