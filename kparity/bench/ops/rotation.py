"""A case on a backend, ready to be timed: distinct copies of its buffers with the truth of each, and the programs that
walk through them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain

import numpy as np

from kparity import ops
from kparity.bench.machine import cache_bytes
from kparity.bench.ops.cases import short
from kparity.bench.timing import MANY, Sample, Timed, row_of, state_of, timed
from kparity.device.adapter import Backend, Buffer, Launch, Program
from kparity.errors import WrongInput
from kparity.numerics.compare import judge
from kparity.numerics.expected import Expected
from kparity.ops.spec import DTYPES, Array, Case, ErrorBound

PIECE = 16384
"""Rows whose truth is computed at once, and rows of a large matrix that are drawn; the others repeat them, shifted."""
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


# --- inputs and truth ---


@lru_cache(maxsize=1)
def expected(case: Case, seed: int = 0) -> Expected:
    """Seeded inputs, of the op's first kind, and their truth. Of a matrix with more than ``PIECE`` rows the further
    ones repeat the first, turned along K, so that rows differ; its truth comes in pieces, for a whole head in fp64
    would take gigabytes.
    """
    op, rng = ops.get(case.op), np.random.default_rng(case.seed(seed))
    if not (turns_by_rows(case) and case["N"] > PIECE):
        return Expected.of(op, case, op.inputs(case, rng, op.kinds(case)[0]))
    weights, *others = op.inputs(_of_rows(case, N=PIECE), rng)
    rolled = [np.roll(weights, at, axis=1) for at in range(-(-case["N"] // PIECE))]
    whole, truths, limits, why = np.concatenate(rolled)[: case["N"]], list[Array](), list[Array](), ""
    for at in range(0, case["N"], PIECE):
        given = [whole[at : at + PIECE], *others]
        piece = _of_rows(case, N=len(given[0]))
        truths += op.reference(piece, given)
        bound = op.bounds(piece, given, truths[-1:])[0]
        limits.append(np.zeros(truths[-1].shape) if bound.limit is None else bound.limit)
        why = bound.derivation
    bounds = [ErrorBound(np.concatenate(limits, axis=1), why)]
    return Expected(op, case, [whole, *others], [np.concatenate(truths, axis=1)], bounds)


def turns_by_rows(case: Case) -> bool:
    """Whether a copy is the weights turned by rows, which turns the outputs alike."""
    if case.op == "tgemv":
        return bool(case["wscale"] == "tensor")
    return case.op == "dense_gemv" and bool(case["rows"] == case["N"])  # a part of a head is bound to its columns


def shifted(case: Case, inputs: Sequence[Array], at: int) -> list[Array]:
    """Copy ``at`` of the inputs: weights turned by rows, a full cache in another order, or the same again."""
    if turns_by_rows(case):
        return [np.roll(inputs[0], at, axis=0), *inputs[1:]]
    if case.op == "attention" and case["M"] == 1 and int(inputs[3][0]) == case["L"] - 1:
        return [inputs[0], np.roll(inputs[1], at, axis=0), np.roll(inputs[2], at, axis=0), *inputs[3:]]
    return list(inputs)


def turned(case: Case, array: Array, at: int) -> Array:
    """What ``shifted`` makes of an output, or of its limit."""
    return np.roll(array, at, axis=-1) if turns_by_rows(case) else array


def _of_rows(case: Case, **rows: int) -> Case:
    """The same case with other rows."""
    given = {name: value for name, value in case.params if name not in ("rows", "row0")}
    return ops.get(case.op).case(**{**given, **rows})


# --- buffers and programs ---


class Rotation(Timed):
    """Copies of a case's buffers and programs of launches over them.

    ``cold``: bytes of distinct buffers to walk through; 0 for the same buffers over and over. ``launches``: how many a
    sample has at least; 0 for as many as take a while. Raises Unsupported, and whatever the backend raises where memory
    is short or a kernel does not build. An ``inout`` must be written alike by every launch.
    """

    def __init__(self, backend: Backend, case: Case, cold: int, launches: int = 0, seed: int = 0) -> None:
        self.backend, self.case, self.expected = backend, case, expected(case, seed)
        self.op, self.kernel_id, self.next_index = ops.get(case.op), "", 0
        self.nbytes = sum(arg.nbytes for arg in self.op.args(case))
        self.written: list[list[Buffer]] = []
        first = list(self._launches(0))
        per_sample = launches or self._launches_per_sample(first)
        needed = max(1, -(-cold // self.nbytes))
        count = needed if needed < per_sample else -(-needed // per_sample) * per_sample  # programs are whole
        copies = [first, *(list(self._launches(at)) for at in range(1, count))]
        is_cold = cold > 0 and count * self.nbytes >= max(cold, cache_bytes(backend.info))
        if count < per_sample:
            copies *= -(-per_sample // count)
            per_sample = len(copies)
        starts = range(0, len(copies), per_sample)
        self.programs = [backend.record(list(chain(*copies[at : at + per_sample]))) for at in starts]
        state, cost = state_of(is_cold, count), self.op.work(case)
        row = row_of(
            backend.info, case.op, cost.bytes, units=per_sample, cold=is_cold, case=case.id, kernel=self.kernel_id,
            name=f"{backend.name} {short(case)} {state}", state=state, copies=count, graph=self.programs[0].replayed,
            clock="device" if backend.device_clock else "wall", launches_per_replay=len(self.programs[0].launches),
        )  # fmt: skip
        super().__init__(row, cost.flops)

    def _launches_per_sample(self, launches: list[Launch]) -> int:
        """By the time that one takes, at best: alone, and among others, since starting a program may take longer."""

        def best_of(program: Program) -> float:
            return min(program.run_timed() for _ in range(3))

        once = best_of(self.backend.record(launches))
        if once < SAMPLE_S * TRIED:
            once = best_of(self.backend.record(launches * TRIED)) / TRIED
        least = LEAST_GPU if self.backend.info.kind == "gpu" else 1
        return int(min(max(SAMPLE_S // max(once, 1e-9), least), MANY))

    def _launches(self, at: int) -> Iterator[Launch]:
        """The launches of copy ``at``: several where a weight exceeds the device's largest binding."""
        args, backend = self.op.args(self.case), self.backend
        given = iter(shifted(self.case, self.expected.inputs, at))
        if self.case.op == "dense_gemv" and args[0].nbytes > backend.info.max_binding:
            yield from self._parts(*given)
            return
        buffers = [
            backend.empty(arg.shape, arg.dtype)
            if arg.role == "out"
            else backend.upload(np.ascontiguousarray(next(given)))
            for arg in args
        ]
        self.written.append([buffer for arg, buffer in zip(args, buffers, strict=True) if arg.role != "in"])
        yield self._bind(self.case, buffers)

    def _parts(self, weights: Array, given: Array) -> Iterator[Launch]:
        """A head in as many pieces as the largest binding asks for, as in a model."""
        backend, n = self.backend, self.case["N"]
        rows = max(1, min(n, backend.info.max_binding // weights[:1].nbytes))
        x, y = backend.upload(given), backend.empty((self.case["M"], n), "f32")
        self.written.append([y])
        for row0 in range(0, n, rows):
            piece = np.ascontiguousarray(weights[row0 : row0 + rows])
            yield self._bind(_of_rows(self.case, row0=row0, rows=len(piece)), [backend.upload(piece), x, y])

    def _bind(self, case: Case, buffers: list[Buffer]) -> Launch:
        reason = self.backend.supports(self.op, case)
        if reason:
            raise Unsupported(reason)
        kernel = self.backend.build(self.op, case)
        self.kernel_id = kernel.id
        return kernel.bind(*buffers)

    def run(self) -> Sample:
        """The next program of the rotation; its dispatches are counted in the row."""
        program, counts = self.programs[self.next_index % len(self.programs)], self.backend.dispatches.counts
        self.next_index += 1
        before = counts.get(self.kernel_id, 0)
        sample = timed(program)
        self.row.replays += 1
        self.row.dispatches += counts.get(self.kernel_id, 0) - before
        return sample

    def check(self) -> str | None:
        """Poison every output, run every program timed once more, compare every output with its truth."""
        for at in range(len(self.written)):
            self._poison(at)
        for program in self.programs:
            program.run_timed()
        for at, written in enumerate(self.written):
            outputs = self.op.outputs_of(self.case)
            for arg, buffer, truth, bound in zip(
                outputs, written, self.expected.truth, self.expected.bounds, strict=True
            ):
                limit = None if bound.limit is None else turned(self.case, np.asarray(bound.limit), at)
                name, got = f"{self.backend.name}: {self.case.id} copy {at}", self.backend.download(buffer)
                finding = judge(name, arg.name, got, turned(self.case, truth, at), ErrorBound(limit, bound.derivation))
                if not finding.ok:
                    return f"output wrong: {finding}"
        return None

    def _poison(self, at: int) -> None:
        """Overwrite what copy ``at`` writes: NaN and -1, or its input where it is one."""
        before = dict(zip([arg.name for arg in self.op.inputs_of(self.case)], self.expected.inputs, strict=True))
        for arg, buffer in zip(self.op.outputs_of(self.case), self.written[at], strict=True):
            nothing = np.full(buffer.nbytes, 0xFF, np.uint8).view(DTYPES[buffer.dtype]).reshape(buffer.shape)
            self.backend.write(buffer, before.get(arg.name, nothing))
