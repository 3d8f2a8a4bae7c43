"""What stands behind a reason code: title, cause, remedy, and the ways out as lines for three shells."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import PurePath

from kparity.host import install

SHELLS = {"sh": "export {}={}", "fish": "set -gx {} {}", "pwsh": "$env:{} = {}"}
"""Shell → how it sets a variable."""


def own_shell() -> str:
    """The one of SHELLS that ``$SHELL`` names; sh stands for bash and all that read its lines."""
    name = PurePath(os.environ.get("SHELL", "")).name
    return name if name in SHELLS else "sh"


@dataclass(frozen=True)
class Reason:
    """What stands behind a code. ``ways`` are what ``kparity preflight`` prints: commands, and variables to set, as
    ``NAME=value``; without any, it prints the remedy.
    """

    title: str
    cause: str
    remedy: str = "Do not use this backend."
    ways: tuple[str, ...] = ()

    def lines(self, shell: str) -> list[str]:
        """The ways out as lines of sh, fish or pwsh."""
        return [_line(way, shell) for way in self.ways] or [f"# {self.remedy}"]


def _line(way: str, shell: str) -> str:
    if variable := re.fullmatch(r"(\w+)=(.*)", way):
        return SHELLS[shell].format(variable[1], _quote(variable[2], shell))
    return " ".join(_quote(word, shell) for word in shlex.split(way))


def _quote(word: str, shell: str) -> str:
    if shell == "sh":
        return shlex.quote(word)
    if word and all(letter.isalnum() or letter in "-_./=:,+" for letter in word):
        return word
    doubled = word.replace("'", "''") if shell == "pwsh" else word.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{doubled}'"


def missing_package(package: str, extra: str) -> Reason:
    """The reason of a backend whose Python package cannot be imported; an extra of kparity brings it, where there is
    one of this name.
    """
    line = install.extra(extra) if extra in install.extras() else install.pip(package)
    return Reason(
        f"{package} is not installed",
        f"The adapter drives its API through the Python package {package}, which cannot be imported.",
        f"run {line}",
        (line,),
    )
