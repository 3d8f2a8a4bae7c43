"""The process in which one backend is probed: it may crash, hang or be killed without harm to the dispatcher.

Started by ``kparity.probe.runner`` with a JSON request on stdin. What it finds is appended, line by line, to
the events file that the request names, so that a crash leaves the stage at which it happened.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STAGE_ERROR = "KP-PROBE-ERROR"


class Events:
    """The append-only report of a probe."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self.started = time.perf_counter()

    def send(self, event: str, **values: Any) -> None:
        """Write one line at once."""
        self._file.write(json.dumps({"event": event, "at_ms": self.elapsed_ms(), **values}) + "\n")
        self._file.flush()

    def elapsed_ms(self) -> float:
        """Milliseconds since the process began to work."""
        return (time.perf_counter() - self.started) * 1e3


@contextlib.contextmanager
def one_at_a_time(folder: Path, device: str, kind: str) -> Iterator[None]:
    """Hold a lock per GPU: two probes on one card disturb each other's memory and timings; CPU devices run side by
    side.
    """
    if kind != "gpu":
        yield
        return
    import fcntl

    name = hashlib.sha256(device.encode()).hexdigest()[:16]
    with (folder / f"device-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def probe(request: dict[str, Any], events: Events) -> None:
    """Open the backend, compute the reference, run the gates."""
    from kparity.registry import backend_class

    events.send("stage", stage="import")
    target = backend_class(request["backend"])
    events.send("stage", stage="open")
    backend = target.open(int(request.get("index", 0)))
    events.send("device", info=backend.info.as_dict(), label=backend.info.label)
    from kparity.probe import gates
    from kparity.probe.known import gate_known

    opened = gates.gate_open(backend.info, bool(request.get("require_gpu")))
    if opened.verdict == "PASS":
        opened = gate_known(backend.info, request.get("issues", ())) or opened
    events.send("gate", gate=_gate(opened))
    if opened.verdict == "PASS" and request["depth"] != "open":
        events.send("stage", stage="wait")
        with one_at_a_time(Path(request["folder"]), backend.info.device, backend.info.kind):
            run_gates(request, events, backend)
    backend.close()
    events.send("done")


def run_gates(request: dict[str, Any], events: Events, backend: Any) -> None:
    """Everything after ``open``."""
    import numpy as np

    from kparity import contracts
    from kparity.engine import Engine
    from kparity.model import load_model
    from kparity.probe import gates, reference
    from kparity.probe.candidate import Candidate

    events.send("stage", stage="load")
    model = load_model(request["model"])
    options = {"act": request["act"], "kv": request["kv"]}
    count = min(int(request["positions"]) if request["depth"] == "full" else 1, model.hparams.context)
    events.send("stage", stage="reference")
    wanted = reference.compute(model, request["backend"], reference.probe_tokens(model, count), **options)
    np.save(Path(request["folder"]) / f"{request['backend']}.bos.npy", wanted.bos.astype(np.float32))
    events.send("reference", name=wanted.name, positions=count)
    events.send("stage", stage="upload")
    engine = Engine(model, backend, **options)
    events.send("stage", stage="compile")
    engine.recorded(1)
    if request["depth"] == "full":
        engine.recorded(engine.chunk)
    candidate = Candidate(engine, wanted, contracts.load(contracts.PROBE))
    events.send("stage", stage="BOS")
    order = [name for name, _ in gates.FULL]
    for gate in gates.run(candidate, request["depth"]):
        events.send("gate", gate=_gate(gate))
        after = order.index(gate.name) + 1
        if after < len(order):
            events.send("stage", stage=order[after])
    step_ms = engine.recorded(1).program.run_timed() * 1e3
    events.send("proof", dispatches=backend.dispatches.counts, device_step_ms=step_ms)


def _gate(gate: Any) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(gate)


def failure(error: BaseException) -> tuple[str, str, str]:
    """Status, stable code and reason of an exception that ended a probe."""
    from kparity import errors

    text = str(error).strip() or type(error).__name__
    if isinstance(error, errors.Unavailable):
        return "unavailable", error.code, f"unavailable: {error.reason}"
    if isinstance(error, errors.CompileFailed):
        return "rejected", "KP-COMPILE", f"does not compile: {text}"
    if isinstance(error, errors.DeviceFault):
        return "rejected", error.code, text
    if isinstance(error, MemoryError):
        return "rejected", "KP-PROBE-OOM", f"out of memory: {text}"
    if isinstance(error, errors.WrongInput):
        return "rejected", "KP-UNSUPPORTED", text
    if isinstance(error, ImportError):
        return "unavailable", "KP-IMPORT", f"unavailable: cannot be imported: {text}"
    return "rejected", STAGE_ERROR, f"{type(error).__name__}: {text}"


def main() -> int:
    """Read the request, probe, report; the exit code only says whether the process came to its end."""
    request = json.load(sys.stdin)
    events = Events(Path(request["events"]))
    try:
        probe(request, events)
    except Exception as error:  # every way in which a backend may fail is a row of the table
        status, code, reason = failure(error)
        events.send("error", status=status, code=code, reason=reason)
        if request.get("debug"):
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
