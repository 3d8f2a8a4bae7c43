"""The ops by name: every folder of ``kernels/`` that has a specification, and whatever other packages add.

Another package adds an op through the entry-point group ``kparity.ops`` (``name = "module:OP"``, an instance of a
subclass of ``kparity.ops.spec.Op``). Its texts lie in its own package: see ``Op.texts``.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING

from kparity.errors import UnknownName, WrongInput
from kparity.host.plugins import imported, registered

if TYPE_CHECKING:
    from kparity.ops.spec import Op

GROUP = "kparity.ops"

NAMES = (
    "embed", "rmsnorm", "act_quant", "tgemv", "rope", "kv_store", "attention", "glu", "add", "dense_gemv", "argmax",
    "norm_quant", "rope_store",
)  # fmt: skip
"""The ops of this package, in the order of a forward pass; the last two are several of the others in one launch."""
JOINED = {"norm_tgemv": "tgemv", "rope_attention": "attention"}
"""Ops that are two of the others in one launch of a GPU and have no text of their own → whose GPU text is theirs."""
BUILTIN = (*NAMES, *JOINED)


@lru_cache(maxsize=1)
def targets() -> dict[str, str]:
    """``name -> "module:OP"`` of every known op; a package cannot replace a built-in name."""
    return registered(GROUP, "op", {name: f"kparity.kernels.{name}:OP" for name in BUILTIN})


def names() -> list[str]:
    """Known op names: those of this package first."""
    return list(targets())


@cache
def get(name: str) -> Op:
    """The specification of an op; raises UnknownName with the nearest name.

    A module of another package is imported in a child first, unless this is one; raises WrongInput where it ends that.
    """
    from kparity.ops.spec import Op
    from kparity.process import inside
    from kparity.process.ask import NoAnswer, tried

    own = name in BUILTIN
    target = f"kparity.kernels.{name}:OP" if own else targets().get(name)
    if target is None:
        raise UnknownName("op", name, targets())
    module, _, attribute = target.partition(":")
    try:
        if not own and not inside.begun:
            tried(module)
        op = getattr(imported(module), attribute)
    except (ImportError, AttributeError, NoAnswer) as problem:
        raise WrongInput(f"op {name!r}: {target} cannot be imported ({problem})") from problem
    if not isinstance(op, Op):
        raise WrongInput(f"op {name!r}: {target} is not an instance of a subclass of kparity.ops.spec.Op")
    if op.name != name:
        raise WrongInput(f"op {name!r}: {target} calls itself {op.name!r}; register it under that name")
    return op


def every() -> list[Op]:
    """The specifications of this package, without those that other packages add."""
    return [get(name) for name in NAMES]
