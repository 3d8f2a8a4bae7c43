"""Kinds of engines by name, those of other packages among them, and how one is opened."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from kparity.engines.base import Engine, Spec
from kparity.errors import UnknownName
from kparity.host.plugins import registered

GROUP = "kparity.engines"
OWN = {
    "kparity": "kparity.engines.own:Own",
    "llama.cpp": "kparity.engines.llamacpp:LlamaCpp",
    "reference": "kparity.engines.plain:Plain",
}
"""Kind to ``module:Class``; the class takes a Spec, and by keyword ``model``, ``context``, ``threads``, ``act``, ``kv``."""


def kinds() -> dict[str, str]:
    """Every kind of engine that is known here."""
    return registered(GROUP, "engine", OWN)


def engine_class(spec: Spec) -> type[Engine]:
    """The class behind a specification; raises UnknownName for a kind that nobody registered."""
    known = kinds()
    if spec.kind not in known:
        raise UnknownName("engine", spec.kind, known)
    module, _, name = known[spec.kind].partition(":")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]


def open_engine(spec: str, **options: Any) -> Engine:
    """Open one in this process."""
    parsed = Spec.parse(spec)
    return engine_class(parsed)(parsed, **options)  # type: ignore[call-arg]
