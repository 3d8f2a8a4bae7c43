"""The matrix as a picture, for a README: a column per gate and backend, a row per mutant, grouped by op."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from kparity.errors import Unavailable
from kparity.mutate.cell import CONTROL, GATES, Cell
from kparity.mutate.score import Score
from kparity.ops.spec import Array

VALUES = {"passed": 1.0, "caught": 2.0}
COLOURS = ("#ffffff", "#e9edf2", "#1f6f8b")
"""Not run or not applicable, accepted, rejected."""


def require_matplotlib() -> Any:
    """matplotlib with a backend that needs no display; raises Unavailable with what to install."""
    try:
        matplotlib = import_module("matplotlib")
    except ImportError:
        raise Unavailable(
            "matplotlib is not installed, and a picture needs it", 'pip install "kparity[report]"', "KP-IMPORT"
        ) from None
    matplotlib.use("Agg")
    return matplotlib


def grid(cells: Sequence[Cell]) -> tuple[Array, list[tuple[str, str]], list[str]]:
    """Values [mutants, backends × gates], the (op, name) of every row, and the backends."""
    wanted = [cell for cell in cells if cell.op != CONTROL and cell.status in ("ran", "equivalent")]
    rows = list(dict.fromkeys((cell.op, cell.mutant) for cell in wanted))
    backends = list(dict.fromkeys(cell.backend for cell in wanted))
    values = np.zeros((len(rows), len(backends) * len(GATES)))
    for cell in wanted:
        for result in cell.gates:
            column = backends.index(cell.backend) * len(GATES) + GATES.index(result.gate)
            values[rows.index((cell.op, cell.mutant)), column] = VALUES.get(result.outcome, 0.0)
    return values, rows, backends


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Write the picture; raises Unavailable without matplotlib."""
    matplotlib = require_matplotlib()
    pyplot = import_module("matplotlib.pyplot")
    values, rows, backends = grid(cells)
    height = 1.6 + 0.115 * len(rows)
    figure, axes = pyplot.subplots(figsize=(2.2 + 1.75 * max(len(backends), 1), height), dpi=160)
    colours = matplotlib.colors.ListedColormap(COLOURS)
    axes.pcolormesh(values[::-1], cmap=colours, vmin=0, vmax=2, edgecolors="white", linewidth=0.6)
    gates = [gate for _ in backends for gate in GATES]
    axes.set_xticks(np.arange(len(gates)) + 0.5, gates, rotation=90, fontsize=5)
    axes.xaxis.tick_top()
    ops = list(dict.fromkeys(op for op, _ in rows))
    names = [op for op, _ in rows]
    for op in ops:
        first, count = names.index(op), names.count(op)
        axes.text(-0.4, len(rows) - first - count / 2, op, ha="right", va="center", fontsize=6)
        axes.axhline(len(rows) - first, color="#8a94a3", linewidth=0.5)
    for at, backend in enumerate(backends):
        left = at * len(GATES)
        axes.axvline(left, color="#8a94a3", linewidth=0.8)
        full = Score([cell for cell in cells if cell.backend == backend]).full
        axes.text(left + len(GATES) / 2, -0.6, f"{backend}\n{full}", ha="center", va="top", fontsize=6.5)
    axes.set_yticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
