"""The matrix and the scores as text: for the console, as Markdown, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from kparity import __version__, contracts
from kparity.mutate.cell import CONTROL, GATES, Cell
from kparity.mutate.score import Score, mutants

SCHEMA = "kparity-mutate-v1"


def groups(cells: Sequence[Cell], by: str) -> dict[str, list[Cell]]:
    """The cells of mutants by ``backend`` or by ``op``, in their order."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.op != CONTROL:
            found.setdefault(getattr(cell, by), []).append(cell)
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]
    return "\n".join(lines)


def _score_row(name: str, score: Score) -> list[str]:
    counted = [len(score.with_status(status)) for status in ("equivalent", "skipped", "invalid")]
    return [
        name,
        *(str(tally) for tally in (score.bos, score.probe, score.probe_of_all, score.full)),
        *map(str, counted),
    ]


SCORE_HEAD = (
    "",
    "BOS alone",
    "probe, of those it can see",
    "probe, of all",
    "probe and check",
    "equivalent",
    "skipped",
    "invalid",
)


def _scores(cells: Sequence[Cell], by: str) -> str:
    rows = [_score_row(name, Score(some)) for name, some in groups(cells, by).items()]
    return _table(SCORE_HEAD, [*rows, _score_row("**all**", Score(cells))])


def _per_gate(cells: Sequence[Cell]) -> str:
    by_backend = {name: Score(some) for name, some in groups(cells, "backend").items()}
    everything = Score(cells)
    rows = [
        [gate, *(str(score.per_gate[gate]) for score in by_backend.values()), str(everything.per_gate[gate])]
        for gate in GATES
    ]
    return _table(("gate", *by_backend, "all"), rows)


def summary(cells: Sequence[Cell], alarms: Sequence[str]) -> str:
    """For the console: scores per backend, targets, and whatever was not rejected."""
    lines = []
    for name, some in {**groups(cells, "backend"), "all": list(cells)}.items():
        score = Score(some)
        lines.append(
            f"{name:<8} BOS {score.bos}   probe {score.probe} of those it can see, {score.probe_of_all} of all   "
            f"probe and check {score.full}"
        )
        skipped = [
            f"{len(found)} {status}"
            for status in ("equivalent", "skipped", "invalid")
            if (found := score.with_status(status))
        ]
        if skipped:
            lines.append(f"{'':<8} not counted: {', '.join(skipped)}")
    lines += [f"target   {measure.threshold}: {measure.text()}" for measure in Score(cells).measures()]
    lines += [
        f"survived {cell.key}: {cell.what}{f' ({cell.reason})' if cell.reason else ''}"
        for cell in Score(cells).survivors
    ]
    lines += [
        f"unseen   {cell.key}: only check rejects it" for cell in Score(cells).unseen_by_probe if cell.caught_by()
    ]
    lines += [f"invalid  {cell.key}: {cell.reason}" for cell in cells if cell.status == "invalid"]
    lines += [
        f"skipped  {reason}"
        for reason in dict.fromkeys(f"{c.backend}: {c.reason}" for c in cells if c.status == "skipped")
    ]
    lines += [f"alarm    {alarm}" for alarm in alarms]
    if not mutants(cells):
        lines.append("nothing ran")
    return "\n".join(lines)


def markdown(cells: Sequence[Cell], alarms: Sequence[str]) -> str:
    """The summary for the documentation."""
    score = Score(cells)
    contract = contracts.load(contracts.PROBE)
    targets = _table(
        ("target", "measured", "holds"),
        [(measure.threshold, measure.text(), "yes" if measure.holds else "**no**") for measure in score.measures()],
    )
    parts = [
        "# Negative controls",
        "Made by `kparity mutate`. Each mutant is a known-wrong kernel (a patch on the real source of a dialect) or a "
        "wrong engine; each ran in a process of its own through every gate of the probe on the embedded model, and "
        "through `kparity check` of its op. *Of those it can see*: mutants that change at least one bit of what the "
        "probe reads from the device; the others are wrong in shapes, types or inputs that its model does not have.",
        f"Contract {contract.id} {contract.version}.",
        targets,
        "## Per backend",
        _scores(cells, "backend"),
        "## Per gate (each gate run by itself, over all mutants)",
        _per_gate(cells),
        "## Per op",
        _scores(cells, "op"),
        "## Survivors",
        _listed(score.survivors, "None: something rejects every mutant."),
        "## Seen by the model, accepted by the probe, rejected by check",
        _listed([cell for cell in score.unseen_by_probe if cell.caught_by()], "None."),
        "## Proven equivalent",
        _listed(score.with_status("equivalent"), "None."),
        "## Controls",
        _listed_text(
            alarms, "Without a defect every gate passes, as does `check` on every input by which it rejected a mutant."
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _listed(cells: Sequence[Cell], none: str) -> str:
    return _listed_text(
        [f"`{cell.key}`: {cell.what}{f' ({cell.reason})' if cell.reason else ''}" for cell in cells], none
    )


def _listed_text(lines: Sequence[str], none: str) -> str:
    return "\n".join(f"- {line}" for line in lines) if lines else none


def as_json(cells: Sequence[Cell], alarms: Sequence[str], code: int) -> str:
    """Scores and cells; a share of nothing is null."""
    contract = contracts.load(contracts.PROBE)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "kparity": __version__,
        "contract": {"id": contract.id, "version": contract.version},
        "exit_code": code,
        "scores": {
            name: _score_dict(Score(some)) for name, some in {**groups(cells, "backend"), "all": list(cells)}.items()
        },
        "alarms": list(alarms),
        "cells": [cell.as_dict() for cell in cells],
    }
    return json.dumps(document, indent=1, ensure_ascii=False)


def _score_dict(score: Score) -> dict[str, Any]:
    named = {
        "bos": score.bos,
        "probe": score.probe,
        "probe_of_all": score.probe_of_all,
        "full": score.full,
        **score.per_gate,
    }
    return {
        name: {"caught": tally.caught, "of": tally.of, "share": None if math.isnan(tally.share) else tally.share}
        for name, tally in named.items()
    }
