"""What a CUDA device makes of the kernels before any is timed: registers, spills and residency beside the receipt of
the compilers (bench/receipts/machine_code.json), and what a multiprocessor does at best (bench/rates.cu).

    python bench/first_look.py [--backend cuda] [--rounds N] [--json FILE]

Exit code 1 where a kernel spills or a rate's output is wrong, 3 where there is no device.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kparity import ops
from kparity.backends.cuda import CudaBackend
from kparity.device.registry import open_backend
from kparity.errors import KparityError
from kparity.host import files
from kparity.ops.assemble import Source
from kparity.ops.spec import Array
from kparity.receipts.document import read

HERE = Path(__file__).resolve().parent
THREADS, SAMPLES = 256, 7
REGISTERS, LOCAL, SHARED = 4, 3, 1
"""Values of CUfunction_attribute."""


def dp4a(thread: Array, rounds: int) -> Array:
    """What ``dp4a_rate`` writes, [threads] int32."""
    sums = [(thread + at).astype(np.int32) for at in range(8)]
    for _ in range(rounds):
        sums = [one + one[:, None].view(np.int8).sum(1, dtype=np.int32) for one in sums]
    return np.bitwise_xor.reduce(sums)


def mma(thread: Array, rounds: int) -> Array:
    """What ``mma_rate`` writes, [threads] int32: 16 sums of 64 a round."""
    return np.full(thread.shape, 16 * 64 * rounds, np.int32)


def shared(thread: Array, rounds: int) -> Array:
    """What ``shared_rate`` writes, [threads] int32."""
    word, at, sums = np.arange(512), thread.astype(np.int64), np.zeros((4, len(thread)), np.int32)
    words = (word ^ 2 * word ^ 3 * word ^ 4 * word).astype(np.int32)
    for _ in range(rounds):
        for i in range(8):
            sums[i % 4] += words[(at + 32 * i) % 512]
        at += sums[0] & 1
    total: Array = sums.sum(0, dtype=np.int32)
    return total


RATES = {
    "dp4a_rate": (dp4a, 8 * 4, "multiply-adds"),
    "mma_rate": (mma, 4 * 16 * 8 * 32 / 32, "multiply-adds"),
    "shared_rate": (shared, 8 * 16, "bytes"),
}
"""Entry point → its twin, and what a thread does in a round."""


def rates(backend: CudaBackend, rounds: int) -> Iterator[dict[str, Any]]:
    """Each loop on every multiprocessor, the best of some runs by the device's clock."""
    text = f"#define ROUNDS {rounds}\n{(HERE / 'rates.cu').read_text()}"
    module = backend._module(Source("rates", "bench/rates.cu", text, 1))
    groups = 8 * max(backend._number("multiProcessorCount", "cudaDevAttrMultiProcessorCount"), 1)
    out = backend.empty((groups * THREADS,), "i32")
    for entry, (twin, work, unit) in RATES.items():
        function = module.get_function(entry)
        backend.poison(out)

        def run(function: Any = function) -> None:
            function((groups, 1, 1), (THREADS, 1, 1), (out.handle,), stream=backend.stream)

        seconds = min(backend.timed(run) for _ in range(SAMPLES))
        want = np.tile(twin(np.arange(THREADS), rounds), groups)
        yield {
            "name": entry, "unit": unit, "per_s": groups * THREADS * rounds * work / seconds, "seconds": seconds,
            "right": bool((backend.download(out) == want).all()),
        }  # fmt: skip


def resources(backend: CudaBackend) -> Iterator[dict[str, Any]]:
    """What the driver says of the kernels in the compilers' receipt, beside what that says."""
    library = backend.library
    rows = read(HERE / "receipts" / "machine_code.json")["now"]["rows"]
    told = {row["case"]: row for row in rows if row["target"] == backend.arch}
    sys.path.append(str(HERE.parent))
    from tools.machine_table import cases

    for case in cases():
        kernel = backend.build(ops.get(case.op), case)
        for stage, function in zip(kernel.stages, kernel.functions, strict=True):
            row = {"case": case.id, "entry": stage.entry}
            for name, attribute in (("registers", REGISTERS), ("local", LOCAL), ("shared", SHARED)):
                value = ctypes.c_int(-1)
                library.cuFuncGetAttribute(ctypes.byref(value), attribute, ctypes.c_void_p(function.ptr))
                row[name] = value.value
            groups = ctypes.c_int(-1)
            library.cuOccupancyMaxActiveBlocksPerMultiprocessor(
                ctypes.byref(groups), ctypes.c_void_p(function.ptr), stage.launch.block, ctypes.c_size_t(0)
            )
            row["lanes"] = groups.value * stage.launch.block
            if stage is kernel.stages[0] and case.id in told:
                row["receipt"] = {name: told[case.id][name] for name in ("registers", "shared", "lanes")}
            yield row


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--rounds", type=int, default=4096, help="of each loop [4096]")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        backend = open_backend(options.backend)
    except KparityError as error:
        print(f"[{getattr(error, 'code', '')}] {error}", file=sys.stderr)
        return 3
    if not isinstance(backend, CudaBackend):
        print(f"{options.backend} is no CUDA device", file=sys.stderr)
        return 3
    found = {
        "schema": "kparity-first-look-v1", "device": backend.info.as_dict(),
        "rates": list(rates(backend, options.rounds)),
        "resources": list(resources(backend)) if backend.library else [],
    }  # fmt: skip
    for row in found["rates"]:
        print(f"{row['name']}: {row['per_s']:.4g} {row['unit']}/s{'' if row['right'] else ', WRONG output'}")
    for row in found["resources"]:
        receipt = row.get("receipt", {})
        beside = ", ".join(
            f"{name} {row[name]} ({receipt.get(name, '–')})" for name in ("registers", "shared", "lanes")
        )
        spills = f", SPILLS {row['local']} B" if row["local"] > 0 else ""
        print(f"{row['case']} {row['entry']}: {beside}{spills}")
    if options.json:
        files.write(options.json, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    backend.close()
    wrong = [row for row in found["rates"] if not row["right"]] + [
        row for row in found["resources"] if row["local"] > 0
    ]
    print(f"{len(found['rates'])} rates, {len(found['resources'])} kernels: {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
