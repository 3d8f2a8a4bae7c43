"""The process of one candidate, which may crash, hang or be killed without harm to the dispatcher; and that of the
reference, in which no backend is opened: no driver can change its bits.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kparity.probe.messages import Judge, Loaded, Measured, Opened, Proof, Request, Seen, Work
from kparity.process import Done, Link, failure

if TYPE_CHECKING:
    from kparity.device.adapter import Backend
    from kparity.model import Model


@contextlib.contextmanager
def one_at_a_time(folder: Path, device: str, kind: str) -> Iterator[None]:
    """Hold a lock per GPU: two probes on one card disturb each other; CPU devices run side by side."""
    if kind != "gpu":
        yield
        return
    import fcntl

    name = hashlib.sha256(device.encode()).hexdigest()[:16]
    with (folder / f"device-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def measure(work: Work, link: Link) -> None:
    """Open the backend and run the gates of the depth."""
    from kparity.device.fingerprint import loaded
    from kparity.device.registry import backend_class

    link.stage("import")
    target = backend_class(work.backend)
    link.stage("open")
    backend = target.open(work.request.index)
    link.send(Loaded(loaded()))
    link.send(Opened(backend.info))
    if work.request.depth != "open":
        link.stage("wait")
        with one_at_a_time(Path(work.folder), backend.info.device, backend.info.kind):
            run_gates(work, link, backend)
    backend.close()
    link.send(Loaded(loaded()))


def run_gates(work: Work, link: Link, backend: Backend) -> None:
    """Load the model, compile, wait for the reference, and measure gate by gate."""
    from kparity import contracts
    from kparity.engine import Engine
    from kparity.gates import challenge
    from kparity.gates.candidate import Candidate, begin, run
    from kparity.gates.reference import SEED, Reference
    from kparity.gates.table import WHOLE
    from kparity.gates.walk import Walk
    from kparity.model import load_model

    request = work.request
    link.stage("load")
    model = load_model(request.model)
    link.stage("upload")
    engine = Engine(model, backend, act=request.act, kv=request.kv, context=request.context, tick=link.tick)
    link.stage("compile")
    for rows in (1, engine.chunk) if request.depth in WHOLE else (1,):
        engine.launch_each(rows)
    candidate = Candidate(
        engine, None, contracts.load(contracts.PROBE), repeat=request.repeat, soak=request.soak,  # type: ignore[arg-type]
    )  # fmt: skip
    if request.depth in WHOLE:
        begin(candidate, Walk(engine, tokens_of(request, model)), link.asked, link.stage)
    link.stage("reference")
    link.request(Judge)
    candidate.reference = Reference.read(work.descriptor)
    for gate in run(candidate, request.depth, link.stage):
        values: dict[str, float | None] = {measure.threshold: measure.value for measure in gate.measures}
        link.send(Measured(gate.name, values, gate.code, gate.reason, gate.elapsed_ms))
    step_ms = engine.recorded(1).program.run_timed() * 1e3
    assert candidate.steps is not None
    told = challenge.of_steps(candidate.steps, candidate.reference.tokens, request.nonce, SEED)
    link.send(Proof(backend.dispatches.counts, step_ms, told))
    link.request(Seen)


def tokens_of(request: Request, model: Model) -> list[int]:
    """The tokens that a request asks for; of BOS alone one."""
    from kparity.gates.reference import probe_tokens
    from kparity.gates.table import WHOLE

    most = request.context or model.hparams.context
    count = min(request.positions, most) if request.depth in WHOLE else 1
    return probe_tokens(model, count, request.nonce)


def compute_reference(request: Request, link: Link, descriptor: int) -> None:
    """Compute the reference and write it to its file."""
    import numpy as np

    from kparity import contracts, plain
    from kparity.engine.engine import served_context
    from kparity.errors import BadModel
    from kparity.gates import reference, vacuous
    from kparity.gates.table import WHOLE
    from kparity.model import load_model

    link.stage("reference")
    model = load_model(request.model)
    tokens = tokens_of(request, model)
    full = request.depth in WHOLE
    context = served_context(request.context, plain.facts(model.file).context) if full else 0
    compute = partial(reference.compute, model, tokens, act=request.act, kv=request.kv, context=context, tick=link.tick)
    found = vacuous.controlled(compute, contracts.load(contracts.PROBE))
    late = (found.deep.logits, found.deep.rounded) if found.deep else ()
    if not all(np.isfinite(each).all() and each.any(axis=1).all() for each in (found.logits, found.rounded, *late)):
        raise BadModel(f"{model.path}: its logits are not finite, or all zero, by the plain pass too{_suspect(model)}")
    found.write(descriptor)


def _suspect(model: Model) -> str:
    """Where the fault of a model may lie whose values are finite and whose logits are not."""
    from kparity.model import soundness

    found = [f"tensor {fault.tensor} has {fault.reason}" for fault in soundness.faults(model)]
    return f": {'; '.join(found[:3]) or 'no single value is to blame'}; fetch or convert it again"


def main(link: Link) -> int:
    """Do what is asked for; the exit code only says whether the process came to its end."""
    work = link.request(Work)
    try:
        if work.backend:
            measure(work, link)
        else:
            compute_reference(work.request, link, work.descriptor)
        link.send(Done())
    except Exception as error:  # every way to fail is a row of the table; that of the reference, of every row
        link.send(failure(error))
        if work.debug:
            raise
    return 0
