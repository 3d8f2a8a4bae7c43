"""How long a model takes to be ready beyond reading its file, and what an engine on the CPU backend peaks at in memory.

    python bench/write_gguf.py /tmp/2b.gguf --layers 30 && python bench/load.py /tmp/2b.gguf

The file is read once before (so that the page cache is warm) and once timed; then every ternary weight is repacked.
Peak memory is that of a fresh process that builds an engine and decodes four tokens.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.model import load_model
from kparity.model.graph import LINEARS

PIECE = 1 << 24


def read_seconds(path: Path) -> float:
    """Seconds to read the file through once, in pieces of 16 MiB."""
    started = time.perf_counter()
    with path.open("rb") as file:
        while file.read(PIECE):
            pass
    return time.perf_counter() - started


def repack_seconds(path: Path) -> tuple[float, int]:
    """Seconds to open the model and repack every ternary weight, and the bytes of packed words that came out."""
    started = time.perf_counter()
    model = load_model(path)
    total = sum(model.linear(layer, name).words.nbytes for layer in range(model.hparams.n_layer) for name in LINEARS)
    return time.perf_counter() - started, total


def peak_bytes(path: Path) -> int:
    """Peak resident memory of a process that opens the model on the CPU backend and decodes four tokens."""
    command = [sys.executable, __file__, str(path), "--engine"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def decode(path: Path) -> None:
    """The body of that process: prints its own peak, in bytes."""
    engine = Engine(load_model(path), open_backend("cpu"))
    for token in range(4):
        engine.step(token)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        decode(options.model)
        return
    size = options.model.stat().st_size
    read_seconds(options.model)
    reading = read_seconds(options.model)
    repacking, packed = min(repack_seconds(options.model) for _ in range(3))
    print(f"file              {size / 1e6:9.1f} MB, {packed / 1e6:.1f} MB of packed ternary weights")
    print(f"read              {reading:9.2f} s")
    print(f"open and repack   {repacking:9.2f} s ({packed / repacking / 1e9:.2f} GB/s)")
    peak = peak_bytes(options.model)
    print(f"peak, cpu engine  {peak / 1e6:9.1f} MB ({peak / size:.2f} x the file)")


if __name__ == "__main__":
    main()
