"""Two states of the kernels side by side on one device: today's, and the same with one thing changed.

    python bench/variants.py [--backend cuda] [--shape 2b-4t] [--only NAME] [--json FILE]

Each side runs twice, each time in a process of its own, in the order today's, changed, changed, today's, so that a
drift of the device hits both. Ops are timed cold as by ``kparity bench --ops`` and held against fp64 truth; a decode
step is timed at each depth by the device's clock and by the wall's, and its logits are compared bit by bit. Exit code 1
where an output is wrong, 3 where there is no device.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from kparity import ops
from kparity.bench.endtoend_worker import EndToEnd
from kparity.bench.machine import cold_bytes
from kparity.bench.ops.rotation import Rotation, Unsupported
from kparity.bench.shapes import model_file
from kparity.bench.timing import interleave
from kparity.device.registry import open_backend
from kparity.errors import KparityError
from kparity.host import files
from kparity.kernels.support import SERVED
from kparity.ops.spec import Case

SIDES = ("today", "changed", "changed", "today")


@dataclass(frozen=True)
class Variant:
    """One change: names of modules with the values that they get, and variables of the environment."""

    about: str
    cases: Sequence[Case] = ()
    """Ops to time; none for a decode step."""
    depths: Sequence[int] = ()
    values: dict[str, Any] = field(default_factory=dict)
    """``module:NAME`` → value."""
    environment: dict[str, str] = field(default_factory=dict)

    def apply(self) -> None:
        """In this process, before anything is built."""
        for path, value in self.values.items():
            module, _, name = path.partition(":")
            before = getattr(import_module(module), name)  # a name that is gone is an error
            assert before != value, f"{path} is {value} already"
            setattr(import_module(module), name, value)


def _attention(length: int) -> Case:
    return ops.get("attention").case(M=1, L=length, H=SERVED.heads, G=SERVED.kv_heads, D=SERVED.head)


VARIANTS = {
    "whole-128": Variant(
        "attention splits the keys of caches from 129 positions on, not from 513",
        cases=[_attention(length) for length in (256, 512)], values={"kparity.kernels.attention:GPU_WHOLE": 128},
    ),
    "dot-products": Variant(
        "from 16 rows of activations on, dot products of four and not the tensor cores",
        cases=[ops.get("tgemv").case(M=m, N=2 * SERVED.ffn, K=SERVED.width) for m in (16, 32, 128)],
        values={"kparity.kernels.tgemv:TENSOR_M": 1 << 30},
    ),
}  # fmt: skip


def measured(backend_name: str, variant: Variant, shape: str, seconds: float) -> dict[str, Any]:
    """One side in this process: seconds of each op or depth, and what makes sure that it is right."""
    if variant.cases:
        backend = open_backend(backend_name)
        found: dict[str, Any] = {}
        for case in variant.cases:
            try:
                timed = Rotation(backend, case, cold_bytes(backend.info))
            except Unsupported as reason:
                found[case.id] = {"unsupported": str(reason)}
                continue
            interleave([timed], least=5, seconds=seconds)
            found[case.id] = {
                "device_s": [each / timed.row.units for each in timed.row.device_s],
                "errors": timed.row.errors,
            }
        backend.close()
        return found
    context = max(variant.depths) + 64
    session = EndToEnd(backend=backend_name, model=str(model_file(shape)), seed=0, length=context, context=context)
    session.prompt(max(variant.depths) or 1)
    found = {}
    for depth in variant.depths:
        session.go_to(depth)
        wall = []
        for _ in range(12):
            session.engine.position = depth
            began = time.perf_counter()
            session.step(depth)
            wall.append(time.perf_counter() - began)
        device = [session.engine.recorded(1).program.run_timed() for _ in range(30)]
        digest = hashlib.sha256(session.logits().tobytes()).hexdigest()
        found[f"decode at {depth}"] = {"device_s": device[3:], "wall_s": wall[2:], "logits": digest, "errors": []}
    session.close()
    return found


def sides(name: str, backend: str, shape: str, seconds: float) -> list[dict[str, Any]]:
    """All runs of a variant, in order."""
    runs = []
    for side in SIDES:
        environment = {**os.environ, **(VARIANTS[name].environment if side == "changed" else {})}
        command = [
            sys.executable,
            __file__,
            "--backend",
            backend,
            "--shape",
            shape,
            "--seconds",
            str(seconds),
            "--side",
            f"{name}:{side}",
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KparityError(
                f"{name}, {side}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}"
            )
        runs.append(json.loads(done.stdout))
    return runs


def compared(name: str, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each op or depth: the medians of both sides, their ratio, and what was wrong."""
    return [{"variant": name, "what": what, **_row([run[what] for run in runs])} for what in runs[0]]


def _row(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if reason := next((each["unsupported"] for each in found if "unsupported" in each), ""):
        return {"unsupported": reason}

    def of(side: str, clock: str) -> list[float]:
        pairs = zip(SIDES, found, strict=True)
        return [float(np.median(each[clock])) for at, each in pairs if at == side and clock in each]

    today, changed = of("today", "device_s"), of("changed", "device_s")
    logits = {each.get("logits") for each in found}
    return {
        "today_s": float(np.mean(today)), "changed_s": float(np.mean(changed)),
        "ratio": float(np.mean(today) / np.mean(changed)),
        "spread": max(max(each) / min(each) for each in (today, changed)),
        "wall_s": {side: of(side, "wall_s") for side in ("today", "changed")},
        "same_bits": None if None in logits else len(logits) == 1,
        "errors": [error for each in found for error in each["errors"]],
    }  # fmt: skip


def told(row: dict[str, Any]) -> str:
    """A row as a line."""
    if "unsupported" in row:
        return f"{row['variant']}: {row['what']}: unsupported: {row['unsupported']}"
    bits = {True: ", same bits", False: ", other bits", None: ""}[row["same_bits"]]
    wrong = f", WRONG: {row['errors'][0]}" if row["errors"] else ""
    return (
        f"{row['variant']}: {row['what']}: {row['today_s'] * 1e6:.2f} µs today, {row['changed_s'] * 1e6:.2f} changed, "
        f"{row['ratio']:.3f} × as fast (runs of one side within {row['spread']:.3f}){bits}{wrong}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--shape", default="2b-4t", help="of the model whose decode step is timed")
    parser.add_argument("--only", action="append", choices=list(VARIANTS))
    parser.add_argument("--seconds", type=float, default=2.0, help="of sampling for each op and side")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        name, _, side = options.side.partition(":")
        if side == "changed":
            VARIANTS[name].apply()
        print(json.dumps(measured(options.backend, VARIANTS[name], options.shape, options.seconds)))
        return 0
    try:
        open_backend(options.backend).close()
    except KparityError as error:
        print(f"[{getattr(error, 'code', '')}] {error}", file=sys.stderr)
        return 3
    rows = []
    for name in options.only or VARIANTS:
        print(f"{name}: {VARIANTS[name].about}", flush=True)
        try:
            made = compared(name, sides(name, options.backend, options.shape, options.seconds))
        except KparityError as error:
            made = [{"variant": name, "what": "all", "errors": [str(error)], "unsupported": str(error)}]
        rows += made
        for row in made:
            print(told(row), flush=True)
        if options.json:  # as they come: what the time limit cuts off is the rest
            files.write(options.json, json.dumps({"schema": "kparity-variants-v1", "rows": rows}, indent=1) + "\n")
    wrong = [row for row in rows if row.get("errors")]
    print(f"{len(rows)} comparisons, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
