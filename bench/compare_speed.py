"""How fast two arrays are compared, beside how fast the same bytes are read.

    python bench/compare_speed.py [--mb 512] [--rounds 7] [--threads 2] [--all-isas] [--json FILE]

Two f32 arrays of ``--mb`` MiB each that differ by rounding noise. In every round, in turn: the native pass with all its
aggregates, the pass under a limit in fp64, and in some rounds what it replaces: the same metrics in numpy one after the
other, and torch.testing.assert_close where torch is installed. A streaming read of the same bytes runs before and after
each of them, and a share is of those two reads, so that a neighbour on the machine slows both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from kparity import _native
from kparity.backends.cpu import CpuBackend
from kparity.bench.bandwidth import StreamRead, cold_memory
from kparity.host.revision import revision
from kparity.ops.spec import Array

SLOW_EVERY = 4
"""The slow ones run in one round of so many."""


def naive(a: Array, b: Array) -> dict[str, float]:
    """The metrics in numpy as they are usually written, in f32."""
    error = np.abs(a - b)
    bits = [x.view(np.int32) for x in (a, b)]
    ordered = [np.where(one < 0, np.int32(-(1 << 31)) - one, one).astype(np.int64) for one in bits]
    return {
        "cosine": float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))),
        "mse": float(np.square(a - b).mean()),
        "mean": float((a - b).mean()),
        "max_abs": float(error.max()),
        "max_rel": float((error / np.maximum(np.abs(b), 1e-37)).max()),
        "max_ulp": float(np.abs(ordered[0] - ordered[1]).max()),
        "nan": float(np.isnan(a).sum() + np.isnan(b).sum()),
        "inf": float(np.isinf(a).sum() + np.isinf(b).sum()),
        "worst": float(error.argmax()),
    }


def torch_close(a: Array, b: Array) -> Callable[[], None] | None:
    """torch.testing.assert_close of the two arrays, or None without torch."""
    if find_spec("torch") is None:
        return None
    import torch

    left, right = torch.from_numpy(a), torch.from_numpy(b)
    return lambda: torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def arrays(mib: int) -> tuple[Array, Array, Array]:
    """Bytes of both arrays in one piece, and the two: normal values, and the same with relative noise of 1e-7."""
    data = cold_memory(2 * mib)
    a, b = (half.view(np.float32).reshape(mib, -1) for half in np.split(data, 2))
    rng = np.random.default_rng(7)
    for row in range(mib):
        a[row] = rng.standard_normal(a.shape[1], np.float32)
        b[row] = a[row] * (1 + 1e-7 * rng.standard_normal(a.shape[1], np.float32))
    return data, a.ravel(), b.ravel()


def contestants(a: Array, b: Array, threads: int, isas: list[str]) -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed besides the read: a call, and the bytes that it has to read."""
    part = slice(0, a.size // 4)
    truth, limit = b[part].astype(np.float64), np.full(a.size // 4, 1e-3)
    found: dict[str, tuple[Callable[[], object], int]] = {
        f"one pass, {isa}": (lambda isa=isa: _native.compare(a, b, threads=threads, isa=isa), 2 * a.nbytes)
        for isa in isas
    }
    found["under a limit, a quarter of the elements"] = (
        lambda: _native.compare(a[part], truth, limit, threads=threads),
        a.nbytes // 4 + truth.nbytes + limit.nbytes,
    )
    found["numpy, one metric after the other"] = (lambda: naive(a, b), 2 * a.nbytes)
    close = torch_close(a, b)
    if close:
        found["torch.testing.assert_close"] = (close, 2 * a.nbytes)
    return found


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=512, help="size of each array in MiB")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--all-isas", action="store_true", help="every instruction set, not only the best")
    parser.add_argument("--json", type=Path, help="write every sample")
    options = parser.parse_args()
    data, a, b = arrays(options.mb)
    reader = StreamRead(CpuBackend(threads=options.threads), data, data.nbytes)
    isas = [name for name, _ in _native.cpu_isas()]
    timed = contestants(a, b, options.threads, isas if options.all_isas else isas[-1:])
    reads: list[float] = []
    rates: dict[str, list[float]] = {name: [] for name in timed}
    shares: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(options.rounds):
        for name, (call, nbytes) in timed.items():
            if name.startswith(("numpy", "torch")) and turn % SLOW_EVERY:
                continue
            before = reader.sample()
            rate = nbytes / seconds(call) / 1e9
            read = (before + reader.sample()) / 2
            reads.append(read)
            rates[name].append(rate)
            shares[name].append(rate / read)
        print(f"round {turn + 1} of {options.rounds}", file=sys.stderr)
    print(f"2 × {options.mb} MiB of f32, {options.threads} threads, load of the machine {os.getloadavg()[0]:.1f}")
    print(f"{'streaming read':42} {statistics.median(reads):6.2f} GB/s ({min(reads):.2f} to {max(reads):.2f})")
    for name in timed:
        share = f"{100 * statistics.median(shares[name]):5.1f} % of the read beside it"
        spread = f"({100 * min(shares[name]):.1f} to {100 * max(shares[name]):.1f}, {len(shares[name])} samples)"
        print(f"{name:42} {statistics.median(rates[name]):6.2f} GB/s, {share} {spread}")
    if options.json:
        found = {"revision": revision(), "mib": options.mb, "threads": options.threads, "read_gb_per_s": reads,
                 "gb_per_s": rates, "share_of_read": shares}  # fmt: skip
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
