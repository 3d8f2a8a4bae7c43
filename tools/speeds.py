"""Speeds of the harness itself that no command of kparity tells; docs/performance.md and docs/numbers.md quote them.

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
from functools import partial
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kparity import _native
from kparity.backends.cpu import CpuBackend
from kparity.bench.bandwidth import StreamRead, cold_memory
from kparity.bench.machine import UNKNOWN_CACHE
from kparity.bench.ops import line
from kparity.bench.timing import Sample, Timed, interleave, judge
from kparity.host import files
from kparity.host.revision import revision
from kparity.kernels.support import SERVED
from kparity.model import load_model
from kparity.model.decode import decode_i2_s, decode_tq1_0, decode_tq2_0
from kparity.model.graph import LINEARS
from kparity.model.writer import encode
from kparity.ops.packing import pack
from kparity.ops.spec import Array
from kparity.receipts.record import Row

ROWS, K = SERVED.ffn, SERVED.width
DISTINCT = 2 * UNKNOWN_CACHE
"""Bytes of input that repacking walks through."""
KPARITY = str(Path(sys.executable).parent / "kparity")
ENGINE = """
import sys
from pathlib import Path
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.model import load_model
engine = Engine(load_model(sys.argv[1]), open_backend("cpu"))
for token in range(4):
    engine.step(token)
print(next(int(line.split()[1]) << 10 for line in Path("/proc/self/status").open() if line.startswith("VmHWM")))
"""
"""Prints its own peak: ``ru_maxrss`` is at least that of the process which started it."""


class Call(Timed):
    """A call, by the wall's clock alone; ``calls`` are made in turn."""

    def __init__(self, name: str, calls: Sequence[Callable[[], object]], nbytes: int = 0) -> None:
        super().__init__(Row(name=name, op="call", bytes=nbytes))
        self.calls = cycle(calls)

    def sample(self) -> Sample:
        """The next call; raises what it raises."""
        call, started = next(self.calls), time.perf_counter()
        call()
        wall = time.perf_counter() - started
        return Sample(wall, wall)


# --- harness ---


def process(name: str, *command: str) -> Call:
    """A command from start to exit; an exception where it fails (a probe of BOS alone is inconclusive: 3)."""

    def call() -> None:
        code = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
        if code != (3 if "bos" in command else 0):
            raise subprocess.CalledProcessError(code, command)

    return Call(name, [call])


def commands() -> Iterator[Timed]:
    """Processes that start and end, and probes of the cpu backend."""
    yield process("kparity --help", KPARITY, "--help")
    libraries = [f"import {module}" for module in ("torch", "matplotlib") if find_spec(module)]
    for code in ("pass", "import numpy", "import kparity", "import kparity.cli.main", *libraries):
        yield process(f"python -c '{code}'", sys.executable, "-c", code)
    for name, more in (("bos", ["--depth", "bos"]), ("full", []), ("remembered", ["--cached"])):
        yield process(f"kparity probe --backends cpu, {name}", KPARITY, "probe", "--backends", "cpu", *more)


def repack(kind: str, raw: Array, threads: int) -> Array:
    """The packed words [ROWS, K/16]."""
    if kind == "I2_S":
        return np.asarray(_native.repack_i2_s(raw[: ROWS * K // 4], ROWS, K, threads))
    function = _native.repack_tq2_0 if kind == "TQ2_0" else _native.repack_tq1_0
    return np.asarray(function(raw, ROWS, K, threads)[0])


class Repacking(Call):
    """A type of ternary tensor that is repacked, through more copies than caches hold."""

    def __init__(self, kind: str, raw: Array, threads: int) -> None:
        copies = [raw.copy() for _ in range(-(-DISTINCT // raw.nbytes))]
        name = f"repack {kind}, {threads} thread{'s' * (threads > 1)}"
        super().__init__(name, [partial(repack, kind, copy, threads) for copy in copies], raw.nbytes)
        self.kind, self.raw, self.threads = kind, raw, threads

    def check(self) -> str | None:
        """Whether the words are those of the weights that the second decoder reads."""
        decode = {"TQ2_0": decode_tq2_0, "TQ1_0": decode_tq1_0}.get(self.kind)
        second = decode("t", self.raw, ROWS, K) if decode else decode_i2_s(self.raw, ROWS, K)
        same = np.array_equal(repack(self.kind, self.raw, self.threads), pack(np.asarray(second[0], np.int8)))
        return None if same else f"output wrong: {self.kind} differs from the second decoder"


def repacking() -> Iterator[Timed]:
    """Each type of ternary tensor, by one thread and by all."""
    weights = np.random.default_rng(3).integers(-1, 2, (ROWS, K), np.int8)
    scales = np.ones((ROWS, K // 256), np.float32)
    for kind in ("tq2_0", "tq1_0", "i2_s"):
        raw = np.frombuffer(encode(kind, weights, scales), np.uint8)
        yield from (Repacking(kind.upper(), raw, threads) for threads in sorted({1, len(os.sched_getaffinity(0))}))


def harness(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Medians with intervals, and what was wrong."""
    rows = []
    for table in (list(commands()), list(repacking())):
        interleave(table, least=options.rounds, most=options.rounds, seconds=float("inf"))
        rows += [judge(series) for series in table]
    for row in rows:
        print(line(row))
    return {"revision": revision(), "rows": msgspec.to_builtins(rows)}, [each for row in rows for each in row.errors]


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


def contestants(a: Array, b: Array, threads: int) -> Iterator[tuple[Call, int]]:
    """What is timed, with the bytes that it has to read, and in one round of how many it runs."""
    part, isa = slice(0, a.size // 4), _native.cpu_isas()[-1][0]
    truth, limit = b[part].astype(np.float64), np.full(a.size // 4, 1e-3)
    one_pass = partial(_native.compare, a, b, threads=threads, isa=isa)
    yield Call(f"one pass, {isa}", [one_pass], 2 * a.nbytes), 1
    limited, nbytes = partial(_native.compare, a[part], truth, limit, threads=threads), a.nbytes // 4 + 2 * truth.nbytes
    yield Call("under a limit, a quarter of the elements", [limited], nbytes), 1
    yield Call("numpy, one metric after the other", [partial(naive, a, b)], 2 * a.nbytes), 4
    if find_spec("torch"):
        import torch

        close = partial(torch.testing.assert_close, *map(torch.from_numpy, (a, b)), rtol=1e-4, atol=1e-5)
        yield Call("torch.testing.assert_close", [close], 2 * a.nbytes), 4


def comparison(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """GB/s of two arrays that differ by rounding noise, and the share of a streaming read right before and after."""
    data, rng, threads = cold_memory(2 * options.mb), np.random.default_rng(7), len(os.sched_getaffinity(0))
    a, b = (half.view(np.float32).reshape(options.mb, -1) for half in np.split(data, 2))
    for left, right in zip(a, b, strict=True):
        left[:] = rng.standard_normal(left.size, np.float32)
        right[:] = left * (1 + 1e-7 * rng.standard_normal(left.size, np.float32))
    reader = StreamRead(CpuBackend(threads=threads), data, data.nbytes)
    timed = list(contestants(a.ravel(), b.ravel(), threads))
    rates, shares = ({call.row.name: list[float]() for call, _ in timed} for _ in range(2))
    for turn in range(options.rounds):
        for call in (call for call, every in timed if turn % every == 0):
            before, rate, after = (each.row.bytes / each.sample().wall_s for each in (reader, call, reader))
            rates[call.row.name].append(rate * 1e-9)
            shares[call.row.name].append(2 * rate / (before + after))
    for name, found in rates.items():
        share = 100 * statistics.median(shares[name])
        print(f"{name:42} {statistics.median(found):6.2f} GB/s, {share:.1f} % of the read beside it")
    document = {"revision": revision(), "mib": options.mb, "threads": threads, "gb_per_s": rates}
    return {**document, "share_of_read": shares}, []


# --- load ---


def load(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Seconds to open a file that is in the page cache and to repack its ternary weights; an engine's peak memory."""
    size = options.model.stat().st_size

    def ready() -> None:
        model = load_model(options.model)
        for layer in range(model.hparams.n_layer):
            for name in LINEARS:
                model.linear(layer, name)

    found = {"bytes": size, "ready_s": min(Call("ready", [ready]).sample().wall_s for _ in range(3))}
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
    files.refuse_unwritable(*filter(None, [options.json]))
    if (options.what == "load") != (options.model is not None):
        parser.error("load takes a model, the others take none")
    options.rounds = options.rounds or (7 if options.what == "comparison" else 25)
    measure = {"harness": harness, "comparison": comparison, "load": load}[options.what]
    document, wrong = measure(options)
    if options.json:
        files.write(options.json, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
