"""The result of a probe for people: what became of each backend, and the numbers that are nearest to their limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kparity.cli.table import Table, say
from kparity.host.text import number

if TYPE_CHECKING:
    from kparity.gates.verdict import Gate, Measure, Row
    from kparity.probe.dispatcher import Outcome

NEAREST = 3
"""Measures of a backend that are shown although they hold; ``verbose`` shows all."""
LEAST = 1e-3
"""Of its limit a measure has used where it is shown."""


def print_probe(outcome: Outcome, verbose: bool = False, timings: bool = False, whose: str = "") -> None:
    """A line per backend with what it came to beneath; with ``verbose`` a line per measured number. ``whose`` says
    of which model the last position is, where nobody named one.
    """
    head, gates = ("backend", "verdict", "ms", "kind", "device"), ("gate", "measured", "threshold")
    table = Table(*(*head[:2], *gates, *head[2:]) if verbose else head, right={"ms", "measured"})
    for row in outcome.rows:
        place = (row.device["kind"], row.device["device"]) if row.device else (None, None)
        cells, about = (round(row.elapsed_ms), *place), _about(row, row.backend == outcome.serving, whose)
        if not verbose:
            table.add(row.backend, _verdict(row), *cells, beneath=[*about, *_summary(row.gates)])
            continue
        table.add(row.backend, _verdict(row), "", "", "", *cells, beneath=about)
        for gate in row.gates:
            for line in _in_full(gate):
                table.add("", *line, "", "")
    table.print()
    if timings:
        _print_timings(outcome.rows)


def _verdict(row: Row) -> str:
    return "INCONCLUSIVE" if row.shallow else row.status


def _about(row: Row, serves: bool, whose: str) -> list[str]:
    """Why it may not serve; what it was held against, and whether it serves."""
    if row.code:
        return [f"[{row.code}] {row.reason}"]
    count = f"{row.positions} position{'' if row.positions == 1 else 's'} against " if row.positions else ""
    against = f"{count}{row.reference}" if row.reference else ""
    proved = "" if row.proved is None else f"proved to position {row.proved}{whose}"
    on_gpu = f"GPU {row.gpu_proof} by its driver" if row.gpu_proof else ""
    said = ["serves" if serves else "", "cached" if row.cached else "", against, proved, on_gpu]
    return [", ".join(filter(None, said)), *row.evidence]


def _summary(gates: Sequence[Gate]) -> Iterator[str]:
    """Failed gates with every number, the names of the others, and the numbers nearest to their limits."""
    for verdict in dict.fromkeys(gate.verdict for gate in gates):
        names = [gate for gate in gates if gate.verdict == verdict]
        if verdict == "FAIL":
            yield from (f"FAIL {gate.name}: {'; '.join(map(_told, gate.measures)) or gate.reason}" for gate in names)
        else:
            left = ", not run (--depth bos)" if verdict == "INCONCLUSIVE" else ""
            yield f"{verdict}{left}: {', '.join(gate.name for gate in names)}"
    held = [measure for gate in gates if gate.verdict == "PASS" for measure in gate.measures]
    for count in (measure.value for measure in held if measure.threshold == "reset_compared"):
        sure = f"95 % sure that fewer than {3 / count:.2%} are wrong"
        yield f"{count:.0f} steps repeated bit for bit: {sure} (--soak repeats prompts as often)"
    near = sorted((measure for measure in held if _share(measure) > LEAST), key=_share, reverse=True)[:NEAREST]
    if near:
        yield f"nearest to their limits: {'; '.join(map(_told, near))}"


def _told(measure: Measure) -> str:
    wrong = "" if measure.holds else ", FAIL"
    return f"{measure.threshold} {number(measure.value, measure.limit)} ({measure.sign} {measure.limit:g}{wrong})"


def _share(measure: Measure) -> float:
    """How much of its limit a measure has used: of a cosine its distance from 1; a count of what was done uses none."""
    if measure.sign in ("≥", ">"):
        return (1 - measure.value) / (1 - measure.limit) if measure.limit < 1 else 0.0
    return measure.value / measure.limit if measure.limit else 0.0


def _in_full(gate: Gate) -> Iterator[tuple[Any, ...]]:
    """Verdict, gate, measured, threshold and ms: a line per number, as many digits as tell it apart."""
    ms = round(gate.elapsed_ms) or ""
    if not gate.measures:
        note = "not run (--depth bos)" if gate.verdict == "INCONCLUSIVE" else gate.note
        yield gate.verdict, gate.name, "", note, ms
    for at, each in enumerate(gate.measures):
        limit, verdict = f"{each.sign} {each.limit:g} {each.threshold}", "PASS" if each.holds else "FAIL"
        yield verdict, "" if at else gate.name, f"{each.value:.6g}", limit, "" if at else ms


def _print_timings(rows: Sequence[Row]) -> None:
    say("")
    names = [row.backend for row in rows]
    table = Table("", *names, right=names, title="Where the time went (ms in each probe's process)")
    for stage in dict.fromkeys(stage for row in rows for stage in row.timings_ms):
        table.add(stage, *(round(row.timings_ms[stage]) if stage in row.timings_ms else "" for row in rows))
    table.add("process", *(round(row.elapsed_ms) for row in rows))
    table.add("step on device", *("" if row.device_step_ms is None else row.device_step_ms for row in rows))
    table.print()
