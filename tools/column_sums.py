"""What a look at the column sums of every ternary matrix costs, beside a decode step of the same engine.

    python -m tools.column_sums [-b cpu,opencl] [--model FILE] [--times 20]

Steps and looks are timed in turn; the medians are told, and their ratio. At ``kparity run --column-sums N`` a token
costs 1/N of a look more.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median

from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.model import load_model


def spent(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(engine: Engine, times: int) -> tuple[float, float]:
    """Medians in seconds of a step, and of a look at every matrix."""
    engine.check_column_sums()  # its rows are read from the file once, its kernels are built
    found = []
    for _ in range(times):
        engine.reset()
        found.append((spent(lambda: engine.step(1)), spent(engine.check_column_sums)))
    steps, looks = zip(*found[1:], strict=True)
    return median(steps), median(looks)


def main() -> int:
    """Measure, one line a backend."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-b", "--backends", default="cpu")
    parser.add_argument("--model", help="a GGUF file instead of the embedded model")
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    for name in options.backends.split(","):
        engine = Engine(load_model(options.model), open_backend(name))
        step, look = measure(engine, max(2, options.times))
        print(f"{name}: step {step * 1e3:.3g} ms, column sums {look * 1e3:.3g} ms: {look / step:.2f} of a step")
        engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
