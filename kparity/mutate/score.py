"""Scores: which share of the mutants each gate rejects, with every denominator beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kparity import contracts
from kparity.contracts import Contract
from kparity.gates.verdict import Measure
from kparity.mutate.cell import CONTROL, GATES, PROBE_GATES, Cell

BOS = ("open", "BOS")
"""The gates of a probe at depth bos."""
FULL = (*PROBE_GATES, "check")
"""The gates of a full probe and of ``kparity check``."""


@dataclass(frozen=True)
class Tally:
    """``caught`` of ``of`` mutants."""

    caught: int
    of: int

    @property
    def share(self) -> float:
        """caught ÷ of; NaN where there was nothing to catch, so that it meets no threshold."""
        return self.caught / self.of if self.of else math.nan

    def __str__(self) -> str:
        return f"{self.caught}/{self.of} ({self.share:.1%})" if self.of else "0/0"


def mutants(cells: Iterable[Cell]) -> list[Cell]:
    """The cells that count: a mutant ran, and it is not proven equivalent."""
    return [cell for cell in cells if cell.op != CONTROL and cell.status == "ran"]


def tally(cells: Iterable[Cell], gates: Sequence[str]) -> Tally:
    """How many of the cells that count some gate of a list rejected."""
    counted = mutants(cells)
    return Tally(sum(bool(cell.caught_by(gates)) for cell in counted), len(counted))


@dataclass
class Score:
    """The scores of some cells: all, those of a backend, those of an op."""

    cells: Sequence[Cell]
    per_gate: dict[str, Tally] = field(init=False)

    def __post_init__(self) -> None:
        self.per_gate = {
            gate: Tally(
                sum(
                    any(result.gate == gate and result.outcome == "caught" for result in cell.gates) for cell in counted
                ),
                len(counted),
            )
            for counted in [mutants(self.cells)]
            for gate in GATES
        }

    @property
    def bos(self) -> Tally:
        """The gates ``open`` and ``BOS`` alone."""
        return tally(self.cells, BOS)

    @property
    def probe(self) -> Tally:
        """The full probe, over the mutants that it could see: those that change a bit of the logits or of what
        its gates compute on made inputs.
        """
        return tally((cell for cell in self.cells if cell.reached is not False), PROBE_GATES)

    @property
    def probe_of_all(self) -> Tally:
        """The full probe over all mutants, also those of shapes, types and inputs that its model does not have."""
        return tally(self.cells, PROBE_GATES)

    @property
    def full(self) -> Tally:
        """The full probe and ``check`` over all mutants."""
        return tally(self.cells, FULL)

    @property
    def survivors(self) -> list[Cell]:
        """The mutants that nothing rejected."""
        return [cell for cell in mutants(self.cells) if not cell.caught_by()]

    @property
    def unseen_by_probe(self) -> list[Cell]:
        """The mutants that change a bit of what the probe computes, and that it accepts."""
        return [cell for cell in mutants(self.cells) if cell.reached is not False and not cell.caught_by(PROBE_GATES)]

    def with_status(self, status: str) -> list[Cell]:
        """The cells that did not count, by why."""
        return [cell for cell in self.cells if cell.op != CONTROL and cell.status == status]

    def measures(self, contract: Contract | None = None) -> list[Measure]:
        """The contract's targets."""
        contract = contract or contracts.load(contracts.PROBE)
        return [
            Measure.of(contract, "mutation_full", self.full.share),
            Measure.of(contract, "mutation_probe", self.probe.share),
        ]


def false_alarms(cells: Iterable[Cell]) -> list[str]:
    """What the controls say against the gates: a control that did not run, or that a gate rejected."""
    found = []
    for cell in cells:
        if cell.op == CONTROL and cell.status != "skipped":
            caught = [f"{r.gate}: {r.reason}" for r in cell.gates if r.outcome == "caught"]
            silent = [gate for gate in PROBE_GATES if (r := cell.result(gate)) is None or r.outcome == "not run"]
            if cell.status != "ran":
                found.append(f"{cell.backend}: the {cell.mutant} control could not run: {cell.reason}")
            elif caught or silent:
                found.append(
                    f"{cell.backend}: the {cell.mutant} control: {(caught or [f'{silent[0]} did not run'])[0]}"
                )
    return found


def exit_code(cells: Sequence[Cell], alarms: Sequence[str]) -> int:
    """0 where the targets are met; 1 where they are not or a mutant is invalid; 3 where nothing can be concluded."""
    score = Score(cells)
    if score.with_status("invalid"):
        return 1
    if alarms or not mutants(cells):
        return 3
    return 0 if all(measure.holds for measure in score.measures()) else 1
