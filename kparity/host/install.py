"""What can be installed here, and with which command: the one place that says ``pip install``."""

from __future__ import annotations

import re
import shlex
import sys
from functools import cache
from importlib import import_module, metadata
from typing import Any

from kparity.errors import WrongInput
from kparity.host.revision import checkout


def pip(*what: str) -> str:
    """The line that installs distributions for the interpreter that runs, as sh takes it."""
    return shlex.join([sys.executable, "-m", "pip", "install", *what])


@cache
def extras() -> dict[str, list[str]]:
    """Extra of this distribution → libraries that it requires; empty where it is not installed as one."""
    found: dict[str, list[str]] = {}
    try:
        required = metadata.requires("kparity") or []
    except metadata.PackageNotFoundError:
        required = []
    for line in required:
        if part := re.fullmatch(r"((?!kparity\b)[^;]+?) *; .*extra == ['\"](\w+)['\"]", line):
            found.setdefault(part[2], []).append(part[1])
    return found


def extra(name: str) -> str:
    """The line that brings an extra: of the checkout that runs, else, since no index has kparity, what it requires."""
    root = checkout()
    return pip("-e", f"{root}[{name}]") if root else pip(*extras().get(name, []))


def library(name: str, of: str, purpose: str) -> Any:
    """A module that an extra brings, imported; raises WrongInput with the line that installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise WrongInput(f"{purpose} needs {package}, which cannot be imported ({error}); run {extra(of)}") from error
