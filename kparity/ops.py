"""The ops by name: every folder of ``kernels/`` that has a specification."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from kparity.errors import UnknownName
from kparity.spec import Op

NAMES = (
    "embed",
    "rmsnorm",
    "act_quant",
    "tgemv",
    "rope",
    "kv_store",
    "attention",
    "glu",
    "add",
    "dense_gemv",
    "argmax",
    "norm_quant",
    "rope_store",
)
"""In the order of a forward pass; the last two are several of the others in one launch."""


@cache
def get(name: str) -> Op:
    """The specification of an op; raises UnknownName with the nearest name."""
    if name not in NAMES:
        raise UnknownName("op", name, NAMES)
    op: Op = import_module(f"kparity.kernels.{name}").OP
    return op


def every() -> list[Op]:
    """All specifications."""
    return [get(name) for name in NAMES]
