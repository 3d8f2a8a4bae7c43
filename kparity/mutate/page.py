"""The matrix as one HTML page that needs nothing else: a block per backend, a row per mutant, a column per gate."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kparity.mutate.cell import CONTROL, GATES, Cell
from kparity.mutate.report import groups
from kparity.mutate.score import Score

STYLE = """
:root {
  --paper: #fff; --ink: #1d2433; --soft: #6b7280;
  --caught: #1f6f8b; --pass: #f1f3f6; --bad: #c2410c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171d; --ink: #e4e7ee; --soft: #98a1b2;
    --caught: #4fb3d1; --pass: #20242d; --bad: #fb923c;
  }
}
body { background: var(--paper); color: var(--ink); font: 14px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p { color: var(--soft); max-width: 46rem; }
table { border-collapse: separate; border-spacing: 2px; }
th { font-weight: 500; text-align: left; }
thead th { position: sticky; top: 0; background: var(--paper); color: var(--soft); }
thead th { font-size: 12px; padding: .3rem .4rem; }
tbody th { white-space: nowrap; padding-right: 1rem; }
tr.op th { color: var(--soft); padding-top: .8rem; }
tr.survivor th { color: var(--bad); font-weight: 600; }
td { width: 3.6rem; height: 1.25rem; text-align: center; font-size: 11px; border-radius: 3px; background: var(--pass); }
td.caught { background: var(--caught); color: var(--paper); }
td.none { background: none; color: var(--soft); }
td.note { width: auto; text-align: left; background: none; color: var(--soft); white-space: nowrap; }
.scores td { width: auto; padding: .25rem .6rem; text-align: right; font-size: 13px; }
.scores th { padding: .25rem .6rem .25rem 0; }
"""

MARKS = {"caught": "●", "passed": "", "blind": "–", "not run": "·"}


def _gate_cell(cell: Cell, gate: str) -> str:
    result = cell.result(gate)
    if result is None:
        return "<td class='none'></td>"
    kind = {"caught": "caught", "passed": "pass"}.get(result.outcome, "none")
    title = escape(f"{gate}: {result.outcome}" + (f". {result.reason}" if result.reason else ""), quote=True)
    return f"<td class='{kind}' title='{title}'>{MARKS[result.outcome]}</td>"


def _note(cell: Cell) -> str:
    if cell.status != "ran":
        return f"{cell.status}: {cell.reason}"
    if not cell.caught_by() and cell.op != CONTROL:
        return "survived"
    notes = ["unfused graph"] if cell.graph == "unfused" else []
    notes += ["no bit of what the probe computes changes"] if cell.reached is False and cell.op != CONTROL else []
    return ", ".join(notes)


def _row(cell: Cell) -> str:
    kind = " class='survivor'" if cell.status == "ran" and cell.op != CONTROL and not cell.caught_by() else ""
    cells = "".join(_gate_cell(cell, gate) for gate in GATES)
    name = f"<th title='{escape(cell.what, quote=True)}'>{escape(cell.mutant)}</th>"
    return f"<tr{kind}>{name}{cells}<td class='note'>{escape(_note(cell))}</td></tr>"


def _matrix(cells: Sequence[Cell]) -> str:
    head = "".join(f"<th>{gate}</th>" for gate in GATES)
    rows = []
    for op in dict.fromkeys(cell.op for cell in cells):
        rows.append(f"<tr class='op'><th colspan='{len(GATES) + 2}'>{escape(op)}</th></tr>")
        rows += [_row(cell) for cell in cells if cell.op == op]
    body = "\n".join(rows)
    return f"<table><thead><tr><th></th>{head}<th></th></tr></thead>\n<tbody>\n{body}\n</tbody></table>"


def _score_table(cells: Sequence[Cell]) -> str:
    head = ("", "BOS alone", "probe, of those it can see", "probe, of all", "probe and check")
    rows = []
    for name, some in {**groups(cells, "backend"), "all": list(cells)}.items():
        score = Score(some)
        values = (score.bos, score.probe, score.probe_of_all, score.full)
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(f'<td>{value}</td>' for value in values)}</tr>")
    return (
        f"<table class='scores'><thead><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def page(cells: Sequence[Cell], alarms: Sequence[str]) -> str:
    """The whole page; hovering over a field shows what the gate said."""
    survivors = Score(cells).survivors
    said = (
        "Nothing survived."
        if not survivors
        else f"{len(survivors)} survived: " + ", ".join(c.key for c in survivors) + "."
    )
    blocks = "".join(
        f"<h2>{escape(backend)}</h2>\n{_matrix([cell for cell in cells if cell.backend == backend])}\n"
        for backend in dict.fromkeys(cell.backend for cell in cells)
    )
    warned = "".join(f"<p><strong>{escape(alarm)}</strong></p>" for alarm in alarms)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>kparity mutate</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Which gate rejects which wrong kernel</h1>
<p>A row is a known-wrong kernel or engine, a column a gate; every gate ran, whatever the others said.
● rejected, empty: accepted, – cannot apply, · not run.
Hover over a field for the reason, over a name for the defect.</p>
{warned}{_score_table(cells)}
<p>{escape(said)}</p>
{blocks}</body>
</html>
"""
