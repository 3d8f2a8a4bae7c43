"""What makes a score believable: controls, inputs that right kernels pass, and proofs of what is called equivalent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence

from kparity.device import registry
from kparity.host.revision import checkout
from kparity.mutate import library
from kparity.mutate.cell import CONTROL, Cell
from kparity.mutate.library import Subject
from kparity.mutate.runner import TIMEOUT, Plan, Running
from kparity.probe.runner import turn
from kparity.process import Family


def mark_reach(cells: Sequence[Cell]) -> None:
    """Compare the bits of every cell with those of its control."""
    controls = {(cell.backend, cell.graph, cell.model): cell.bits for cell in cells if cell.op == CONTROL}
    for cell in cells:
        known = controls.get((cell.backend, cell.graph, cell.model))
        cell.reached = cell.bits != known if cell.bits and known else (True if cell.gates and not cell.bits else None)


def verify_witnesses(cells: Sequence[Cell], timeout: float = TIMEOUT) -> list[str]:
    """Run the unmutated kernels on the inputs by which ``check`` rejected mutants; returns what fails.

    A failure is a false alarm of ``check``: the score of that backend says nothing.
    """
    found: list[str] = []
    with Family() as family:
        for backend in dict.fromkeys(cell.backend for cell in cells if cell.witness):
            wanted = [cell.witness for cell in cells if cell.backend == backend and cell.witness]
            unique = {json.dumps(vars(witness), sort_keys=True): witness for witness in wanted}
            dialect = registry.backend_class(backend).dialect
            plan = Plan(library.CONTROLS[0], backend, dialect, "", {}, "")
            running = Running(plan, family, {}, timeout, list(unique.values()))
            while not running.over:
                turn([running])
            answers = running.witnesses
            found += [f"{backend}: {answer.reason}" for answer in answers if not answer.ok]
            if len(answers) < len(unique):
                found.append(f"{backend}: only {len(answers)} of {len(unique)} inputs could be checked unmutated")
    return found


def proven(node: str) -> str | None:
    """Run the pytest node that proves an equivalence; None if it passes, else why it does not."""
    root = checkout()
    if root is None or not (root / "tests").is_dir():
        return "proofs of equivalence are tests, and this is no checkout"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", node], cwd=root, capture_output=True, text=True
    )
    if done.returncode == 0 and "skipped" not in done.stdout.splitlines()[-1]:
        return None
    return f"{node} does not pass: {(done.stdout or done.stderr).strip().splitlines()[-1]}"


def excuse(cells: Sequence[Cell], subjects: Sequence[Subject], prove: Callable[[str], str | None] = proven) -> None:
    """Survivors that are declared equivalent in their dialect: excused only if the proof passes."""
    by_label = {subject.label: subject for subject in subjects}
    proofs: dict[str, str | None] = {}
    for cell in cells:
        subject = by_label.get(f"{cell.op}/{cell.mutant}")
        if subject is None or subject.mutant is None or cell.status != "ran" or cell.caught_by():
            continue
        node = subject.mutant.equivalent.get(registry.backend_class(cell.backend).dialect)
        if node is None:
            continue
        if node not in proofs:
            proofs[node] = prove(node)
        if proofs[node] is None:
            cell.status, cell.reason = "equivalent", f"proven by {node}"
        else:
            cell.reason = proofs[node] or ""
