"""Kinds of engines by name, those of other packages among them, and how one is opened.

Another package adds a kind through the entry-point group ``kparity.engines`` (``name = "module:Class"``, a subclass of
``kparity.engines.base.Engine``). It is imported in the engine's process alone.
"""

from __future__ import annotations

from importlib import import_module

from kparity.engines.base import Engine, Spec
from kparity.errors import UnknownName
from kparity.host.plugins import registered
from kparity.model.gguf_file import embedded

GROUP = "kparity.engines"
OWN = {
    "kparity": "kparity.engines.own:Own",
    "llama.cpp": "kparity.engines.llamacpp:LlamaCpp",
    "mutant": "kparity.mutate.wrong:Mutant",
    "reference": "kparity.engines.plain:Plain",
    "f16": "kparity.engines.plain:Plain",
    "transformers": "kparity.engines.hf:Transformers",
    "recorded": "kparity.traces.recorded:Recorded",
    "http": "kparity.engines.http:Http",
    "https": "kparity.engines.http:Http",
}
"""Kind to ``module:Class``."""


def kinds() -> dict[str, str]:
    """Every kind of engine that is known here; nothing is imported."""
    return registered(GROUP, "engine", OWN)


def parsed(text: str) -> Spec:
    """A specification of a kind that is known; raises UnknownName for another, WrongInput for options that are none."""
    spec, known = Spec.parse(text), kinds()
    if spec.kind not in known:
        raise UnknownName("engine", spec.kind, known)
    return spec


def open_here(text: str, *, model: str = "", context: int = 0) -> Engine:
    """Open an engine in this process (``kparity.engines.remote.open_engine``: in one of its own).

    ``model`` is the path of a GGUF file, by default the embedded one's; ``context`` in positions, 0 for the engine's
    own. Raises WrongInput, UnknownName, Unavailable or BadModel.
    """
    spec = parsed(text)
    target = kinds()[spec.kind]
    module, _, name = target.partition(":")
    found = getattr(import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, Engine)):
        raise spec.wrong(f"{target} is not a subclass of kparity.engines.base.Engine")
    return found(spec, model=model or str(embedded()), context=context)  # type: ignore[call-arg]
