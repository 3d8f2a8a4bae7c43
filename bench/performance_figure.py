"""Tokens per second as the work grows, in four small plots."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from performance_results import Results, curves, threads

COLOUR, LINE = "#1f6f8b", "#c9d3dc"


def draw(document: Any, path: Path) -> bool:
    """Write the figure; False where matplotlib (extra ``report``) is missing or there is nothing to draw."""
    results = Results(document)
    found, scaling = curves(results), threads(results)
    if find_spec("matplotlib") is None or not (found or scaling):
        return False
    import_module("matplotlib").use("Agg")
    pyplot = import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(1, 4, figsize=(11, 2.7), dpi=110)
    for at, curve in zip(axes, found, strict=False):
        start, slope = curve.line
        x = np.linspace(min(curve.x), max(curve.x), 100)
        at.plot(x, 1e3 / (start + slope * x), color=LINE, linewidth=4)
        at.plot(curve.x, [1e3 / ms for ms in curve.ms], "o", color=COLOUR)
        at.set_title(f"{curve.name}: line within {100 * curve.deviation:.1f} %", fontsize=8)
        at.set_xlabel(curve.unit, fontsize=7)
        at.set_xticks(curve.x)
    last = axes[-1]
    last.bar([str(n) for n, _ in scaling], [rate for _, rate in scaling], color=COLOUR, width=0.5)
    last.set_title("threads", fontsize=8)
    last.set_xlabel("threads, 6 layers, vocabulary 32000", fontsize=7)
    for at in axes[len(found) : -1]:
        at.set_visible(False)
    for at in axes:
        at.set_ylim(bottom=0)
        at.tick_params(labelsize=7)
        at.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("tokens/s", fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
    return True
