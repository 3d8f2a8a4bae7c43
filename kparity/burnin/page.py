"""Pages of a burn-in: the gates of a cutover, and everything that a log shows while it grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kparity import contracts
from kparity.burnin import query
from kparity.burnin.compare import around
from kparity.burnin.course import Piece, course
from kparity.burnin.cutover import Decision
from kparity.burnin.log import state_of
from kparity.burnin.perplexity import Perplexity, weigh
from kparity.burnin.record import Mode, Row, Side
from kparity.burnin.stats import drift, stats
from kparity.burnin.told import MARKS, MODES, cells, lines, spelt
from kparity.errors import WrongInput
from kparity.host.html import render
from kparity.host.text import number
from kparity.receipts.cutover import Gate

ROUNDS, CONTEXT = 10, 60
"""Differing rounds that are shown, with as many characters of each side before and behind where they part."""
Curve = tuple[str, str]
"""The class of a line, and its path in a box of 1000 × 100."""


def cutover(found: Decision, every: int = 0) -> str:
    """The gates of a decision; ``every`` so many seconds it looks for a new one, where it is served."""
    return _page("page.html.j2", found.gates, every, found=found, verdict=found.verdict, word=found.decision)


def dashboard(log: Path, state: Path, mode: Mode, every: int, ppl: Perplexity | None = None) -> str:
    """What a log shows by now, with the perplexity of both sides as a gate more where it is given, and where it cannot
    be read, why.
    """
    try:
        halted = state_of(state).halted if state.exists() else ""
        with query.opened(log) as table:
            found, pieces = stats(table, mode), course(table, mode)
            if ppl is not None:
                weigh(found, ppl)
            misses, rounds = drift(table, mode), query.last(table, ROUNDS, differing=True)
    except WrongInput as problem:
        return _page(
            "dashboard.html.j2", [], every, verdict="INCONCLUSIVE", word="NOTHING YET", log=str(log), stats=None,
            problem=str(problem), halted="", course=[], drift=[], rounds=[], number=number, spelt=spelt,
        )  # fmt: skip
    most = contracts.load(contracts.CUTOVER).threshold("no_match_per_hour")
    slowest = max((ms or 0.0 for each in pieces for ms in (each.v1_p95, each.v2_p95)), default=0.0)
    return _page(
        "dashboard.html.j2", found.gates, every, verdict="FAIL" if halted else found.verdict,
        word="HALTED" if halted else found.verdict, log=str(log), stats=found, problem="", halted=halted,
        lines=[*lines(found)], mode_words=MODES, course=pieces, rates=_rates(pieces, most.value),
        most_text=f"{most.value:.0%}", times=_times(pieces, slowest), slowest=slowest, drift=misses,
        rounds=[(row, _sides(row)) for row in rounds], number=number, spelt=spelt,
    )  # fmt: skip


def _page(name: str, gates: Sequence[Gate], every: int, **values: Any) -> str:
    return render(
        __package__ or "", name, gates=[(gate, cells(gate)) for gate in gates], every=every, marks=MARKS, **values
    )


def _sides(row: Row) -> list[tuple[str, Side, str, str]]:
    """Name of each side, what it answered, what it shares with the other, and what it has for itself."""
    found = []
    for name, side in (("v1", row.v1), ("v2", row.v2)):
        shared, own = around(side.reply, row.prefix, CONTEXT)
        found.append((name, side, spelt(shared), spelt(own)))
    return found


def _rates(pieces: Sequence[Piece], most: float) -> list[Curve]:
    return [
        ("limit", f"M0 {_height(most, 1.0)}H1000"),
        ("v1", _curve(pieces, lambda each: each.exact, 1.0)),
        ("v2", _curve(pieces, lambda each: each.no_match, 1.0)),
    ]


def _times(pieces: Sequence[Piece], slowest: float) -> list[Curve]:
    return [
        (f"{side} {share}", _curve(pieces, lambda each: getattr(each, f"{side}_{share}"), slowest))  # noqa: B023
        for side in ("v1", "v2")
        for share in ("p50", "p95")
    ]


def _height(value: float, top: float) -> str:
    """Where a value lies between 0, near the lower edge of the box, and the top."""
    return f"{98 - 96 * value / (top or 1.0):.1f}"


def _curve(pieces: Sequence[Piece], value: Callable[[Piece], float | None], top: float) -> str:
    """A line through the values at their hours, with a gap where there is none; one alone is a short stroke."""
    first, last = (pieces[at].hour if pieces else 0.0 for at in (0, -1))
    path, pen, span = [], "M", last - first or 1.0
    for each in pieces:
        height = value(each)
        if height is None:
            pen = "M"
            continue
        path.append(f"{pen}{1000 * (each.hour - first) / span:.1f} {_height(height, top)}{'h2' if pen == 'M' else ''}")
        pen = "L"
    return "".join(path)
