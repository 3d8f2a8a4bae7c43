"""Streaming-read bandwidth of the host: the ceiling that memory-bound kernels are held against.

python bench/stream.py [--mib 1024] [--seconds 3]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np

from kparity.backends.cpu import CpuBackend
from kparity.bench.bandwidth import StreamRead, cold_memory


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="size of the buffer")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    data = cold_memory(options.mib)
    readers = {threads: StreamRead(CpuBackend(threads=threads), data) for threads in options.threads}
    samples: dict[int, list[float]] = {threads: [] for threads in readers}
    until = time.perf_counter() + options.seconds
    while time.perf_counter() < until:
        for threads, reader in readers.items():
            samples[threads].append(reader.sample())
    for threads, found in samples.items():
        wrong = readers[threads].check()
        if wrong:
            sys.exit(f"stream: {wrong}")
        low, high = np.percentile(found, [10, 90])
        print(f"{threads} threads: {statistics.median(found):.1f} GB/s ({low:.1f} to {high:.1f}, {len(found)} samples)")


if __name__ == "__main__":
    main()
