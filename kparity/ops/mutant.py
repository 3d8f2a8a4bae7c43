"""What a mutant is: a wrong kernel, written as a patch on the real source of each dialect.

A gate can be trusted because it was seen to reject. Every op keeps its mutants beside its sources
(``kernels/<op>/mutants.py``: name, in lower case with hyphens, → mutant); ``kparity mutate`` runs each on every backend
of its dialects and records which gate rejects it. Another package adds mutants of an op, its own or one of ours,
through the entry-point group ``kparity.mutants`` (``op = "module:MUTANTS"``, a dict).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kparity import ops
from kparity.errors import WrongInput
from kparity.ops.assemble import KERNELS, file_of, kernel_text, package_text

CHANGE = re.compile("«(.*?)→(.*?)»", re.DOTALL)


@dataclass(frozen=True)
class Patch:
    """A piece of a source in which ``«right→wrong»`` marks what changes, as in ``a[at] «+→-» b[at]``.

    The piece must occur exactly ``times`` times, so that a patch cannot rot silently; with ``only``, from 1 on, one of
    them changes. ``file`` is relative to ``kernels/`` (``prelude/angle.wgsl``); without it the op's own text of the
    dialect is meant.
    """

    marked: str
    times: int = 1
    file: str = ""
    only: int = 0

    def apply(self, path: str, text: str) -> str:
        """The patched text; raises WrongInput where the piece does not occur as often as it should."""
        piece = CHANGE.sub(r"\1", self.marked)
        count = text.count(piece)
        if count != self.times:
            raise WrongInput(f"{path}: {piece!r} occurs {count} times, the patch expects {self.times}")
        wrong = CHANGE.sub(r"\2", self.marked)
        if not self.only:
            return text.replace(piece, wrong)
        parts = text.split(piece)
        return piece.join(parts[: self.only]) + wrong + piece.join(parts[self.only :])


class Mutant:
    """A wrong kernel: one defect, in as many dialects as it can be written in."""

    what: str
    """The defect in one sentence, and where it was seen if it was."""
    patches: Mapping[str, tuple[Patch, ...]]
    """Dialect → replacements, one after the other."""
    equivalent: Mapping[str, str]
    """Dialect → the pytest node that proves that the patched text computes the same bits for every input."""
    only: str
    """The backend on which alone its defect is sure to show; empty for any."""

    def __init__(
        self, what: str, equivalent: Mapping[str, str] | None = None, only: str = "",
        **dialects: str | Patch | tuple[str | Patch, ...],
    ) -> None:  # fmt: skip
        self.what, self.equivalent, self.only = what, equivalent or {}, only
        several = {name: given if isinstance(given, tuple) else (given,) for name, given in dialects.items()}
        self.patches = {
            name: tuple(Patch(each) if isinstance(each, str) else each for each in given)
            for name, given in several.items()
        }

    def sources(self, op: str, dialect: str) -> dict[str, str]:
        """Path below ``kernels/`` → patched text, for one dialect; raises WrongInput where a patch does not fit."""
        changed: dict[str, str] = {}
        own, package = file_of(op, dialect), ops.get(op).texts
        for patch in self.patches.get(dialect, ()):
            path = patch.file or own
            theirs = package != KERNELS and path.startswith(f"{op}/")
            try:
                text = changed.get(path) or (package_text(package, path) if theirs else kernel_text(path))
            except OSError:
                raise WrongInput(f"a mutant of {op} is of {path}, which {package} does not have") from None
            changed[path] = patch.apply(f"{package if theirs else 'kernels'}/{path}", text)
        return changed
