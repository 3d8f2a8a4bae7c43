"""Which thresholds code uses, read from its syntax tree without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

DIRECT: Mapping[str, int] = {"threshold": 0, "measure": 0}
"""Methods whose argument at this place is the name of a threshold."""
MEASURE_OF = 1
"""The same of ``Measure.of(contract, name, value)``."""
LEAST_PREFIX = 4
"""Letters that an f-string must begin with before it counts as a family of names."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Uses:
    """What the code of one contract says: names at the calls, with their lines, and every string that could be one."""

    called: list[tuple[str, str, int]] = field(default_factory=list)
    """Name, path and line."""
    strings: set[str] = field(default_factory=set)
    prefixes: set[str] = field(default_factory=set)

    def mentions(self, threshold: str) -> bool:
        """Whether the code has the threshold's name, whole or as an f-string that begins like it."""
        return threshold in self.strings or any(threshold.startswith(prefix) for prefix in self.prefixes)


def of(texts: Mapping[str, str]) -> Uses:
    """The uses of threshold names in sources (path -> text); raises SyntaxError for a text that is not Python.

    A function that hands one of its parameters on to ``threshold`` or ``measure`` is a helper: the literals at its
    own calls count as well. A name that comes out of data is not followed: for it the strings of the file stand, and
    at run time ``Contract.threshold`` refuses what it does not know.
    """
    trees = {path: ast.parse(text) for path, text in texts.items()}
    helpers = _helpers(list(trees.values()))
    found = Uses()
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                found.called += [(name, path, node.lineno) for name in _literals(_argument(node, helpers))]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.strings.add(node.value)
            elif isinstance(node, ast.JoinedStr) and len(prefix := _prefix(node)) >= LEAST_PREFIX:
                found.prefixes.add(prefix)
    return found


def _helpers(trees: list[ast.Module]) -> dict[str, tuple[int, str]]:
    """Functions that pass a parameter on as a threshold's name: the parameter's place (without self) and name."""
    found: dict[str, tuple[int, str]] = {}
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, Function)]
    grown = True
    while grown:
        grown = False
        for function in functions:
            names = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args)]
            names = names[1:] if names[:1] in (["self"], ["cls"]) else names
            if function.name in found or function.name in DIRECT:
                continue
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
                given = _argument(call, found)
                if isinstance(given, ast.Name) and given.id in names:
                    found[function.name] = (names.index(given.id), given.id)
                    grown = True
    return found


def _argument(call: ast.Call, helpers: Mapping[str, tuple[int, str]]) -> ast.expr | None:
    """The argument of a call that names a threshold, or None."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    keyword = "name"
    if isinstance(function, ast.Attribute) and name in DIRECT:
        place = DIRECT[name]
    elif name == "of" and isinstance(function, ast.Attribute) and getattr(function.value, "id", "") == "Measure":
        place, keyword = MEASURE_OF, "threshold"
    elif name in helpers:
        place, keyword = helpers[name]
    else:
        return None
    if len(call.args) > place:
        return call.args[place]
    return next((given.value for given in call.keywords if given.arg in (keyword, "threshold")), None)


def _literals(node: ast.expr | None) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _literals(node.body)
        yield from _literals(node.orelse)


def _prefix(node: ast.JoinedStr) -> str:
    first = node.values[0] if node.values else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""
