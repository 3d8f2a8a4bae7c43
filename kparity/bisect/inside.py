"""kparity's own engine opened up, in a process of its own: slots are computed from another side's values, launches are
held one by one against fp64 truth on the very inputs that they had, and what was launched against what the file asks.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kparity import ops
from kparity.bisect import wiring
from kparity.bisect.pattern import pattern_of
from kparity.check import dump
from kparity.check.core import CaseRunner, blank_record
from kparity.check.record import FAIL
from kparity.device.adapter import Launch
from kparity.engine.traced import Hooks, Tapped, trace
from kparity.engines.own import Own
from kparity.engines.remote import Hosted
from kparity.errors import WrongInput
from kparity.host import files
from kparity.ladder.ways import Calls, fed, last_run, tokens_of
from kparity.numerics.expected import Expected
from kparity.ops.spec import DTYPES, Array
from kparity.traces import files as traces
from kparity.traces.capture import Wanted, begun, ended
from kparity.traces.names import Gatherer
from kparity.traces.slots import ABSENT, HEADS, Key

LARGEST = 1 << 28
"""Bytes that a launch moves, above which its truth in fp64 would not fit beside the model."""


class Given:
    """Values of a trace by slot and position; those of some ``slots`` alone, where there are any."""

    def __init__(self, folder: str, slots: Sequence[str] = ()) -> None:
        self.loaded, self.slots = traces.load(folder), slots

    def __call__(self, name: str, first: int, count: int) -> Array | None:
        key = Key.parse(name)
        if self.slots and key.slot not in self.slots:
            return None
        there = [each for each in self.loaded.entries if (each.layer, each.slot) == (key.layer, key.slot)]
        rows = [self.loaded.entries[each].rows for each in sorted(there, key=lambda each: each.head)]
        found = [each.read(first, count) for each in rows if each is not None]
        if not found or len(found) < len(rows):
            return None
        return np.stack(found, axis=1) if key.slot in HEADS else found[0]


class Stop(Exception):
    """The launch that was looked for."""


class Walk:
    """Shown every launch of a pass: those that make one slot (or all) at one position run anew, on inputs they had."""

    def __init__(self, own: Own, key: Key | None, position: int, folder: str) -> None:
        self.own, self.key, self.position, self.folder = own, key, position, folder
        self.skipped: list[str] = []

    def __call__(self, graph: Tapped, done: int) -> None:
        engine = self.own.engine
        first, last = self._between(graph)
        if engine.position <= self.position < engine.position + graph.rows and first <= done < last:
            self._held(graph.launches[done])

    def _between(self, graph: Tapped) -> tuple[int, int]:
        """The launches of a slot's layer up to the slot; that of a norm which also adds may lie in the layer below."""
        if self.key is None:
            return 0, len(graph.launches)
        at = {tap.name: done for done, taps in graph.taps.items() for tap in taps}
        layer = self.key.layer if self.key.layer != ABSENT else 0 if self.key.slot == "embd" else graph.h.n_layer
        return at.get(f"{layer - 1}.ffn_out", 0), at.get(str(Key(self.key.layer, self.key.slot)), 0)

    def _held(self, launch: Launch) -> None:
        backend, case = self.own.engine.backend, launch.case
        assert case is not None
        op = ops.get(case.op)  # not the kernel's, whose truth could be wrong with it
        if op.work(case).bytes > LARGEST:
            self.skipped.append(case.id)
            return
        given = zip(launch.kernel.args, launch.buffers, strict=False)
        inputs = [backend.download(buffer).reshape(arg.shape) for arg, buffer in given if arg.role != "out"]
        known = Expected.of(op, case, inputs)
        runner = CaseRunner(backend, op, case)
        about = blank_record(backend.name, op, case, 0, label=backend.info.label, device_kind=backend.info.kind)
        about = replace(about, kind=next(iter(op.kinds(case))), inputs_sha256=known.sha256)
        record = runner.check(about, known)
        if record.outcome == FAIL:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            dump.write(Path(self.folder), record, known, runner.outputs, backend.source(op, case, backend.constants))
            told = {"op": op.name, "case": case.id, "sentence": record.reason}
            pattern = pattern_of(known, runner.outputs[0]) if runner.outputs else ""
            raise Stop({**told, "pattern": pattern, "replay": str(dump.folder_of(Path(self.folder), record))})


class Inside(Hosted):
    """The child's side; arguments and results are plain values, folders, and arrays of logits."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(self.engine, Own):
            raise WrongInput(f"engine {options['text']}: its launches cannot be seen from here")
        self.text, self.own, self.inner = options["text"], self.engine, self.engine.engine

    def _traced(self, calls: Calls, hooks: Hooks) -> Iterator[Array]:
        """Logits of every call behind the last reset, in programs of the rows that serve it."""
        before, after = last_run(calls)
        list(fed(self.own, before))
        self.inner.reset()
        for part in itertools.chain(*self.inner.cache):  # what an earlier pass swapped in would stand for what is lost
            self.inner.backend.write(part, np.zeros(part.shape, DTYPES[part.dtype]))
        for method, tokens in after:
            pieces = [(0, 0)]
            if method != "score":
                pieces = [(at, rows) for at, rows, _ in self.inner.pieces(len(tokens))]
            for at, rows in pieces:
                yield trace(self.inner, tokens[at : at + rows] if rows else tokens, hooks, rows)

    def recompute(self, given: str, folder: str, calls: Calls, layers: list[int]) -> None:
        """A trace of what every slot of some layers is where its inputs are the values of another trace."""
        files.refuse_no_folder(Path(folder))
        recorder = begun(Path(folder), self.own, self.text, tokens_of(calls), Wanted(("*",), layers))
        gatherer, whole = Gatherer(recorder.take, lambda key: True), hashlib.sha256()
        for logits in self._traced(calls, Hooks(lambda name: True, gatherer, Given(given))):
            gatherer.flush()
            whole.update(np.ascontiguousarray(logits, "<f4").data)
        ended(Path(folder), recorder, whole.hexdigest(), "the engine gives no such tensor", {})

    def healed(self, given: str, calls: Calls, slots: list[str]) -> Array:
        """Logits [vocab] after the last token, where some slots have the values of a trace in every layer."""
        hooks = Hooks(lambda name: False, lambda name, values: None, Given(given, slots))
        return np.asarray(list(self._traced(calls, hooks))[-1][-1])

    def walk(self, given: str, calls: Calls, key: str, position: int, folder: str) -> dict[str, Any]:
        """The first launch, of those that make a slot or of all, that is wrong on its own inputs, with the pattern of
        what is wrong, and the folder that reproduces it; without an ``op`` there is none.
        """
        seen = Walk(self.own, Key.parse(key) if key else None, position, folder)
        try:
            list(self._traced(calls, Hooks(lambda name: False, lambda name, values: None, Given(given), seen)))
        except Stop as found:
            return {"skipped": seen.skipped, **found.args[0]}
        return {"skipped": seen.skipped}

    def wired(self, calls: Calls, layer: int, slot: str) -> list[str]:
        """What of the launches is not as the file asks for, up to a slot: op, kind, and a sentence; else nothing."""
        rows = 1 if last_run(calls)[1][-1][0] == "step" else self.inner.chunk
        return wiring.compared(self.own, rows, Key(layer, slot))

    def served(self, calls: Calls, eager: bool) -> Array:
        """Logits [vocab] after the last token as it serves; ``eager`` launches one by one instead of a recording."""
        if eager:
            for program in self.inner.programs.values():
                program.program.run = program.program.run_eager  # type: ignore[method-assign]
        return np.asarray(list(fed(self.own, calls))[-1][1])

    def held(self, calls: Calls) -> str:
        """What the device holds of ids and positions behind a run that is not what it was given; empty if all is."""
        list(fed(self.own, calls))
        self.own.reset()  # behind tokens, so that one which forgets nothing shows
        before, after = last_run(calls)
        list(fed(self.own, before))
        self.own.reset()
        wrong = (wiring.fed_wrong(self.inner, after[: at + 1]) for at in range(len(after)) if self._one(*after[at]))
        return next(filter(None, wrong), "")

    def _one(self, method: str, tokens: list[int]) -> bool:
        feed = getattr(self.own, method)
        return feed(tokens[0] if method == "step" else tokens) is not None
