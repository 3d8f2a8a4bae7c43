"""The backends by name: one per file of ``backends/``, and whatever other packages add.

Another package adds a backend through the entry-point group ``kparity.backends`` (``name = "module:Class"``).
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points

from kparity.adapter import Backend
from kparity.errors import UnknownName, WrongInput

GROUP = "kparity.backends"

BUILTIN = {
    "numpy": "kparity.backends.numpy:NumpyBackend",
    "cpu": "kparity.backends.cpu:CpuBackend",
    "wgpu": "kparity.backends.wgpu:WgpuBackend",
    "opencl": "kparity.backends.opencl:OpenclBackend",
    "torch": "kparity.backends.torch:TorchBackend",
    "cuda": "kparity.backends.cuda:CudaBackend",
    "hip": "kparity.backends.hip:HipBackend",
}


@lru_cache(maxsize=1)
def targets() -> dict[str, str]:
    """``name -> "module:Class"`` of every known backend; a package cannot replace a built-in name."""
    found = dict(BUILTIN)
    for entry in entry_points(group=GROUP):
        if found.setdefault(entry.name, entry.value) != entry.value:
            raise WrongInput(f"backend {entry.name!r} is registered twice: {found[entry.name]} and {entry.value}")
    return found


def names() -> list[str]:
    """Known backend names."""
    return list(targets())


def backend_class(name: str) -> type[Backend]:
    """Import the class of a backend; raises UnknownName with the nearest name."""
    if name not in targets():
        raise UnknownName("backend", name, targets())
    module, _, attribute = targets()[name].partition(":")
    found = getattr(import_module(module), attribute)
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise WrongInput(f"backend {name!r}: {targets()[name]} is not a subclass of kparity.adapter.Backend")
    return found


def open_backend(name: str, index: int = 0) -> Backend:
    """Open a backend's device; raises Unavailable with reason, remedy and code."""
    return backend_class(name).open(index)
