"""Scores: which share of the mutants each gate rejects, with every denominator beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kparity import contracts
from kparity.gates.verdict import Measure
from kparity.mutate.cell import CONTROL, GATES, PROBE_GATES, Cell, Status

BOS = ("open", "BOS")
"""The gates of a probe at depth bos."""
TITLES = {
    "bos": "BOS alone",
    "probe": "probe, of those it can see",
    "probe_of_all": "probe, of all",
    "full": "probe and check",
}
"""What the scores are called in tables."""


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


def tally(counted: Sequence[Cell], gates: Sequence[str]) -> Tally:
    """How many of the cells some gate of a list rejected."""
    return Tally(sum(bool(cell.caught_by(gates)) for cell in counted), len(counted))


class Score:
    """The scores of some cells: all, those of a backend, those of an op."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self.cells = [cell for cell in cells if cell.op != CONTROL]
        self.mutants = self.with_status("ran")
        """The cells that count: a mutant ran, and it is not proven equivalent."""
        visible = [cell for cell in self.mutants if cell.reached is not False]
        self.bos = tally(self.mutants, BOS)
        """The gates ``open`` and ``BOS`` alone."""
        self.probe = tally(visible, PROBE_GATES)
        """The full probe, over the mutants that it could see: those that change a bit of the logits or of what its
        gates compute on made inputs.
        """
        self.probe_of_all = tally(self.mutants, PROBE_GATES)
        """The full probe over all mutants, also those of shapes, types and inputs that its model does not have."""
        self.full = tally(self.mutants, GATES)
        """The full probe, ``check``, and a soak of what only load shows, over all mutants."""
        self.survivors = [cell for cell in self.mutants if not cell.caught_by()]
        """The mutants that nothing rejected."""
        self.only_check = [cell for cell in visible if cell.caught_by() and not cell.caught_by(PROBE_GATES)]
        """The mutants that change a bit of what the probe computes, that it accepts, and that ``check`` rejects."""

    @property
    def tallies(self) -> dict[str, Tally]:
        """By the names of ``TITLES``."""
        return {"bos": self.bos, "probe": self.probe, "probe_of_all": self.probe_of_all, "full": self.full}

    @property
    def per_gate(self) -> dict[str, Tally]:
        """Each gate by itself, over all mutants."""
        caught = [{result.gate for result in cell.gates if result.outcome == "caught"} for cell in self.mutants]
        return {gate: Tally(sum(gate in some for some in caught), len(caught)) for gate in GATES}

    def with_status(self, status: Status) -> list[Cell]:
        """The cells of mutants that ended so."""
        return [cell for cell in self.cells if cell.status == status]

    def measures(self) -> list[Measure]:
        """The contract's targets; that of the probe, where any ran."""
        contract, shares = contracts.load(contracts.PROBE), {"full": self.full.share}
        if any(cell.graph for cell in self.cells):
            shares["probe"] = self.probe.share
        return [Measure.of(contract, f"mutation_{name}", share) for name, share in shares.items()]


def scores(cells: Sequence[Cell], by: str) -> dict[str, Score]:
    """Scores by ``backend`` or by ``op``, in their order, and of all."""
    names = dict.fromkeys(getattr(cell, by) for cell in cells if cell.op != CONTROL)
    return {**{name: Score(c for c in cells if getattr(c, by) == name) for name in names}, "all": Score(cells)}


def false_alarms(cells: Iterable[Cell]) -> list[str]:
    """What the controls say against the gates: a control that did not run, or that a gate rejected."""
    alarms = []
    for cell in cells:
        if cell.op == CONTROL and cell.status != "skipped":
            caught = [f"{result.gate}: {result.reason}" for result in cell.gates if result.outcome == "caught"]
            ran = {result.gate for result in cell.gates if result.outcome != "not run"}
            silent = [f"{gate} did not run" for gate in PROBE_GATES if gate not in ran]
            control = f"{cell.backend}: the {cell.mutant} control"
            if cell.status != "ran":
                alarms.append(f"{control} could not run: {cell.reason}")
            elif caught or silent:
                alarms.append(f"{control}: {(caught or silent)[0]}")
    return alarms


def exit_code(cells: Sequence[Cell], alarms: Sequence[str]) -> int:
    """0 where the targets are met; 1 where they are not or a mutant is invalid; 3 where nothing can be concluded."""
    score = Score(cells)
    if score.with_status("invalid"):
        return 1
    if alarms or not score.mutants:
        return 3
    return 0 if all(measure.holds for measure in score.measures()) else 1
