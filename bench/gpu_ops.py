"""Times the ops of a decode step on every backend that is there, cold, interleaved and verified.

    python bench/gpu_ops.py --backends cuda,torch,wgpu,opencl [--receipt FILE] [--smoke] [--seconds 2]
    python bench/gpu_ops.py --backends cuda --mode check   small cases against fp64 truth, not timed: for sanitizers
    python bench/gpu_ops.py --backends cuda --mode once    each kernel a few times, not timed: for profilers

The ceiling is the device's own copy in the same run, beside torch's bf16 and f16 GEMV of the same N×K. The method is
that of bench/timing.py. Exit code 1 where a result is wrong, impossible or missing; 3 where no backend opened.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import timing
from timing import MANY, Receipt, Sample, Series, cache_bytes, interleave, judge_times

from kparity import ops, registry
from kparity.adapter import Backend, Buffer, Program
from kparity.adapter import Bound as Launchable
from kparity.bench.torch_baseline import PIECE, TorchGemv
from kparity.compare import judge
from kparity.errors import KparityError
from kparity.spec import DTYPES, Array, Bound, Case

HOT = {True: 64, False: 16}
"""Launches of a kernel whose data is in the cache anyhow: on a GPU, elsewhere."""

A100_W2A8_US = {(2560, 2560): 13.3, (3840, 2560): 14.9, (13824, 2560): 18.75, (2560, 6912): 14.5}
"""Published for an A100 by another ternary GEMV; (N, K) -> µs."""
UNSUPPORTED = "not supported: "
GOAL_OF_PUBLISHED, GOAL_OF_COPY, GOAL_OVER_TORCH = 0.6, 0.8, 5.0
LARGE = 64_000_000
"""Packed bytes from which on a tgemv is held against the copy and against torch."""

FULL = {
    "tgemv": [(2560, 2560), (3840, 2560), (13824, 2560), (2560, 6912), (640, 2560), (6912, 2560), (110592, 2560)],
    "dense_gemv": [(128256, 2560)],
    "attention": [512, 4096],
    "copy": 1 << 30,
}
SMOKE = {"tgemv": [(64, 256), (96, 512)], "dense_gemv": [(300, 64)], "attention": [32], "copy": 1 << 20}


def table_of(sizes: dict[str, Any]) -> list[list[Case]]:
    """Cases in groups that are interleaved; a group begins with the op that carries it."""
    make = {name: ops.get(name).case for name in ("tgemv", "dense_gemv", "attention", "rmsnorm", "act_quant", "add")}
    small = sizes is SMOKE
    groups = [[make["tgemv"](M=1, N=n, K=k)] for n, k in sizes["tgemv"]]
    groups += [[make["dense_gemv"](M=1, N=n, K=k)] for n, k in sizes["dense_gemv"]]
    heads = {"H": 4, "G": 2, "D": 32} if small else {"H": 20, "G": 5, "D": 128}
    groups += [[make["attention"](M=1, L=length, **heads)] for length in sizes["attention"]]
    width, inner = (256, 512) if small else (2560, 6912)
    rest = [make["add"](M=1, D=1), make["rmsnorm"](M=1, D=width), make["act_quant"](M=1, K=width)]
    rest.append(make["act_quant"](M=1, K=inner))
    if "norm_quant" in {op.name for op in ops.every()}:
        fused = ops.get("norm_quant")
        rest += [fused.case(M=1, D=width, pre="add"), fused.case(M=1, D=inner, pre="relu2")]
    return [*groups, rest]


# --- inputs, truth, and shifted copies of both ---


@dataclass(frozen=True)
class Facts:
    """Inputs of a case, fp64 truth and bounds of its outputs."""

    inputs: list[Array]
    truth: list[Array]
    bounds: list[Bound]


def walked_by_rows(case: Case) -> bool:
    """Whether a copy may be the weights turned by rows: a part of a head is bound to its columns."""
    return case.op == "tgemv" or (case.op == "dense_gemv" and case["rows"] == case["N"])


def short(case: Case) -> str:
    """A case for a table: without M = 1 and what is as usual."""
    usual = {**ops.get(case.op).defaults, "M": 1, "rows": dict(case.params).get("N")}
    return " ".join([case.op, *(f"{name}={value}" for name, value in case.params if usual.get(name) != value)])


def draw(case: Case) -> list[Array]:
    """Seeded inputs; rows beyond ``PIECE`` of a weight repeat the first ones, turned along K, so that rows differ."""
    op, rng = ops.get(case.op), np.random.default_rng(case.seed())
    if not walked_by_rows(case) or case["N"] <= PIECE:
        return op.inputs(case, rng)
    first = op.inputs(part_of(case, PIECE), rng)
    turned = [np.roll(first[0], at, axis=1) for at in range(-(-case["N"] // PIECE))]
    return [np.concatenate(turned)[: case["N"]], *first[1:]]


def part_of(case: Case, rows: int) -> Case:
    """The same case with another number of rows."""
    given = {name: value for name, value in case.params if name not in ("rows", "row0")}
    return ops.get(case.op).case(**{**given, "N": rows})


@lru_cache(maxsize=1)
def facts_of(case: Case) -> Facts:
    """Truth in pieces of rows: a whole head in fp64 would take gigabytes."""
    op, inputs = ops.get(case.op), draw(case)
    if not walked_by_rows(case) or case["N"] <= PIECE:
        truth = op.reference(case, inputs)
        return Facts(inputs, truth, op.bounds(case, inputs, truth))
    truths, limits, why = [], [], ""
    for at in range(0, case["N"], PIECE):
        words = inputs[0][at : at + PIECE]
        piece, given = part_of(case, len(words)), [words, *inputs[1:]]
        truths += op.reference(piece, given)
        bound = op.bounds(piece, given, truths[-1:])[0]
        limits.append(np.zeros(truths[-1].shape) if bound.limit is None else bound.limit)
        why = bound.derivation
    return Facts(inputs, [np.concatenate(truths, axis=1)], [Bound(np.concatenate(limits, axis=1), why)])


def shifted(case: Case, inputs: Sequence[Array], at: int) -> list[Array]:
    """Copy ``at`` of the inputs: weights turned by rows, or the keys of a cache in another order."""
    if walked_by_rows(case):
        return [np.roll(inputs[0], at, axis=0), *inputs[1:]]
    if case.op == "attention":
        return [inputs[0], np.roll(inputs[1], at, axis=0), np.roll(inputs[2], at, axis=0), *inputs[3:]]
    return list(inputs)


def turned(case: Case, array: Array, at: int) -> Array:
    """What ``shifted`` makes of an output (or of its bound)."""
    return np.roll(array, at, axis=-1) if walked_by_rows(case) else array


def weight_bytes(case: Case) -> int:
    """Bytes of the arguments that are walked through: a copy of the rotation."""
    args = {"tgemv": (0,), "dense_gemv": (0,), "attention": (1, 2)}.get(case.op, ())
    return sum(ops.get(case.op).args(case)[at].nbytes for at in args)


# --- a case on a backend ---


class Timed:
    """A case on a backend: a rotation of inputs, an output of its own for each, the programs that walk through them."""

    def __init__(self, backend: Backend, case: Case, facts: Facts, cold: int, repeat: bool = False) -> None:
        self.backend, self.case, self.facts = backend, case, facts
        self.op, nbytes = ops.get(case.op), weight_bytes(case)
        self.copies = max(1, -(-cold // nbytes)) if nbytes else 1
        self.cold = nbytes > 0 and self.copies * nbytes >= max(cold, cache_bytes(backend))
        self.written: list[list[Buffer]] = []
        launches = [list(self._launches(at)) for at in range(self.copies)]
        if not nbytes:  # what a kernel of a decode step finds in the cache; several, so that the clock can tell
            launches *= HOT[backend.info.kind == "gpu"] if repeat else 1
        elif repeat and backend.info.kind == "gpu":
            launches *= timing.turns(len(launches), nbytes)
        per_sample = MANY
        if backend.info.kind != "gpu" and nbytes:  # such a device needs milliseconds for one
            per_sample = max(1, (64 << 20) // nbytes)
        self.per_sample = min(per_sample, len(launches))
        starts = range(0, len(launches) - self.per_sample + 1, self.per_sample)
        self.programs = [backend.record(list(chain(*launches[at : at + self.per_sample]))) for at in starts]
        self.turn = 0

    def _launches(self, at: int) -> Iterator[Launchable]:
        """The launches of one copy: several where a weight exceeds the device's largest binding."""
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

    def _parts(self, given: list[Array]) -> Iterator[Launchable]:
        """A head in as many pieces as the largest binding asks for, as in a model."""
        weights, backend, n = given[0], self.backend, self.case["N"]
        rows = max(1, min(n, backend.info.max_binding // weights[:1].nbytes))
        options = {name: value for name, value in self.case.params if name not in ("row0", "rows")}
        x, y = backend.upload(given[1]), backend.empty((1, n), "f32")
        self.written.append([y])
        for row0 in range(0, n, rows):
            piece = np.ascontiguousarray(weights[row0 : row0 + rows])
            yield self._bind(self.op.case(**options, row0=row0, rows=len(piece)), [backend.upload(piece), x, y])

    def _bind(self, case: Case, buffers: list[Buffer]) -> Launchable:
        reason = self.backend.supports(self.op, case)
        if reason:
            raise KparityError(f"{UNSUPPORTED}{reason}")
        kernel = self.backend.build(self.op, case)
        self.kernel_id = kernel.id
        return kernel.bind(*buffers)

    def sample(self) -> Sample:
        """The next program of the rotation."""
        program = self.programs[self.turn % len(self.programs)]
        self.turn += 1
        return timing.timed(program)

    def _poison(self, at: int) -> None:
        """Overwrite what copy ``at`` writes: NaN and -1, or its input where it is one."""
        before = dict(zip([arg.name for arg in self.op.inputs_of(self.case)], self.facts.inputs, strict=True))
        for arg, buffer in zip(self.op.outputs_of(self.case), self.written[at], strict=True):
            nothing = np.full(buffer.nbytes, 0xFF, np.uint8).view(DTYPES[buffer.dtype]).reshape(buffer.shape)
            self.backend.write(buffer, before.get(arg.name, nothing))

    def check(self) -> str | None:
        """Poison every output, run every program timed once more, compare every output with its truth."""
        ran = min(len(self.written), len(self.programs) * self.per_sample)
        for at in range(ran):
            self._poison(at)
        for program in self.programs:
            program.run_timed()
        for at, written in enumerate(self.written[:ran]):
            named = zip(self.op.outputs_of(self.case), written, self.facts.truth, self.facts.bounds, strict=True)
            for arg, buffer, truth, bound in named:
                limit = None if bound.limit is None else turned(self.case, np.asarray(bound.limit), at)
                name, got = f"{self.backend.name}: {self.case.id} copy {at}", self.backend.download(buffer)
                finding = judge(name, arg.name, got, turned(self.case, truth, at), Bound(limit, bound.derivation))
                if not finding.ok:
                    return f"output wrong: {finding}"
        return None

    def series(self) -> Series:
        """For ``interleave``."""
        clock = "wall" if type(self.programs[0]).run_timed is Program.run_timed else "device"
        about = {
            "backend": self.backend.name, "op": self.case.op, "case": self.case.id, "kernel": self.kernel_id,
            "clock": clock, "copies": self.copies, "device": self.backend.info.device,
            "graph": getattr(self.programs[0], "replayed", None),
        }  # fmt: skip
        name, nbytes = f"{self.backend.name} {short(self.case)}", self.op.work(self.case).bytes
        return Series(name, self.sample, self.per_sample, nbytes, self.cold, self.check, about)


# --- the run ---


def goals(row: dict[str, Any], copy_rate: float, others: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a row is measured against, and whether it got there: {name: {goal, reached, met}}."""
    found: dict[str, Any] = {}
    if row.get("op") != "tgemv" or "us" not in row:
        return found
    shape = {part.split("=")[0]: part.split("=")[1] for part in row["case"].split("[")[1].rstrip("]").split(",")}
    n, k = int(shape["N"]), int(shape["K"])
    if (n, k) in A100_W2A8_US:
        goal = GOAL_OF_PUBLISHED * A100_W2A8_US[n, k]
        found["us"] = {"goal": goal, "reached": row["us"], "met": row["us"] <= goal}
    if n * k // 4 >= LARGE and copy_rate:
        share = row["gb_per_s"] * 1e9 / copy_rate
        found["of_copy"] = {"goal": GOAL_OF_COPY, "reached": share, "met": share >= GOAL_OF_COPY}
    bf16 = [each["us"] for each in others if each.get("case") == f"mv[K={k},N={n}]" and each["op"] == "mv_bf16"]
    if bf16:
        ratio = bf16[0] / row["us"]
        found["over_torch_bf16"] = {"goal": GOAL_OVER_TORCH, "reached": ratio, "met": ratio >= GOAL_OVER_TORCH,
                                    "binding": n * k // 4 >= LARGE}  # fmt: skip
    return found


def opened(name: str, receipt: Receipt) -> Backend | None:
    """A backend, or None with the reason noted."""
    try:
        backend = registry.open_backend(name)
    except KparityError as error:
        receipt.result["absent"][name] = f"[{getattr(error, 'code', '')}] {error}"
        print(f"{name}: left out: {error}", file=sys.stderr)
        return None
    receipt.opened(backend)
    return backend


def refused(required: str, receipt: Receipt) -> bool:
    """Whether a backend that was asked for by name is absent; it is named, and nothing else takes its place."""
    missing = sorted({*filter(None, required.split(","))} - set(receipt.result["devices"]))
    for name in missing:
        print(f"required and absent: {name}: {receipt.result['absent'].get(name, 'not among --backends')}")
    return bool(missing)


def line(row: dict[str, Any], rate: float) -> str:
    """A row for people."""
    if "us" not in row:
        return f"{row['name']:64} {'; '.join(row['errors'])}"
    share = f"{100 * row['gb_per_s'] * 1e9 / rate:5.1f} % of copy" if rate and row["cold"] else " " * 15
    goal = ", ".join(f"{name} {each['reached']:.2f} {'meets' if each['met'] else 'MISSES'} {each['goal']:.2f}"
                     for name, each in row.get("goals", {}).items())  # fmt: skip
    wrong = "".join(f" ERROR {error}" for error in row["errors"])
    return (f"{row['name']:64} {row['us']:10.2f} µs ({row['us_low']:.2f}, {row['us_high']:.2f}) "
            f"{row['gb_per_s']:8.1f} GB/s {share}  {goal}{wrong}")  # fmt: skip


def measure(options: argparse.Namespace, receipt: Receipt, backends: Sequence[Backend]) -> None:
    """Time every group and add its rows to the receipt, group by group."""
    sizes, rows = (SMOKE if options.smoke else FULL), receipt.result["rows"]
    cold = {b.name: (1 << 20) if options.smoke else timing.cold_bytes(b, options.cold_mib << 20) for b in backends}
    limits = {"least": 3, "most": 4, "seconds": 1.0} if options.smoke else {"seconds": options.seconds}
    # A device that is not a GPU copies less: what is measured there is no record anyhow.
    copies = [
        timing.copy_series(b, sizes["copy"] if b.info.kind == "gpu" else min(sizes["copy"], 1 << 28)) for b in backends
    ]
    interleave(copies, **limits)
    rates, ceilings, measured = {}, {}, {}
    for backend, series in zip(backends, copies, strict=True):
        peak = receipt.result["devices"][backend.name]["peak_bytes_per_s"]
        rows.append(judge_times(series, peak, measured=False))
        rates[backend.name], measured[backend.name] = rows[-1].get("gb_per_s", 0.0) * 1e9, not peak
        ceilings[backend.name] = peak
        print(line(rows[-1], 0))
    for backend in backends:  # where no driver tells: the best that any API reached on that memory
        same = [rates[b.name] for b in backends if (b.info.kind == "gpu") == (backend.info.kind == "gpu")]
        ceilings[backend.name] = ceilings[backend.name] or max(same)
    del copies
    receipt.result["copy_bytes_per_s"] = rates
    for group in table_of(sizes):
        table: list[Series] = []
        for case in group:
            for backend in backends:
                name = f"{backend.name} {short(case)}"
                try:
                    table.append(Timed(backend, case, facts_of(case), cold[backend.name], repeat=True).series())
                except Exception as error:  # one kernel that does not build must not take the rest along
                    about = {"backend": backend.name, "op": case.op, "case": case.id}
                    text = f"{type(error).__name__}: {error}"
                    table.append(Series(name, lambda: Sample(0, 0), about=about, fault=text))
                    table[-1].about["unsupported"] = str(error).startswith(UNSUPPORTED)
                if backend.name == "torch" and case.op == "tgemv":
                    table += [
                        TorchGemv(backend, case["N"], case["K"], dtype, cold["torch"]).series()
                        for dtype in ("bf16", "f16")
                    ]
        interleave(table, **limits)
        fresh = [judge_times(s, ceilings.get(s.about["backend"], 0), measured[s.about["backend"]]) for s in table]
        for row in fresh:
            if row.get("unsupported"):
                row["errors"] = []
            rate = rates[row["backend"]]
            if "gb_per_s" in row and rate:
                row["of_copy"] = row["gb_per_s"] * 1e9 / rate
            row["goals"] = goals(row, rate, fresh) if row["backend"] in ("cuda", "hip") else {}
            if row.get("case", "").startswith("add[D=1,"):
                receipt.result.setdefault("empty_launch_us", {})[row["backend"]] = row.get("us")
            print(line(row, rate), flush=True)
        rows += fresh
        receipt.write()
        table.clear()
        timing.released()


def check(backends: Sequence[Backend], kib: int) -> int:
    """Every small case of every op once against truth; returns how many were wrong."""
    wrong = ran = 0
    for backend in backends:
        if hasattr(backend, "cupy"):  # each buffer an allocation of its own, so that a sanitizer knows its end
            backend.cupy.cuda.set_allocator(None)
        for op in ops.every():
            for case in op.cases():
                if sum(arg.nbytes for arg in op.args(case)) > kib << 10 or backend.supports(op, case):
                    continue
                ran += 1
                try:
                    with np.errstate(all="ignore"):
                        found = Timed(backend, case, facts_of(case), 0).check()
                except KparityError as error:
                    found = str(error)
                if found:
                    wrong += 1
                    print(found)
    print(f"{ran} cases on {', '.join(b.name for b in backends)}: {wrong} wrong")
    return wrong if ran else 1


def once(backends: Sequence[Backend], smoke: bool) -> int:
    """Each kernel of the table on three copies, without clocks: a profiler that replays kernels brings its own."""
    wrong = 0
    for group in table_of(SMOKE if smoke else FULL):
        for case in group:
            for backend in backends:
                found = Timed(backend, case, facts_of(case), min(3 * weight_bytes(case), 1 << 30)).check()
                wrong += found is not None
                print(f"{backend.name} {case.id}: {found or 'right'}", flush=True)
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", default="cuda,torch,wgpu,opencl")
    parser.add_argument("--mode", choices=("time", "check", "once"), default="time")
    parser.add_argument(
        "--smoke", action="store_true", help="tiny shapes and few samples: tries the script, measures nothing"
    )
    parser.add_argument("--require", default="", help="backends whose absence is a failure")
    parser.add_argument("--receipt", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="of sampling for each group at most")
    parser.add_argument("--cold-mib", type=int, default=1024, help="most memory that a rotation takes")
    parser.add_argument("--kib", type=int, default=256, help="largest case of --mode check")
    options = parser.parse_args(arguments)
    receipt = Receipt(
        options.receipt, "ops-smoke" if options.smoke else "ops", sys.argv if arguments is None else arguments
    )
    found = [opened(name, receipt) for name in options.backends.split(",")]
    backends = [backend for backend in found if backend is not None]
    try:
        if refused(options.require, receipt) or not backends:
            receipt.write(complete=True)
            return 3
        if options.mode == "check":
            return min(check(backends, options.kib), 1)
        if options.mode == "once":
            return min(once(backends, options.smoke), 1)
        measure(options, receipt, backends)
        receipt.write(complete=True)
        for failure in receipt.failed:
            print(f"FAILED {failure}", file=sys.stderr)
        return 1 if receipt.failed else 0
    finally:
        for backend in backends:
            backend.close()


if __name__ == "__main__":
    sys.exit(main())
