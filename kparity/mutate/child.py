"""The process of one cell: patch the sources, run every gate, report each as it is done.

Started by ``kparity.mutate.runner``; what it finds is told gate by gate, so that a process that dies leaves those that
it came to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from kparity.errors import CompileFailed, KparityError
from kparity.mutate.cell import (
    CONTROL,
    ENGINE,
    Bits,
    CellRequest,
    GateResult,
    GateSaid,
    Invalid,
    Outcome,
    Unapplied,
    Witness,
    WitnessSaid,
)  # fmt: skip
from kparity.process import Done, Link

if TYPE_CHECKING:
    from kparity.device.adapter import Backend
    from kparity.engine import Engine
    from kparity.gates.candidate import Candidate
    from kparity.gates.table import GateSpec
    from kparity.model import Model

BROKEN = (CompileFailed, SyntaxError, NameError, ImportError)
"""What a patched text raises that is no wrong kernel but no kernel at all."""


class Mistake(Exception):
    """A wrong engine failed by itself: its kernels are right, so nothing but an error of kparity is a rejection."""


def answer(request: CellRequest, problem: Exception) -> str:
    """What a device or an engine raised, as a reason to reject it; raises Mistake where it is the mutant's own."""
    if request.op == ENGINE and not isinstance(problem, KparityError):
        raise Mistake(_sentence(problem)) from problem
    return _sentence(problem)


def apply(patched: Mapping[str, str], dialect: str) -> None:
    """Put patched sources in place, except those of numpy, which are one backend's."""
    from kparity.mutate import native, patch

    if dialect == "native" and (patched or native.missing() is None):
        patch.apply_native(patched)  # also with nothing patched: a control with other compiler flags is none
    elif dialect == "torch":
        patch.apply_torch(patched)
    elif dialect in ("gpu", "wgsl"):
        patch.apply_texts(patched)


def opened(name: str, patched: Mapping[str, str], broken: list[str]) -> Backend:
    """The backend; a text that it does not compile is noted in ``broken``, whoever catches the error."""
    from kparity.device.registry import open_backend
    from kparity.mutate.patch import apply_numpy

    backend = open_backend(name, sanitize=True)
    if backend.dialect == "numpy":
        apply_numpy(backend, patched)
    real = backend.build

    def build(op: Any, case: Any) -> Any:
        try:
            return real(op, case)
        except BROKEN as problem:
            broken.append(f"{case.id}: {problem}")
            raise

    backend.build = build  # type: ignore[method-assign]
    return backend


def observed(backend: Backend) -> Any:
    """A digest that takes in every byte which is downloaded from now on."""
    digest, real = hashlib.sha256(), backend.download

    def download(buffer: Any) -> Any:
        array = real(buffer)
        digest.update(array.tobytes())
        return array

    backend.download = download  # type: ignore[method-assign]
    return digest


def probe(request: CellRequest, link: Link, backend: Backend) -> None:
    """Every gate of a full probe, whatever the others said, and a soak where one is asked for."""
    from kparity import contracts
    from kparity.gates.candidate import Candidate
    from kparity.gates.open import gate_open
    from kparity.gates.reference import Reference
    from kparity.gates.table import GATES, SOAK
    from kparity.model import load_model

    link.stage("probe")
    model = load_model(request.model)
    reference = Reference.read(request.reference)
    try:
        engine = started(model, backend, request)
    except BROKEN:
        raise
    except Exception as problem:  # a device that cannot load the model or compile for it is rejected
        link.send(GateSaid(GateResult("crash", "caught", answer(request, problem), "probe")))
        return
    digest = observed(backend)
    candidate = Candidate(engine, reference, contracts.load(contracts.PROBE))
    opened_as = gate_open(backend.info, require_gpu=False)
    link.send(GateSaid(GateResult("open", _outcome(opened_as.verdict), opened_as.reason)))
    for spec in GATES:
        if spec.thresholds:
            link.send(GateSaid(GateResult(spec.name, *_run(request, spec, candidate))))
    link.send(Bits(digest.hexdigest()))
    if request.soak:
        candidate.soak = request.soak
        outcome, reason = _run(request, SOAK, candidate)
        few = reason.startswith("[KP-UNSUPPORTED]")  # rows: a slow machine is no rejection
        link.send(GateSaid(GateResult(SOAK.name, "not run" if few else outcome, reason)))


def started(model: Model, backend: Backend, request: CellRequest) -> Engine:
    """The engine with its two programs recorded: that of a step and that of a chunk."""
    from kparity.engine import Engine
    from kparity.mutate import makers

    right = partial(Engine, fused=request.graph == "fused")
    engine = (makers.every()[1][request.mutant] if request.op == ENGINE else right)(model, backend)
    engine.recorded(1)
    engine.recorded(engine.chunk)
    return engine


def _run(request: CellRequest, spec: GateSpec, candidate: Candidate) -> tuple[Outcome, str]:
    if spec.builds_on and candidate.steps is None:
        return "not run", f"{spec.builds_on} gave no logits"
    try:
        gate = spec.load()(candidate)
    except BROKEN:
        raise
    except Exception as problem:  # an engine that fails inside a gate is rejected by it
        if not spec.builds_on and spec.compares:
            candidate.steps = None  # half of them are no logits to build on
        return "caught", answer(request, problem)
    return _outcome(gate.verdict), f"[{gate.code}] {gate.reason}" if gate.code else ""


def _outcome(verdict: str) -> Outcome:
    return "passed" if verdict == "PASS" else "caught"


def _sentence(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split()) or 'no message'}"


def check(link: Link, backend: Backend, op_name: str) -> None:
    """The short list of cases until one fails, then what the long list adds."""
    from kparity import ops
    from kparity.check.core import check_case

    link.stage("check")
    op, tried = ops.get(op_name), 0
    for case in dict.fromkeys((*op.cases(), *op.sweep())):
        for record in check_case(backend, op, case, stop_at_first=True):
            tried += record.outcome == "PASS"
            if record.outcome == "FAIL":
                result = GateResult("check", "caught", f"{case.id} {record.kind}: {record.reason}")
                link.send(GateSaid(result, Witness(op_name, dict(case.params), record.kind)))
                return
        link.tick(f"{tried} runs")
    untried = GateResult("check", "not run", "no case of the op runs on this backend")
    link.send(GateSaid(GateResult("check", "passed") if tried else untried))


def witnesses(request: CellRequest, link: Link, backend: Backend) -> None:
    """Unmutated kernels on the inputs by which mutants were rejected: each must pass."""
    from kparity import ops
    from kparity.check.core import check_case

    link.stage("check")
    for witness in request.witnesses:
        op = ops.get(witness.op)
        case, kinds = op.case(**witness.params), [witness.kind] if witness.kind else None
        bad = [record for record in check_case(backend, op, case, kinds=kinds) if record.outcome != "PASS"]
        link.send(WitnessSaid(not bad, f"{case.id} {bad[0].kind}: {bad[0].reason}" if bad else ""))


def main(link: Link) -> int:
    """Run the cell; the exit code says whether the process came to its end."""
    from kparity.mutate import patch

    request, broken = link.request(CellRequest), list[str]()
    try:
        link.stage("compile")
        apply(request.patched, request.dialect)
        backend = opened(request.backend, request.patched, broken)
        if request.witnesses:
            witnesses(request, link, backend)
        else:
            if request.graph:
                probe(request, link, backend)
            if request.op not in (ENGINE, CONTROL):
                check(link, backend, request.op)
            else:
                link.send(GateSaid(GateResult("check", "blind", "check holds ops, not engines, against truth")))
    except (*BROKEN, Mistake) as problem:
        broken.append(str(problem))
    if broken:
        link.send(Invalid(broken[0]))
    elif request.patched and not patch.USED and not request.witnesses:
        texts = ", ".join(sorted(request.patched))
        link.send(Unapplied(f"{request.backend} takes nothing from the patched texts ({texts})"))
    link.send(Done())
    return 0
