"""Perplexity of the engine with something read otherwise than the file says it: what decides between two readings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from kparity import contracts
from kparity.burnin import perplexity
from kparity.burnin.perplexity import Plan, Scored
from kparity.doctor.patient import Patient
from kparity.engine import Engine as Served
from kparity.engines.base import Spec
from kparity.engines.own import Own
from kparity.errors import KparityError
from kparity.model.hparams import Hparams
from kparity.numerics.perplexity import difference

WINDOW, PER_TOKEN = 256, 4
"""Positions that are read on one cache; characters of the text for a token."""


class _Tried(Own):
    """The engine of kparity with other hyper-parameters than the file's."""

    def __init__(self, path: str, context: int, changes: dict[str, Any]) -> None:
        self.changes = changes
        super().__init__(Spec.parse("kparity:cpu"), model=path, context=context)

    def _served(self, backend: Any, **options: Any) -> Served:
        hparams: Hparams = replace(self.model.hparams, **self.changes)
        self.model.hparams = hparams
        return super()._served(backend, **options)


@dataclass
class Trials:
    """Runs of a model on the beginning of the built-in text, some ``tokens`` of it, each done once."""

    patient: Patient
    tokens: int
    done: dict[str, Scored] = field(default_factory=dict)
    failed: str = ""

    @property
    def refused(self) -> str:
        """Why nothing can be tried; empty where it can."""
        if self.patient.model is None:
            return self.patient.refused or self.patient.damage
        if self.tokens < 2:
            return "no token is to be read (--tokens)"
        return self.failed

    def score(self, **changes: Any) -> Scored | None:
        """Of hyper-parameters with changes; None where the model could not be run, which ``refused`` says then."""
        model = self.patient.model
        if self.refused or model is None:
            return None
        changes = {name: value for name, value in changes.items() if getattr(model.hparams, name) != value}
        key = repr(sorted(changes.items()))
        if key not in self.done:
            window = min(model.hparams.context, WINDOW)
            try:
                engine = _Tried(str(self.patient.path), window, changes)
            except KparityError as error:
                self.failed = str(error)
                return None
            try:
                plan = Plan(self.tokens, window, max(1, window // 2), "first")
                text, _ = perplexity.text_of(None)
                ids = perplexity.ids_of(text[: self.tokens * PER_TOKEN * 2], [engine], plan)
                self.done[key] = perplexity.score(engine, ids, plan)
            except KparityError as error:
                self.failed = str(error)
                return None
            finally:
                engine.close()
        return self.done[key]

    def knows(self, found: Scored) -> bool:
        """Whether a perplexity is that of a model which predicts something (``ppl_noise`` of the contract)."""
        limit = contracts.load(contracts.CUTOVER).threshold("ppl_noise")
        return found.ppl is not None and limit.holds(found.ppl / found.vocab)


def better(one: Scored, other: Scored) -> int:
    """-1 where the first predicts the text better, 1 where the second does, 0 where these tokens do not tell."""
    finite = [side.ppl is not None for side in (one, other)]
    if not all(finite):
        return finite[1] - finite[0]
    _, low, high = difference([math.nan if x is None else x for x in one.nll],
                              [math.nan if x is None else x for x in other.nll])  # fmt: skip
    return -1 if low > 0 else 1 if high < 0 else 0


def ppl(found: Scored) -> str:
    """A perplexity for a sentence."""
    return "no finite one" if found.ppl is None else f"{found.ppl:.4g}"
