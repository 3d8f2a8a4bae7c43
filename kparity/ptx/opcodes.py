"""Instructions that compute one value from others: how each is written in Python.

``form`` finds an opcode in ``FORMS``, a list of patterns with every modifier spelt out. What no pattern matches is
refused: an instruction that is not known is never guessed. Memory, control and exchange between lanes are instructions
of ``translate``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

LOGIC = {"and": "&", "or": "|", "xor": "^"}
_EQUAL = {"eq": "==", "ne": "!="}
_ORDER = {**_EQUAL, "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
COMPARE = {"b": _EQUAL, "s": _ORDER, "u": {**_ORDER, "lo": "<", "ls": "<=", "hi": ">", "hs": ">="}, "f": _ORDER}
"""Comparisons by the first letter of the type."""
NEGATED = {"equ": "!=", "neu": "==", "ltu": ">=", "leu": ">", "gtu": "<=", "geu": "<"}
"""Comparisons that hold for a NaN: the opposite of one that does not (``neu``: of ``==``)."""
DTYPES = {"pred": "?", "f16": "u2", "bf16": "u2", "f32": "f4", "f64": "f8"} | {
    f"{kind}{bits}": f"{'i' if kind == 's' else 'u'}{bits // 8}" for kind in "bus" for bits in (8, 16, 32, 64)
}
"""PTX type → numpy dtype of the arrays that an expression is written for; halves are their bits."""


@dataclass(frozen=True)
class Form:
    """The result's type, the types of the sources, and the expression, with ``{0}``, ``{1}`` … for the sources.

    ``rounds``: the result comes from floating-point arithmetic, so that a NaN is the canonical one.
    """

    result: str
    sources: tuple[str, ...]
    text: str
    rounds: bool = False


FORMS: list[tuple[re.Pattern[str], Callable[..., Form | None]]] = []


def opcode(pattern: str) -> Callable[[Callable[..., Form | None]], Callable[..., Form | None]]:
    """Registers a function of the pattern's groups; it gives None for a combination that does not exist."""

    def register(function: Callable[..., Form | None]) -> Callable[..., Form | None]:
        FORMS.append((re.compile(pattern), function))
        return function

    return register


@cache
def form(name: str) -> Form | None:
    """How an opcode is written; None for one that is not known."""
    for pattern, make in FORMS:
        if match := pattern.fullmatch(name):
            return make(*match.groups())
    return None


def _unsigned(bits: str) -> str:
    return f"u{bits}"


def _finished(text: str, ftz: str | None, sat: str | None) -> str:
    text = f"A.saturated({text})" if sat else text
    return f"A.flushed({text})" if ftz else text


def _sources(count: int, ftz: str | None) -> list[str]:
    return [f"A.flushed({{{at}}})" if ftz else f"{{{at}}}" for at in range(count)]


# Integers.


@opcode(r"(add|sub)\.[us](16|32|64)")
def _sum(name: str, bits: str) -> Form:
    return Form(_unsigned(bits), (_unsigned(bits),) * 2, f"{{0}} {'+' if name == 'add' else '-'} {{1}}")


@opcode(r"(mul|mad)\.lo\.[us](16|32|64)")
def _low(name: str, bits: str) -> Form:
    kind = _unsigned(bits)
    return Form(kind, (kind,) * (2 + (name == "mad")), "{0} * {1}" + (" + {2}" if name == "mad" else ""))


@opcode(r"(mul|mad)\.hi\.([us](?:32|64))")
def _high(name: str, kind: str) -> Form:
    return Form(kind, (kind,) * (2 + (name == "mad")), "A.high_part({0}, {1})" + (" + {2}" if name == "mad" else ""))


@opcode(r"(mul|mad)\.wide\.([us])(16|32)")
def _wide(name: str, sign: str, bits: str) -> Form:
    wide = f"{sign}{2 * int(bits)}"
    text = f"np.multiply({{0}}, {{1}}, dtype='{DTYPES[wide]}')" + (" + {2}" if name == "mad" else "")
    return Form(wide, (sign + bits, sign + bits) + ((wide,) if name == "mad" else ()), text)


@opcode(r"(div|rem)\.([us](?:16|32|64))")
def _quotient(name: str, kind: str) -> Form:
    return Form(kind, (kind, kind), f"A.divided({{0}}, {{1}}, {name == 'rem'})")


@opcode(r"(min|max)\.([us](?:16|32|64))")
def _extreme(name: str, kind: str) -> Form:
    return Form(kind, (kind, kind), f"np.{name}imum({{0}}, {{1}})")


@opcode(r"(neg|abs)\.s(16|32|64)")
def _sign(name: str, bits: str) -> Form:
    return Form(f"s{bits}", (f"s{bits}",), "-{0}" if name == "neg" else "np.abs({0})")


@opcode(r"(and|or|xor|not)\.(pred|b16|b32|b64)")
def _logic(name: str, kind: str) -> Form:
    if name == "not":
        return Form(kind, (kind,), "~{0}")
    return Form(kind, (kind, kind), f"{{0}} {LOGIC[name]} {{1}}")


@opcode(r"lop3\.b32")
def _logic3() -> Form:
    return Form("b32", ("b32",) * 4, "A.logic3({0}, {1}, {2}, {3})")


@opcode(r"(shl|shr)\.([bus](?:16|32|64))")
def _shift(name: str, kind: str) -> Form:
    return Form(kind, (kind, "u32"), f"A.shifted({{0}}, {{1}}, {name == 'shl'})")


@opcode(r"shf\.([lr])\.(wrap|clamp)\.b32")
def _funnel(side: str, end: str) -> Form:
    return Form("b32", ("b32", "b32", "u32"), f"A.funnel({{0}}, {{1}}, {{2}}, {side == 'l'}, {end == 'clamp'})")


@opcode(r"bfi\.(b32|b64)")
def _insert(kind: str) -> Form:
    return Form(kind, (kind, kind, "u32", "u32"), "A.inserted({0}, {1}, {2}, {3})")


@opcode(r"bfe\.([us](?:32|64))")
def _extract(kind: str) -> Form:
    return Form(kind, (kind, "u32", "u32"), "A.extracted({0}, {1}, {2})")


@opcode(r"prmt\.b32")
def _permute() -> Form:
    return Form("b32", ("b32",) * 3, "A.permuted({0}, {1}, {2})")


@opcode(r"(popc|clz|brev)\.(b32|b64)")
def _count(name: str, kind: str) -> Form:
    return Form(kind if name == "brev" else "u32", (kind,), f"A.counted({{0}}, '{name}')")


@opcode(r"dp4a\.([us])32\.([us])32")
def _dot(left: str, right: str) -> Form:
    return Form("u32", ("u32",) * 3, f"A.dp4a({{0}}, {{1}}, {{2}}, {left == 's'}, {right == 's'})")


# Comparison and selection.


@opcode(r"setp\.([a-z]+)(?:\.(and|or|xor))?(\.ftz)?\.([busf](?:16|32|64))")
def _compare(name: str, joined: str | None, ftz: str | None, kind: str) -> Form | None:
    left, right = _sources(2, ftz)
    floating = kind in ("f32", "f64")
    if floating and name in ("num", "nan"):
        text = f"({left} == {left}) & ({right} == {right})"
        text = f"~({text})" if name == "nan" else text
    elif floating and name in ("ne", "equ"):  # ne holds for no NaN, unlike numpy's
        text = f"({left} < {right}) | ({left} > {right})"
        text = f"~({text})" if name == "equ" else text
    elif floating and name in NEGATED:
        text = f"~({left} {NEGATED[name]} {right})"
    elif name in COMPARE[kind[0]] and kind != "f16":
        text = f"{left} {COMPARE[kind[0]][name]} {right}"
    else:
        return None
    if joined:
        return Form("pred", (kind, kind, "pred"), f"({text}) {LOGIC[joined]} {{2}}")
    return Form("pred", (kind, kind), text)


@opcode(r"selp\.([busf](?:16|32|64))")
def _select(kind: str) -> Form:
    return Form(kind, (kind, kind, "pred"), "np.where({2}, {0}, {1})")


@opcode(r"mov\.(pred|[busf](?:16|32|64))")
def _move(kind: str) -> Form:
    return Form(kind, (kind,), "{0}")


WINDOWS = {"shared": 1 << 60, "local": 1 << 61}
"""Where the generic addresses of a state space begin; global memory and constants have theirs as they are."""


@opcode(r"cvta(\.to)?\.(global|shared|local|const)\.u64")
def _generic(to: str | None, space: str) -> Form:
    window = WINDOWS.get(space, 0)
    return Form("u64", ("u64",), f"{{0}} {'-' if to else '+'} np.uint64({window})" if window else "{0}")


# Floating point.


@opcode(r"(add|sub|mul)(?:\.(rn|rz|rm|rp))?(\.ftz)?(\.sat)?\.(f32|f64)")
def _arithmetic(name: str, mode: str | None, ftz: str | None, sat: str | None, kind: str) -> Form | None:
    a, b = _sources(2, ftz)
    ufunc = {"add": "np.add", "sub": "np.subtract", "mul": "np.multiply"}[name]
    if mode in (None, "rn"):
        return Form(kind, (kind, kind), _finished(f"{ufunc}({a}, {b})", ftz, sat), rounds=True)
    if kind == "f64":
        return None
    return Form(kind, (kind, kind), _finished(f"A.directed({ufunc}, {a}, {b}, '{mode}')", ftz, sat), rounds=True)


@opcode(r"fma\.(rn|rz|rm|rp)(\.ftz)?(\.sat)?\.f32")
def _fused(mode: str, ftz: str | None, sat: str | None) -> Form:
    a, b, c = _sources(3, ftz)
    return Form("f32", ("f32",) * 3, _finished(f"A.fma({a}, {b}, {c}, '{mode}')", ftz, sat), rounds=True)


@opcode(r"(div|sqrt|rcp)\.rn(\.ftz)?\.(f32|f64)")
def _rounded(name: str, ftz: str | None, kind: str) -> Form:
    count = 2 if name == "div" else 1
    given = _sources(count, ftz)
    one = f"np.{'float32' if kind == 'f32' else 'float64'}(1)"
    text = {"div": "np.divide({})", "sqrt": "np.sqrt({})", "rcp": f"np.divide({one}, {{}})"}[name]
    return Form(kind, (kind,) * count, _finished(text.format(", ".join(given)), ftz, None), rounds=True)


@opcode(r"(ex2|lg2|rcp|sqrt|rsqrt|sin|cos|tanh|div)\.(approx|full)(\.ftz)?\.f32")
def _approximate(name: str, how: str, ftz: str | None) -> Form | None:
    if how == "full" and name != "div":
        return None
    given = _sources(2 if name == "div" else 1, ftz)
    text = f"approximate('{name}{'_full' if how == 'full' else ''}', {', '.join(given)})"
    return Form("f32", ("f32",) * len(given), _finished(text, ftz, None), rounds=True)


@opcode(r"(neg|abs)(\.ftz)?\.(f32|f64)")
def _float_sign(name: str, ftz: str | None, kind: str) -> Form:
    return Form(kind, (kind,), ("-" if name == "neg" else "np.abs") + f"({_sources(1, ftz)[0]})")


@opcode(r"(min|max)(\.ftz)?(\.NaN)?\.(f32|f64)")
def _float_extreme(name: str, ftz: str | None, nan: str | None, kind: str) -> Form:
    a, b = _sources(2, ftz)
    return Form(kind, (kind, kind), f"A.extreme({a}, {b}, {name == 'max'}, {bool(nan)})", rounds=True)


@opcode(r"copysign\.(f32|f64)")
def _copy_sign(kind: str) -> Form:
    return Form(kind, (kind, kind), "np.copysign({1}, {0})")


# Conversions.


@opcode(r"cvt(\.sat)?\.([us])(8|16|32|64)\.([us])(8|16|32|64)")
def _integer(sat: str | None, to_sign: str, to_bits: str, sign: str, bits: str) -> Form:
    target = DTYPES[to_sign + to_bits]
    text = f"A.clipped({{0}}, '{target}')" if sat else f"{{0}}.astype('{target}')"
    return Form(to_sign + to_bits, (sign + bits,), text)


@opcode(r"cvt\.(rni|rzi|rmi|rpi)(\.ftz)?(?:\.sat)?\.([us](?:8|16|32|64))\.(f32|f64)")
def _to_integer(mode: str, ftz: str | None, target: str, kind: str) -> Form:
    return Form(target, (kind,), f"A.to_integer({_sources(1, ftz)[0]}, '{mode}', '{DTYPES[target]}')")


@opcode(r"cvt\.(rn|rz|rm|rp)\.(f32|f64)\.([us](?:8|16|32|64))")
def _from_integer(mode: str, target: str, kind: str) -> Form | None:
    if target == "f64":
        return Form(target, (kind,), "{0}.astype('f8')") if mode == "rn" or not kind.endswith("64") else None
    return Form(target, (kind,), f"A.from_integer({{0}}, '{mode}')") if mode == "rn" or kind[1:] != "64" else None


@opcode(r"cvt(?:\.(rni|rzi|rmi|rpi))?(\.ftz)?(\.sat)?\.(f32|f64)\.(f32|f64)")
def _same_float(mode: str | None, ftz: str | None, sat: str | None, target: str, kind: str) -> Form | None:
    if (target, kind) == ("f32", "f64") or (mode and target != kind):
        return None  # a narrowing has a rounding, below
    given = _sources(1, ftz)[0]
    text = f"A.ROUNDINGS['{mode}']({given})" if mode else f"{given}.astype('{DTYPES[target]}')"
    return Form(target, (kind,), _finished(text, ftz, sat), rounds=True)


@opcode(r"cvt\.(rn|rz|rm|rp)(\.ftz)?(\.sat)?\.f32\.f64")
def _narrow(mode: str, ftz: str | None, sat: str | None) -> Form:
    return Form("f32", ("f64",), _finished(f"A.narrowed({{0}}, 0.0, '{mode}')", ftz, sat), rounds=True)


@opcode(r"cvt(?:\.ftz)?\.(f32|f64)\.f16")
def _widen_half(target: str) -> Form:
    return Form(target, ("f16",), f"{{0}}.view('f2').astype('{DTYPES[target]}')", rounds=True)


@opcode(r"cvt\.rn(\.ftz)?\.f16\.(f32|f64)")
def _half(ftz: str | None, kind: str) -> Form:
    return Form("f16", (kind,), f"A.half_of({_sources(1, ftz)[0]})")


@opcode(r"cvt\.f32\.bf16")
def _widen_bfloat() -> Form:
    return Form("f32", ("bf16",), "({0}.astype('u4') << np.uint32(16)).view('f4')")


@opcode(r"cvt\.rn\.bf16\.f32")
def _bfloat() -> Form:
    return Form("bf16", ("f32",), "A.bfloat_of({0})")
