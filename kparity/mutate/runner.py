"""Runs cells in child processes, several side by side, and turns whatever happens to them into results."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kparity import fingerprint, ops, registry
from kparity.errors import Unavailable, WrongInput
from kparity.mutate import library, native
from kparity.mutate.cell import CONTROL, ENGINE, Cell, GateResult, Witness
from kparity.mutate.library import Subject
from kparity.probe.runner import DEFAULT_POSITIONS, POLL_SECONDS, Child, environment

CHILD = "import sys; sys.path = [p for p in sys.path if p]; from kparity.mutate.child import main; sys.exit(main())"
TIMEOUT = 60.0
"""Seconds without any event after which a cell hangs; one gate or one case takes far less."""
JUDGES = ("probe", "check", "contracts", "mutate")
"""Folders of the package that decide what becomes of a cell."""
MACHINERY = ("engine.py", "graph.py", "fused.py", "adapter.py", "assemble.py", "compare.py", "spec.py")


@dataclass(frozen=True)
class Plan:
    """One cell that is to be run: the subject, the backend, and the graph by which the probe can reach it."""

    subject: Subject
    backend: str
    dialect: str
    graph: str
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
        if path.parent.name in JUDGES or path.name in MACHINERY or path.name == "_support.py":
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def digest_of(subject: Subject, backend: str, patched: Mapping[str, str]) -> str:
    """Of the patched sources, the op's own files, the adapter and the rules."""
    digest = hashlib.sha256(_rules().encode())
    for path, text in sorted(patched.items()):
        digest.update(f"{path}\0{text}".encode())
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
            plan = Plan(subject, backend, dialect, graph_of(subject), digest_of(subject, backend, patched))
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
    """The process of a cell; every event gives it the whole time limit again."""

    def poll(self) -> bool:
        """As the probe's, with the clock of the last event."""
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
        "graph": plan.graph, "reference": str(folder / f"{plan.backend}.npz"), "events": str(events), **extra,
    }  # fmt: skip
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE, stdout=sink, stderr=sink, start_new_session=True, env=environment(),
        )  # fmt: skip
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(document).encode())
        process.stdin.close()
    except BrokenPipeError:  # the child died at once; its exit code tells
        pass
    return Running(plan.backend, process, events, log, time.monotonic(), timeout)


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


def mark_reach(cells: Sequence[Cell]) -> None:
    """Compare the bits of every cell with those of its control."""
    controls = {(cell.backend, cell.mutant): cell.bits for cell in cells if cell.op == CONTROL}
    for cell in cells:
        known = controls.get((cell.backend, cell.graph))
        cell.reached = cell.bits != known if cell.bits and known else (True if cell.gates and not cell.bits else None)


def verify_witnesses(cells: Sequence[Cell], timeout: float = TIMEOUT) -> list[str]:
    """Run the unmutated kernels on the inputs by which ``check`` rejected mutants; returns what fails (a false alarm)."""
    found: list[str] = []
    with tempfile.TemporaryDirectory(prefix="kparity-mutate-") as name:
        for backend in dict.fromkeys(cell.backend for cell in cells if cell.witness):
            wanted = [cell.witness for cell in cells if cell.backend == backend and cell.witness]
            unique = {json.dumps(vars(witness), sort_keys=True): vars(witness) for witness in wanted}
            dialect = registry.backend_class(backend).dialect
            plan = Plan(library.CONTROLS[0], backend, dialect, "", "")
            child = start(plan, Path(name), timeout, witnesses=list(unique.values()))
            while not child.poll():
                time.sleep(POLL_SECONDS)
            answers = [event for event in child.events if event["event"] == "witness"]
            found += [f"{backend}: {event['reason']}" for event in answers if not event["ok"]]
            if len(answers) < len(unique):
                found.append(f"{backend}: only {len(answers)} of {len(unique)} inputs could be checked unmutated")
    return found


class Store:
    """The JSONL file of a run, appended to as cells end, so that a run that was interrupted goes on."""

    def __init__(self, path: Path | None, resume: bool = False) -> None:
        self.path = path
        self._known: dict[str, Cell] = {}
        if path is None:
            return
        if resume:
            self._known = {cell.key: cell for cell in self._read(path)}
        else:
            path.write_text("", encoding="utf-8")

    @staticmethod
    def _read(path: Path) -> list[Cell]:
        found = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                found.append(Cell.from_dict(json.loads(line)))
            except (ValueError, KeyError, TypeError) as problem:
                raise WrongInput(f"{path}:{number}: no cell of a mutation run ({problem})") from problem
        return found

    def known(self, plan: Plan) -> Cell | None:
        """A stored cell of the same sources, or None."""
        cell = self._known.get(plan.blank.key)
        return cell if cell is not None and cell.digest == plan.digest else None

    def add(self, cell: Cell) -> None:
        """Append one cell."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(cell.as_dict(), ensure_ascii=False) + "\n")


def proven(node: str) -> str | None:
    """Run the pytest node that proves an equivalence; None if it passes, else why it does not."""
    root = library_root()
    if root is None:
        return "proofs of equivalence are tests, and this is no checkout"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", node], cwd=root, capture_output=True, text=True
    )
    if done.returncode == 0 and "skipped" not in done.stdout.splitlines()[-1]:
        return None
    return f"{node} does not pass: {(done.stdout or done.stderr).strip().splitlines()[-1]}"


def library_root() -> Path | None:
    """The checkout, where the tests are."""
    from kparity.mutate.patch import checkout

    root = checkout()
    return root if root is not None and (root / "tests").is_dir() else None


def excuse(cells: Sequence[Cell], subjects: Sequence[Subject], prove: Callable[[str], str | None] = proven) -> None:
    """Survivors that are declared equivalent in their dialect: excused only if the proof passes."""
    by_label = {subject.label: subject for subject in subjects}
    proofs: dict[str, str | None] = {}
    for cell in cells:
        subject = by_label.get(f"{cell.op}/{cell.mutant}")
        if subject is None or subject.mutant is None or cell.status != "ran" or cell.caught_by():
            continue
        node = subject.mutant.equivalent.get(registry.backend_class(cell.backend).dialect)
        if node is None:
            continue
        if node not in proofs:
            proofs[node] = prove(node)
        if proofs[node] is None:
            _ended(cell, "equivalent", f"proven by {node}")
        else:
            cell.reason = proofs[node] or ""
