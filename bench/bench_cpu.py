"""The CPU kernels against the streaming-read bandwidth measured beside them, everything interleaved in one run.

    python bench/bench_cpu.py [--seconds 20] [--isa avx512vnni] [--threads 1 2]

Cold: weights rotate through a buffer larger than the caches, one launch per matrix, as in a decode step. Hot: one
matrix again and again. A sample of a cold kernel is a program of launches over distinct matrices, so a barrier per
launch is part of it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from stream import StreamRead, cold_memory

from kparity import ops
from kparity.adapter import Buffer
from kparity.backends.cpu import CpuBackend
from kparity.spec import DTYPES, Array, Case, Op

SHAPES = ((2560, 2560), (640, 2560), (6912, 2560), (2560, 6912))


@dataclass
class Series:
    """One row of the table: a sampler that gives seconds per launch, and what a launch reads."""

    name: str
    sample: Callable[[], float]
    nbytes: int
    seconds: list[float] = field(default_factory=list)


def buffers(backend: CpuBackend, op: Op, case: Case) -> list[Buffer]:
    """Seeded inputs and empty outputs of a case."""
    inputs = iter(op.inputs(case, np.random.default_rng(case.seed())))
    return [
        backend.empty(arg.shape, arg.dtype) if arg.role == "out" else backend.upload(next(inputs))
        for arg in op.args(case)
    ]


def hot(backend: CpuBackend, op: Op, case: Case, name: str, times: int = 20) -> Series:
    """The same launch again and again."""
    program = backend.record([backend.build(op, case).bind(*buffers(backend, op, case))] * times)
    return Series(name, lambda: program.run_timed() / times, op.args(case)[0].nbytes)


def cold(backend: CpuBackend, op: Op, case: Case, name: str, memory: Array) -> Series:
    """The first argument, the weights, rotates through ``memory``; a sample covers about 64 MiB of it."""
    kernel, given = backend.build(op, case), buffers(backend, op, case)
    weights = op.args(case)[0]
    count = memory.nbytes // weights.nbytes
    per_sample = max(1, (64 << 20) // weights.nbytes)
    views = [
        memory[at * weights.nbytes : (at + 1) * weights.nbytes].view(DTYPES[weights.dtype]).reshape(weights.shape)
        for at in range(count)
    ]
    bound = [kernel.bind(Buffer(view, weights.dtype, weights.shape), *given[1:]) for view in views]
    programs = [backend.record(bound[at : at + per_sample]) for at in range(0, count - per_sample + 1, per_sample)]

    def turns() -> Iterator[float]:
        while True:
            for program in programs:
                yield program.run_timed() / per_sample

    sampler = turns()
    return Series(name, lambda: next(sampler), weights.nbytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each number of threads")
    parser.add_argument("--mib", type=int, default=1024, help="size of the rotating buffer")
    parser.add_argument("--isa", default=None)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args()
    memory = cold_memory(options.mib)
    tgemv, dense, quant = ops.get("tgemv"), ops.get("dense_gemv"), ops.get("act_quant")
    for threads in options.threads:
        backend = CpuBackend(options.isa, threads)
        stream = StreamRead(backend, memory, 64 << 20)
        table = [Series("streaming read", lambda read=stream: read.chunk / read.sample() * 1e-9, stream.chunk)]  # type: ignore[misc]
        for n, k in SHAPES:
            case = tgemv.case(M=1, N=n, K=k)
            table += [
                cold(backend, tgemv, case, f"tgemv {n}x{k} cold", memory),
                hot(backend, tgemv, case, f"tgemv {n}x{k} hot"),
            ]
        blocked = tgemv.case(M=1, N=2560, K=2560, ascale="block256")
        table.append(cold(backend, tgemv, blocked, "tgemv 2560x2560 block256 cold", memory))
        for m in (8, 64):
            table.append(hot(backend, tgemv, tgemv.case(M=m, N=2560, K=2560), f"tgemv 2560x2560 M={m} hot", 2))
        table.append(cold(backend, dense, dense.case(M=1, N=8192, K=2560), "dense_gemv f16 8192x2560 cold", memory))
        for k in (2560, 6912):
            for mode in ("token", "block256"):
                table.append(hot(backend, quant, quant.case(M=1, K=k, mode=mode), f"act_quant {mode} K={k} hot", 200))
        rms, add, glu = ops.get("rmsnorm"), ops.get("add"), ops.get("glu")
        rope, attention = ops.get("rope"), ops.get("attention")
        table += [
            hot(backend, rms, rms.case(M=1, D=2560), "rmsnorm D=2560 hot", 200),
            hot(backend, add, add.case(M=1, D=2560), "add D=2560 hot", 200),
            hot(backend, glu, glu.case(M=1, D=6912, act="relu2"), "glu relu2 D=6912 hot", 200),
            hot(backend, glu, glu.case(M=1, D=6912, act="silu"), "glu silu D=6912 hot", 200),
            hot(backend, rope, rope.case(M=1, H=20, D=128), "rope H=20 D=128 hot", 200),
            hot(backend, attention, attention.case(M=1, L=64, H=20, G=5, D=128), "attention L=64 f16 hot", 50),
            hot(backend, attention, attention.case(M=1, L=2048, H=20, G=5, D=128), "attention L=2048 f16 hot", 5),
        ]
        table = [series for series in table if options.only in series.name or series.name == "streaming read"]
        for series in table:
            series.sample()  # warm-up
        until = time.perf_counter() + options.seconds
        while time.perf_counter() < until:
            for series in table:
                series.seconds.append(series.sample())
        print(f"\n{backend.info.label}, {len(table[0].seconds)} samples each, median (10 %, 90 %)")
        ceiling = table[0].nbytes / statistics.median(table[0].seconds) * 1e-9
        for series in table:
            middle = statistics.median(series.seconds)
            low, high = np.percentile(series.seconds, [10, 90])
            rate = series.nbytes / middle * 1e-9
            print(
                f"{series.name:32} {middle * 1e6:9.2f} µs ({low * 1e6:.2f}, {high * 1e6:.2f}) "
                f"{rate:6.1f} GB/s {100 * rate / ceiling:5.0f} % of the streaming read"
            )
        backend.close()


if __name__ == "__main__":
    main()
