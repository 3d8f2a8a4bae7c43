"""The process in which one backend is measured: it may crash, hang or be killed without harm to the dispatcher."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kparity.probe.messages import CandidateRequest, Judge, Measured, Opened, Proof
from kparity.process import Done, Link, failure

if TYPE_CHECKING:
    from kparity.device.adapter import Backend


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


def measure(request: CandidateRequest, link: Link) -> None:
    """Open the backend and run the gates of the depth."""
    from kparity.device.registry import backend_class

    link.stage("import")
    target = backend_class(request.backend)
    link.stage("open")
    backend = target.open(request.index)
    link.send(Opened(backend.info))
    if request.depth != "open":
        link.stage("wait")
        with one_at_a_time(Path(request.folder), backend.info.device, backend.info.kind):
            run_gates(request, link, backend)
    backend.close()
    link.send(Done())


def run_gates(request: CandidateRequest, link: Link, backend: Backend) -> None:
    """Load the model, compile, wait for the reference, and measure gate by gate."""
    from kparity import contracts
    from kparity.engine import Engine
    from kparity.gates.candidate import Candidate, run
    from kparity.gates.reference import Reference
    from kparity.model import load_model

    link.stage("load")
    model = load_model(request.model)
    link.stage("upload")
    engine = Engine(model, backend, act=request.act, kv=request.kv, tick=link.tick)
    link.stage("compile")
    for rows in (1, engine.chunk) if request.depth == "full" else (1,):
        engine.launch_each(rows)
    link.stage("reference")
    wanted = Reference.read(link.request(Judge).descriptor)
    candidate = Candidate(engine, wanted, contracts.load(contracts.PROBE))
    for gate in run(candidate, request.depth, link.stage):
        values: dict[str, float | None] = {measure.threshold: measure.value for measure in gate.measures}
        link.send(Measured(gate.name, values, gate.code, gate.reason, gate.elapsed_ms))
    step_ms = engine.recorded(1).program.run_timed() * 1e3
    link.send(Proof(backend.dispatches.counts, step_ms))


def main(link: Link) -> int:
    """Measure what is asked for; the exit code only says whether the process came to its end."""
    request = link.request(CandidateRequest)
    try:
        measure(request, link)
    except Exception as error:  # every way in which a backend may fail is a row of the table
        link.send(failure(error))
        if request.debug:
            raise
    return 0
