"""``check_case``: one case on one backend, every kind of input, judged by the contract ``kernel-parity-v1``."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from kparity import contracts
from kparity.check.dump import write
from kparity.check.facts import facts
from kparity.check.measure import measured
from kparity.check.record import FAIL, PASS, UNSUPPORTED, Counted, OutputRecord, Record
from kparity.device.adapter import Backend, Buffer, Kernel, filled
from kparity.errors import KparityError
from kparity.numerics.expected import Expected
from kparity.ops.spec import DTYPES, Arg, Array, Case, Op

CONTRACT = "kernel-parity-v1"
"""The contract whose thresholds decide."""
PEER = {"f32": "peer_ratio_f32", "f16": "peer_ratio_f16"}
GUARD = 512
"""Bytes of sentinel before and after an output; a multiple of the offsets at which devices divide a buffer."""
SENTINEL = 0xA5
POISONS = (0xFF, 0x7F)
"""Every byte of an output before the first and the second run: NaN and −1, then NaN and a large integer."""


def check_case(
    backend: Backend, op: Op, case: Case, *, seed: int = 0, kinds: Sequence[str] | None = None,
    stop_at_first: bool = False,
) -> list[Record]:  # fmt: skip
    """Run a case on every kind of input (or on ``kinds``) and judge it: a record each, or a single UNSUPPORTED one.

    The kernel is built once. For each kind it runs twice, on outputs poisoned with two different patterns. Whatever a
    wrong kernel or a failing device raises is a FAIL with its reason; an error of the op's specification is raised.
    """
    records = []
    for record in checking(backend, op, case, seed=seed, kinds=kinds):
        records.append(record)
        if stop_at_first and record.outcome == FAIL:
            break
    return records


def checking(
    backend: Backend, op: Op, case: Case, *, seed: int = 0, kinds: Sequence[str] | None = None, dump: str = "",
    words: tuple[str, ...] = (),
) -> Iterator[Record]:  # fmt: skip
    """The records of ``check_case``, each as soon as it is there; what failed goes to the folder ``dump``."""
    wanted = tuple(op.kinds(case) if kinds is None else kinds)
    blank = blank_record(backend.name, op, case, seed, label=backend.info.label, device_kind=backend.info.kind)
    blank = replace(blank, words=words)
    runner: CaseRunner | Exception
    try:
        reason = backend.supports(op, case)
        if reason:
            yield replace(blank, outcome=UNSUPPORTED, reason=reason, runs=len(wanted))
            return
        runner = CaseRunner(backend, op, case)
    except Exception as problem:  # whatever a backend raises while it compiles or allocates is its failure
        runner = problem
    for kind in wanted:
        known = facts(op, case, kind, seed)
        about = replace(blank, kind=kind, inputs_sha256=known.sha256)
        record = fault(about, runner) if isinstance(runner, Exception) else runner.check(about, known)
        if dump and record.outcome == FAIL:
            with suppress(OSError):  # the parent meets it again, and tells it
                outputs = [] if isinstance(runner, Exception) else runner.outputs
                write(Path(dump), record, known, outputs, backend.source(op, case, backend.constants))
        yield record


def blank_record(backend: str, op: Op, case: Case, seed: int, *, label: str = "", device_kind: str = "") -> Record:
    """A record of a case before anything ran: FAIL, until something says otherwise."""
    work = op.work(case)
    return Record(
        op=op.name, case=case.id, params=dict(case.params), kind="", backend=backend, device=label,
        device_kind=device_kind, kernel="", seed=seed, inputs_sha256="", outcome=FAIL, reason="nothing was run",
        bytes=work.bytes, flops=work.flops,
    )  # fmt: skip


class Wrong(Exception):
    """A kernel broke a rule that has no number."""


class Guarded:
    """An output between sentinels: in one allocation where the backend divides a buffer, else in some of their own."""

    def __init__(self, backend: Backend, arg: Arg) -> None:
        self.backend, pad, count = backend, GUARD // DTYPES[arg.dtype].itemsize, math.prod(arg.shape)
        whole = backend.empty((count + 2 * pad,), arg.dtype)
        inside = backend.view(whole, pad, arg.shape)
        if inside is None:
            self.buffer = backend.empty(arg.shape, arg.dtype)
            self.parts = [backend.empty((pad,), arg.dtype) for _ in range(2)]
            self.outside = [slice(None)]
        else:
            self.buffer, self.parts = inside, [whole]
            self.outside = [slice(None, pad), slice(pad + count, None)]
        for part in self.parts:
            backend.write(part, filled(part.shape, part.dtype, SENTINEL))

    def changes(self) -> int:
        """Bytes of the sentinels that were overwritten."""
        arrays = [self.backend.download(part) for part in self.parts]
        fences = [np.ascontiguousarray(array[cut]).view(np.uint8) for array in arrays for cut in self.outside]
        return sum(int(np.count_nonzero(fence != SENTINEL)) for fence in fences)


class CaseRunner:
    """A built kernel with its buffers between sentinels, bound once and used for every kind of input."""

    def __init__(self, backend: Backend, op: Op, case: Case) -> None:
        self.backend, self.op, self.case = backend, op, case
        self.kernel: Kernel = backend.build(op, case)
        self.read, self.written = op.inputs_of(case), op.outputs_of(case)
        self.guarded = {arg.name: Guarded(backend, arg) for arg in self.written}
        self.buffers: dict[str, Buffer] = {
            arg.name: backend.empty(arg.shape, arg.dtype) if arg.role == "in" else self.guarded[arg.name].buffer
            for arg in self.kernel.args
        }
        self.program = backend.record([self.kernel.bind(*self.buffers.values())])
        self.outputs: list[list[Array]] = []
        """Of the runs of the latest kind of input, as far as they came."""

    def check(self, about: Record, known: Expected) -> Record:
        """Both runs of one kind of input, and the verdict."""
        about = replace(about, kernel=self.kernel.id)
        peers = [self._peer(known, at) for at in range(len(known.bounds))]
        started = time.perf_counter()
        try:
            self._check_id()
            counts, outputs = self._runs(known)
            elapsed = (time.perf_counter() - started) * 1e3
            where = f"{self.backend.name}: {about.label}"
            given = zip(self.written, outputs, known.truth, known.bounds, peers, strict=True)
            measures = tuple(measured(where, *each) for each in given)
        except Exception as problem:  # the boundary: whatever a backend raises while it runs is its failure
            return replace(fault(about, problem), elapsed_ms=(time.perf_counter() - started) * 1e3)
        return judged(replace(about, counts=counts, outputs=measures, elapsed_ms=elapsed))

    def _check_id(self) -> None:
        shape = rf"{self.op.name}_[a-z0-9]+(_[a-z0-9]+)*_{re.escape(self.op.variant(self.case))}"
        if not re.fullmatch(shape, self.kernel.id):
            raise Wrong(f"the kernel calls itself {self.kernel.id!r}, expected {self.op.name}_<dialect>_<variant>")

    def _peer(self, known: Expected, at: int) -> Array | None:
        limit = known.bounds[at].limit
        asked = self.written[at].dtype in PEER and not known.bounds[at].stepped
        return known.peer[at] if asked and limit is not None and limit.any() else None

    def _runs(self, known: Expected) -> tuple[dict[Counted, int], list[Array]]:
        """Two runs; what they changed that they should not, and the outputs of the first."""
        given = {arg.name: array for arg, array in zip(self.read, known.inputs, strict=True)}
        inputs = {arg.name: given[arg.name] for arg in self.read if arg.role == "in"}
        for name, array in inputs.items():
            self.backend.write(self.buffers[name], array)
        self.outputs = runs = []
        excess = 0
        for poison in POISONS:
            for arg in self.written:
                array = filled(arg.shape, arg.dtype, poison) if arg.role == "out" else given[arg.name]
                self.backend.write(self.buffers[arg.name], array)
            excess += self._launches()
            runs.append([self._download(arg.name) for arg in self.written])
        counts: dict[Counted, int] = {
            "launch_excess": excess,
            "input_changes": sum(_bytes_that_differ(self._download(name), array) for name, array in inputs.items()),
            "guard_changes": sum(each.changes() for each in self.guarded.values()),
            "repeat_differences": sum(map(_bytes_that_differ, *runs)),
        }
        return counts, runs[0]

    def _launches(self) -> int:
        """Run and wait; returns by how many the launches differ from exactly one of this kernel."""
        dispatches = self.backend.dispatches
        own, total = dispatches.counts.get(self.kernel.id, 0), dispatches.total
        self.program.run()
        self.backend.sync()
        own, total = dispatches.counts.get(self.kernel.id, 0) - own, dispatches.total - total
        return abs(own - 1) + abs(total - own)

    def _download(self, name: str) -> Array:
        buffer = self.buffers[name]
        got = self.backend.download(buffer)
        if got.shape != tuple(buffer.shape) or got.dtype != DTYPES[buffer.dtype]:
            raise Wrong(f"{name} came back as {got.dtype}{list(got.shape)}, not {buffer.dtype}{list(buffer.shape)}")
        return got


_SENTENCES: dict[Counted, str] = {
    "launch_excess": "{kernel} was not launched once in each of two runs, and nothing else: {value} launches differ",
    "input_changes": "{kernel} changed {value} bytes of its inputs",
    "guard_changes": "{kernel} wrote outside of its buffers: {value} bytes of the sentinels changed",
    "repeat_differences": "two runs on outputs poisoned differently differ in {value} bytes",
}


def judged(record: Record) -> Record:
    """The record with its outcome: every measured number against its threshold in the contract."""
    contract = contracts.load(CONTRACT)
    failed: dict[str, str] = {}
    for counted, count in record.counts.items():
        if not contract.threshold(counted).holds(count):
            failed[counted] = _SENTENCES[counted].format(value=count, kernel=record.kernel)
    for output in record.outputs:
        for name, value in _gated(output).items():
            threshold = contract.threshold(name)
            if not threshold.holds(value):
                failed.setdefault(name, _reason(output, name, value, threshold.value))
    if not record.outputs:
        return replace(record, outcome=FAIL, reason="the op has no output: nothing was compared")
    reason = next(iter(failed.values()), "")
    return replace(record, outcome=FAIL if failed else PASS, reason=reason, failed=tuple(failed))


def _gated(output: OutputRecord) -> dict[str, float]:
    """The numbers of an output that a threshold decides."""
    numbers = {
        output.threshold: output.wrong if output.rung == "exact" else output.utilisation,
        "f16_ulp_share": output.ulp_share,
        PEER.get(output.dtype, ""): output.peer_ratio,
    }
    return {name: value for name, value in numbers.items() if name and value is not None}


def _reason(output: OutputRecord, name: str, value: float, limit: float) -> str:
    if name != output.threshold:
        return f"{output.name}: {name} is {value:.4g}, at most {limit:g} is allowed"
    return (
        f"{output.name}: {output.wrong} of {output.count} elements outside their limit, worst at "
        f"{list(output.worst_index)}: got {output.got!r}, want {output.want!r}, error {output.error:.3g}, "
        f"limit {output.limit:.3g} ({output.derivation})"
    )


def _bytes_that_differ(a: Array, b: Array) -> int:
    left, right = (np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in (a, b))
    return int(np.count_nonzero(left != right)) if left.shape == right.shape else max(left.size, right.size)


def fault(about: Record, problem: BaseException) -> Record:
    """A FAIL for whatever a backend raised."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    ours = isinstance(problem, (KparityError, Wrong))
    return replace(about, outcome=FAIL, reason=text if ours else f"{type(problem).__name__}: {text}")
