"""Contracts: versioned YAML documents that hold thresholds with their basis, log shapes, known issues, and the tests
that could refute them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kparity.errors import UnknownName, WrongInput
from kparity.host.revision import checkout
from kparity.host.text import printable

if TYPE_CHECKING:
    from kparity.contracts.form import Sections

PROBE = "backend-output-parity-v1"
"""The contract that the probe and the dispatcher enforce."""
RECEIPT = "receipt-v1"
"""The contract that receipts are verified against."""
CUTOVER = "burnin-cutover-v1"
"""The contract of a burn-in, and of the cutover behind it."""

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
    """A parsed contract with the file that it came from; ``document`` is the YAML as it stands."""

    path: Path
    document: dict[str, Any]

    @property
    def id(self) -> str:
        """The contract's id."""
        return str(self.document["metadata"]["id"])

    @property
    def version(self) -> str:
        """The contract's version."""
        return str(self.document["metadata"]["version"])

    @cached_property
    def sections(self) -> Sections:
        """The document as typed records."""
        import msgspec

        from kparity.contracts.form import Sections

        return msgspec.convert(self.document, Sections)

    @property
    def draft(self) -> bool:
        """Whether the code that enforces it is still to come."""
        return self.sections.metadata.status == "draft"

    @property
    def evidence(self) -> Path:
        """Where the evidence of its tests lies: beside the contract."""
        return self.path.parent / "evidence" / f"{self.id}.json"

    def root(self) -> Path | None:
        """The project that its tests and sources are named in: the nearest parent with pyproject.toml or .git.

        None for an installed package, whose tests do not ship with it, and outside of any project.
        """
        parents = self.path.resolve().parents
        if parents[0] == folder().resolve():
            return checkout()
        if {"site-packages", "dist-packages"} & {*self.path.resolve().parts}:
            return None
        return next((at for at in parents if (at / "pyproject.toml").is_file() or (at / ".git").exists()), None)

    def threshold(self, name: str) -> Threshold:
        """A threshold by id; raises UnknownName."""
        limits = self.document.get("thresholds", {})
        if name not in limits:
            raise UnknownName(f"threshold of {self.id}", name, limits)
        entry = limits[name]
        return Threshold(name, float(entry["value"]), entry["rule"], " ".join(str(entry["basis"]).split()))

    def rejected(self, backend: str, code: str, reason: str, then: str = "attempting fallback") -> str:
        """The line on stderr for a backend that may not serve."""
        template: str = self.document["log"]["rejected"]
        return template.format(
            contract=self.id, backend=backend, next=then, code=code, reason=printable(" ".join(reason.split()))
        )

    def tripped(self, backend: str, code: str, reason: str, then: str) -> str:
        """The same for one that served, and may not any more."""
        return self.rejected(backend, code, reason, then).replace(
            " path rejected, ", " path rejected while serving, ", 1
        )

    def serving(self, label: str, proved: int | None) -> str:
        """The line on stderr for the backend that serves, and the last position up to which it was proved."""
        template: str = self.document["log"]["serving"]
        return printable(template.format(label=f"{label}, proved to position {proved}"))


def folder() -> Path:
    """Where the contracts that ship with the package lie."""
    return Path(str(resources.files(__name__)))


def names() -> list[str]:
    """Ids of the contracts that ship with the package."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


@cache
def load(contract_id: str) -> Contract:
    """A shipped contract by id; raises UnknownName with the nearest id."""
    from kparity.contracts.plain_yaml import parse

    if contract_id not in names():
        raise UnknownName("contract", contract_id, names())
    path = folder() / f"{contract_id}.yaml"
    contract = Contract(path, parse(path.read_text(encoding="utf-8"), path.name))
    if contract.id != contract_id:
        raise WrongInput(f"{path.name} says that its id is {contract.id}")
    return contract
