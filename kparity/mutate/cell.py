"""A cell of the matrix: one mutant on one backend, and what every gate said of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kparity.gates import table

Status = Literal["ran", "invalid", "skipped", "equivalent"]
Outcome = Literal["caught", "passed", "not run", "blind"]

PROBE_GATES = tuple(gate.name for gate in table.GATES)
"""The gates of a full probe."""
GATES = (*PROBE_GATES, "check", "crash", "hang")
"""The columns of the matrix; a process that died or did not answer is caught by that alone."""
ENGINE = "engine"
"""Takes the place of an op for a mutant of the engine."""
CONTROL = "control"
"""Takes the place of an op for a run without any mutant."""


@dataclass(frozen=True)
class GateResult:
    """What one gate said. ``blind``: it cannot apply (``check`` sees ops, not engines); ``not run``: the process ended
    before it, or a gate that it builds on gave nothing.
    """

    gate: str
    outcome: Outcome
    reason: str = ""
    stage: str = ""
    """For crash and hang: ``probe`` or ``check``, where it happened."""


@dataclass(frozen=True)
class Witness:
    """The case and the kind of input by which ``check`` rejected a mutant; the unmutated kernel must pass it."""

    op: str
    params: dict[str, Any]
    kind: str


@dataclass
class Cell:
    """A mutant on a backend."""

    op: str
    mutant: str
    backend: str
    digest: str
    """Of everything that the result depends on: a stored cell with another digest is run again."""
    what: str = ""
    status: Status = "ran"
    reason: str = ""
    """Why it is invalid, skipped or equivalent."""
    model: str = ""
    """The model that the probe ran, by name; empty for the embedded one."""
    graph: str = ""
    """``fused`` (the one that serves), or ``unfused`` for an op that only the other graph launches."""
    gates: list[GateResult] = field(default_factory=list)
    bits: str = ""
    """Digest of every byte that the probe read from the device."""
    reached: bool | None = None
    """Whether any of those bytes differs from the unmutated run's; None where that is not known."""
    witness: Witness | None = None
    elapsed_s: float = 0.0

    @property
    def key(self) -> str:
        """``op/mutant@backend``."""
        return f"{self.op}/{self.mutant}@{self.backend}"

    def caught_by(self, gates: Sequence[str] = GATES) -> list[str]:
        """The gates of a list that rejected the mutant; a crash or hang counts for the stage at which it happened."""
        stages = {"probe"} if set(gates) & set(PROBE_GATES) else set()
        stages |= {"check"} if "check" in gates else set()
        return [
            result.gate
            for result in self.gates
            if result.outcome == "caught" and (result.gate in gates if not result.stage else result.stage in stages)
        ]

    def result(self, gate: str) -> GateResult | None:
        """What one gate said, or None."""
        return next((result for result in self.gates if result.gate == gate), None)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Cell:
        """The inverse of ``as_dict``."""
        witness = document.get("witness")
        return cls(
            **{
                **document,
                "gates": [GateResult(**gate) for gate in document["gates"]],
                "witness": Witness(**witness) if witness else None,
            }
        )
