"""Wrong engines: defects of the code around the kernels, each as it was seen or could be, on any backend.

A defect is a subclass of the engine or of its graph, or a change of the opened backend or of the uploaded weights; the
kernels are right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kparity.device.adapter import Backend, Buffer, Launch, Program
from kparity.engine import Engine
from kparity.errors import UnknownName
from kparity.model import Model
from kparity.mutate import graphs, host
from kparity.mutate.models import EMBEDDED
from kparity.ops.spec import Array

LATE = 64
"""Positions after which a ring buffer that is too short begins again."""


@dataclass(frozen=True)
class EngineMutant:
    """One wrong engine."""

    name: str
    what: str
    make: Callable[[Model, Backend], Engine]
    model: str = EMBEDDED
    """The model on which it matters (``kparity.mutate.models``)."""


class CacheNotReset(Engine):
    """Reset does nothing."""

    def reset(self) -> None:
        """Keep every token."""


class SecondTurnRestarts(Engine):
    """Every prompt begins at position 0."""

    def prefill(self, tokens: Sequence[int], eager: bool = False) -> Array:
        """Begin anew, whatever is in the cache."""
        self.reset()
        return super().prefill(tokens, eager)


class ChunkRestarts(Engine):
    """Every chunk of a prompt begins at position 0."""

    def _run(self, tokens: list[int], rows: int, every_row: bool, eager: bool = False, head: bool = True) -> Any:
        start = self.position
        if rows > 1:
            self.position = 0
        graph = super()._run(tokens, rows, every_row, eager, head)
        self.position = start + len(tokens)
        return graph


class ChunkAlone(Engine):
    """A chunk does not see what the chunks before it stored; it is there again when the chunk is done."""

    def _run(self, tokens: list[int], rows: int, every_row: bool, eager: bool = False, head: bool = True) -> Any:
        start, kept = self.position, []
        if rows > 1 and start:
            for buffer in (buffer for pair in self.cache for buffer in pair):
                kept.append((buffer, self.backend.download(buffer)))
                self.backend.write(buffer, np.zeros_like(kept[-1][1]))
        graph = super()._run(tokens, rows, every_row, eager, head)
        for buffer, before in kept:
            now = self.backend.download(buffer)
            now[:start] = before[:start]
            self.backend.write(buffer, now)
        return graph


class OneStepLate(Engine):
    """The logits of the step before: two read-back buffers, and the wrong one of them."""

    _before: Array | None = None

    def _first_row(self, graph: Any) -> Array:
        now = super()._first_row(graph)
        before, self._before = self._before, now
        return now if before is None else before


class IdOneStepLate(Engine):
    """The id is read before the device has written it: it is that of the step before."""

    _before = 0

    def _best(self, graph: Any) -> int:
        before, self._before = self._before, super()._best(graph)
        return before


def written(change: Callable[[Engine, Buffer, Array], Array | None]) -> Callable[[Model, Backend], Engine]:
    """An engine whose writes to the device go through ``change``; None drops one."""

    def make(model: Model, backend: Backend) -> Engine:
        engine, real = Engine(model, backend), backend.write

        def write(buffer: Buffer, array: Array) -> None:
            found = change(engine, buffer, array)
            if found is not None:
                real(buffer, np.ascontiguousarray(found, array.dtype))

        backend.write = write  # type: ignore[method-assign]
        return engine

    return make


def _is(engine: Engine, buffer: Buffer, name: str, rows: int = 0) -> bool:
    """Whether a buffer is ``ids``, ``pos`` or ``last`` of a recorded graph (of ``rows`` rows, where that is given)."""
    counts = (rows,) if rows else (1, engine.chunk)
    recorded = [engine.programs.get((count, False)) for count in counts]  # a write before it is recorded is none of its
    return any(found is not None and getattr(found.graph, name).handle is buffer.handle for found in recorded)


def _positions(change: Callable[[Array], Array]) -> Callable[[Model, Backend], Engine]:
    return written(lambda engine, buffer, array: change(array) if _is(engine, buffer, "pos") else array)


def _tokens_once() -> Callable[[Engine, Buffer, Array], Array | None]:
    """Every third write of a step's token is lost."""
    count = 0

    def change(engine: Engine, buffer: Buffer, array: Array) -> Array | None:
        nonlocal count
        if not _is(engine, buffer, "ids", 1):
            return array
        count += 1
        return None if count % 3 == 0 else array

    return change


def _stale_token(model: Model, backend: Backend) -> Engine:
    return written(_tokens_once())(model, backend)


def recorded_without(which: Callable[[Sequence[Launch]], int]) -> Callable[[Model, Backend], Engine]:
    """Recordings lose one launch; launches one by one are complete."""

    def make(model: Model, backend: Backend) -> Engine:
        real = backend.record

        def record(launches: Sequence[Launch]) -> Program:
            if len(launches) < 4:
                return real(launches)
            lost = which(launches)
            program = real([launch for at, launch in enumerate(launches) if at != lost])
            program.run_eager = real(launches).run_eager  # type: ignore[method-assign]
            return program

        backend.record = record  # type: ignore[method-assign]
        return Engine(model, backend)

    return make


def _last_of(op: str) -> Callable[[Sequence[Launch]], int]:
    return lambda launches: max(at for at, launch in enumerate(launches) if launch.kernel_id.startswith(op))


def never_launched(model: Model, backend: Backend) -> Engine:
    """The last attention of every program is never started, whoever launches: its output is what it was."""
    real = backend.record

    def record(launches: Sequence[Launch]) -> Program:
        lost = _last_of("attention")(launches) if len(launches) > 3 else -1
        return real([launch for at, launch in enumerate(launches) if at != lost])

    backend.record = record  # type: ignore[method-assign]
    return Engine(model, backend)


def poser(model: Model, backend: Backend) -> Engine:
    """A software rasteriser behind an API that calls it a discrete GPU."""
    backend.info = dataclasses.replace(backend.info, kind="gpu", device="llvmpipe (LLVM 15.0.6, 256 bits)")
    return Engine(model, backend)


MUTANTS: tuple[EngineMutant, ...] = (
    EngineMutant(
        "cache-not-reset", "A reset leaves the cache and its length: garbage from the second request on.", CacheNotReset
    ),
    EngineMutant(
        "position-off-by-one",
        "Positions begin at 1: slot 0 of the cache is read and was never written.",
        _positions(lambda pos: np.where(pos < 0, pos, pos + 1)),
    ),
    EngineMutant(
        "chunk-restarts", "Every chunk of a prompt begins at position 0: wrong from the second chunk on.", ChunkRestarts
    ),
    EngineMutant(
        "chunk-starts-aligned",
        "A chunk begins at a multiple of its length: right until a second turn starts inside one.",
        _positions(lambda pos: pos if len(pos) == 1 else np.where(pos < 0, pos, pos - pos[0] % len(pos))),
    ),
    EngineMutant(
        "second-turn-restarts", "A prompt on a filled cache begins at position 0 and overwrites it.", SecondTurnRestarts
    ),
    EngineMutant(
        "micro-batch-alone",
        "A chunk is started before the cache rows of the chunk before are visible: it reads zeros there.",
        ChunkAlone,
    ),
    EngineMutant(
        "ring-too-short",
        f"Positions wrap at {LATE}: a cache that is shorter than the context says.",
        _positions(lambda pos: np.where(pos < 0, pos, pos % LATE)),
    ),
    EngineMutant(
        "padding-stored",
        "The padding of a chunk carries the position of its last token: its keys overwrite that token's.",
        _positions(lambda pos: np.where(pos < 0, pos.max(), pos)),
    ),
    EngineMutant(
        "stale-token", "One write of a token in three is lost: the step runs on the token before.", _stale_token
    ),
    EngineMutant(
        "last-row-off-by-one",
        "After a prefill the logits are those of the row before the last.",
        written(lambda e, buffer, array: np.maximum(array - 1, 0) if _is(e, buffer, "last", e.chunk) else array),
    ),
    EngineMutant(
        "embedding-off-by-one",
        "Token ids are shifted by one: a vocabulary with another first id.",
        written(lambda e, b, array: (array + 1) % e.model.hparams.vocab if _is(e, b, "ids") else array),
    ),
    EngineMutant(
        "logits-one-step-late",
        "Two read-back buffers, and the other one is read: the logits of the step before.",
        OneStepLate,
    ),
    EngineMutant(
        "id-one-step-late",
        "The id is read without waiting for the device: right logits, the token before.",
        IdOneStepLate,
    ),
    EngineMutant(
        "graph-lost-a-launch",
        "The recorded graph lacks the last norm_quant; the same launches one by one are complete.",
        recorded_without(_last_of("norm_quant")),
    ),
    EngineMutant(
        "graph-lost-the-store",
        "The recorded graph lacks the last rope_store: one layer reads keys that were never written.",
        recorded_without(_last_of("rope_store")),
    ),
    EngineMutant(
        "never-launched",
        "The attention of the last layer is never started: its output is whatever was there.",
        never_launched,
    ),
    EngineMutant("false-gpu", "A software device behind an API that calls it a GPU: GPU promises at CPU speed.", poser),
    *(EngineMutant(name, what, make) for name, what, make in graphs.WRONG),
    *(EngineMutant(*wrong) for wrong in host.WRONG),
)
"""Every wrong engine."""


def find(name: str) -> EngineMutant:
    """One by name; raises UnknownName."""
    for mutant in MUTANTS:
        if mutant.name == name:
            return mutant
    raise UnknownName("mutant of the engine", name, [mutant.name for mutant in MUTANTS])
