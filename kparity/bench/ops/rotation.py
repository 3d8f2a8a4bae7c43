"""A case on a backend, ready to be timed: distinct copies of its buffers, and the programs that walk through them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from kparity import ops
from kparity.bench.machine import cache_bytes, identity
from kparity.bench.ops.cases import short
from kparity.bench.ops.inputs import Expected, shifted, turned
from kparity.bench.timing import MANY, Sample, Series, WarmUp, state_of, timed
from kparity.device.adapter import Backend, Buffer, Launch, Program
from kparity.errors import WrongInput
from kparity.numerics.compare import judge
from kparity.ops.spec import DTYPES, Array, Case, ErrorBound

SAMPLE_S = 5e-3
"""What one sample should take: long beside the resolution of a clock and the cost of a submission."""
LEAST_GPU = 32
"""Launches in a sample on a GPU at least: they hide what two events cost."""
SMALLEST = 1 << 18
"""Bytes of a case from which on it is timed cold: what is smaller lies in a cache during a decode step."""


TRIED = 16
"""Launches by whose time their number in a sample is chosen."""


class Unsupported(WrongInput):
    """A case that a backend cannot run; the message is the backend's reason."""


def best_of(program: Program, times: int = 3) -> float:
    """The shortest of some replays in seconds."""
    return min(program.run_timed() for _ in range(times))


class Rotation:
    """Copies of a case's buffers and programs of launches over them.

    ``cold``: bytes of distinct buffers to walk through; 0 for the same buffers over and over. ``launches``: how many a
    sample has at least; 0 for as many as take a while. Raises Unsupported, and whatever the backend raises where memory
    is short or a kernel does not build. An ``inout`` must be written alike by every launch.
    """

    def __init__(self, backend: Backend, case: Case, facts: Expected, cold: int, launches: int = 0) -> None:
        self.backend, self.case, self.facts = backend, case, facts
        self.op = ops.get(case.op)
        self.kernel_id = ""
        self.nbytes = sum(arg.nbytes for arg in self.op.args(case))
        self.written: list[list[Buffer]] = []
        first = list(self._launches(0))
        per_sample = launches or self._launches_per_sample(first)
        copies = [first, *(list(self._launches(at)) for at in range(1, self._copies(cold, per_sample)))]
        self.copies = len(copies)
        self.cold = cold > 0 and self.copies * self.nbytes >= max(cold, cache_bytes(backend.info))
        if self.copies < per_sample:
            copies *= -(-per_sample // self.copies)
            per_sample = len(copies)
        self.per_sample = per_sample
        starts = range(0, len(copies), per_sample)
        self.programs = [backend.record(list(chain(*copies[at : at + per_sample]))) for at in starts]
        self.turn = 0
        self.awake = WarmUp()
        self.dispatches = 0
        """Of the kernel, in the samples and before them."""

    def _copies(self, cold: int, per_sample: int) -> int:
        """Copies that exceed ``cold``, and that whole programs walk through."""
        needed = max(1, -(-cold // self.nbytes))
        return needed if needed < per_sample else -(-needed // per_sample) * per_sample

    def _launches_per_sample(self, launches: list[Launch]) -> int:
        """By the time that one takes, at best: alone, and among others, since starting a program may take longer."""
        once = best_of(self.backend.record(launches))
        if once < SAMPLE_S * TRIED:
            once = best_of(self.backend.record(launches * TRIED)) / TRIED
        least = LEAST_GPU if self.backend.info.kind == "gpu" else 1
        return int(min(max(SAMPLE_S // max(once, 1e-9), least), MANY))

    def _launches(self, at: int) -> Iterator[Launch]:
        """The launches of copy ``at``: several where a weight exceeds the device's largest binding."""
        args, backend = self.op.args(self.case), self.backend
        given = iter(shifted(self.case, self.facts.inputs, at))
        if self.case.op == "dense_gemv" and args[0].nbytes > backend.info.max_binding:
            yield from self._parts(list(given))
            return
        buffers = [
            backend.empty(arg.shape, arg.dtype)
            if arg.role == "out"
            else backend.upload(np.ascontiguousarray(next(given)))
            for arg in args
        ]
        self.written.append([buffer for arg, buffer in zip(args, buffers, strict=True) if arg.role != "in"])
        yield self._bind(self.case, buffers)

    def _parts(self, given: list[Array]) -> Iterator[Launch]:
        """A head in as many pieces as the largest binding asks for, as in a model."""
        weights, backend, n = given[0], self.backend, self.case["N"]
        rows = max(1, min(n, backend.info.max_binding // weights[:1].nbytes))
        options = {name: value for name, value in self.case.params if name not in ("row0", "rows")}
        x, y = backend.upload(given[1]), backend.empty((self.case["M"], n), "f32")
        self.written.append([y])
        for row0 in range(0, n, rows):
            piece = np.ascontiguousarray(weights[row0 : row0 + rows])
            yield self._bind(self.op.case(**options, row0=row0, rows=len(piece)), [backend.upload(piece), x, y])

    def _bind(self, case: Case, buffers: list[Buffer]) -> Launch:
        reason = self.backend.supports(self.op, case)
        if reason:
            raise Unsupported(reason)
        kernel = self.backend.build(self.op, case)
        self.kernel_id = kernel.id
        return kernel.bind(*buffers)

    def sample(self) -> Sample:
        """The next program of the rotation, after others where the processors have rested."""
        counts = self.backend.dispatches.counts
        before = counts.get(self.kernel_id, 0)
        found = self.awake.sample(self._replay, self._replay)
        self.dispatches += counts.get(self.kernel_id, 0) - before
        return found

    def _replay(self) -> Sample:
        program = self.programs[self.turn % len(self.programs)]
        self.turn += 1
        return timed(program)

    def launched(self) -> dict[str, Any]:
        """``dispatches`` that the backend counted in all replays, ``replays`` of programs, and the launches of
        each program.
        """
        launches = len(self.programs[0].launches)
        return {"dispatches": self.dispatches, "replays": self.turn, "launches_per_replay": launches}

    def _poison(self, at: int) -> None:
        """Overwrite what copy ``at`` writes: NaN and -1, or its input where it is one."""
        before = dict(zip([arg.name for arg in self.op.inputs_of(self.case)], self.facts.inputs, strict=True))
        for arg, buffer in zip(self.op.outputs_of(self.case), self.written[at], strict=True):
            nothing = np.full(buffer.nbytes, 0xFF, np.uint8).view(DTYPES[buffer.dtype]).reshape(buffer.shape)
            self.backend.write(buffer, before.get(arg.name, nothing))

    def check(self) -> str | None:
        """Poison every output, run every program timed once more, compare every output with its truth."""
        for at in range(len(self.written)):
            self._poison(at)
        for program in self.programs:
            program.run_timed()
        for at, written in enumerate(self.written):
            named = zip(self.op.outputs_of(self.case), written, self.facts.truth, self.facts.bounds, strict=True)
            for arg, buffer, truth, bound in named:
                limit = None if bound.limit is None else turned(self.case, np.asarray(bound.limit), at)
                name, got = f"{self.backend.name}: {self.case.id} copy {at}", self.backend.download(buffer)
                finding = judge(name, arg.name, got, turned(self.case, truth, at), ErrorBound(limit, bound.derivation))
                if not finding.ok:
                    return f"output wrong: {finding}"
        return None

    def series(self) -> Series:
        """For ``interleave``."""
        clock = "device" if self.backend.device_clock else "wall"
        state = state_of(self.cold, self.copies)
        about = {
            **identity(self.backend.info), "op": self.case.op, "case": self.case.id, "kernel": self.kernel_id,
            "state": state, "clock": clock, "copies": self.copies,
            "graph": self.programs[0].replayed,
        }  # fmt: skip
        name, work = f"{self.backend.name} {short(self.case)} {state}", self.op.work(self.case)
        return Series(name, self.sample, self.per_sample, work.bytes, self.cold, self.check, about, flops=work.flops,
                      launched=self.launched)  # fmt: skip
