"""A cell of the matrix, one mutant on one backend, with what every gate said of it: a line of the file of a run, and an
entry of its JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from kparity.gates import table
from kparity.process.messages import Name, Text

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


class GateResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one gate said. ``blind``: it cannot apply (``check`` sees ops, not engines); ``not run``: the process ended
    before it, or a gate that it builds on gave nothing.
    """

    gate: Name
    outcome: Outcome
    reason: Text = ""
    stage: Name = ""
    """For crash and hang: ``probe`` or ``check``, where it happened."""


class Witness(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The case and the kind of input by which ``check`` rejected a mutant; the unmutated kernel must pass it."""

    op: str
    params: dict[str, Any]
    kind: str


class Cell(msgspec.Struct, forbid_unknown_fields=True):
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
    gates: list[GateResult] = []
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

    def ended(self, status: Status, reason: str) -> Cell:
        """This cell, which did not run to its end."""
        self.status, self.reason = status, reason
        return self

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
