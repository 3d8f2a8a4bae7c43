"""The JSONL file of a run: a cell per line, appended as cells end, so that a run that was interrupted goes on."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kparity.errors import WrongInput
from kparity.mutate.cell import Cell
from kparity.mutate.runner import Plan


class Store:
    """The file at ``path``; without ``path`` nothing is kept. What it holds from before counts where digests agree.

    Raises WrongInput for a line that is no cell.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self._known = path, dict[str, Cell]()
        lines = path.read_bytes().splitlines() if path is not None and path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                cell = msgspec.json.decode(line, type=Cell)
            except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
                raise WrongInput(f"{path}:{number}: no cell of a mutation run ({problem})") from problem
            self._known[cell.key] = cell

    def known(self, plan: Plan) -> Cell | None:
        """A stored cell of the same sources, or None."""
        cell = self._known.get(plan.blank.key)
        return cell if cell is not None and cell.digest == plan.digest else None

    def add(self, cell: Cell) -> None:
        """Append one cell."""
        if self.path is not None:
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(cell) + b"\n")
