"""The sweep of the rung ``positions``: prompts of many lengths in batches of many sizes, and traces of each length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from kparity.errors import WrongInput
from kparity.host import files
from kparity.ladder.limits import Judge
from kparity.ladder.record import FAIL, Measure, PositionVerdict
from kparity.ladder.stream import Seat, compared
from kparity.traces.capture import Wanted, capture
from kparity.traces.diff import diff
from kparity.traces.files import load

BATCHES = (0, 32, 8, 3)
"""Tokens of a batch, 0 for as many as the engine serves: GPU backends have other kernels from 8 or 16 rows on, and what
is left over at the end of a prompt is a batch of its own.
"""


class Scenario(NamedTuple):
    """A prompt of so many tokens, in batches of so many, and the verdict of its last position."""

    tokens: int
    batch: int
    verdict: PositionVerdict


def lengths(count: int) -> list[int]:
    """Of prompts of at most so many tokens: the powers of two, one token more, and all."""
    powers = [1 << power for power in range(count.bit_length())]
    return sorted({min(each + more, count) for each in powers for more in (0, 1)})


def swept(reference: Seat, candidate: Seat, tokens: Sequence[int], judge: Judge) -> Iterator[Scenario]:
    """Every length in every batch on the candidate's side, beside the reference as it serves."""
    for size in lengths(len(tokens)):
        prompt = tokens[:size]
        reference.reset()
        truth = reference.prefill(prompt)
        for batch in (each for each in BATCHES if each < size):
            candidate.reset()
            cut = batch or size
            for at in range(0, size, cut):
                found = candidate.prefill(prompt[at : at + cut])
            yield Scenario(size, batch, judge.verdicts(compared(truth[None], found[None]).rows, size - 1)[0])


def told(found: Sequence[Scenario], judge: Judge) -> tuple[Measure, list[str]]:
    """The measure of a sweep, and a note for each size of a batch."""
    wrong = sum(each.verdict == FAIL for each in found)
    notes = []
    for batch in BATCHES:
        if chosen := [each for each in found if each.batch == batch]:
            runs = [(list(run), verdict) for verdict, run in groupby(chosen, lambda each: each.verdict)]
            listed = ", ".join(f"{_span(run[0].tokens, run[-1].tokens)} {verdict}" for run, verdict in runs)
            notes.append(f"sweep, {f'{batch} tokens' if batch else 'all'} at a time, prompts of {listed}")
    short = judge.short if wrong else ""
    return judge.measure("positions_sweep", f"of {len(found)} prompts beyond a limit", wrong, short), notes


def traced(pair: Sequence[Seat], tokens: Sequence[int], folder: Path) -> Iterator[str]:
    """Traces of both sides at each length, in ``tokens-N/reference`` and ``tokens-N/candidate`` of an empty folder, and
    what their comparison says; all of it is in ``tokens-N/diff.json``.
    """
    for size in lengths(len(tokens)):
        place = folder / f"tokens-{size}"
        sides = [place / seat.side for seat in pair]
        for seat, side in zip(pair, sides, strict=True):
            side.mkdir(parents=True)
            seat.timed("a trace", capture, seat.engine, seat.spec, tokens[:size], side, Wanted(["*"]))
        try:
            found = diff(*map(load, sides))
        except WrongInput as error:
            yield f"traces of {size} tokens are not compared: {error}"
            continue
        files.write_record(place / "diff.json", found)
        yield f"traces of {size} tokens, {len(found.slots)} slots: {found.verdict}, {found.reason}"


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"
