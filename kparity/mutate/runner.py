"""Runs cells in child processes, several side by side, and turns whatever happens to them into results."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kparity import fingerprint, ops, processes, registry
from kparity.errors import Unavailable
from kparity.mutate import library, native
from kparity.mutate.cell import CONTROL, ENGINE, Cell, GateResult, Witness
from kparity.mutate.library import Subject
from kparity.probe.runner import DEFAULT_POSITIONS, POLL_SECONDS, Child, environment

TIMEOUT = 60.0
"""Seconds without any event after which a cell hangs; one gate or one case takes far less."""
JUDGES = ("probe", "check", "contracts")
"""Folders of the package that decide what becomes of a cell."""
MACHINERY = {
    "kparity": ("engine.py", "graph.py", "fused.py", "adapter.py", "assemble.py", "compare.py", "spec.py",
                "processes.py"),
    "mutate": ("child.py", "engine.py", "graphs.py", "patch.py", "native.py"),
    "kernels": ("_support.py",),
}  # fmt: skip
"""Files that do too, by their folder."""


@dataclass(frozen=True)
class Plan:
    """One cell that is to be run: the subject, the backend, and the graph by which the probe can reach it."""

    subject: Subject
    backend: str
    dialect: str
    graph: str
    patched: Mapping[str, str]
    """Path below ``kernels/`` → text."""
    digest: str

    @property
    def blank(self) -> Cell:
        """The cell before anything is known."""
        s = self.subject
        return Cell(s.op, s.name, self.backend, self.digest, s.what, graph=self.graph)


@lru_cache(maxsize=1)
def _rules() -> str:
    """Digest of everything but the kernels that a result depends on."""
    digest = hashlib.sha256()
    for path in fingerprint.sources():
        folder = path.parent.name
        if folder in JUDGES or path.name in MACHINERY.get(folder, ()):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def digest_of(subject: Subject, backend: str, patched: Mapping[str, str]) -> str:
    """Of the patched sources, the op's own files, the adapter and the rules."""
    digest = hashlib.sha256(_rules().encode())
    for name, text in sorted(patched.items()):
        digest.update(f"{name}\0{text}".encode())
    own = (subject.op,) if subject.op in ops.NAMES else ops.NAMES
    for path in fingerprint.sources():
        if path.parent.name in own or path.parent.name == "prelude" or path.stem in (backend, "_cupy"):
            digest.update(path.name.encode() + (b"" if path.name == "mutants.py" else path.read_bytes()))
    return digest.hexdigest()[:16]


@lru_cache(maxsize=2)
def launched(fused: bool) -> frozenset[str]:
    """The ops that a graph of the embedded model launches, for a step or for a chunk."""
    from kparity.backends.numpy import NumpyBackend
    from kparity.engine import Engine
    from kparity.model import load_model

    engine = Engine(load_model(None), NumpyBackend(), fused=fused)
    for rows in (1, engine.chunk):
        engine.recorded(rows)
    return frozenset(case.op for case in engine.kernels.built)


def graph_of(subject: Subject) -> str:
    """The graph in which the probe can reach a mutant: the one that serves if it launches the op."""
    if subject.op == CONTROL:
        return subject.name
    if subject.op == ENGINE or subject.op in launched(True):
        return "fused"
    return "unfused" if subject.op in launched(False) else ""


def planned(subjects: Sequence[Subject], backends: Sequence[str]) -> tuple[list[Plan], list[Cell]]:
    """Cells to run, and cells that cannot be; raises WrongInput for a patch that does not fit its source any more.

    A mutant without a patch in a backend's dialect is no cell: it cannot be written there.
    """
    plans: list[Plan] = []
    done: list[Cell] = []
    for backend in backends:
        dialect = registry.backend_class(backend).dialect
        for subject in (*library.CONTROLS, *subjects):
            if subject.mutant is not None and dialect not in subject.mutant.patches:
                continue
            patched = library.sources(subject, dialect)
            plan = Plan(subject, backend, dialect, graph_of(subject), patched, digest_of(subject, backend, patched))
            reason = _obstacle(backend, dialect, subject)
            if reason:
                done.append(_ended(plan.blank, "skipped", reason))
            else:
                plans.append(plan)
    return plans, done


def _ended(cell: Cell, status: Any, reason: str) -> Cell:
    cell.status, cell.reason = status, reason
    return cell


@lru_cache(maxsize=16)
def _unopened(backend: str) -> str | None:
    try:
        registry.open_backend(backend).close()
    except Unavailable as problem:
        return f"[{problem.code}] {problem.reason}"
    return None


def _obstacle(backend: str, dialect: str, subject: Subject) -> str | None:
    """Why a cell cannot run here, or None."""
    return _unopened(backend) or (native.missing() if dialect == "native" and subject.mutant is not None else None)


def write_reference(backend: str, path: Path) -> None:
    """Reference and twin for a backend, by unpatched kernels."""
    import numpy as np

    from kparity.model import load_model
    from kparity.probe import reference

    model = load_model(None)
    tokens = reference.probe_tokens(model, DEFAULT_POSITIONS)
    found = reference.compute(model, backend, tokens, act="token", kv="f16")
    np.savez(path, names=[found.name, found.twin_name], tokens=tokens, logits=found.logits, twin=found.twin)
    model.close()


class Running(Child):
    """The process of a cell; every event gives it the whole time limit again, and while it compiles it has more."""

    limit: float = TIMEOUT

    def poll(self) -> bool:
        """As the probe's, with the clock of the last event."""
        self.timeout = self.limit * (10 if self.stage() in ("start", "compile") else 1)
        before = len(self.events)
        over = super().poll()
        if len(self.events) > before:
            self.started = time.monotonic()
        return over


def start(plan: Plan, folder: Path, timeout: float, **extra: Any) -> Running:
    """Start the process of one cell."""
    name = f"{plan.subject.op}-{plan.subject.name}-{plan.backend}"
    events, log = folder / f"{name}.events", folder / f"{name}.log"
    document = {
        "op": plan.subject.op, "mutant": plan.subject.name, "backend": plan.backend, "dialect": plan.dialect,
        "graph": plan.graph, "patched": dict(plan.patched), "reference": str(folder / f"{plan.backend}.npz"),
        "events": str(events), **extra,
    }  # fmt: skip
    with log.open("wb") as sink:
        process = processes.start("kparity.mutate.child", sink, environment())
    processes.send(process.stdin, json.dumps(document).encode())
    child = Running(plan.backend, process, events, log, time.monotonic(), timeout)
    child.limit = timeout
    return child


def concluded(plan: Plan, child: Running, elapsed: float) -> Cell:
    """The cell of a process that is over."""
    cell = plan.blank
    cell.elapsed_s = round(elapsed, 2)
    invalid = child.find("invalid")
    if invalid is not None:
        return _ended(cell, "invalid", invalid["reason"])
    for event in child.events:
        if event["event"] == "gate":
            cell.gates.append(GateResult(event["gate"], event["outcome"], event["reason"], event.get("stage", "")))
            cell.witness = Witness(**event["witness"]) if event.get("witness") else cell.witness
    bits = child.find("bits")
    cell.bits = bits["sha256"] if bits else ""
    if child.find("done") is None or child.process.returncode != 0:
        _add_death(cell, child)
    return cell


def _add_death(cell: Cell, child: Running) -> None:
    """A process that died or hung: caught at its stage, unless it never came to run the kernel."""
    from kparity.probe.runner import death

    stage = child.stage()
    if child.timed_out:
        gate, reason = "hang", f"no answer within {child.timeout:g} s"
    else:
        gate, reason = "crash", death(child)[1]
    if stage in ("start", "compile"):
        _ended(cell, "invalid", f"{gate} before the kernel ran: {reason}")
        return
    cell.gates.append(GateResult(gate, "caught", reason, stage))


def execute(
    plans: Sequence[Plan], jobs: int = 0, timeout: float = TIMEOUT, on_cell: Callable[[Cell], None] | None = None
) -> list[Cell]:
    """Run every plan, ``jobs`` at a time (as many as processors without it), in the order given.

    The controls of each backend come first: their bits tell which mutants the probe's model reached at all.
    """
    jobs = jobs or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory(prefix="kparity-mutate-") as name:
        folder = Path(name)
        for backend in dict.fromkeys(plan.backend for plan in plans):
            write_reference(backend, folder / f"{backend}.npz")
        if any(plan.dialect == "native" for plan in plans) and native.missing() is None:
            native.prepare()
        for cell in _pool(plans, jobs, timeout, folder):
            cells.append(cell)
            if on_cell:
                on_cell(cell)
    return cells


def _pool(plans: Sequence[Plan], jobs: int, timeout: float, folder: Path) -> Iterator[Cell]:
    waiting, running = list(plans), dict[int, tuple[Plan, Running, float]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                plan = waiting.pop(0)
                child = start(plan, folder, timeout)
                running[child.process.pid] = (plan, child, time.monotonic())
            over = [pid for pid, (_, child, _) in running.items() if child.poll()]
            for pid in over:
                plan, child, since = running.pop(pid)
                yield concluded(plan, child, time.monotonic() - since)
            if not over:
                time.sleep(POLL_SECONDS)
    finally:
        for _, child, _ in running.values():
            if child.process.poll() is None:
                child.kill()
