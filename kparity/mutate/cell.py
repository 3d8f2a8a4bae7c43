"""A cell of the matrix, one mutant on one backend, with what every gate said of it: an entry of the JSON of a run, a
line of the file that keeps it, and what the process of a cell is asked and says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from kparity.errors import WrongInput
from kparity.gates import table
from kparity.host import files
from kparity.process.messages import Done, Message, Name, Stage, Text, Tick

Status = Literal["ran", "invalid", "skipped", "equivalent"]
Outcome = Literal["caught", "passed", "not run", "blind"]

PROBE_GATES = tuple(gate.name for gate in table.GATES)
"""The gates of a full probe."""
GATES = (*PROBE_GATES, table.SOAK.name, "check", "crash", "hang")
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


class CellRequest(msgspec.Struct, frozen=True):
    """One cell; with ``witnesses`` the unmutated kernels on those inputs instead."""

    op: str
    mutant: str
    backend: str
    dialect: str
    graph: str
    patched: dict[str, str]
    model: str | None
    """The model's file; None is the embedded one."""
    reference: int
    """Descriptor of the reference's file, which cannot be written."""
    soak: float = 0.0
    """Seconds of the gate ``soak``; 0: not run."""
    witnesses: list[Witness] = []


class GateSaid(Message, frozen=True, tag="gate"):
    """What one gate made of the mutant."""

    result: GateResult
    witness: Witness | None = None


class WitnessSaid(Message, frozen=True, tag="witness"):
    """Whether the unmutated kernel passes on one input."""

    ok: bool
    reason: Text = ""


class Bits(Message, frozen=True, tag="bits"):
    """Digest of every byte that the probe read from the device."""

    sha256: Name


class Unapplied(Message, frozen=True, tag="unapplied"):
    """The mutant's patch is of texts that the backend does not take: nothing was wrong."""

    reason: Text


class Invalid(Message, frozen=True, tag="invalid"):
    """The mutant is no kernel at all, or failed by itself."""

    reason: Text


Said = Stage | Tick | GateSaid | WitnessSaid | Bits | Invalid | Unapplied | Done


class Store:
    """The JSONL file of a run, appended as cells end, so that a run that was interrupted goes on; without ``path``
    nothing is kept. What it holds from before counts where digests agree.

    Raises WrongInput for a line that is no cell.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self._known = path, dict[str, Cell]()
        kept = files.read(path, "the cells of a mutation run") if path is not None and path.exists() else b""
        if path is not None and kept and not kept.endswith(b"\n"):  # a run that was killed while it wrote a cell
            kept = kept[: kept.rfind(b"\n") + 1]
            files.write(path, kept)
        for number, line in enumerate(kept.splitlines(), 1):
            try:
                cell = msgspec.json.decode(line, type=Cell)
            except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
                raise WrongInput(f"{path}:{number}: no cell of a mutation run ({problem})") from problem
            self._known[cell.key] = cell

    def known(self, blank: Cell) -> Cell | None:
        """A stored cell of the same sources, or None."""
        cell = self._known.get(blank.key)
        return cell if cell is not None and cell.digest == blank.digest else None

    def add(self, cell: Cell) -> None:
        """Append one cell."""
        if self.path is not None:
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(cell) + b"\n")
