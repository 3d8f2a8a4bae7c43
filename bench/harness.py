"""The harness's own speed: how long commands take to start, what a probe takes, how fast weights are repacked.

    python bench/harness.py [--only start,probe,repack] [--rounds 25] [--json FILE]

Commands are started in turn, so that drift hits them alike; a time is the median of wall times with its bootstrap
interval. Repacking reads distinct tensors, more than the caches hold; its output is held against the second decoder.
Exit code 1 where a goal is missed or an output is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from kparity import _native
from kparity.bench import Sample, Series, interleave, judge_times
from kparity.bench.gguf_writer import encode_i2_s, encode_tq1_0, encode_tq2_0
from kparity.bench.machine import UNKNOWN_CACHE, clocks
from kparity.host.revision import revision
from kparity.kernels.support import SERVED
from kparity.model.decode import decode_i2_s, decode_tq1_0, decode_tq2_0
from kparity.ops.packing import pack
from kparity.ops.spec import Array

GOAL_START_MS = 120.0
GOAL_REPACK_GB_PER_S = 1.0
ROWS, K = SERVED.ffn, SERVED.width
DISTINCT = 2 * UNKNOWN_CACHE
"""Bytes of input that repacking walks through."""
TYPES: dict[str, tuple[Callable[..., bytes], Callable[..., Any]]] = {
    "TQ2_0": (encode_tq2_0, lambda raw: decode_tq2_0("t", raw, ROWS, K)),
    "TQ1_0": (encode_tq1_0, lambda raw: decode_tq1_0("t", raw, ROWS, K)),
    "I2_S": (encode_i2_s, lambda raw: decode_i2_s(raw, ROWS, K)),
}
KPARITY = [sys.executable, "-m", "kparity.cli.main"]


def process(command: Sequence[str]) -> Callable[[], Sample]:
    """A sampler of a command's wall time, from start to exit."""

    def sample() -> Sample:
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        seconds = time.perf_counter() - began
        return Sample(seconds, seconds)

    return sample


def starts() -> Iterator[Series]:
    """Processes; those of others where they are installed."""
    script = Path(sys.executable).parent / "kparity"
    yield Series("kparity --help", process([str(script), "--help"]), about={"goal_ms": GOAL_START_MS})
    for code in ("pass", "import numpy", "import kparity", "import kparity.cli.main"):
        yield Series(f"python -c '{code}'", process([sys.executable, "-c", code]))
    for module in ("torch", "matplotlib"):
        if find_spec(module):
            yield Series(f"python -c 'import {module}'", process([sys.executable, "-c", f"import {module}"]))
    polygraphy = shutil.which("polygraphy", path=f"{script.parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if polygraphy:
        yield Series("polygraphy --help", process([polygraphy, "--help"]))


def probes() -> Iterator[Series]:
    """Whole probes of the cpu backend, and an answer from memory."""
    for name, more in (("bos", ["--depth", "bos"]), ("full", []), ("remembered", ["--cached"])):
        command = [*KPARITY, "probe", "--backends", "cpu", *more]
        yield Series(f"kparity probe --backends cpu, {name}", process(command))


def repacking() -> Iterator[Series]:
    """Each type of ternary tensor, by one thread and by all."""
    weights = np.random.default_rng(3).integers(-1, 2, (ROWS, K), np.int8)
    scales = np.ones((ROWS, K // 256), np.float32)
    for name, (encode, decode) in TYPES.items():
        raw = np.frombuffer(encode(weights, scales), np.uint8)
        copies = [raw.copy() for _ in range(-(-DISTINCT // raw.nbytes))]
        for threads in sorted({1, len(os.sched_getaffinity(0))}):
            yield Series(
                f"repack {name}, {threads} thread{'s' * (threads > 1)}", repacker(name, copies, threads),
                nbytes=raw.nbytes, check=checker(name, raw, decode, threads),
                about={"goal_gb_per_s": GOAL_REPACK_GB_PER_S},
            )  # fmt: skip


def repack(name: str, raw: Array, threads: int) -> Array:
    """The packed words [ROWS, K/16]."""
    if name == "I2_S":
        return np.asarray(_native.repack_i2_s(raw[: ROWS * K // 4], ROWS, K, threads))
    function = _native.repack_tq2_0 if name == "TQ2_0" else _native.repack_tq1_0
    return np.asarray(function(raw, ROWS, K, threads)[0])


def repacker(name: str, copies: list[Array], threads: int) -> Callable[[], Sample]:
    """A sampler that repacks the next copy."""
    turn = iter(range(1 << 62))

    def sample() -> Sample:
        raw = copies[next(turn) % len(copies)]
        began = time.perf_counter()
        repack(name, raw, threads)
        seconds = time.perf_counter() - began
        return Sample(seconds, seconds)

    return sample


def checker(name: str, raw: Array, decode: Callable[[Array], Any], threads: int) -> Callable[[], str | None]:
    """Whether the words are those of the weights that the second decoder reads."""

    def check() -> str | None:
        same = np.array_equal(repack(name, raw, threads), pack(np.asarray(decode(raw)[0], np.int8)))
        return None if same else f"output wrong: {name} differs from the second decoder"

    return check


def missed(row: dict[str, Any]) -> str:
    """The goal that a row misses, or nothing."""
    if "us" not in row:
        return ""
    if row["us"] > 1e3 * row.get("goal_ms", float("inf")):
        return f"MISSES {row['goal_ms']:g} ms"
    if row.get("gb_per_s", 0.0) < row.get("goal_gb_per_s", 0.0):
        return f"MISSES {row['goal_gb_per_s']:g} GB/s"
    return ""


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    if "us" not in row:
        return f"{row['name']:44} {'; '.join(row['errors'])}"
    ms = f"{row['us'] / 1e3:9.2f} ms ({row['us_low'] / 1e3:.2f}, {row['us_high'] / 1e3:.2f})"
    rate = f" {row['gb_per_s']:6.2f} GB/s" if row["bytes"] else ""
    notes = [*row["errors"], missed(row), row.get("limit", "")]
    return f"{row['name']:44} {ms}{rate}  {'; '.join(filter(None, notes))}".rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="start,probe,repack", help="which tables")
    parser.add_argument("--rounds", type=int, default=25, help="samples of a start; a probe takes a fifth of them")
    parser.add_argument("--json", type=Path, help="write every row with its raw samples")
    options = parser.parse_args(arguments)
    tables: dict[str, tuple[Callable[[], Iterator[Series]], int]] = {
        "start": (starts, options.rounds),
        "probe": (probes, max(options.rounds // 5, 3)),
        "repack": (repacking, options.rounds),
    }
    chosen = options.only.split(",")
    if set(chosen) - set(tables):
        parser.error(f"--only takes {', '.join(tables)}")
    before, rows = clocks(), []
    for name in chosen:
        make, rounds = tables[name]
        table = list(make())
        interleave(table, least=rounds, most=rounds, seconds=float("inf"))
        fresh = [judge_times(series, 0.0) for series in table]
        rows += fresh
        print("\n".join(map(line, fresh)), flush=True)
    if options.json:
        document = {"revision": revision(), "clocks": {"before": before, "after": clocks()}, "rows": rows}
        options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if any(row["errors"] or missed(row) for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
