"""The matrix and the scores: for the console, as Markdown, as JSON, as one HTML page, as a picture."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module

import msgspec
import numpy as np

from kparity import __version__, contracts
from kparity.host import install
from kparity.host.html import render
from kparity.host.text import markdown_table
from kparity.mutate.cell import CONTROL, GATES, PROBE_GATES, Cell, Status
from kparity.mutate.score import TITLES, Score, scores

SCHEMA = "kparity-mutate-v1"
UNCOUNTED: tuple[Status, ...] = ("equivalent", "skipped", "invalid")
MARKS = {"caught": "●", "passed": "○", "blind": "–", "not run": "·"}
COLOURS = ("#edf1f5", "#1f6f8b")
"""Of the picture: no mutant rejected, all of them."""


def _described(cell: Cell) -> str:
    return f"{cell.what} ({cell.reason})" if cell.reason else cell.what


def summary(cells: Sequence[Cell], alarms: Sequence[str]) -> list[tuple[str, str]]:
    """For the console: targets and whatever was not rejected, each with what kind of line it is."""
    score = Score(cells)
    skipped = dict.fromkeys(f"{cell.backend}: {cell.reason}" for cell in cells if cell.status == "skipped")
    lines = [("target", f"{measure.threshold}: {measure.text()}") for measure in score.measures()]
    lines += [("survived", f"{cell.key}: {_described(cell)}") for cell in score.survivors]
    lines += [("unseen", f"{cell.key}: only check rejects it") for cell in score.only_check]
    lines += [("invalid", f"{cell.key}: {cell.reason}") for cell in cells if cell.status == "invalid"]
    lines += [("skipped", reason) for reason in skipped]
    lines += [("alarm", alarm) for alarm in alarms]
    return lines if score.mutants else [*lines, ("", "nothing ran")]


def _score_table(cells: Sequence[Cell], by: str) -> str:
    rows = [
        ["**all**" if name == "all" else name, *score.tallies.values(),
         *(len(score.with_status(status)) for status in UNCOUNTED)]
        for name, score in scores(cells, by).items()
    ]  # fmt: skip
    return markdown_table(("", *TITLES.values(), *UNCOUNTED), rows)


def _listed(lines: Sequence[Cell] | Sequence[str], none: str) -> str:
    texts = [f"`{line.key}`: {_described(line)}" if isinstance(line, Cell) else line for line in lines]
    return "\n".join(f"- {text}" for text in texts) or none


def markdown(cells: Sequence[Cell], alarms: Sequence[str]) -> str:
    """The summary for the documentation."""
    score, contract = Score(cells), contracts.load(contracts.PROBE)
    targets = [(each.threshold, each.text(), "yes" if each.holds else "**no**") for each in score.measures()]
    columns = {name: each.per_gate for name, each in scores(cells, "backend").items()}
    per_gate = [[gate, *(column[gate] for column in columns.values())] for gate in GATES]
    parts = [
        "# Negative controls",
        "Made by `kparity mutate`. Each mutant is a known-wrong kernel (a patch on the real source of a dialect) or a "
        "wrong engine; each ran in a process of its own through every gate of the probe on the embedded model, and "
        "through `kparity check` of its op. *Of those it can see*: mutants that change at least one bit of what the "
        "probe reads from the device; the others are wrong in shapes, types or inputs that its model does not have.",
        *(
            f"The probe did not run on `{name}`, which is slow: `check` alone held the kernels there."
            for name in dict.fromkeys(cell.backend for cell in cells)
            if unprobed(cells, name)
        ),
        f"Contract {contract.id} {contract.version}.",
        markdown_table(("target", "measured", "holds"), targets),
        "## Per backend",
        _score_table(cells, "backend"),
        "## Per gate (each gate run by itself, over all mutants)",
        markdown_table(("gate", *columns), per_gate),
        "## Per op",
        _score_table(cells, "op"),
        "## Survivors",
        _listed(score.survivors, "None: something rejects every mutant."),
        "## Seen by the model, accepted by the probe, rejected by check",
        _listed(score.only_check, "None."),
        "## Proven equivalent",
        _listed(score.with_status("equivalent"), "None."),
        "## Controls",
        _listed(
            alarms, "Without a defect every gate passes, as does `check` on every input by which it rejected a mutant."
        ),
    ]
    return "\n\n".join(parts) + "\n"


def unprobed(cells: Sequence[Cell], backend: str) -> bool:
    """Whether no gate of the probe said anything of a mutant on a backend."""
    said = (cell.result(gate) for cell in cells if cell.backend == backend for gate in PROBE_GATES)
    return all(each is None or each.outcome == "not run" for each in said)


def as_json(cells: Sequence[Cell], alarms: Sequence[str], code: int) -> str:
    """Scores and cells; a share of nothing is null."""
    contract = contracts.load(contracts.PROBE)
    document = {
        "schema": SCHEMA,
        "kparity": __version__,
        "contract": {"id": contract.id, "version": contract.version},
        "exit_code": code,
        "scores": {
            name: {
                part: {**asdict(tally), "share": None if math.isnan(tally.share) else tally.share}
                for part, tally in {**score.tallies, **score.per_gate}.items()
            }
            for name, score in scores(cells, "backend").items()
        },
        "alarms": list(alarms),
        "cells": msgspec.to_builtins(list(cells)),
    }
    return json.dumps(document, indent=1, ensure_ascii=False)


def _note(cell: Cell) -> str:
    """What the page says beside a row."""
    if cell.status != "ran":
        return f"{cell.status}: {cell.reason}"
    if cell.op != CONTROL and not cell.caught_by():
        return "survived"
    notes = ["unfused graph"] if cell.graph == "unfused" else []
    notes += ["no bit of what the probe computes changes"] if cell.reached is False and cell.op != CONTROL else []
    return ", ".join(notes)


def page(cells: Sequence[Cell], alarms: Sequence[str]) -> str:
    """One HTML page that needs nothing else: a block per backend, a row per mutant, a column per gate; a name opens to
    what is wrong with it and what each gate said. Raises WrongInput without Jinja2.
    """
    return render(
        __package__ or "", cells=cells, alarms=alarms, scores=scores(cells, "backend"), titles=TITLES, gates=GATES,
        marks=MARKS, note=_note,
    )  # fmt: skip


def drawn(cells: Sequence[Cell]) -> bytes:
    """The picture, PNG: a row per op, a column per gate, in each field how many of the op's mutants, over all
    backends, the gate rejects; raises WrongInput without matplotlib.
    """
    matplotlib = install.library("matplotlib", "reports", "the picture of mutants")
    matplotlib.use("Agg")  # needs no display
    pyplot = import_module("matplotlib.pyplot")
    rows = scores(cells, "op")
    tallies = [[score.per_gate[gate] for gate in GATES] for score in rows.values()]
    shares = np.nan_to_num([[each.share for each in row] for row in tallies])
    figure, axes = pyplot.subplots(figsize=(11, 1.8 + 0.36 * len(rows)), dpi=150, layout="constrained")
    colours = matplotlib.colors.LinearSegmentedColormap.from_list("rejected", COLOURS)
    mesh = axes.pcolormesh(shares, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=2)
    for y, row in enumerate(tallies):
        for x, each in enumerate(row):
            ink = "white" if shares[y, x] > 0.5 else "#1a1d21"
            axes.text(x + 0.5, y + 0.5, f"{each.caught}", ha="center", va="center", fontsize=10, color=ink)
    axes.set_xticks(np.arange(len(GATES)) + 0.5, GATES, rotation=45, ha="left", fontsize=11)
    axes.set_yticks(
        np.arange(len(rows)) + 0.5, [f"{name} ({score.full.of})" for name, score in rows.items()], fontsize=11
    )
    axes.xaxis.tick_top()
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    backends = dict.fromkeys(cell.backend for cell in cells if cell.status == "ran")
    axes.set_xlabel(f"numbers: mutants that the gate rejects, each gate by itself; in brackets: all of the op, on "
                    f"{', '.join(backends)}", fontsize=11, labelpad=8)  # fmt: skip
    figure.colorbar(mesh, label="share of the mutants rejected", format="{x:.0%}", pad=0.02)
    picture = io.BytesIO()
    figure.savefig(picture)
    pyplot.close(figure)
    return picture.getvalue()
