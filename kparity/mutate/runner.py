"""Runs cells in child processes, several side by side, and turns whatever happens to them into results."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kparity import ops
from kparity.device import fingerprint, registry
from kparity.device.declared import Declared
from kparity.host.processors import processors
from kparity.model import load_model
from kparity.mutate import library, native
from kparity.mutate.cell import (
    CONTROL,
    ENGINE,
    Bits,
    Cell,
    CellRequest,
    GateResult,
    GateSaid,
    Invalid,
    Said,
    Unapplied,
    Witness,
    WitnessSaid,
)  # fmt: skip
from kparity.mutate.library import EMBEDDED, Subject
from kparity.ops.mutant import Mutant
from kparity.probe.messages import DEFAULT_POSITIONS, Request
from kparity.probe.runner import Process, environment, probing, turn
from kparity.probe.sealed import Sealed
from kparity.process import Child, Family

SOAK_SECONDS = 30.0
"""Of a subject that is soaked; the gate ends at the first difference."""
TIMEOUT = 60.0
"""Seconds without any event after which a cell hangs; one gate or one case takes far less."""
JUDGES = ("gates", "check", "contracts", "plain", "process", "engine", "model", "numerics", "ops", "ptx")
"""Folders of the package that decide what becomes of a cell."""
MACHINERY = {
    "device": ("adapter.py",),
    "mutate": ("child.py", "library.py", "patch.py", "native.py"),
    "kernels": ("support.py",),
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
        return Cell(s.op, s.name, self.backend, self.digest, s.what, model=s.model, graph=self.graph)


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
    """Of the patched sources, the op's own files or those of its package, the adapter and the rules."""
    digest = hashlib.sha256(_rules().encode())
    for name, text in sorted(patched.items()):
        digest.update(f"{name}\0{text}".encode())
    joined = (subject.op, ops.JOINED[subject.op]) if subject.op in ops.JOINED else (*ops.NAMES, "mutate")
    own = (subject.op,) if subject.op in ops.NAMES else joined
    for path in fingerprint.sources():
        if path.parent.name in (*own, "prelude") or path.stem in (backend.replace("-", "_"), "_cupy"):
            digest.update(path.name.encode() + (b"" if path.name == "mutants.py" else path.read_bytes()))
    if subject.op in ops.targets() and subject.op not in ops.BUILTIN:
        digest.update(fingerprint.distribution(ops.GROUP, subject.op).encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=2)
def launched(fused: bool) -> frozenset[str]:
    """The ops that a graph of the embedded model launches, for a step or for a chunk."""
    from kparity.backends.numpy import NumpyBackend
    from kparity.engine import Engine

    engine = Engine(load_model(None), NumpyBackend(), fused=fused)
    for rows in (1, engine.chunk):
        engine.recorded(rows)
    return frozenset(case.op for case in engine.kernels.built)


def graph_of(subject: Subject) -> str:
    """The graph in which the probe can reach a mutant: the one that serves if it launches the op."""
    if subject.op == CONTROL:
        return subject.name.partition("-")[0]
    if subject.op in (ENGINE, *ops.JOINED) or subject.op in launched(True):
        return "fused"
    return "unfused" if subject.op in launched(False) else ""


def planned(subjects: Sequence[Subject], backends: Sequence[str]) -> tuple[list[Plan], list[Cell]]:
    """Cells to run, and cells that cannot be; raises WrongInput for a patch that does not fit its source any more.

    A mutant without a patch in a backend's dialect is no cell: it cannot be written there. On a slow backend ``check``
    alone holds the kernels; what only a probe shows is no cell there.
    """
    plans, skipped = list[Plan](), list[Cell]()
    used = {subject.model for subject in subjects} | {EMBEDDED}
    soaked = any(subject.soaks for subject in subjects)
    controls = [each for each in library.CONTROLS if each.model in used and (soaked or not each.soaks)]
    for backend, closed in _unopened(backends).items():
        dialect, slow = dialect_of(backend), registry.slow(backend)
        for subject in (*controls, *subjects):
            if slow if subject.mutant is None else not applies(subject.mutant, backend, dialect):
                continue
            patched = subject.mutant.sources(subject.op, dialect) if subject.mutant else {}
            graph = "" if slow else graph_of(subject)
            plan = Plan(subject, backend, dialect, graph, patched, digest_of(subject, backend, patched))
            reason = closed or (native.missing() if dialect == "native" and subject.mutant is not None else None)
            if reason:
                skipped.append(plan.blank.ended("skipped", reason))
            else:
                plans.append(plan)
    return plans, skipped


def applies(mutant: Mutant, backend: str, dialect: str) -> bool:
    """Whether a mutant is written for a backend."""
    return dialect in mutant.patches and mutant.only in ("", backend)


def dialect_of(backend: str) -> str:
    """What a backend compiles; empty where that cannot be read."""
    return (registry.declared(backend) or Declared()).dialect


def _unopened(backends: Sequence[str]) -> dict[str, str]:
    """Why backends do not open here, each tried in a process of its own; empty for one that does."""
    with probing(backends, Request(depth="open")) as rows:
        return {
            row.backend: "" if row.accepted else f"[{row.code}] {row.reason.removeprefix('unavailable: ')}"
            for row, *_ in rows
        }


def write_reference(model: Path | None, folder: Path) -> Sealed:
    """The reference of a model, in a file that cannot be written."""
    from kparity.engine.engine import served_context
    from kparity.gates import reference

    opened, file = load_model(model), Sealed(folder)
    tokens = reference.probe_tokens(opened, min(DEFAULT_POSITIONS, opened.hparams.context))
    context = served_context(0, opened.hparams.context)
    reference.compute(opened, tokens, act="token", kv="f16", context=context).write(file.writer)
    opened.close()
    file.seal()
    return file


class Running(Process):
    """The process of a cell; silence ends it, and while it compiles it has ten times as long."""

    def __init__(
        self, plan: Plan, family: Family, subjects: Mapping[str, tuple[Path | None, Sealed]], timeout: float,
        witnesses: Sequence[Witness] = (),
    ) -> None:  # fmt: skip
        s = plan.subject
        path, reference = subjects.get(s.model, (None, None))
        given = () if reference is None else (reference.reader,)
        child: Child[Said] = Child(family, "kparity.mutate.child", Said, environment=environment(), pass_fds=given)
        super().__init__(plan.backend, Request(), child)
        self.plan, self.timeout = plan, timeout
        self.cell, self.witnesses = plan.blank, list[WitnessSaid]()
        child.send(
            CellRequest(
                s.op, s.name, plan.backend, plan.dialect, plan.graph, dict(plan.patched), str(path) if path else None,
                given[0] if given else -1, SOAK_SECONDS if s.soaks else 0.0, list(witnesses),
            )
        )  # fmt: skip

    def patience(self) -> float:
        return self.timeout * (10 if self.stage in ("start", "compile") else 1)

    def take(self, message: Any) -> None:
        if isinstance(message, GateSaid):
            self.cell.gates.append(message.result)
            self.cell.witness = message.witness or self.cell.witness
        elif isinstance(message, WitnessSaid):
            self.witnesses.append(message)
        elif isinstance(message, Bits):
            self.cell.bits = message.sha256
        elif isinstance(message, Unapplied):
            self.cell.gates.clear()
            self.cell.witness = None
            self.cell.ended("skipped", message.reason)
        elif isinstance(message, Invalid):
            self.cell.ended("invalid", message.reason)
        else:
            super().take(message)

    def result(self) -> Cell:
        """The cell of a process that is over: one that died or hung is caught at its stage, unless it never came to run
        the kernel.
        """
        self.cell.elapsed_s = round(self.ended_at - self.child.started, 2)
        if self.code and self.cell.status == "ran":
            gate = "hang" if self.code == "KP-PROBE-HANG" else "crash"
            if self.stage in ("start", "compile"):
                self.cell.ended("invalid", f"{gate} before the kernel ran: {self.reason}")
            else:
                self.cell.gates.append(GateResult(gate, "caught", self.reason, self.stage))
        return self.cell


def execute(
    plans: Sequence[Plan], jobs: int = 0, timeout: float = TIMEOUT, on_cell: Callable[[Cell], None] | None = None
) -> list[Cell]:
    """Run every plan, ``jobs`` at a time (as many as processors without it), in the order given.

    The controls of each backend come first: their bits tell which mutants the probe's model reached at all.
    """
    jobs = jobs or processors()
    waiting, running, cells = list(plans), list[Running](), list[Cell]()
    with Family() as family, ExitStack() as stack:
        subjects: dict[str, tuple[Path | None, Sealed]] = {}
        for name in dict.fromkeys(plan.subject.model for plan in plans):
            path = library.path_of(name, family.folder)
            subjects[name] = path, stack.enter_context(closing(write_reference(path, family.folder)))
        if any(plan.dialect == "native" for plan in plans) and native.missing() is None:
            native.prepare()
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(Running(waiting.pop(0), family, subjects, timeout))
                turn(running)
                for each in [each for each in running if each.over]:
                    running.remove(each)
                    cells.append(each.result())
                    if on_cell:
                        on_cell(cells[-1])
        finally:
            for each in running:
                each.end()
    return cells
