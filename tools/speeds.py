"""Speeds of the harness itself that no command of kparity tells; docs/performance.md and the README quote them.

    python -m tools.speeds harness [--rounds 25] [--json FILE]      starts of processes, probes, repacking
    python -m tools.speeds comparison [--mb 512] [--json FILE]      two arrays compared, beside a read of the same bytes
    python -m tools.speeds load MODEL                               a file opened and repacked; peak memory of an engine

Everything is sampled in turn. Exit code 1 where a command failed or an output is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from kparity import _native
from kparity.backends.cpu import CpuBackend
from kparity.bench import Sample, Series, interleave, judge_times
from kparity.bench.bandwidth import StreamRead, cold_memory
from kparity.bench.machine import UNKNOWN_CACHE
from kparity.host.revision import revision
from kparity.kernels.support import SERVED
from kparity.model import load_model
from kparity.model.decode import decode_i2_s, decode_tq1_0, decode_tq2_0
from kparity.model.graph import LINEARS
from kparity.model.writer import encode
from kparity.ops.packing import pack
from kparity.ops.spec import Array

ROWS, K = SERVED.ffn, SERVED.width
DISTINCT = 2 * UNKNOWN_CACHE
"""Bytes of input that repacking walks through."""
KPARITY = str(Path(sys.executable).parent / "kparity")
ENGINE = """
import resource, sys
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.model import load_model
engine = Engine(load_model(sys.argv[1]), open_backend("cpu"))
for token in range(4):
    engine.step(token)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


# --- harness ---


def process(*command: str) -> Callable[[], Sample]:
    """A sampler of a command's wall time, from start to exit; raises where the command fails."""

    def sample() -> Sample:
        wall = seconds(
            lambda: subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        )
        return Sample(wall, wall)

    return sample


def commands() -> Iterator[Series]:
    """Processes that start and end, and probes of the cpu backend."""
    yield Series("kparity --help", process(KPARITY, "--help"))
    libraries = [f"import {module}" for module in ("torch", "matplotlib") if find_spec(module)]
    for code in ("pass", "import numpy", "import kparity", "import kparity.cli.main", *libraries):
        yield Series(f"python -c '{code}'", process(sys.executable, "-c", code))
    for name, more in (("bos", ["--depth", "bos"]), ("full", []), ("remembered", ["--cached"])):
        yield Series(f"kparity probe --backends cpu, {name}", process(KPARITY, "probe", "--backends", "cpu", *more))


def repack(kind: str, raw: Array, threads: int) -> Array:
    """The packed words [ROWS, K/16]."""
    if kind == "I2_S":
        return np.asarray(_native.repack_i2_s(raw[: ROWS * K // 4], ROWS, K, threads))
    function = _native.repack_tq2_0 if kind == "TQ2_0" else _native.repack_tq1_0
    return np.asarray(function(raw, ROWS, K, threads)[0])


def repacking() -> Iterator[Series]:
    """Each type of ternary tensor, by one thread and by all, through more copies than caches hold."""
    weights = np.random.default_rng(3).integers(-1, 2, (ROWS, K), np.int8)
    scales = np.ones((ROWS, K // 256), np.float32)
    for kind, encoded in ((name.upper(), encode(name, weights, scales)) for name in ("tq2_0", "tq1_0", "i2_s")):
        raw = np.frombuffer(encoded, np.uint8)
        copies = [raw.copy() for _ in range(-(-DISTINCT // raw.nbytes))]
        for threads in sorted({1, len(os.sched_getaffinity(0))}):
            name = f"repack {kind}, {threads} thread{'s' * (threads > 1)}"
            yield Series(name, turning(kind, copies, threads), nbytes=raw.nbytes, check=checking(kind, raw, threads))


def turning(kind: str, copies: list[Array], threads: int) -> Callable[[], Sample]:
    """A sampler that repacks the next copy."""
    turn = iter(range(1 << 62))

    def sample() -> Sample:
        raw = copies[next(turn) % len(copies)]
        wall = seconds(lambda: repack(kind, raw, threads))
        return Sample(wall, wall)

    return sample


def checking(kind: str, raw: Array, threads: int) -> Callable[[], str | None]:
    """Whether the words are those of the weights that the second decoder reads."""

    def check() -> str | None:
        decode = {"TQ2_0": decode_tq2_0, "TQ1_0": decode_tq1_0}.get(kind)
        second = decode("t", raw, ROWS, K) if decode else decode_i2_s(raw, ROWS, K)
        same = np.array_equal(repack(kind, raw, threads), pack(np.asarray(second[0], np.int8)))
        return None if same else f"output wrong: {kind} differs from the second decoder"

    return check


def harness(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Medians with intervals, and what was wrong."""
    rows = []
    for table in (list(commands()), list(repacking())):
        interleave(table, least=options.rounds, most=options.rounds, seconds=float("inf"))
        rows += [judge_times(series, 0.0) for series in table]
    for row in rows:
        told = "{:9.2f} ms ({:.2f}, {:.2f})".format(*(row.get(key, 0.0) / 1e3 for key in ("us", "us_low", "us_high")))
        rate = f" {row['gb_per_s']:6.2f} GB/s" if row["bytes"] and "us" in row else ""
        print(f"{row['name']:44} {told}{rate}  {'; '.join(row['errors'])}".rstrip())
    return {"revision": revision(), "rows": rows}, [error for row in rows for error in row["errors"]]


# --- comparison ---


def naive(a: Array, b: Array) -> list[object]:
    """The metrics in numpy as they are usually written, in f32."""
    error, bits = np.abs(a - b), [x.view(np.int32) for x in (a, b)]
    ordered = [np.where(one < 0, np.int32(-(1 << 31)) - one, one).astype(np.int64) for one in bits]
    return [
        a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), np.square(a - b).mean(), (a - b).mean(), error.max(),
        (error / np.maximum(np.abs(b), 1e-37)).max(), np.abs(ordered[0] - ordered[1]).max(),
        np.isnan(a).sum() + np.isnan(b).sum(), np.isinf(a).sum() + np.isinf(b).sum(), error.argmax(),
    ]  # fmt: skip


def contestants(a: Array, b: Array, threads: int) -> dict[str, tuple[Callable[[], object], int, int]]:
    """What is timed: a call, the bytes that it has to read, and in one round of how many it runs."""
    part, isa = slice(0, a.size // 4), _native.cpu_isas()[-1][0]
    truth, limit = b[part].astype(np.float64), np.full(a.size // 4, 1e-3)
    found: dict[str, tuple[Callable[[], object], int, int]] = {
        f"one pass, {isa}": (lambda: _native.compare(a, b, threads=threads, isa=isa), 2 * a.nbytes, 1),
        "under a limit, a quarter of the elements": (
            lambda: _native.compare(a[part], truth, limit, threads=threads), a.nbytes // 4 + 2 * truth.nbytes, 1
        ),
        "numpy, one metric after the other": (lambda: naive(a, b), 2 * a.nbytes, 4),
    }  # fmt: skip
    if find_spec("torch"):
        import torch

        left, right = torch.from_numpy(a), torch.from_numpy(b)
        close = lambda: torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)  # noqa: E731
        found["torch.testing.assert_close"] = (close, 2 * a.nbytes, 4)
    return found


def comparison(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """GB/s of two arrays that differ by rounding noise, and the share of a streaming read right before and after."""
    data, rng, threads = cold_memory(2 * options.mb), np.random.default_rng(7), len(os.sched_getaffinity(0))
    a, b = (half.view(np.float32).reshape(options.mb, -1) for half in np.split(data, 2))
    for left, right in zip(a, b, strict=True):
        left[:] = rng.standard_normal(left.size, np.float32)
        right[:] = left * (1 + 1e-7 * rng.standard_normal(left.size, np.float32))
    reader = StreamRead(CpuBackend(threads=threads), data, data.nbytes)
    timed = contestants(a.ravel(), b.ravel(), threads)
    rates: dict[str, list[float]] = {name: [] for name in timed}
    shares: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(options.rounds):
        for name in (name for name, (_, _, every) in timed.items() if turn % every == 0):
            call, nbytes, _ = timed[name]
            before = reader.sample()
            rates[name].append(nbytes / seconds(call) * 1e-9)
            shares[name].append(rates[name][-1] / ((before + reader.sample()) / 2))
    for name, found in rates.items():
        share = 100 * statistics.median(shares[name])
        print(f"{name:42} {statistics.median(found):6.2f} GB/s, {share:.1f} % of the read beside it")
    document = {"revision": revision(), "mib": options.mb, "threads": threads, "gb_per_s": rates}
    return {**document, "share_of_read": shares}, []


# --- load ---


def load(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Seconds to open a file that is in the page cache and to repack its ternary weights; an engine's peak memory."""
    size = len(options.model.read_bytes())

    def ready() -> None:
        model = load_model(options.model)
        for layer in range(model.hparams.n_layer):
            for name in LINEARS:
                model.linear(layer, name)

    found = {"bytes": size, "ready_s": min(seconds(ready) for _ in range(3))}
    command = [sys.executable, "-c", ENGINE, str(options.model)]
    found["peak_bytes"] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    peak = f"{found['peak_bytes'] / 1e6:.1f} MB, {found['peak_bytes'] / size:.2f} x the file"
    print(f"opened and repacked in {found['ready_s']:.2f} s; the cpu engine peaks at {peak}")
    return found, []


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("harness", "comparison", "load"))
    parser.add_argument("model", nargs="?", type=Path, help="the file to load")
    parser.add_argument("--mb", type=int, default=512, help="size of each array to compare, in MiB")
    parser.add_argument("--rounds", type=int, help="samples of each [default: 25; 7 of a comparison]")
    parser.add_argument("--json", type=Path, help="write every sample")
    options = parser.parse_args(arguments)
    if (options.what == "load") != (options.model is not None):
        parser.error("load takes a model, the others take none")
    options.rounds = options.rounds or (7 if options.what == "comparison" else 25)
    measure = {"harness": harness, "comparison": comparison, "load": load}[options.what]
    document, wrong = measure(options)
    if options.json:
        options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
