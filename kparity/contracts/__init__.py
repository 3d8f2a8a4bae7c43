"""Contracts: versioned YAML documents that hold thresholds with their basis, log shapes, known issues, and the tests
that could refute them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from kparity.errors import UnknownName, WrongInput

PROBE = "backend-output-parity-v1"
"""The contract that the probe and the dispatcher enforce."""
RECEIPT = "receipt-v1"
"""The contract that receipts are verified against."""

RULES: Mapping[str, tuple[str, Callable[[float, float], bool]]] = {
    "at least": ("≥", operator.ge),
    "at most": ("≤", operator.le),
    "above": (">", operator.gt),
    "below": ("<", operator.lt),
}
"""Rule of a threshold -> its sign, and whether a measured number keeps it."""


@dataclass(frozen=True)
class Threshold:
    """A limit, the side on which it lies, and why it lies there."""

    id: str
    value: float
    rule: str
    basis: str

    def holds(self, measured: float) -> bool:
        """Whether a measured number satisfies the threshold; a number that is not finite never does."""
        return math.isfinite(measured) and RULES[self.rule][1](measured, self.value)

    @property
    def sign(self) -> str:
        """``≥``, ``≤``, ``>`` or ``<``."""
        return RULES[self.rule][0]


@dataclass(frozen=True)
class Contract:
    """A parsed contract; ``document`` is the YAML as it stands."""

    id: str
    version: str
    document: Mapping[str, Any]

    def threshold(self, name: str) -> Threshold:
        """A threshold by id; raises UnknownName."""
        found = self.document.get("thresholds", {})
        if name not in found:
            raise UnknownName(f"threshold of {self.id}", name, found)
        entry = found[name]
        return Threshold(name, float(entry["value"]), entry["rule"], " ".join(str(entry["basis"]).split()))

    def rejected(self, backend: str, code: str, reason: str, then: str = "attempting fallback") -> str:
        """The line on stderr for a backend that may not serve."""
        template: str = self.document["log"]["rejected"]
        flat = " ".join(reason.split())
        return template.format(contract=self.id, backend=backend, next=then, code=code, reason=flat)

    def serving(self, label: str) -> str:
        """The line on stderr for the backend that serves."""
        template: str = self.document["log"]["serving"]
        return template.format(label=label)


def folder() -> Path:
    """Where the contracts that ship with the package lie."""
    return Path(str(resources.files(__name__)))


def names() -> list[str]:
    """Ids of the contracts that ship with the package."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


@cache
def load(contract_id: str) -> Contract:
    """A shipped contract by id; raises UnknownName with the nearest id."""
    import yaml  # costs 15 ms; `import kparity` must not pay it

    if contract_id not in names():
        raise UnknownName("contract", contract_id, names())
    text = (folder() / f"{contract_id}.yaml").read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document = yaml.load(text, Loader=loader)
    if document["metadata"]["id"] != contract_id:
        raise WrongInput(f"{contract_id}.yaml says that its id is {document['metadata']['id']}")
    return Contract(contract_id, str(document["metadata"]["version"]), document)
