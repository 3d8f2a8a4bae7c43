"""The names of backends, told without importing any."""

from __future__ import annotations

import pkgutil
from functools import lru_cache
from importlib.util import find_spec

from kparity.host.plugins import registered

GROUP = "kparity.backends"

_PACKAGE = find_spec(GROUP)
assert _PACKAGE is not None
_FILES = pkgutil.iter_modules(_PACKAGE.submodule_search_locations)
BUILTIN = tuple(sorted(file.name.replace("_", "-") for file in _FILES if not file.name.startswith("_")))
"""The backends of this package: the files of ``backends/``, with a hyphen for what a module cannot be called."""


@lru_cache(maxsize=1)
def targets() -> dict[str, str]:
    """``name -> "module:Class"`` of every backend, of a built-in one the module; no package can replace these."""
    return registered(GROUP, "backend", {name: f"{GROUP}.{name.replace('-', '_')}" for name in BUILTIN})


def names() -> list[str]:
    """Known backend names."""
    return list(targets())
