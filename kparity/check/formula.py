"""Arithmetic over the parameters of a case, as a mapping of a kernel's arguments has it. Read by ``ast``, never run.

Numbers, text in quotes, names, ``+ - * // / %``, comparisons, ``in``, ``and``, ``or``, ``not``, ``a if b else c``,
``min`` and ``max``: whatever else Python has is refused.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from kparity.errors import UnknownName, WrongInput
from kparity.ops.spec import Value

LONGEST = 400
"""Characters of one formula: what it nests is bounded by them."""
LARGEST = 2**64
"""No number in between may be as large."""
CALCULATE: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv, ast.Mod: operator.mod,
}  # fmt: skip
COMPARE: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
CALL: dict[str, Callable[..., Any]] = {"min": min, "max": max}


def calculated(text: Value, names: Mapping[str, Value]) -> Any:
    """The value of a formula, or of what is a number already; raises WrongInput, and UnknownName with the nearest."""
    if not isinstance(text, str):
        return text
    try:
        if len(text) > LONGEST:
            raise WrongInput(f"it has {len(text)} characters, {LONGEST} are the most")
        return _value(ast.parse(text.strip(), mode="eval").body, names)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        reason = "it is no formula; write for example (N + 3) // 4"
    except ZeroDivisionError:
        reason = "it divides by 0"
    except (TypeError, OverflowError):
        reason = "it mixes text and numbers, or has too large ones"
    except WrongInput as problem:
        reason = str(problem)
    raise WrongInput(f"{text[:60]!r}: {reason}")


def number(text: Value, names: Mapping[str, Value]) -> int | float:
    """The number that a formula gives; a truth counts as 0 or 1. Raises as ``calculated`` does."""
    found = calculated(text, names)
    if not isinstance(found, (int, float)):
        raise WrongInput(f"{str(text)[:60]!r}: it is {found!r}, not a number")
    return int(found) if isinstance(found, bool) else found


def _value(node: ast.expr, names: Mapping[str, Value]) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str()):
            found = node.value
        case ast.Name():
            if node.id not in names:
                raise UnknownName("name in a formula", node.id, names)
            found = names[node.id]
        case ast.Tuple() | ast.List():
            return tuple(_value(each, names) for each in node.elts)
        case ast.BinOp() if type(node.op) in CALCULATE:
            found = CALCULATE[type(node.op)](*_numbers((node.left, node.right), names))
        case ast.UnaryOp(op=ast.USub()):
            found = -_numbers((node.operand,), names)[0]
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, names)
        case ast.BoolOp():
            whole = any if isinstance(node.op, ast.Or) else all
            return whole(_value(each, names) for each in node.values)
        case ast.Compare() if all(type(each) in COMPARE for each in node.ops):
            sides = [_value(each, names) for each in (node.left, *node.comparators)]
            return all(COMPARE[type(how)](*two) for how, two in zip(node.ops, pairwise(sides), strict=True))
        case ast.IfExp():
            return _value(node.body if _value(node.test, names) else node.orelse, names)
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in CALL and len(node.args) > 1:
            found = CALL[name](*_numbers(node.args, names))
        case _:
            raise WrongInput(f"{ast.unparse(node)[:40]!r} is not taken; see docs/ptx.md for what is")
    if isinstance(found, (int, float)) and not abs(found) < LARGEST:
        raise WrongInput(f"{ast.unparse(node)[:40]!r} is too large a number")
    return found


def _numbers(nodes: Any, names: Mapping[str, Value]) -> list[int | float]:
    """The values of nodes that must be numbers: text times a number could be of any size."""
    found = [_value(each, names) for each in nodes]
    if not all(isinstance(each, (int, float)) for each in found):
        raise TypeError
    return found
