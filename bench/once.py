"""Each kernel on a device a few times, untimed, in this process: for profilers that replay kernels, and for sanitizers.

    python bench/once.py --backend cuda                     the launches of a decode step, three copies each
    python bench/once.py --backend cuda --small 64          every case of every op below 64 KiB, each buffer by itself

Every output is held against fp64 truth. Exit code 1 where one is wrong, 3 where nothing ran.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from kparity import ops
from kparity.bench.ops.cases import plan
from kparity.bench.ops.rotation import Rotation, Unsupported
from kparity.device.registry import open_backend
from kparity.errors import KparityError


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--small", type=int, metavar="KIB", help="all cases of at most so many KiB instead")
    parser.add_argument("--expression", metavar="EXPR", help="other cases, as for kparity bench --ops")
    options = parser.parse_args(arguments)
    try:
        backend = open_backend(options.backend)
    except KparityError as error:
        print(f"{options.backend}: {error}", file=sys.stderr)
        return 3
    if options.small and hasattr(backend, "cupy"):  # each buffer an allocation, so that a sanitizer knows its end
        backend.cupy.cuda.set_allocator(None)
    every = (case for op in ops.every() for case in op.cases())
    copies, ran, wrong = 1 if options.small else 3, 0, 0
    for case in every if options.small else [case for case, _ in plan(options.expression)]:
        nbytes = sum(arg.nbytes for arg in ops.get(case.op).args(case))
        if options.small and nbytes > options.small << 10:
            continue
        try:
            with np.errstate(all="ignore"):
                problem = Rotation(backend, case, min(copies * nbytes, 1 << 30), launches=1).check()
        except Unsupported:
            continue
        except KparityError as error:
            problem = str(error)
        ran, wrong = ran + 1, wrong + bool(problem)
        if problem or not options.small:
            print(f"{backend.name} {case.id}: {problem or 'right'}", flush=True)
    print(f"{ran} cases on {backend.name}: {wrong} wrong")
    backend.close()
    return 1 if wrong else 0 if ran else 3


if __name__ == "__main__":
    sys.exit(main())
