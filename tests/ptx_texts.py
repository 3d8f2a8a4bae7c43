"""PTX texts for the tests of the interpreter, and exact twins of its arithmetic, by whole numbers and fractions.

Nothing here uses the interpreter's own arithmetic: a twin rounds a ``Fraction`` by the definition of a float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from kparity.ptx import machine, text
from kparity.ptx.blocks import LaunchOf, Options
from kparity.ptx.memory import Root, Span
from kparity.ptx.translate import translate

RNG = np.random.default_rng(7)
REGISTERS = {1: ("b16", "%rs"), 2: ("b16", "%rs"), 4: ("b32", "%r"), 8: ("b64", "%rd")}


def span(array: np.ndarray, name: str, watched: bool = False) -> Span:
    """An array as memory of the interpreted device."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    root = Root(data.size, watched)
    root.bytes[: data.size] = data
    root.mark(0, data.size)
    return Span(name, root, 0, data.size)


def launch(
    ptx: str, arrays: Sequence[np.ndarray], block: tuple[int, int, int], grid: tuple[int, int, int] = (1, 1, 1),
    sanitize: bool = False, perturb: bool = False, hidden: Sequence[int] = (),
) -> list[np.ndarray]:  # fmt: skip
    """The arrays after the only kernel of a text ran on them; nobody wrote those that are ``hidden``."""
    (kernel,) = text.read(ptx).values()
    spans = [span(array, f"a{at}", sanitize) for at, array in enumerate(arrays)]
    for at in hidden:
        spans[at].root.mark(0, spans[at].size, 0)
    params = dict(zip(kernel.params, spans, strict=True))
    options = Options(sanitize, perturb)
    run = machine.run_watched if sanitize else machine.run
    program = translate(kernel, perturb)
    run(LaunchOf(program, grid, block, params, {}, options, 0xFF, lambda place: f"line {place.line}"))
    return [
        each.root.bytes[: each.size].view(array.dtype).reshape(array.shape)
        for each, array in zip(spans, arrays, strict=True)
    ]


def entry(body: str, params: int, shared: str = "") -> str:
    """A text with one kernel ``k``: %r0 is tid.x, %rd0 … are the parameters."""
    given = ",\n".join(f".param .u64 k_{at}" for at in range(params))
    loads = "\n".join(f"ld.param.u64 %rd{at}, [k_{at}];" for at in range(params))
    return f"""
.version 8.0
.target sm_90
.address_size 64
.visible .entry k(
{given}
)
{{
.reg .pred %p<9>;
.reg .b16 %rs<9>;
.reg .b32 %r<30>;
.reg .f32 %f<30>;
.reg .f64 %fd<9>;
.reg .b64 %rd<30>;
{shared}
{loads}
mov.u32 %r0, %tid.x;
{body}
ret;
}}
"""


def register(kind: str, at: int) -> str:
    """A register for a type."""
    if kind == "f32":
        return f"%f{at}"
    if kind == "f64":
        return f"%fd{at}"
    size = 2 if kind in ("f16", "bf16") else int(kind[1:]) // 8
    return f"{REGISTERS[size][1]}{at + 20 if size == 8 else at}"  # the first of 64 bits hold addresses


def applied(opcode: str, result: str, sources: Sequence[tuple[str, np.ndarray]], **options: Any) -> np.ndarray:
    """An instruction of one result, over arrays, an element a thread; types are PTX's, memory is bits."""
    lines, count = [], len(sources[0][1])
    for at, (kind, array) in enumerate(sources):
        width = array.dtype.itemsize
        lines.append(f"mad.wide.u32 %rd{10 + at}, %r0, {width}, %rd{at};")
        lines.append(f"ld.global.b{8 * width} {register(kind, at + 1)}, [%rd{10 + at}];")
    size = 2 if result in ("f16", "bf16") else int(result[1:]) // 8
    given = ", ".join(register(kind, at + 1) for at, (kind, _) in enumerate(sources))
    target = register(result, 8)
    lines += [f"{opcode} {target}, {given};", f"mad.wide.u32 %rd9, %r0, {size}, %rd{len(sources)};"]
    lines += [f"st.global.b{8 * size} [%rd9], {target};"]
    out = np.zeros(count, f"u{size}")
    ptx = entry("\n".join(lines), len(sources) + 1)
    return launch(ptx, [*(array for _, array in sources), out], (count, 1, 1), **options)[-1]


# Twins.


def integers(count: int, bits: int) -> np.ndarray:
    """Every kind of integer: the ends of the range, small ones, and any."""
    found = RNG.integers(0, 2**64, count, dtype=np.uint64)
    found[:8] = [0, 1, 2, 3, 2**64 - 1, 2**64 - 2, 1 << (bits - 1), (1 << (bits - 1)) - 1]
    small = RNG.random(count) < 0.3
    found[small] &= np.uint64(63)
    return RNG.permutation(found).astype(f"u{bits // 8}")


def signed(value: int, bits: int) -> int:
    """The two's complement that some bits hold."""
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


def rounded(exact: Fraction, mode: str, bits: int = 24, lowest: int = -149, largest: float = 2.0**128) -> float:
    """The float nearest to an exact number, or its neighbour in the direction: precision, exponent of the smallest
    subnormal, and the first number that is too large.
    """
    if exact == 0:
        return 0.0
    size = abs(exact)
    exponent = math.floor(math.log2(size)) if size < 2**1000 else size.numerator.bit_length() - 1
    while Fraction(2) ** exponent > size:
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= size:
        exponent += 1
    unit = Fraction(2) ** max(exponent - bits + 1, lowest)
    low = size // unit
    rest = size / unit - low
    up = {"rz": False, "rm": exact < 0 and rest > 0, "rp": exact > 0 and rest > 0}.get(
        mode, rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low % 2 == 1)
    )
    value = (low + up) * unit
    if value >= Fraction(largest):
        inside = mode == "rz" or (mode == "rm" and exact > 0) or (mode == "rp" and exact < 0)
        limit = largest - float(Fraction(largest) * Fraction(1, 2**bits))
        return math.copysign(limit if inside else math.inf, exact)
    return math.copysign(float(value), exact)


def exact(value: float) -> Fraction:
    """A float as a fraction."""
    return Fraction(float(value))
