"""What stands behind a reason code: title, cause, remedy, and the ways out as lines for three shells."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

SHELLS = {"sh": "export {}={}", "fish": "set -gx {} {}", "pwsh": "$env:{} = {}"}
"""Shell → how it sets a variable."""


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
    return " ".join(_quote(word, shell) for word in way.split())


def _quote(word: str, shell: str) -> str:
    if shell == "sh":
        return shlex.quote(word)
    if word and all(letter.isalnum() or letter in "-_./=:,+" for letter in word):
        return word
    doubled = word.replace("'", "''") if shell == "pwsh" else word.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{doubled}'"


def missing_package(package: str, extra: str) -> Reason:
    """The reason of a backend whose Python package cannot be imported; the pip extra of kparity brings it."""
    return Reason(
        f"{package} is not installed",
        f"The adapter drives its API through the Python package {package}, which cannot be imported.",
        f'pip install "kparity[{extra}]"',
        (f"python -m pip install kparity[{extra}]",),
    )
