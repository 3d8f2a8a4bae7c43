"""Terms of the shipped contracts, each in its contract's own words: what ``kparity explain`` prints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kparity.contracts import Contract, load, names


@dataclass(frozen=True)
class Term:
    """A threshold, with its ``limit``, or an equation."""

    name: str
    contract: Contract
    facts: Mapping[str, str]
    limit: str = ""

    def says(self, words: str) -> bool:
        """Whether its name, its formula or its basis has these words; the last of them may stand in the plural."""
        return any(re.search(rf"\b{re.escape(words)}s?\b", _plain(text)) for text in (self.name, *self.facts.values()))


def every() -> Iterator[Term]:
    """Thresholds, then equations, contract by contract."""
    for contract in map(load, names()):
        for name in contract.document.get("thresholds", {}):
            limit = contract.threshold(name)
            yield Term(name, contract, {"basis": limit.basis}, f" {limit.sign} {limit.value:g}")
        for name, equation in contract.document.get("equations", {}).items():
            facts = {key: each if isinstance(each, str) else "; ".join(each) for key, each in equation.items()}
            yield Term(name, contract, {key: " ".join(each.split()) for key, each in facts.items()})


def named(words: str) -> list[Term]:
    """Those of that name, in any spelling: ``floor_sigma_ratio``, ``Floor sigma ratio``."""
    return [each for each in every() if _plain(each.name) == _plain(words)]


def saying(words: str) -> list[Term]:
    """Those that have these words in their name or, where none has, in what their contract says of them."""
    found = [each for each in every() if each.says(_plain(words))]
    return [each for each in found if _plain(words) in _plain(each.name)] or found


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", text.strip().lower())
