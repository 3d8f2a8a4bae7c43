"""What makes a score believable: controls, inputs that right kernels pass, and proofs of what is called equivalent."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import msgspec

from kparity.contracts import nodes
from kparity.host.revision import checkout
from kparity.mutate import library
from kparity.mutate.cell import CONTROL, Cell
from kparity.mutate.library import Subject
from kparity.mutate.runner import TIMEOUT, Plan, Running, dialect_of
from kparity.probe.runner import turn
from kparity.process import Family


def mark_reach(cells: Sequence[Cell]) -> None:
    """Compare the bits of every cell with those of its control."""
    controls = {(cell.backend, cell.graph, cell.model): cell.bits for cell in cells if cell.op == CONTROL}
    for cell in cells:
        known = controls.get((cell.backend, cell.graph, cell.model))
        if not cell.graph:  # no probe ran
            cell.reached = False
            continue
        cell.reached = cell.bits != known if cell.bits and known else (True if cell.gates and not cell.bits else None)


def verify_witnesses(cells: Sequence[Cell], timeout: float = TIMEOUT) -> list[str]:
    """Run the unmutated kernels on the inputs by which ``check`` rejected mutants; returns what fails.

    A failure is a false alarm of ``check``: the score of that backend says nothing.
    """
    failures: list[str] = []
    with Family() as family:
        for backend in dict.fromkeys(cell.backend for cell in cells if cell.witness):
            wanted = [cell.witness for cell in cells if cell.backend == backend and cell.witness]
            unique = {msgspec.json.encode(witness, order="sorted"): witness for witness in wanted}
            plan = Plan(library.CONTROLS[0], backend, dialect_of(backend), "", {}, "")
            running = Running(plan, family, {}, timeout, list(unique.values()))
            while not running.over:
                turn([running])
            answers = running.witnesses
            failures += [f"{backend}: {answer.reason}" for answer in answers if not answer.ok]
            if len(answers) < len(unique):
                failures.append(f"{backend}: only {len(answers)} of {len(unique)} inputs could be checked unmutated")
    return failures


def proven(node: str) -> str | None:
    """Run the pytest node that proves an equivalence; None if it passes, else why it does not."""
    root = checkout()
    if root is None or not (root / "tests").is_dir():
        return "proofs of equivalence are tests, and this is no checkout"
    try:
        (outcome,) = nodes.run(root, [nodes.Reference("", "", node)], subprocess.DEVNULL)
    except nodes.NoPytest as problem:
        return f"{node} does not pass: {problem}"
    return None if outcome.outcome == "passed" else f"{node} does not pass: {outcome.outcome}, {outcome.said}"


def excuse(cells: Sequence[Cell], subjects: Sequence[Subject]) -> None:
    """Survivors that are declared equivalent in their dialect: excused only if the proof passes."""
    claims = {subject.label: subject.mutant.equivalent for subject in subjects if subject.mutant}
    proofs: dict[str, str | None] = {}
    for cell in cells:
        node = claims.get(f"{cell.op}/{cell.mutant}", {}).get(dialect_of(cell.backend))
        if node and cell.status == "ran" and not cell.caught_by():
            if node not in proofs:
                proofs[node] = proven(node)
            cell.reason = proofs[node] or f"proven by {node}"
            cell.status = "ran" if proofs[node] else "equivalent"
