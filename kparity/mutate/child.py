"""The process of one cell: patch the sources, run every gate, report each as it is done.

Started by ``kparity.mutate.runner`` with a JSON request on stdin; what it finds is appended to an events file, so that
a process that dies leaves the gates that it came to.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kparity.errors import CompileFailed, KparityError
from kparity.mutate.cell import CONTROL, ENGINE
from kparity.probe.child import Events

if TYPE_CHECKING:
    from kparity.adapter import Backend
    from kparity.engine import Engine
    from kparity.model import Model
    from kparity.probe.candidate import Candidate
    from kparity.probe.reference import Reference

BROKEN = (CompileFailed, SyntaxError, NameError, ImportError)
"""What a patched text raises that is no wrong kernel but no kernel at all."""


class Mistake(Exception):
    """A wrong engine failed by itself: its kernels are right, so nothing but an error of kparity is a rejection."""


def answer(request: Mapping[str, Any], problem: Exception) -> str:
    """What a device or an engine raised, as a reason to reject it; raises Mistake where it is the mutant's own."""
    if request["op"] == ENGINE and not isinstance(problem, KparityError):
        raise Mistake(_said(problem)) from problem
    return _said(problem)


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
    from kparity.mutate.patch import apply_numpy
    from kparity.registry import open_backend

    backend = open_backend(name)
    if name == "numpy":
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


def reference_from(path: Path) -> Reference:
    """The reference that the parent computed with nothing patched."""
    import numpy as np

    from kparity.probe.reference import Reference

    stored = np.load(path, allow_pickle=False)
    names = [str(name) for name in stored["names"]]
    return Reference(names[0], [int(token) for token in stored["tokens"]], stored["logits"], stored["twin"], names[1])


def probe(request: dict[str, Any], events: Events, backend: Backend) -> None:
    """Every gate of a full probe, whatever the others said."""
    from kparity.model import load_model
    from kparity.probe import gates

    events.send("stage", stage="probe")
    model = load_model(None)
    reference = reference_from(Path(request["reference"]))
    try:
        engine = started(model, backend, request)
    except BROKEN:
        raise
    except Exception as problem:  # a device that cannot load the model or compile for it is rejected
        events.send("gate", gate="crash", outcome="caught", reason=answer(request, problem), stage="probe")
        return
    digest = observed(backend)
    from kparity import contracts
    from kparity.probe.candidate import Candidate

    candidate = Candidate(engine, reference, contracts.load(contracts.PROBE))
    opened_as = gates.gate_open(backend.info, require_gpu=False)
    events.send("gate", gate="open", outcome=_outcome(opened_as.verdict), reason=opened_as.reason)
    for name, gate in gates.FULL:
        events.send("gate", gate=name, **_run(request, name, gate, candidate))
    events.send("bits", sha256=digest.hexdigest())


def started(model: Model, backend: Backend, request: Mapping[str, Any]) -> Engine:
    """The engine with its two programs recorded: that of a step and that of a chunk."""
    from kparity.engine import Engine
    from kparity.mutate import engine as wrong

    if request["op"] == ENGINE:
        found = wrong.find(request["mutant"]).make(model, backend)
    else:
        found = Engine(model, backend, fused=request["graph"] == "fused")
    found.recorded(1)
    found.recorded(found.chunk)
    return found


def _run(request: Mapping[str, Any], name: str, gate: Any, candidate: Candidate) -> dict[str, str]:
    if candidate.steps is None and name not in ("BOS", "exact", "kernels", "positions"):
        return {"outcome": "not run", "reason": "positions gave no logits"}
    try:
        found = gate(candidate)
    except BROKEN:
        raise
    except Exception as problem:  # an engine that fails inside a gate is rejected by it
        return {"outcome": "caught", "reason": answer(request, problem)}
    return {"outcome": _outcome(found.verdict), "reason": f"[{found.code}] {found.reason}" if found.code else ""}


def _outcome(verdict: str) -> str:
    return "passed" if verdict == "PASS" else "caught"


def _said(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split()) or 'no message'}"


def check(events: Events, backend: Backend, op_name: str) -> None:
    """The short list of cases until one fails, then what the long list adds."""
    from kparity import ops
    from kparity.check.core import check_case

    events.send("stage", stage="check")
    op = ops.get(op_name)
    short = op.cases()
    tried = 0
    for case in (*short, *(case for case in op.sweep() if case not in set(short))):
        for record in check_case(backend, op, case, stop_at_first=True):
            tried += record.outcome == "PASS"
            if record.outcome == "FAIL":
                witness = {"op": op_name, "params": dict(case.params), "kind": record.kind}
                reason = f"{case.id} {record.kind}: {record.reason}"
                events.send("gate", gate="check", outcome="caught", reason=reason, witness=witness)
                return
        events.send("case", tried=tried)
    outcome, reason = ("passed", "") if tried else ("not run", "no case of the op runs on this backend")
    events.send("gate", gate="check", outcome=outcome, reason=reason)


def witnesses(request: dict[str, Any], events: Events, backend: Backend) -> None:
    """Unmutated kernels on the inputs by which mutants were rejected: each must pass."""
    from kparity import ops
    from kparity.check.core import check_case

    events.send("stage", stage="check")
    for witness in request["witnesses"]:
        op = ops.get(witness["op"])
        case = op.case(**witness["params"])
        kinds = [witness["kind"]] if witness["kind"] else None
        bad = [record for record in check_case(backend, op, case, kinds=kinds) if record.outcome != "PASS"]
        reason = f"{case.id} {bad[0].kind}: {bad[0].reason}" if bad else ""
        events.send("witness", ok=not bad, reason=reason)
    events.send("gate", gate="check", outcome="passed", reason="")


def run(request: dict[str, Any], events: Events) -> None:
    """One cell."""
    broken: list[str] = []
    try:
        events.send("stage", stage="compile")
        apply(request["patched"], request["dialect"])
        backend = opened(request["backend"], request["patched"], broken)
        if request.get("witnesses"):
            witnesses(request, events, backend)
        else:
            if request["graph"]:
                probe(request, events, backend)
            if request["op"] not in (ENGINE, CONTROL):
                check(events, backend, request["op"])
            else:
                events.send("gate", gate="check", outcome="blind", reason="check holds ops, not engines, against truth")
    except (*BROKEN, Mistake) as problem:
        broken.append(str(problem))
    if broken:
        events.send("invalid", reason=broken[0])
    events.send("done")


def main() -> int:
    """Read the request, run the cell; the exit code says whether the process came to its end."""
    request = json.load(sys.stdin)
    run(request, Events(Path(request["events"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
