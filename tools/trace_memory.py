"""Memory that a trace costs, whatever its size: one of a quarter of ``--gb`` and one of all of it are captured from an
engine that computes nothing, and each is compared with itself.

    python -m tools.trace_memory [--gb 10] [--folder DIR]

Prints how far the peak of each process rose, in MiB; exit code 1 where the larger trace costs more than a quarter more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kparity.engines.base import DeviceRow, Engine, Facts, Sink, matching
from kparity.model.gguf_file import embedded
from kparity.ops.spec import Array
from kparity.traces.capture import Wanted, capture
from kparity.traces.diff import diff
from kparity.traces.files import load

TOKENS, WIDTH, VOCAB, BATCH = 2048, 4096, 8, 64
LAYER = 4 * TOKENS * WIDTH
"""Bytes of the one slot of a layer."""
GROWTH = 1.25
"""What the larger trace may cost, as a multiple of the smaller one's memory: allocators round."""
ROOT = Path(__file__).parent.parent


class Made(Engine):
    """Gives one wide slot in each layer, batch by batch, and computes nothing."""

    def __init__(self, layers: int, width: int = WIDTH) -> None:
        row = DeviceRow("made", "made", "cpu", True)
        self.width, self.fed = width, 0
        self.facts = Facts(
            name="made", version="1", model=str(embedded()), vocab=VOCAB, context=1 << 20, layers=layers, width=width,
            numerics="ones", devices=(row,), traces=True,
        )  # fmt: skip

    def tokenize(self, text: str) -> list[int]:
        """One token, whatever the text."""
        return [1]

    def reset(self) -> None:
        """As ``Engine.reset``."""
        self.fed = 0

    def score(self, tokens: Sequence[int]) -> Array:
        """Ones."""
        self.fed += len(tokens)
        return np.ones((len(tokens), VOCAB), np.float32)

    def prefill(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.prefill``."""
        return np.asarray(self.score(tokens)[-1])

    def step(self, token: int) -> Array:
        """As ``Engine.step``."""
        return self.prefill([token])

    def trace(self, tokens: Sequence[int], slots: Sequence[str], sink: Sink) -> Array:
        """Rows that differ from batch to batch."""
        wanted = matching(slots)
        for at in range(0, len(tokens), BATCH):
            rows = np.full((len(tokens[at : at + BATCH]), self.width), self.fed + at + 1, np.float32)
            for name in filter(wanted, (f"{layer}.ffn_gate" for layer in range(self.facts.layers))):
                sink(name, rows)
        return self.score(tokens)

    def close(self) -> None:
        """Nothing is open."""


def peak() -> int:
    """MiB of this process at most so far: ``ru_maxrss`` is at least that of the process which started it."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) >> 10


def child(layers: int, folder: str) -> None:
    """Print the rise of the peak over a capture and a comparison, and the size of the trace in bytes."""
    path, before = Path(folder) / str(layers), peak()
    capture(Made(layers), "made", [1] * TOKENS, path, Wanted(("*",)))
    captured, trace = peak(), load(path)
    diff(trace, trace)
    size = sum(each.stat().st_size for each in path.iterdir())
    print(json.dumps([captured - before, peak() - before, size]))


def rises(gb: float, folder: str | None = None) -> Iterator[tuple[int, int, int]]:
    """What ``child`` prints of a quarter of it and of all, from processes of their own."""
    for part in (gb / 4, gb):
        with tempfile.TemporaryDirectory(dir=folder) as to:
            code = f"from tools.trace_memory import child; child({max(2, round(part * 1e9 / LAYER))}, {to!r})"
            done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
            captured, compared, size = json.loads(done.stdout)
            yield captured, compared, size


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.trace_memory", description=__doc__)
    parser.add_argument("--gb", type=float, default=10, help="size of the larger trace")
    parser.add_argument("--folder", help="where it is written, and deleted again")
    options, found = parser.parse_args(), []
    for captured, compared, size in rises(options.gb, options.folder):
        print(f"{size / 1e9:.2f} GB: {captured} MiB to capture, {compared} MiB with a comparison", flush=True)
        found.append(compared)
    return int(found[1] > GROWTH * found[0])


if __name__ == "__main__":
    sys.exit(main())
