"""A whole run of ``kparity bench --ops``: a worker process per backend, one case after the other on all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from kparity.bench import llamacpp
from kparity.bench.ops.cases import plan
from kparity.bench.ops.sides import SECONDS, Participant, Rpc, ceilings, rows_of
from kparity.bench.worker import Worker, WorkerFailed

FACTORY = "kparity.bench.ops.session:Session"
LIMITS_S = {"device": 60.0, "sample": 120.0, "release": 60.0}
"""What a call may take; the others lay out gigabytes or compute truth."""
LONGEST_S = 600.0
GGML_FACTORY = "kparity.bench.ggml_baseline:GgmlSession"
BASELINES = {"torch": ("bf16", "f32"), llamacpp.NAME: ("TQ2_0",)}
"""Types of the weights that each multiplies with."""

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Request:
    """What is to be run: backends in order, an expression (``cases.plan``), and how."""

    backends: Sequence[str]
    text: str | None = None
    baselines: Sequence[str] = ()
    """Whose own products stand beside the GEMVs: names of ``BASELINES``."""
    threads: int = 0
    index: int = 0
    isa: str = ""
    seed: int = 0
    seconds: float = SECONDS
    """Of sampling for each case, all backends together."""
    cold_mib: int = 1024

    def options(self, backend: str) -> dict[str, Any]:
        """Of one worker's session."""
        return {
            "backend": backend, "index": self.index, "isa": self.isa,
            "threads": self.threads, "cold_mib": self.cold_mib, "seed": self.seed,
        }  # fmt: skip


@dataclass
class Result:
    """Devices by backend, rows in the order in which they came, and why a backend is not among them."""

    devices: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    absent: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def empty_launch_us(self) -> dict[str, float]:
        """By backend: what a launch that does next to nothing takes, which is in every other time."""
        return {row["backend"]: row["us"] for row in self.rows if row.get("tag") == "empty launch" and "us" in row}

    @property
    def failed(self) -> bool:
        """Whether a row does not count."""
        return any(row["errors"] for row in self.rows)

    @property
    def exit_code(self) -> int:
        """1 where a row has an error, 3 where nothing was measured, 0 otherwise."""
        if self.failed:
            return 1
        return 0 if any("us" in row and "tag" in row for row in self.rows) else 3


def run(request: Request, tell: Tell = lambda row: None) -> Result:
    """Run it; ``tell`` gets every row as it comes. Raises WrongInput where the expression admits nothing."""
    groups, result = plan(request.text), Result()
    with ExitStack() as stack:
        sides = [side for name in request.backends if (side := _side(request, name, None, result, stack)) is not None]
        if not sides:
            return result
        theirs = [_side(request, name, list(BASELINES[name]), result, stack) for name in request.baselines]
        sides += [side for side in theirs if side is not None]
        for row in ceilings(sides, request.seconds):
            result.rows.append(row)
            tell(row)
        for group in groups:
            for row in rows_of(group, sides, request.seconds):
                result.rows.append(row)
                tell(row)
    return result


def _side(
    request: Request, name: str, baseline: list[str] | None, result: Result, stack: ExitStack
) -> Participant | None:
    """A worker with an open backend, or None with the reason noted."""
    if name == llamacpp.NAME:
        worker = Worker(name, GGML_FACTORY, {"threads": request.threads, "cold_mib": request.cold_mib})
    else:
        worker = Worker(name, FACTORY, request.options(name))
    stack.callback(worker.close)
    calls: Rpc = partial(_call, worker)
    try:
        worker.opened(LONGEST_S)
        device = calls("device")
    except WorkerFailed as error:
        key = name if baseline is None else f"baseline {name}"
        result.absent[key] = {"status": error.status, "code": error.code, "reason": str(error)}
        return None
    if baseline is None:
        result.devices[name] = device
    return Participant(name, calls, baseline)


def _call(worker: Worker, method: str, **arguments: Any) -> Any:
    return worker.call(method, LIMITS_S.get(method, LONGEST_S), **arguments)
