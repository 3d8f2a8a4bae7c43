"""The bisection: which way of feeding is wrong, from which position on, in which slot of which layer, by which op."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kparity
from kparity.bisect.record import SCHEMA, Bisection, Found, SlotError, Way
from kparity.engines.base import Facts
from kparity.engines.registry import parsed
from kparity.engines.remote import Remote
from kparity.errors import Unavailable, WrongInput
from kparity.host import progress
from kparity.ladder.climb import Climb, Opener
from kparity.ladder.record import FAIL, Settings
from kparity.ladder.stream import EngineFailed, Seat, Tally
from kparity.ladder.ways import AFTER, BATCH, DECODE, PREFILL, SECOND, STEPS, Scenario, fed, tokens_of
from kparity.ops.spec import Array
from kparity.traces import files as traces
from kparity.traces.capture import Wanted, capture
from kparity.traces.diff import SlotDiff, diff
from kparity.traces.slots import Key

OWN = ("kparity", "mutant")
"""Kinds of engines that can be opened up."""
WAYS = (BATCH, STEPS, PREFILL, DECODE, SECOND, AFTER)
BLOCK_BYTES = 1 << 30
"""Of the tensors of some layers that lie on disk at a time."""
OPS = {
    "embd": "embed", "attn_norm": "rmsnorm", "qkv": "tgemv",
    "attn_q_norm": "rmsnorm", "attn_k_norm": "rmsnorm", "q_rope": "rope", "k_rope": "rope", "k_cache": "kv_store",
    "v_cache": "kv_store", "attention": "attention", "attn_sub_norm": "rmsnorm", "attn_out": "tgemv",
    "attn_residual": "add", "ffn_norm": "rmsnorm", "ffn_gate": "tgemv", "ffn_up": "tgemv", "ffn_silu_gate": "glu",
    "ffn_swiglu_inner": "glu", "ffn_sub_norm": "rmsnorm", "ffn_out": "tgemv", "output": "add",
    "result_norm": "rmsnorm", "logits": "dense_gemv",
}  # fmt: skip
"""What makes a slot, where launches cannot be seen."""
WITH = {
    "attn_residual": ("ffn_gate", "ffn_up"), "ffn_swiglu_inner": ("ffn_out",), "output": ("qkv", "result_norm"),
    "embd": ("qkv",), **dict.fromkeys(("q_rope", "k_cache", "v_cache"), ("q_rope", "k_cache", "v_cache")),
}  # fmt: skip
"""What is swapped in beside a slot, because the launch that writes it makes that, too."""
BESIDE = ("attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm", "k_rope", "ffn_silu_gate")
"""Slots that our own traces compute beside what serves: nothing reads them."""


class Opened(Remote):
    """An engine of ours, opened up in its process."""

    hosted = "kparity.bisect.inside:Inside"

    def ask(self, method: str, **arguments: Any) -> Any:
        """What a method of ``Inside`` returns."""
        return self._told(self.worker.call, method, **arguments)


@dataclass
class Bisect:
    """One bisection; ``keep`` is a folder for what can be replayed."""

    settings: Settings
    opener: Opener
    keep: Path | None
    context: int
    ways: list[Way] = field(default_factory=list)
    slots: list[SlotError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    evaluations: int = 0

    def run(self) -> Bisection:
        """Raises WrongInput and UnknownName for what cannot be asked, EngineFailed for an engine that cannot go on."""
        began, self.climb = time.perf_counter(), Climb(self.settings, self.opener)
        with ExitStack() as stack, progress.task("bisect", 4) as self.task:
            stack.callback(lambda: [seat.engine.close() for seat in self.climb.seats.values()])
            self.scratch = Path(stack.enter_context(TemporaryDirectory(prefix="kparity-bisect-")))
            self.task.stage("tokens and noise")
            rung = self.climb.prepared()
            self.reference, self.candidate = self.climb.pair
            self.ids = self.climb.ids[0] if self.climb.ids else []
            if rung.verdict == FAIL:
                found = Found(kind="tokens", op="tokenizer", sentence=f"{rung.reason}: {rung.cause}".rstrip(": "))
            elif not self.ids:
                raise WrongInput(f"{rung.reason}; name an engine that has one")
            else:
                self.evaluations += len(self.climb.judge.floor.controls) + 1 if self.climb.judge.floor else 0
                try:
                    found = self._found(stack)
                except EngineFailed as failed:
                    if failed.side != "candidate" or isinstance(failed.error, Unavailable):
                        raise
                    found = Found(kind="engine", op="engine", sentence=str(failed))
        layers = max(self.reference.facts.layers, self.candidate.facts.layers)
        return Bisection(
            form=SCHEMA, kparity=kparity.__version__, request=self.settings,
            exit_code=0 if found.kind == "nothing" else 1, found=found, ways=self.ways, slots=self.slots,
            evaluations=self.evaluations, tokens=len(self.ids), layers=layers, notes=self.notes,
            seconds=time.perf_counter() - began,
        )  # fmt: skip

    def _found(self, stack: ExitStack) -> Found:
        if lacking := self.reference.lacks("positions") or self.candidate.lacks("masks"):
            raise WrongInput(f"{lacking}; a bisection needs whole logits, and feeds the candidate anew")
        self.task.advance()
        self.task.stage("ways of feeding")
        self.rows = self.reference.fed(self.ids)
        self.evaluations += 1
        for scenario in WAYS:
            if (position := self._first_bad(scenario)) >= 0:
                break
        else:
            return Found(kind="nothing", op="", sentence="no way of feeding these tokens is wrong beyond the limits")
        self.task.advance()
        self.calls = scenario.calls(self.ids[: self.prefix])
        self.task.stage(f"slots, {scenario.name}, {self.prefix} tokens")
        found = self._inside(stack, position)
        found.position = position
        return found

    def _bad(self, position: int, row: Array, tally: Tally | None = None) -> bool:
        """Whether a row of the candidate is beyond the limits of its position."""
        rows = (tally or Tally()).add(self.rows[position][None], row[None])
        return self.climb.judge.verdicts(rows, position)[0] == FAIL

    def _bad_row(self, scenario: Scenario, count: int, tally: Tally | None = None) -> int:
        """The first row of a prefix that is; -1 for none."""
        self.evaluations += 1
        rows = fed(self.candidate, scenario.calls(self.ids[:count]))
        return next((at for at, row in rows if self._bad(at, row, tally)), -1)

    def _together(self, tally: Tally) -> int:
        """The worst position where no row by itself is beyond its limits, and all together are; else -1."""
        judge, rows = self.climb.judge, tally.rows
        if not judge.carried(rows):
            return -1
        wrong = next((each for each in (*judge.distances(rows), *judge.shapes(tally)) if each.outcome == FAIL), None)
        if wrong is None:
            return -1
        self.notes.append(f"no position by itself is beyond its limits, all together are: {wrong.text}")
        return int(rows.mse.argmax())

    def _first_bad(self, scenario: Scenario) -> int:
        """The first bad position of a way: seen in a run of all tokens, else halved, and verified from both sides."""
        way, began = Way(name=scenario.name, runs=0, first_bad=-1), self.evaluations
        self.ways.append(way)
        try:
            seen = self._bad_row(scenario, len(self.ids), tally := Tally())
            if seen < 0:
                way.first_bad, self.prefix = self._together(tally), len(self.ids)
                return way.first_bad
            right, wrong, row = 0, len(self.ids), seen  # lengths of prefixes
            guess = seen + 1 if seen + 1 < wrong else wrong - 1
            while right + 1 < wrong:
                if (found := self._bad_row(scenario, guess)) >= 0:
                    wrong, row = guess, found
                    guess = guess - 1 if right == 0 and found == seen else (right + wrong) // 2
                else:
                    right = guess
                    guess = (right + wrong) // 2
            way.first_bad, way.verified, self.prefix = row, True, wrong
        finally:
            way.runs = self.evaluations - began
        return way.first_bad

    def _inside(self, stack: ExitStack, position: int) -> Found:
        """What can be seen of an engine of ours, else of both traces."""
        own = [seat for seat in (self.candidate, self.reference) if parsed(seat.spec).kind in OWN]
        if self.candidate in own:
            return self._ours(stack, self.candidate, self._donor(self.reference), position)
        if self.candidate.facts.traces and own:
            return self._ours(stack, self.reference, self.candidate, position)
        if self.candidate.facts.traces and self.reference.facts.traces:
            return self._by_traces(position)
        told = "no more can be known: an engine gives neither traces nor its launches"
        return Found(kind="position", op="", sentence=f"wrong from position {position} on; {told}")

    def _donor(self, seat: Seat) -> Seat:
        """Who knows the slots: the other side, or the plain pass where that has no traces."""
        if seat.facts.traces:
            return seat
        facts = self.candidate.facts
        act = facts.activations.removeprefix("int8 ") or "token"
        self.notes.append(f"the reference gives no traces; the plain fp64 pass takes its place ({act}, {facts.kv})")
        spec = f"reference?act={act}&kv={facts.kv}"
        donor = self.climb.seats["donor"] = Seat("donor", spec, partial(self.opener, spec, self.settings.model))
        return donor

    def _by_traces(self, position: int) -> Found:
        """Both sides' traces, slot by slot."""
        folders = []
        for seat in self.climb.pair:
            folders.append(self.scratch / seat.side)
            self._captured(seat, folders[-1], None)
        slots = diff(traces.load(folders[1]), traces.load(folders[0])).slots
        bad = self._noted(slots)
        if not bad:
            return Found(kind="position", op="", sentence=f"wrong from position {position} on; every slot follows")
        return self._slot(bad[0], "slot", OPS[Key.parse(bad[0].key).slot])

    def _captured(self, seat: Seat, folder: Path, layers: Sequence[int] | None) -> None:
        seat.reset()
        capture(seat.engine, seat.spec, tokens_of(self.calls), folder, Wanted(("*",), layers))
        self.evaluations += 2

    def _noted(self, slots: Sequence[SlotDiff]) -> list[SlotDiff]:
        """Those that do not follow from their inputs."""
        bad = [each for each in slots if each.agrees is False]
        self.slots = [
            SlotError(key=each.key, error=each.error, explained=each.explained or 0.0,
                      worst_position=each.worst_position) for each in bad
        ]  # fmt: skip
        return bad

    def _slot(self, slot: SlotDiff, kind: Any, op: str, sentence: str = "", **more: Any) -> Found:
        key = Key.parse(slot.key)
        told = sentence or f"{key.place} does not follow from its inputs: off by {slot.error:.2g}"
        return Found(kind=kind, op=op, sentence=told, layer=key.layer, slot=key.slot, **more)

    def _ours(self, stack: ExitStack, ours: Seat, donor: Seat, position: int) -> Found:
        """An engine of ours opened up: around its launches, then slot by slot from the donor's values."""
        ours.engine.close()
        inside = Opened(ours.spec, model=ours.facts.model, context=self.context)
        stack.callback(inside.close)
        self.evaluations += 2 * (ours is self.candidate)
        if ours is self.candidate and (sentence := inside.ask("held", calls=self.calls)):
            return Found(kind="engine", op="engine", sentence=sentence)
        for layers in self._blocks(ours.facts):
            folders = self.scratch / f"given{layers[0]}", self.scratch / f"ours{layers[0]}"
            self._captured(donor, folders[0], layers)
            inside.ask("recompute", given=str(folders[0]), folder=str(folders[1]), calls=self.calls, layers=layers)
            self.evaluations += 1
            pair = traces.load(folders[1]), traces.load(folders[0])
            bad = [each for each in self._noted(diff(*pair).slots) if Key.parse(each.key).slot not in BESIDE]
            if bad:
                self.task.advance()
                self.task.stage(f"launches up to {bad[0].key}")
                return self._launch(inside, str(folders[0]), bad, position, ours)
        if ours is self.reference:
            return Found(kind="position", op="", sentence="every slot of the candidate follows from its inputs")
        said = self._walked(inside, str(folders[0]), "", position)
        if "op" in said:  # too little for any slot, and too much for the logits
            return Found(kind="kernel", **said)
        return self._around(inside, position)

    def _blocks(self, facts: Facts) -> Iterator[list[int]]:
        """Layers whose tensors lie on disk together, each block with the layer below it."""
        each = 4 * len(tokens_of(self.calls)) * facts.width * 32
        size = max(1, BLOCK_BYTES // each)
        for first in range(0, facts.layers, size):
            yield list(range(max(0, first - 1), min(facts.layers, first + size)))

    def _walked(self, inside: Opened, given: str, key: str, position: int) -> dict[str, Any]:
        """The first launch that is wrong by itself: up to a slot, or of the whole pass."""
        self.evaluations += 1
        folder = str((self.keep or self.scratch) / "replay")
        said = inside.ask("walk", given=given, calls=self.calls, key=key, position=position, folder=folder)
        self.notes += [f"not held against fp64, too large: {each}" for each in said.pop("skipped")]
        if not self.keep:
            said["replay"] = ""
        return dict(said)

    def _launch(self, inside: Opened, given: str, bad: Sequence[SlotDiff], position: int, ours: Seat) -> Found:
        """The launch behind the first bad slot: wrong by itself, or wrongly made."""
        slot, calls, heals = bad[0], self.calls, None
        key, slots = Key.parse(slot.key), {Key.parse(each.key).slot for each in bad}
        if ours is self.candidate:
            swapped = sorted(slots.union(*(WITH.get(each, ()) for each in slots)))
            self.evaluations += 1
            heals = not self._bad(position, inside.ask("healed", given=given, calls=calls, slots=swapped))
            said = self._walked(inside, given, slot.key, slot.worst_position)
            if "op" in said:
                return self._slot(slot, "kernel", **said, heals=heals)
            if wrong := inside.ask("wired", calls=calls, layer=key.layer, slot=key.slot):
                op, kind, sentence = wrong
                return self._slot(slot, kind, op, sentence, heals=heals)
        return self._slot(slot, "slot", OPS[key.slot], heals=heals)

    def _around(self, inside: Opened, position: int) -> Found:
        """Every slot follows from its inputs, and still what serves is wrong."""
        self.evaluations += 2
        recorded, eager = (inside.ask("served", calls=self.calls, eager=each) for each in (False, True))
        bad, single = self._bad(position, recorded), self._bad(position, eager)
        told = "each launch is right, and every slot follows from its inputs"
        if bad and not single:
            return Found(kind="engine", op="engine", sentence=f"{told}: the recording of them is wrong")
        for other in range(len(self.rows)):
            if other != position and not self._bad(other, recorded):
                return Found(kind="engine", op="engine", sentence=f"the logits are those of position {other}")
        way = self.ways[-1].name
        sentence = f"{told} where they are traced; what serves is wrong ({way}): state between runs, or what is read"
        return Found(kind="engine", op="engine", sentence=sentence)


def bisect(settings: Settings, opener: Opener, keep: Path | None = None, context: int = 0) -> Bisection:
    """Find where two engines part; see ``Bisect``."""
    return Bisect(settings, opener, keep, context).run()
