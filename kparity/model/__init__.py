"""Models: what a GGUF file says, checked, in the form that engines need.

The names are imported when they are used: whoever reads a file's bytes alone does not load the reader of its keys.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kparity.model.hparams import Hparams
    from kparity.model.model import Model, held, load_model
    from kparity.model.tensors import Dense, Ternary

_HOMES = {
    "Dense": "tensors", "Hparams": "hparams", "Model": "model", "Ternary": "tensors", "held": "model",
    "load_model": "model",
}  # fmt: skip

__all__ = ["Dense", "Hparams", "Model", "Ternary", "held", "load_model"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
