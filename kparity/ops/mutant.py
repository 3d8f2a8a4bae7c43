"""What a mutant is: a wrong kernel, written as a patch on the real source of each dialect.

A gate can be trusted because it was seen to reject. Every op keeps its mutants beside its sources
(``kernels/<op>/mutants.py``); ``kparity mutate`` runs each on every backend of its dialects and records which gate
rejects it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kparity.errors import WrongInput
from kparity.ops.assemble import file_of


@dataclass(frozen=True)
class Patch:
    """One replacement in a source: ``find`` must occur exactly ``times`` times, so that a patch cannot rot silently.

    ``file`` is relative to ``kernels/`` (``prelude/angle.wgsl``); without it the op's own text of the dialect is meant.
    """

    find: str
    replace: str
    times: int = 1
    file: str = ""

    def apply(self, path: str, text: str) -> str:
        """The patched text; raises WrongInput where ``find`` does not occur as often as it should."""
        found = text.count(self.find)
        if found != self.times:
            raise WrongInput(f"kernels/{path}: {self.find!r} occurs {found} times, the patch expects {self.times}")
        return text.replace(self.find, self.replace)


@dataclass(frozen=True)
class Mutant:
    """A wrong kernel: one defect, in as many dialects as it can be written in."""

    name: str
    """Unique within its op, lower case with hyphens: ``mask-one-more``."""
    what: str
    """The defect in one sentence, and where it was seen if it was."""
    patches: Mapping[str, tuple[Patch, ...]] = field(default_factory=dict)
    """Dialect → replacements."""
    equivalent: Mapping[str, str] = field(default_factory=dict)
    """Dialect → the pytest node that proves that the patched text computes the same bits for every input."""

    def sources(self, op: str, dialect: str, texts: Mapping[str, str]) -> dict[str, str]:
        """Path below ``kernels/`` → patched text, for one dialect; ``texts`` has the original of every path."""
        changed: dict[str, str] = {}
        for patch in self.patches[dialect]:
            path = patch.file or file_of(op, dialect)
            changed[path] = patch.apply(path, changed.get(path, texts[path]))
        return changed
