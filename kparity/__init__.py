"""kparity decides whether a GPU backend may be trusted with ternary (BitNet b1.58) inference.

    import kparity
    chosen = kparity.select(["cuda", "wgpu", "cpu"], model="model.gguf")
    for token in chosen.engine.generate([1, 2, 3], max_tokens=16): ...

Names are imported when they are used: ``import kparity`` costs no more than numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kparity.device.registry import open_backend
    from kparity.engine import Engine
    from kparity.model import load_model
    from kparity.probe.dispatcher import Selection, select
    from kparity.watch import column_sum, guard

__all__ = ["Engine", "Selection", "__version__", "column_sum", "guard", "load_model", "open_backend", "select"]

_HOMES = {
    "Engine": "kparity.engine",
    "Selection": "kparity.probe.dispatcher",
    "column_sum": "kparity.watch",
    "guard": "kparity.watch",
    "load_model": "kparity.model",
    "open_backend": "kparity.device.registry",
    "select": "kparity.probe.dispatcher",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'kparity' has no attribute {name!r}")
