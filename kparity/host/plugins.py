"""What other packages add to kparity, through entry points."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType

from kparity.errors import WrongInput


def registered(group: str, kind: str, own: Mapping[str, str]) -> dict[str, str]:
    """Name -> ``module:attribute`` of what is ``own`` and of a group of entry points.

    Raises WrongInput where a package takes a name that is there already.
    """
    targets = dict(own)
    for entry in entry_points(group=group):
        if targets.setdefault(entry.name, entry.value) != entry.value:
            raise WrongInput(f"{kind} {entry.name!r} is registered twice: {targets[entry.name]} and {entry.value}")
    return targets


def imported(module: str) -> ModuleType:
    """A module; what it prints meanwhile is no result and goes to standard error."""
    with redirect_stdout(sys.stderr):
        return import_module(module)
