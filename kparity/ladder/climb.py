"""The climb: rung after rung until the first that fails; what was not run is never a PASS."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from msgspec.structs import replace

import kparity
from kparity.engines import tokens
from kparity.engines.base import Engine, Facts, Spec
from kparity.errors import Unavailable, WrongInput
from kparity.host import progress
from kparity.ladder import decode, floor, masks, positions, prompts, sweep
from kparity.ladder.limits import Judge
from kparity.ladder.record import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    POSITIONS,
    RUNGS,
    Contract,
    Decoded,
    Diagnosis,
    Document,
    Position,
    Rung,
    Settings,
    Summary,
    ThreeWay,
    Tokens,
    verdict_of,
)  # fmt: skip
from kparity.ladder.stream import EngineFailed, Seat, Tally
from kparity.numerics.logits import Spread, spread

Opener = Callable[[str, str], Engine]
"""Opens an engine: specification, model."""
Diagnose = Callable[["Climb", Rung], Diagnosis]
"""Looks into the first rung that failed, or into the last one, while the engines are open."""


class Climb:
    """The state of one climb."""

    def __init__(self, settings: Settings, opener: Opener, diagnose: Diagnose | None = None) -> None:
        self.settings, self.opener, self.diagnose = settings, opener, diagnose
        self.diagnosis: Diagnosis | None = None
        self.judge = Judge(overrides=settings.overrides)
        self.seats: dict[str, Seat] = {}
        self.ids: list[list[int]] = []
        """Of the text, then of each prompt."""
        self.tokens: list[Tokens] = []
        self.positions: list[Position] = []
        self.tally = Tally()
        """What was measured at the positions last."""
        self.decoded: list[Decoded] = []
        self.three_way: ThreeWay | None = None
        self.run_of = dict(zip(RUNGS, (self._preflight, self._tokens, self._masks, self._first, self._positions,
                                       self._decode), strict=True))  # fmt: skip

    @property
    def pair(self) -> tuple[Seat, Seat]:
        """Reference and candidate."""
        return self.seats["reference"], self.seats["candidate"]

    def run(self) -> Document:
        """Climb; raises WrongInput and UnknownName for what cannot be asked."""
        began, rungs = time.perf_counter(), [Rung(name=name) for name in RUNGS]
        wanted = rungs[: RUNGS.index(self.settings.rung) + 1]
        with ExitStack() as stack, progress.task("ladder", len(wanted)) as task:
            stack.callback(lambda: [seat.engine.close() for seat in self.seats.values()])
            for rung in wanted:
                task.stage(rung.name)
                self._climb(rung)
                self._diagnose(rung, rung is wanted[-1])
                task.advance()
                fed = self.ids or (rung.name == RUNGS[0] and len(self.seats) > 1)
                if not fed or (rung.verdict == FAIL and not self.settings.keep_going):
                    break
        return self._document(rungs, time.perf_counter() - began)

    def _climb(self, rung: Rung) -> None:
        """One rung, whatever an engine does in it."""
        began, rung.verdict = time.perf_counter(), PASS
        lacking = next(filter(None, (seat.lacks(rung.name) for seat in self.seats.values())), "")
        try:
            if lacking:
                rung.verdict, rung.reason = INCONCLUSIVE, lacking
            else:
                self.run_of[rung.name](rung)
        except EngineFailed as failed:
            rung.side, rung.reason, rung.failed = failed.side, str(failed), True
            ran = failed.side == "candidate" and not isinstance(failed.error, Unavailable)
            rung.verdict = FAIL if ran else INCONCLUSIVE
        bad, short = (
            next((each for each in rung.measures if each.outcome == kind), None) for kind in (FAIL, INCONCLUSIVE)
        )
        if bad is not None:
            rung.verdict, rung.reason = FAIL, rung.reason or bad.text
        elif short is not None:
            rung.verdict, rung.reason = INCONCLUSIVE, rung.reason or f"{short.text}: {short.short}"
        rung.seconds = time.perf_counter() - began

    def prepared(self) -> Rung:
        """Engines opened, the same ids for both, and limits, for another search than the climb; the caller closes the
        engines. Returns the rung of tokens; raises EngineFailed.
        """
        self._preflight(Rung(name=RUNGS[0]))
        self._tokens(rung := Rung(name=RUNGS[1], verdict=PASS))
        if any(not each.holds for each in rung.measures):
            rung.verdict = FAIL
        elif self.ids:
            self._measure_floor()
        return rung

    def _diagnose(self, rung: Rung, last: bool) -> None:
        """Once; the best finding is the cause of a rung that has none."""
        if self.diagnose is None or self.diagnosis is not None or not (last or rung.verdict == FAIL):
            return
        self.diagnosis = self.diagnose(self, rung)
        best = next((each for each in self.diagnosis.findings if each.defect), None)
        if rung.verdict == FAIL and best:
            rung.cause, rung.next = rung.cause or best.cause, rung.next or best.next

    @property
    def starts(self) -> list[list[int]]:
        """What is decoded: the prompts, and the text as well, all that was walked through: prefill as it serves, and
        steps behind a long cache.
        """
        return [*self.ids[1:], *([self.ids[0]] if self.ids[0] not in self.ids[1:] else [])]

    def _preflight(self, rung: Rung) -> None:
        """Open every engine, and hold what it says of its devices against what was asked for."""
        asked = self.settings
        sides = {"reference": (asked.reference, asked.model), "third": (asked.third, asked.model),
                 "candidate": (asked.candidate, asked.candidate_model or asked.model)}  # fmt: skip
        for side, (spec, path) in sides.items():
            if not spec:
                continue
            seat = self.seats[side] = Seat(side, spec, partial(self.opener, spec, path))
            rung.notes += [f"{side}: {each}" for each in seat.facts.weaknesses]
            if seat.facts.offloaded is not None:
                there, layers = seat.facts.offloaded
                rung.notes.append(f"{side}: {there} of {layers} layers on {seat.facts.device.description}")
                options = Spec.parse(spec).options
                if "device" in options and "ngl" not in options:
                    told = f"{side}: share of layers on the device"
                    rung.measures.append(self.judge.measure("preflight_layers", told, there / layers))
        if any(seat.facts.gives != "logits" for seat in self.seats.values()):
            rung.notes.append("log-probabilities are logits but for a constant: the mean of each position is taken off")
            for seat in self.seats.values():
                seat.centred = True
        left, right = (seat.facts for seat in self.pair)
        alike = same_numerics(left, right)
        self.judge.same = alike if asked.profile == "auto" else asked.profile == "same"

    def _tokens(self, rung: Rung) -> None:
        """The same ids for the same texts."""
        held = any(seat.facts.answers for seat in self.pair)  # of one text alone
        for text in (self.settings.text, *(() if held else self.settings.prompts)):
            ids = [seat.tokenize(text) for seat in self.pair]
            told = [each for each in ids if each is not None]
            if not told:
                rung.verdict, rung.reason = INCONCLUSIVE, "neither side has a tokenizer"
                return
            if len(told) == 1:
                rung.verdict, rung.reason = INCONCLUSIVE, "one side has no tokenizer; the ids of the other are used"
            if not all(told):
                raise WrongInput(f"a text of {len(text)} characters has no token; give a longer one")
            at = tokens.first_difference(told[0], told[-1])
            self.tokens.append(Tokens(reference=ids[0], candidate=ids[1], first_difference=at))
            self.ids.append(told[0])
            facts = self.pair[0].facts, self.pair[1].facts
            if at < 0 and tokens.doubled(told[0], facts[0]) and not rung.notes:
                rung.notes.append(f"both sides begin with BOS ({facts[0].bos}) twice: the text has one of its own")
            if at >= 0 and not rung.cause:
                rung.reason = f"ids differ from {at} on: {told[0][at : at + 4]} and {told[1][at : at + 4]}"
                rung.cause, rung.next = tokens.cause(text, told[0], told[1], facts)
                if held:
                    rung.cause, rung.next = "what was recorded is of another text", "give --prompt with its text"
        different = sum(each.first_difference >= 0 for each in self.tokens)
        rung.measures.append(self.judge.measure("tokens_different", "texts whose ids differ", different))
        asked, there = self.settings.positions, len(self.ids[0])
        if asked > there:
            raise WrongInput(f"--positions {asked} is more than the text's {there} tokens; ask for fewer")
        self.ids[0] = self.ids[0][: asked or POSITIONS]
        counts = f"{sum(map(len, self.ids[1:]))} of {len(self.ids) - 1} prompts"
        rung.notes.append(f"{len(self.ids[0])} tokens of the text, {counts}")

    def _measure_floor(self) -> None:
        """The floor, once, over the text, and the built-in one where it is short."""
        if self.judge.floor is not None:
            return
        reference, ids, least = self.pair[0], self.ids[0], floor.FEWEST
        if len(ids) < least:
            ids = ids + (reference.tokenize(prompts.built_in()[: least * prompts.PER_TOKEN]) or [])
        ids = ids[: min(max(least, len(self.ids[0])), reference.facts.context or least)]
        model = self.settings.model
        if third := self.seats.get("third"):
            self.judge.floor = floor.of_third(reference, third, ids)
            alike = same_numerics(reference.facts, third.facts)
            if own := floor.plain_pass(reference, model, alike, ids):
                found = Judge(alike, {}, own).distances(self.judge.floor.widest.rows)
                self.judge.doubted = next((each for each in found if each.outcome == FAIL), None)
                self.judge.floor = own if self.judge.doubted else self.judge.floor
        else:
            self.judge.floor = floor.measured(reference, model, self.judge.same, ids, lambda s: self.opener(s, model))

    def _fitted(self, rung: Rung) -> int:
        """The most positions that are needed; built-in texts are cut to what the reference has. Raises WrongInput."""
        asked, room = self.settings, self.pair[0].facts.context
        needed, fits = max(map(len, self.ids)) + asked.max_tokens, room - asked.max_tokens
        if not 0 < room < needed:
            return needed
        whole = prompts.built_in()
        if fits < max(asked.positions, 3) or any(text not in whole for text in (asked.text, *asked.prompts)):
            raise WrongInput(
                f"{needed} positions are needed, the reference has {room}; raise --context, up to the model's own, or "
                f"give shorter texts, or a smaller --positions or --max-tokens"
            )
        self.ids = [ids[:fits] for ids in self.ids]
        rung.notes.append(f"built-in texts end after {fits} tokens: the reference has {room} positions")
        return room

    def _masks(self, rung: Rung) -> None:
        """Shapes, then each side alone."""
        needed = self._fitted(rung)
        wrong, notes = masks.shapes(self.pair[0].facts, self.pair[1].facts, needed)
        rung.notes += notes
        rung.measures.append(self.judge.measure("masks_shapes", "shapes that differ", len(wrong)))
        if wrong:
            rung.reason, self.ids = "; ".join(wrong), []  # nothing can be fed to both
            return
        self._measure_floor()
        probe = max(self.ids, key=len)
        if len(probe) < 3:
            rung.verdict, rung.reason = (
                INCONCLUSIVE,
                f"{len(probe)} tokens; a mask shows in three: give a longer prompt",
            )
            return
        for seat in self.pair:
            if self.settings.deterministic:
                found = masks.repeated(seat, self.ids, self.settings.max_tokens, self.judge)
                rung.measures += found.measures
                if found.cause:
                    rung.side, rung.cause, rung.reason = seat.side, found.cause, f"the {seat.side} is not deterministic"
                    rung.next = "ask for one thread (threads=1), or for a device whose additions have an order"
                    return
            found = masks.probed(seat, probe, Judge(self.judge.same, {}, self.judge.floor))
            rung.measures += found.measures
            rung.notes += found.notes
            if found.cause:
                rung.side, rung.cause = seat.side, found.cause
                if any(each.outcome == FAIL for each in rung.measures):
                    rung.reason = f"the {seat.side} alone is not consistent"
                rung.next = "repair this side first: nothing that it is compared with can be right"
                return

    def _first(self, rung: Rung) -> None:
        """Position 0."""
        self._measure_floor()
        left, right = (seat.fed(self.ids[0][:1]) for seat in self.pair)
        self.tally = Tally(detailed=True)
        rows = self.tally.add(left, right)
        self.positions = positions.listed(self.tally, self.judge)
        rung.measures += self.judge.distances(rows, first=True)

    def _positions(self, rung: Rung) -> None:
        """All of them, by every metric; then who is wrong, where a third engine can tell."""
        self._measure_floor()
        judge, third = self.judge, self.seats.get("third")
        seats = [*self.pair, *([third] if third else [])]
        self.tally, others = positions.walked(seats, self.ids[0], judge, self.settings.stop_at_first)
        rows = self.tally.rows
        self.positions = positions.listed(self.tally, judge)
        if doubt := judge.doubt():
            if third:
                rung.notes.append(f"the reference and the third engine are not both right: {doubt.text}")
                rung.measures.append(doubt)
            elif np.isfinite(rows.mse).all():
                rung.verdict, rung.reason = INCONCLUSIVE, f"the floor cannot be believed: {doubt.text}; give --third"
                return
        rung.measures += judge.walked(self.tally)
        if self.settings.sweep:
            measure, notes = sweep.told(list(sweep.swept(*self.pair, self.ids[0], judge)), judge)
            rung.measures.append(measure)
            rung.notes += notes
        if self.settings.traces:
            rung.notes += sweep.traced(self.pair, self.ids[0], Path(self.settings.traces))
        if third:
            self.three_way = positions.three_way(others, third)
        if all(each.outcome != FAIL for each in rung.measures):
            return
        if third and self.three_way:
            chance = self.three_way.candidate_farther
            farther, sure = "candidate" if chance > 0.5 else "reference", max(chance, 1 - chance)
            if judge.contract.threshold("three_way_sure").holds(sure):
                rung.side = farther
            told = "" if rung.side else ", which is not sure: more --positions tell"
            rung.notes.append(f"the {farther} is farther from the third engine, probability {sure:.3f}{told}")

    def _decode(self, rung: Rung) -> None:
        """Every prompt, until the rate is decided where it runs on."""
        if all(seat.whole for seat in self.seats.values() if seat.side != "candidate"):
            self._measure_floor()
        within, steps = self.judge.noise, self.settings.max_tokens
        starts = self.starts
        for ids in starts:
            self.decoded.append(decode.decoded(*self.pair, ids, steps, within))
            judged = decode.judged_rate(self.decoded, self.judge)
            if self.settings.sequential and not judged.short:
                rung.notes.append(f"the rate is decided after {len(self.decoded)} prompts (SPRT)")
                break
        short = self.judge.short if self.judge.floor else "nothing tells a tie: the reference gives no whole logits"
        rung.measures += decode.measures(self.decoded, self.judge, short)
        if self.settings.sequential:
            rung.measures.append(judged)
        rung.notes += [decode.rate(self.decoded), f"a near tie lies within {2 * within:.3g} of the largest logit"]
        bad = next((at for at, each in enumerate(self.decoded) if decode.DIVERGED in each.steps), -1)
        if bad >= 0:
            first = self.decoded[bad]
            at = first.steps.index(decode.DIVERGED)
            rung.reason = (
                f"prompt {bad + 1}, id {at}: {first.candidate[at]} for {first.reference[at]}, no tie in the noise"
            )
            if short:
                rung.reason += f"; {short}"
        elif any(each.threshold == "decode_ties" and each.outcome == FAIL for each in rung.measures):
            rung.cause, rung.next = decode.TOO_MANY_TIES, "kparity ladder --ladder positions -v, and --third"

    def _document(self, rungs: list[Rung], seconds: float) -> Document:
        def over(name: str) -> Spread:
            return spread([getattr(each, name) for each in seen] or np.nan)

        verdict, judge, seen = verdict_of(rungs), self.judge, self.positions
        at = next((each.position for each in seen if each.verdict == FAIL), -1)
        if at < 0 and any(each.name == "first-logit" and each.verdict == FAIL for each in rungs):
            at = 0
        facts = {side: seat.facts for side, seat in self.seats.items()}
        kl, thresholds = over("kl"), judge.contract.document["thresholds"].items()
        return Document(
            status="diverged" if verdict == FAIL else "ok" if verdict == PASS else "inconclusive",
            backend=self.settings.candidate, divergence_token=at,
            metrics=Summary(
                min_cosine_similarity=over("cosine_similarity").least, max_l2_distance=over("l2_distance").most,
                mean_abs_difference=over("mean_abs").mean,
                token_count=len(seen), mean_kl=kl.mean, p99_kl=kl.p99, max_kl=kl.most,
            ),
            form="kparity-ladder-v1", kparity=kparity.__version__, verdict=verdict,
            exit_code={FAIL: 1, PASS: 0}.get(verdict, 3),
            contract=Contract(
                id=judge.contract.id, version=judge.contract.version,
                thresholds={name: entry["value"] for name, entry in thresholds},
            ),
            request=self.settings, profile="same numerics" if judge.same else "other numerics",
            reference=facts.get("reference"), candidate=facts.get("candidate"),
            floor=judge.floor.record() if judge.floor else None, rungs=rungs, tokens=self.tokens, positions=seen,
            decode=self.decoded, three_way=self.three_way, diagnosis=self.diagnosis, seconds=seconds,
            limits=judge.by_position(), errors=self.tally.halves,
            pieces=prompts.pieces(self.settings.model, self.ids[0] if self.ids else (), seen, self.decoded),
            engine_seconds=sum(each.seconds for each in self.seats.values()),
        )  # fmt: skip


def same_numerics(left: Facts, right: Facts) -> bool:
    """Whether two engines say that they differ by the order of their additions alone; fp64 is the truth of f32."""
    return left.numerics.replace("fp64", "f32") == right.numerics.replace("fp64", "f32") and left.kv == right.kv


def climb(settings: Settings, opener: Opener, diagnose: Diagnose | None = None) -> Document:
    """Compare two engines rung by rung, and ``diagnose`` what fails. Raises WrongInput and UnknownName for what cannot
    be asked.
    """
    if settings.rung not in RUNGS:
        raise WrongInput(f"there is no rung {settings.rung!r}; there are {', '.join(RUNGS)}")
    return Climb(replace(settings, candidate_model=settings.candidate_model or settings.model), opener, diagnose).run()
