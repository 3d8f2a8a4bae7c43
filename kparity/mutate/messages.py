"""What the process of a cell is asked and says."""

from __future__ import annotations

import msgspec

from kparity.mutate.cell import GateResult, Witness
from kparity.process.messages import Done, Message, Name, Stage, Text, Tick


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


class Invalid(Message, frozen=True, tag="invalid"):
    """The mutant is no kernel at all, or failed by itself."""

    reason: Text


Said = Stage | Tick | GateSaid | WitnessSaid | Bits | Invalid | Done
