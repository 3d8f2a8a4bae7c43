"""Streaming-read bandwidth of the host: the ceiling that memory-bound kernels are held against.

python bench/stream.py [--mib 1024] [--seconds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import numpy.typing as npt

from kparity.backends._memory import aligned_empty
from kparity.backends.cpu import CpuBackend


class StreamRead:
    """Sums a buffer with all threads of a backend; ``sample`` gives GB/s of one pass over ``nbytes`` from ``start``."""

    def __init__(self, backend: CpuBackend, data: npt.NDArray[np.uint8], chunk: int) -> None:
        from kparity import _native

        self.data, self.chunk = data, chunk
        self.sums = np.zeros(8 * backend.threads, np.uint64)
        kernel = _native.CpuKernel(backend.isa, "stream", {"BYTES": float(chunk)})
        self.programs = [
            _native.CpuProgram(backend.pool, [(kernel, [data.ctypes.data + start, self.sums.ctypes.data])])
            for start in range(0, data.nbytes - chunk + 1, chunk)
        ]
        self.turn = 0
        self.programs[0].run()
        found, wanted = int(self.sums[::8].sum()), int(data[:chunk].view(np.uint64).sum())
        if found != wanted:
            raise SystemExit(f"stream: the checksum is {found:#x}, expected {wanted:#x}")

    def sample(self) -> float:
        """GB/s over the next chunk."""
        program = self.programs[self.turn % len(self.programs)]
        self.turn += 1
        started = time.perf_counter_ns()
        program.run()
        return self.chunk / (time.perf_counter_ns() - started)


def cold_memory(mib: int) -> npt.NDArray[np.uint8]:
    """Memory that no cache holds at once, filled with seeded bytes."""
    data: npt.NDArray[np.uint8] = aligned_empty((mib << 20,), np.dtype(np.uint8))
    tile = np.random.default_rng(1).integers(0, 256, 1 << 20, np.uint8)
    data.reshape(mib, 1 << 20)[:] = tile
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the buffer")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    data = cold_memory(options.mib)
    readers = {threads: StreamRead(CpuBackend(threads=threads), data, 64 << 20) for threads in (1, 2)}
    samples: dict[int, list[float]] = {threads: [] for threads in readers}
    until = time.perf_counter() + options.seconds
    while time.perf_counter() < until:
        for threads, reader in readers.items():
            samples[threads].append(reader.sample())
    for threads, found in samples.items():
        low, high = np.percentile(found, [10, 90])
        print(f"{threads} threads: {statistics.median(found):.1f} GB/s ({low:.1f} to {high:.1f}, {len(found)} samples)")


if __name__ == "__main__":
    main()
