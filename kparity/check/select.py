"""Which cases a sweep runs: ops by name, and a boolean expression of substrings over case ids and kinds of input."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NoReturn

from kparity import ops
from kparity.errors import WrongInput
from kparity.ops.spec import Case

Matches = Callable[[str], bool]

_TOKEN = re.compile(r"[()]|[^\s()]+")


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
    tokens = [(match[0], match.start() + 1) for match in _TOKEN.finditer(text)]
    tokens.append(("", len(text.rstrip()) + 1))

    def refuse(expected: str) -> NoReturn:
        token, column = tokens[0]
        shown = repr(token) if token else "the end"
        raise WrongInput(f"-k {text!r}, column {column}: expected {expected}, found {shown}")

    def takes(word: str) -> bool:
        return tokens[0][0] == word and bool(tokens.pop(0))

    def either() -> Matches:
        terms = [both()]
        while takes("or"):
            terms.append(both())
        return lambda label: any(term(label) for term in terms)

    def both() -> Matches:
        factors = [one()]
        while takes("and"):
            factors.append(one())
        return lambda label: all(factor(label) for factor in factors)

    def one() -> Matches:
        if takes("not"):
            inner = one()
            return lambda label: not inner(label)
        if takes("("):
            inside = either()
            if not takes(")"):
                refuse("')'")
            return inside
        if tokens[0][0] in ("", ")", "and", "or"):
            refuse("a name, 'not' or '('")
        name = tokens.pop(0)[0].lower()
        return lambda label: name in label.lower()

    matches = either()
    if tokens[0][0]:
        refuse("'and', 'or' or the end")
    return matches


def kinds_of(names: Sequence[str]) -> list[str]:
    """Every kind of input of the named ops (of all, where none is named)."""
    kinds = [kind for op in map(ops.get, names or ops.names()) for case in op.sweep() for kind in op.kinds(case)]
    return list(dict.fromkeys(kinds))


def selected(
    names: Sequence[str], quick: bool, text: str | None, only: Collection[str] | None = None
) -> list[Selected]:
    """Cases of the named ops (or of all) with the kinds that the expression ``text`` and ``only``, if given, admit."""
    matches: Matches = expression(text) if text is not None else lambda label: True
    chosen = []
    for name in names or ops.names():
        op = ops.get(name)
        for case in dict.fromkeys(op.cases() if quick else op.sweep()):
            kinds = tuple(
                kind for kind in op.kinds(case) if (not only or kind in only) and matches(f"{case.id} {kind}")
            )
            if kinds:
                chosen.append(Selected(case, kinds))
    return chosen
