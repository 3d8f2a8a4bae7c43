"""Which texts are compiled: of each op one case per distinct set of conditions, and the shapes of the 2B-4T model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from kparity import ops
from kparity.kernels.support import SERVED, VOCABULARY
from kparity.ops.assemble import kernel_text, uses
from kparity.ops.spec import Case, Value

LAUNCHED: Mapping[str, tuple[Mapping[str, Value], ...]] = {
    "tgemv": tuple({"M": m, "N": n, "K": k} for m in (1, 64) for n, k in SERVED.linears),
    "attention": tuple({"M": m, "L": 4096, "H": SERVED.heads, "G": SERVED.kv_heads, "D": SERVED.head} for m in (1, 64)),
    "dense_gemv": ({"M": 1, "N": VOCABULARY, "K": SERVED.width, "dtype": "f16"},),
    "argmax": ({"M": 1, "N": VOCABULARY},),
}
"""Shapes that a 2B-4T model launches: where registers decide how fast it is."""


def conditions(text: str) -> set[str]:
    """Names that the preprocessor's conditions depend on, through the text's own macros too."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL).replace("\\\n", " ")
    macros = dict(re.findall(r"^\s*#\s*define\s+(\w+)(?:\([^)]*\))?[ \t]+(.*)$", text, flags=re.MULTILINE))
    wanted = re.findall(r"^\s*#\s*(?:el)?if\b(.*)$", text, flags=re.MULTILINE)
    found: set[str] = set()
    while wanted:
        for name in set(re.findall(r"[A-Za-z_]\w*", wanted.pop())) - found:
            found.add(name)
            wanted.append(macros.get(name, ""))
    return found


@cache
def variants(name: str) -> tuple[Case, ...]:
    """Of an op: the largest case of each set of options and conditions, and what a served model adds."""
    op = ops.get(name)
    own = kernel_text(f"{name}/{name}.cu")
    decisive = conditions("".join(map(kernel_text, uses(own, "cu"))) + own)
    largest: dict[object, Case] = {}
    for case in op.cases():
        options = tuple(value for _, value in case.params if isinstance(value, str))
        values = tuple(sorted((key, value) for key, value in op.defines(case).items() if key in decisive))
        key = (op.variant(case), options, values)
        if key not in largest or op.work(case).bytes > op.work(largest[key]).bytes:
            largest[key] = case
    served = [op.case(**params) for params in LAUNCHED.get(name, ())]
    return tuple(dict.fromkeys([*largest.values(), *served]))


def every() -> list[Case]:
    """Those of all ops."""
    return [case for name in ops.NAMES for case in variants(name)]


def one_per_kernel() -> list[Case]:
    """The first of every kernel id: for a compiler that is slow to start."""
    first: dict[tuple[str, str], Case] = {}
    for case in every():
        first.setdefault((case.op, ops.get(case.op).variant(case)), case)
    return list(first.values())
