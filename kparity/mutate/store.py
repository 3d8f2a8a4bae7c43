"""The JSONL file of a run: a cell per line, appended as cells end, so that a run that was interrupted goes on."""

from __future__ import annotations

import json
from pathlib import Path

from kparity.errors import WrongInput
from kparity.mutate.cell import Cell
from kparity.mutate.runner import Plan


def parsed(line: str, where: str) -> Cell:
    """One line of the file; raises WrongInput for what is no cell."""
    try:
        return Cell.from_dict(json.loads(line))
    except (ValueError, KeyError, TypeError) as problem:
        raise WrongInput(f"{where}: no cell of a mutation run ({problem})") from problem


class Store:
    """The file at ``path``; without ``path`` nothing is kept. What it holds from before counts where digests agree."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[str, Cell] = {}
        if path is not None and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            cells = [parsed(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]
            self._known = {cell.key: cell for cell in cells}

    def known(self, plan: Plan) -> Cell | None:
        """A stored cell of the same sources, or None."""
        cell = self._known.get(plan.blank.key)
        return cell if cell is not None and cell.digest == plan.digest else None

    def add(self, cell: Cell) -> None:
        """Append one cell."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(cell.as_dict(), ensure_ascii=False) + "\n")
