"""What the statistics of a long burn-in cost: a log of ``--rows`` rounds, read by ``kparity burnin stats``.

    python -m tools.burnin_rows [--rows 1000000] [--looks 3] [--folder DIR]

Prints seconds by the clock and of processors, and the peak of memory, of each look; exit code 1 where what is counted
is not what was written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from kparity.burnin.record import Row, Side

PROMPTS, SECONDS, MISSES = 240, 2.5, 25
"""Distinct prompts; from one round to the next; one in so many is no match."""
WORDS = "as many bytes as some forty tokens have, which both sides say alike, and tabs\tand\nlines among them. " * 2


def row(number: int, took: Sequence[float]) -> Row:
    """A round, whose replies took so many milliseconds."""
    at, differs = number % PROMPTS, number % MISSES == 0
    when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(1.8e9 + number * SECONDS))
    one, other = (
        Side(ms, ms / 9, len(WORDS), WORDS, finish="stop", prompt_tokens=12, tokens=40, model="made") for ms in took
    )
    return Row(
        number, when, number * SECONDS, at, f"{at:016x}", "factual", f"prompt {at}", "greedy",
        "no-match" if differs else "exact", 9 if differs else len(WORDS), one, other, 0.02 if differs else None, 0.01,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--looks", type=int, default=3)
    parser.add_argument("--folder", default=None, help="where there is room: 0.8 GB a million rows")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        log, found = Path(folder, "burnin.jsonl"), Path(folder, "stats.json")
        took = np.random.default_rng(0).gamma(2, 5, (asked.rows, 2)).round(3) + 100
        with log.open("wb") as file:
            file.writelines(msgspec.json.encode(row(at + 1, took[at].tolist())) + b"\n" for at in range(asked.rows))
        print(f"{asked.rows} rows, {log.stat().st_size >> 20} MiB")
        for _ in range(asked.looks):
            began = time.monotonic()
            child = subprocess.Popen(
                [sys.executable, "-m", "kparity", "burnin", "stats", "--log", str(log), "--json", str(found)],
                stdout=subprocess.DEVNULL,
            )
            _, _, used = os.wait4(child.pid, 0)
            wall, cpu = time.monotonic() - began, used.ru_utime + used.ru_stime
            print(f"{wall:.2f} s, {cpu:.2f} s of processors, {used.ru_maxrss >> 10} MiB")
        told = json.loads(found.read_text())
    expected = asked.rows, asked.rows - asked.rows // MISSES
    return int((told["compared"], told["exact"]) != expected)


if __name__ == "__main__":
    raise SystemExit(main())
