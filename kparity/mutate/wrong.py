"""A mutant as an engine, ``mutant:rope/convention-swapped?backend=numpy``: what is known to be wrong, for whatever
compares engines to be tried on.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from kparity.device import registry
from kparity.device.adapter import Backend
from kparity.engine import Engine as Served
from kparity.engines.base import Spec
from kparity.engines.own import Own
from kparity.errors import UnknownName
from kparity.mutate import makers, patch
from kparity.mutate.cell import ENGINE
from kparity.mutate.child import apply, opened
from kparity.mutate.library import every
from kparity.mutate.runner import graph_of


class Mutant(Own):
    """A wrong kernel, or a wrong engine around right ones, on a backend (by default numpy, which compiles nothing)."""

    def __init__(self, spec: Spec, *, model: str, context: int) -> None:
        spec.only("backend")
        known = {each.label: each for each in every()}
        if spec.place not in known:
            raise UnknownName("mutant", spec.place, known)
        self.subject = known[spec.place]
        name = spec.options.get("backend", "numpy")
        dialect = registry.backend_class(name).dialect
        mutant, self.patched = self.subject.mutant, dict[str, str]()
        if mutant is not None:
            self.patched = mutant.sources(self.subject.op, dialect)
            if not self.patched or dialect in mutant.equivalent:
                raise spec.wrong(f"this defect cannot be written in the text of {name}; name another backend")
            apply(self.patched, dialect)
        fused = "1" if graph_of(self.subject) == "fused" else "0"
        super().__init__(dataclasses.replace(spec, place=name, options={"fused": fused}), model=model, context=context)
        known_wrong = f"known to be wrong: {self.subject.what}"
        self.facts = msgspec.structs.replace(self.facts, name=f"mutant {spec.place}", weaknesses=(known_wrong,))
        if self.patched:
            self.step(max(self.facts.bos, 0))
            self.reset()
            if not patch.USED:
                raise spec.wrong(f"{name} takes nothing from the patched texts")

    def _opened(self, name: str, **options: Any) -> Backend:
        return opened(name, self.patched, [])

    def _served(self, backend: Backend, **options: Any) -> Served:
        if self.subject.op == ENGINE:
            return makers.every()[1][self.subject.name](self.model, backend)
        return super()._served(backend, **options)
