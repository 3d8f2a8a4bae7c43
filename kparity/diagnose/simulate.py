"""Which defect explains what the candidate computes: the plain pass is run with it, and compared with the candidate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import numpy as np

from kparity import plain
from kparity.diagnose.defects import Defect, Family, families, fixed, layered
from kparity.diagnose.seen import ALL, BEHIND, FITTED, HELD_OUT, Explained, Explaining, Seen
from kparity.errors import KparityError
from kparity.host import progress
from kparity.host.text import number
from kparity.ladder.floor import ACTS
from kparity.ladder.limits import Floor, Judge
from kparity.ladder.record import Finding
from kparity.ladder.stream import compared
from kparity.model.gguf_file import GgufFile
from kparity.ops.spec import Array
from kparity.plain.file import opened

SECONDS = 60.0
"""Of all passes; a large model has time for the first of them."""
SMALL = 8 << 20
"""Bytes of a file whose weights stay decoded, which takes up to sixteen times as many."""
SHOWN, ALIKE = 3, 2.0
"""Defects that are told; by how much more may be left by one that explains as well as the best."""
WORTH, STEPS, LEAST = 0.7, 12, 0.5
"""What the best of a grid must leave at most for a search around it, and how long that is; confidence in a side."""


class Simulation:
    """Passes over the tokens of a diagnosis; raises KparityError for a model that they cannot be run for."""

    def __init__(self, seen: Seen, file: GgufFile) -> None:
        self.seen, self.until = seen, time.monotonic() + SECONDS
        self.file = replace(file, kept={} if file.n_bytes <= SMALL else None)
        first = seen.subject.first
        self.short = min(first + 1 + BEHIND, len(seen.ids)) if first >= 0 else len(seen.ids)
        judged = (seen.reference if seen.judge.same else seen.candidate).facts
        self.act, kv = ACTS.get(judged.activations, "token"), judged.kv
        self.kv, self.facts = kv if kv in ("f16", "f32") else "f16", plain.facts(file)
        self.right = self.passed(Defect("", ""))
        self.tried, self.found = 0, list[tuple[Defect, Explained]]()

    def passed(self, defect: Defect, tokens: int = 0) -> tuple[Array, Callable[[], Judge]]:
        """Logits of so many tokens, or all, with a defect, and what makes a judge: its floor is also what rounding does
        to that pass.
        """
        seen, shaped = self.seen, self.seen.candidate.shaped
        act, kv = defect.act or self.act, defect.kv or self.kv
        run = partial(plain.logits, self.file, seen.ids[: tokens or None], act=act, kv=kv, vary=defect.vary)
        truth, floor = shaped(run(twin=False).logits), seen.judge.floor

        def judge() -> Judge:
            twin = {"twin": compared(truth, shaped(run().rounded))}
            covered = floor is None or floor.covers_numerics
            return Explaining(
                seen.judge.same, {}, Floor("plain", covered, {**(floor.controls if floor else {}), **twin})
            )

        return truth, judge

    def reference_is_wrong(self) -> bool:
        """Whether the plain pass agrees with the candidate, and not with the reference."""
        seen, (logits, judge) = self.seen, self.right
        way = seen.subject
        sides = seen.truth[way.begin :], way.logits
        apart = [seen.bad(compared(logits[way.begin :], each).rows, way.begin, judge()).any() for each in sides]
        return bool(apart[0] and not apart[1])

    def explained(self, defect: Defect, part: slice = ALL) -> Explained:
        """How well a defect explains what the candidate gives; of one that does not explain the first bad positions no
        more is computed.
        """
        self.tried += 1
        if self.short < len(self.seen.ids):
            logits, _ = self.passed(defect, self.short)
            first = self.seen.explained(logits, truth=self.right[0])
            if first.share > Explained.MOST:
                return first
        logits, judge = self.passed(defect)
        return self.seen.explained(logits, judge=judge, truth=self.right[0], part=part)

    def over(self) -> bool:
        """Whether there is no time for more, or what was found needs none."""
        return time.monotonic() > self.until or any(each.noise and each.confidence for _, each in self.found)

    def all_of(self, defects: Iterable[Defect | Family]) -> None:
        """Try some, families until one explains everything."""
        for each in () if self.over() else defects:
            if time.monotonic() > self.until or (isinstance(each, Family) and self.over()):
                return
            pair = self._fitted(each) if isinstance(each, Family) else (each, self.explained(each))
            if pair[1].confidence:
                self.found.append(pair)
            else:
                self.seen.ruled_out.add(each.pattern)

    def _fitted(self, family: Family) -> tuple[Defect, Explained]:
        """The likeliest of a family: the best of a grid, then a golden section around it; and how well it explains the
        bad positions that it was not fitted on; where there is one alone, it must explain all of it.
        """
        known: dict[float, Explained] = {}

        def left(value: float) -> float:
            if value not in known:
                known[value] = self.explained(Defect(family.pattern, "", family.made(value)), FITTED)
            return known[value].share

        grid = family.grid()
        best = min(grid, key=left)
        if left(best) < WORTH:
            around = sorted({*grid, family.right})
            at = around.index(best)
            low, high = (np.log(around[max(0, min(each, len(around) - 1))]) for each in (at - 1, at + 1))
            for _ in range(STEPS):
                first, second = (float(np.exp(high - share * (high - low))) for share in (0.618, 0.382))
                low, high = (low, np.log(second)) if left(first) < left(second) else (np.log(first), high)
            tidy = [value for value in (*family.known, *(float(f"{each:.2g}") for each in known)) if value > 0]
            least = known[min(known, key=left)].share
            best = min(known, key=left)
            best = next((value for value in tidy if left(value) <= ALIKE * least and known[value].noise), best)
        defect = Defect(family.pattern, family.cause.format(number(best)), family.made(best))
        held = self.explained(defect, HELD_OUT) if known[best].confidence else known[best]
        if self.seen.subject.bad.sum() < 2 and held.share > Explained.NOTHING:
            held = Explained(held.before, held.before, False)
        return defect, held


def simulated(seen: Seen, notes: list[str]) -> list[Finding]:
    """Findings; ``notes`` gets what is to be known of the attempt."""
    if not seen.beyond:
        return []
    try:
        with opened(seen.model) as file, progress.task("simulated defects"):
            said, told = plain.facts(file), seen.candidate.facts
            if any(got and got != want for got, want in ((told.vocab, said.vocab), (told.layers, said.layers))):
                notes.append("the candidate has a model of its own: no defect was simulated")
                return []
            run = Simulation(seen, file)
            found = _told(seen, run)
            late = ", then the time was over" if time.monotonic() > run.until else ""
            notes.append(f"{run.tried} passes with a defect over {len(seen.ids)} tokens{late}")
            return found
    except (KparityError, OSError) as problem:
        notes.append(f"the plain pass cannot run this model, so that no defect was simulated ({problem})")
        return []


def _told(seen: Seen, run: Simulation) -> list[Finding]:
    found = list[Finding]()
    if run.reference_is_wrong():
        sure = max(LEAST, seen.explained(run.right[0], judge=run.right[1]).confidence)
        cause = "the plain pass agrees with the candidate and not with the reference"
        found.append(
            seen.finding("reference", cause, f"{seen.subject.name}, all positions", sure, side=seen.reference.side)
        )
        seen.turned()
    for defects in (fixed(run.facts, run.act, run.kv), families(run.facts), layered(run.facts)):
        run.all_of(defects)
    ranked = sorted(run.found, key=lambda pair: pair[1].after)
    alike = [each for each in ranked if each[1].after <= ALIKE * ranked[0][1].after]
    for defect, each in alike[:SHOWN]:
        evidence = f"{seen.subject.name}: {each.text}"
        found.append(seen.finding(defect.pattern, defect.cause, evidence, each.confidence / len(alike)))
    return found
