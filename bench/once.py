"""Each kernel on a device a few times, untimed, in this process: for profilers that replay kernels, and for sanitizers.

    python bench/once.py --backend cuda                     the launches of a decode step, three copies each
    python bench/once.py --backend cuda --small 64          every case of every op below 64 KiB, each buffer by itself

Every output is held against fp64 truth. Exit code 1 where one is wrong, 3 where nothing ran.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from kparity import ops
from kparity.bench.ops.cases import case_of, plan
from kparity.bench.ops.inputs import facts_of
from kparity.bench.ops.rotation import Rotation, Unsupported
from kparity.device.adapter import Backend
from kparity.device.registry import open_backend
from kparity.errors import KparityError
from kparity.ops.spec import Case

COPIES = 3


def small(kib: int) -> Iterator[Case]:
    """Every listed case whose buffers fit in ``kib`` KiB."""
    for op in ops.every():
        yield from (case for case in op.cases() if sum(arg.nbytes for arg in op.args(case)) <= kib << 10)


def run(backend: Backend, case: Case, copies: int) -> str | None:
    """None, or what was wrong; raises Unsupported."""
    nbytes = sum(arg.nbytes for arg in ops.get(case.op).args(case))
    try:
        with np.errstate(all="ignore"):
            return Rotation(backend, case, facts_of(case), min(copies * nbytes, 1 << 30), launches=1).check()
    except Unsupported:
        raise
    except KparityError as error:
        return str(error)


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
    cases = small(options.small) if options.small else map(case_of, plan(options.expression))
    ran = wrong = 0
    for case in cases:
        try:
            found = run(backend, case, 1 if options.small else COPIES)
        except Unsupported:
            continue
        ran, wrong = ran + 1, wrong + bool(found)
        if found or not options.small:
            print(f"{backend.name} {case.id}: {found or 'right'}", flush=True)
    print(f"{ran} cases on {backend.name}: {wrong} wrong")
    backend.close()
    return 1 if wrong else 0 if ran else 3


if __name__ == "__main__":
    sys.exit(main())
