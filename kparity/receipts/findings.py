"""Why a receipt is refused: a stable code (``kparity.receipts.reasons``), the place in the document, one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One reason to refuse a receipt; ``where`` is a JSON pointer into the statement."""

    code: str
    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.code} {self.where or '/'}: {self.why}"


Findings = Iterator[Finding]
