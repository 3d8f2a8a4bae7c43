"""Probes backends in child processes, side by side, and turns whatever happens to them into rows."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import asdict, replace

from kparity import contracts
from kparity.device.adapter import DeviceInfo
from kparity.device.usage import Counters, Evidence
from kparity.errors import BadModel
from kparity.gates import device
from kparity.gates.judge import judged, lacking, left_open, trusted
from kparity.gates.open import gate_open
from kparity.gates.reference import Reference
from kparity.gates.table import of_depth
from kparity.gates.vacuous import doubts
from kparity.gates.verdict import Gate, GpuProof, Row
from kparity.host.text import printable
from kparity.model import Model, load_model, soundness
from kparity.probe.messages import Judge, Loaded, Measured, Opened, Proof, Request, Said, Seen, Work
from kparity.probe.repeat import Kept
from kparity.probe.sealed import Sealed
from kparity.process import Child, Done, Failed, Family, Garbled, Stage, Tick, wait
from kparity.process.parent import EXIT_SECONDS, signal_name

LOOK_SECONDS = 0.1
"""How often deadlines are looked at, and progress is told, while nothing is heard."""
ENDING_SECONDS = 0.002
"""The same while a process that has said everything ends."""
COMPILE_SILENCE = 600.0
"""Seconds without a word while kernels are compiled: one kernel may take minutes on a slow or busy machine."""
STEPS = "walk"
"""The stage whose time on processors and on engines is compared: it runs steps, and nothing else."""
WAIT, REFERENCE = "wait", "reference"
"""Stages in which a candidate waits for others, who have limits of their own: for its card, and for the reference."""

BAD_MODEL = "KP-MODEL"

Watch = Callable[[Sequence[tuple[str, str, str]]], None]


class Found(NamedTuple):
    """A row, what is kept of the reference where the probe came that far, and what the backend's process had loaded."""

    row: Row
    kept: Kept | None
    loaded: Mapping[str, str]


def silence(stage: str, model: str | None) -> float:
    """Seconds that a process may say nothing in a stage: it tells each token, which a large model may take long for."""
    size = 0 if model is None else Path(model).stat().st_size
    return COMPILE_SILENCE if stage == "compile" else 60.0 + size / 2.5e7


def environment() -> dict[str, str]:
    """The children's variables: one BLAS thread, because probes that spin for the same cores slow each other down."""
    return {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "KPARITY_PROBE_CHILD": "1"}


def started(family: Family, request: Request, descriptor: int, backend: str = "") -> Child[Said]:
    """The process of a backend or, without one, of the reference; ``descriptor`` is the reference's file."""
    files = () if descriptor < 0 else (descriptor,)
    child: Child[Said] = Child(family, "kparity.probe.child", Said, environment=environment(), pass_fds=files)
    debug = bool(os.environ.get("KPARITY_DEBUG"))
    child.send(Work(request, str(family.folder), descriptor, debug, backend))
    return child


class Process:
    """One process of a probe: its stage, and how long it has been silent."""

    def __init__(self, name: str, request: Request, child: Child[Any]) -> None:
        self.name, self.request, self.child = name, request, child
        self.stage, self.note = "start", ""
        self.over = False
        self.code, self.reason, self.status = "", "", "rejected"
        """Why it may not serve, as far as its process tells."""
        self.marks: list[tuple[str, float]] = []
        self.ended_at = 0.0
        self.waited, self._since, self._done = 0.0, time.monotonic(), False
        self.alone = False
        """Whether no other process of the probe works."""

    def hear(self) -> None:
        """Take in what it has said."""
        try:
            self.child.read()
            while self.child.pending() and not self.over:
                message = self.child.receive(0)
                assert message is not None
                self.take(message)
        except Garbled as problem:
            self.end("KP-PROBE-MESSAGE", f"its process said what is no message at stage {self.stage}: {problem}")

    def take(self, message: Any) -> None:
        """One message."""
        if isinstance(message, Stage):
            self._enter(message)
        elif isinstance(message, Tick):
            self.note = printable(message.note)
        elif isinstance(message, Failed):
            self.status = message.status
            self.end(message.code or "KP-PROBE-ERROR", printable(message.reason) or "its process gave no reason")
        elif isinstance(message, Done):
            self._done = True
        else:
            raise Garbled(f"{type(message).__name__}, which is not its to say")

    def _enter(self, message: Stage) -> None:
        now = time.monotonic()
        if self.stage in (WAIT, REFERENCE):
            self.waited += now - self._since
        self.stage, self.note, self._since = printable(message.stage), "", now
        self.marks.append((self.stage, message.at_ms))

    def patience(self) -> float:
        """Seconds that it may say nothing at its stage."""
        return silence(self.stage, self.request.model)

    def waits(self) -> bool:
        """Whether it waits for another process of the probe."""
        return self.stage == WAIT and not self.alone

    def look(self) -> None:
        """End it where it has been silent, or at work, for too long; see whether it has ended by itself."""
        now, request = time.monotonic(), self.request
        if self.over:
            return
        if self.child.over:
            if self.child.process.poll() is not None:
                self._ended_by_itself()
            elif now - self.child.heard > EXIT_SECONDS:
                self.end("KP-PROBE-HANG", f"its process has not ended {EXIT_SECONDS:g} s after its last word")
            return
        if self.waits():
            return
        limit = self.patience()
        if request.timeout and now - self.child.started - self.waited > request.timeout:
            self.end("KP-PROBE-HANG", f"no answer within {request.timeout:g} s, ended at stage {self.stage}")
        elif now - max(self.child.heard, self._since) > limit:
            self.end("KP-PROBE-HANG", f"silent for {limit:.0f} s at stage {self.stage}")

    def _ended_by_itself(self) -> None:
        code = self.child.process.returncode
        if self._done and code == 0:
            self.settle()
            return
        at, words = f"at stage {self.stage}", self.child.quoted()
        if code >= 0:
            self.end("KP-PROBE-EXIT", f"exited with {code} {at} without a verdict{words}")
        elif -code == signal.SIGKILL:
            self.end("KP-PROBE-OOM", f"killed by the system (SIGKILL) {at}, out of memory most likely{words}")
        else:
            self.end("KP-PROBE-CRASH", f"crashed with {signal_name(code)} {at}{words}")

    def end(self, code: str = "", reason: str = "") -> None:
        """It is over: for a reason, or because all is said."""
        if not self.over:
            self.over, self.ended_at = True, time.monotonic()
            self.code, self.reason = self.code or code, self.reason or reason
            self.child.close()

    def settle(self) -> None:
        """Everything was said and the process has ended well."""
        self.end()


class Truth(Process):
    """The process of the reference, and the file that it leaves."""

    def __init__(self, family: Family, request: Request, model: Model) -> None:
        self.file, self.model = Sealed(family.folder), model
        self.reference: Reference | None = None
        self.kept: Kept | None = None
        super().__init__("reference", request, started(family, request, self.file.writer))

    def settle(self) -> None:
        self.file.seal()
        self.reference = Reference.read(self.file.reader)
        self.kept = Kept.of(self.reference)
        self.end()

    @cached_property
    def doubts(self) -> list[str]:
        """Why gates that compare with it could not have failed."""
        return doubts(self.reference, contracts.load(contracts.PROBE)) if self.reference else []

    def refuse_model(self) -> None:
        """Raise BadModel where the model is to blame, not who runs it: only this process is believed that."""
        self.model.file.unchanged()
        if self.code == BAD_MODEL:
            raise BadModel(self.reason)

    def close(self) -> None:
        """End the process, and let the file go."""
        self.end()
        self.file.close()


class Attempt(Process):
    """The process of a backend, what it has shown so far, and its row."""

    def __init__(
        self, family: Family, backend: str, request: Request, truth: Truth | None, counters: Counters | None = None
    ) -> None:
        self.counters = counters or Counters()  # before its process is started
        descriptor = -1 if truth is None else truth.file.reader
        super().__init__(backend, request, started(family, request, descriptor, backend))
        self.truth, self._has_truth = truth, False
        self.info: DeviceInfo | None = None
        self.proof: Proof | None = None
        self.loaded: dict[str, str] = {}
        self.found: Evidence | None = None
        self.walk: list[Evidence] = []
        """Before and after a gate that does nothing but steps."""
        self.gpu_proof: GpuProof = ""
        self.evidence: list[str] = []
        self.gates: list[Gate] = []
        self.contract = contracts.load(contracts.PROBE)

    def waits(self) -> bool:
        return super().waits() or (self.stage == REFERENCE and not self._has_truth)

    def look(self) -> None:
        """As of any process; the reference is handed over as soon as it is there."""
        if self.truth is not None and self.truth.over and not self._has_truth and not self.over:
            self._has_truth = True
            if self.truth.reference is None:
                self.end("KP-PROBE-REFERENCE", f"no reference to compare with: {self.truth.reason}")
            else:
                self.child.send(Judge())
                self.child.heard = time.monotonic()  # from here on it works again
        super().look()

    def take(self, message: Any) -> None:
        if isinstance(message, Opened):
            self._opened(message)
        elif isinstance(message, Measured):
            self._measured(message)
        elif isinstance(message, Loaded):
            self.loaded = message.files
        elif isinstance(message, Proof):
            self.proof = message
            self._prove(message)
            if not self.over:
                self.child.send(Seen())
        else:
            super().take(message)
            claims = isinstance(message, Stage) and self.info is not None and self.info.kind == "gpu"
            if claims and (self.stage == STEPS) == (not self.walk) and len(self.walk) < 2:
                self.walk.append(self.counters.of(self.child.process.pid))

    def _opened(self, message: Opened) -> None:
        if self.info is not None:
            raise Garbled("a device for the second time")
        shown = {name: printable(text) for name, text in asdict(message.info).items() if isinstance(text, str)}
        self.info = replace(message.info, **shown)
        self._note(gate_open(self.info, self.request.require_gpu, self.request.issues))

    def _measured(self, message: Measured) -> None:
        """Only the next gate of the depth may be told, with its own measures and no other one."""
        following = [*of_depth(self.request.depth)][len(self.gates) :]
        if not following or following[0].name != message.gate or self.info is None:
            due = following[0].name if following else "none"
            raise Garbled(f"gate {printable(message.gate)}, where {due} was due")
        if set(message.values) - set(following[0].thresholds):
            raise Garbled(f"measures of gate {message.gate} that the contract does not know")
        reason = printable(message.reason)
        gate = judged(following[0], self.contract, message.values, message.code, reason, message.elapsed_ms)
        self._note(trusted(gate, following[0], self.truth.doubts if self.truth else []))

    def _prove(self, proof: Proof) -> None:
        """Hold its claim of a GPU against what the driver counts of its process, while that has the device open."""
        if self.info is None or self.info.kind != "gpu" or self.truth is None:
            return
        self.found = self.counters.of(self.child.process.pid)
        self._hold(self.found, required=False)

    def _hold(self, found: Evidence, required: bool) -> None:
        """Judge the claim by what was found."""
        assert self.info is not None and self.truth is not None and self.proof is not None
        count = len(self.truth.reference.tokens) if self.truth.reference else 1
        self.gpu_proof, self.evidence, gate = device.judged(
            self.info, found, self.truth.model.n_bytes, self.proof.device_step_ms * 1e6 * count, self.contract,
            required, (self.walk[0], self.walk[1]) if len(self.walk) > 1 else None,
        )  # fmt: skip
        if gate:
            self._note(gate)

    def _note(self, gate: Gate) -> None:
        self.gates.append(gate)
        if gate.verdict == "FAIL":
            self.end(gate.code, gate.reason)

    def settle(self) -> None:
        if self.found and self.gpu_proof == "not verified":  # its process has ended: what a card had for it is free
            required = self.request.require_gpu and not self.request.trust_claims
            self._hold(self.counters.after(self.found), required)
        if self.over:
            return
        missing = lacking(self.gates, self.request.depth)
        vacuous = [gate for gate in self.gates if gate.verdict == "MISTRUSTED"]
        if vacuous and len(vacuous) == len(missing):
            self.status = "mistrusted"
            self.end(vacuous[0].code, f"gate{'s' * (len(missing) > 1)} {', '.join(missing)}: {vacuous[0].reason}")
        elif missing:
            self.end("KP-PROBE-GATES", f"its process ended without the gates {', '.join(missing)}")
        elif self.request.depth != "open" and not (self.proof and self.proof.dispatches):
            self.end("KP-PROBE-GATES", "its process ended without a count of its launches")
        else:
            self.status = "accepted"
            self.end()

    def row(self) -> Row:
        """The row of a probe that is over."""
        info, proof = self.info, self.proof
        compared = self.truth.reference if self.truth and len(self.gates) > 1 else None
        unrun = left_open("bos") if self.status == "accepted" and self.request.depth == "bos" else []
        proved = compared.proved if compared and self.status == "accepted" else None
        timings: dict[str, float] = {}  # by stage, on the child's own clock; the last stage is the process's end
        for (stage, at), (_, end) in pairwise(self.marks):
            timings[stage] = timings.get(stage, 0.0) + end - at
        return Row(
            self.name, self.status, self.code, self.reason,  # type: ignore[arg-type]
            device=info.as_dict() if info else None, label=info.label if info else "",
            reference=compared.name if compared else "", positions=len(compared.tokens) if compared else 0,
            proved=proved,
            gates=[*self.gates, *unrun], depth=self.request.depth, timings_ms=timings,
            dispatches=proof.dispatches if proof else {}, device_step_ms=proof.device_step_ms if proof else None,
            logits=proof.logits if proof else [], gpu_proof=self.gpu_proof, evidence=self.evidence,
            elapsed_ms=(self.ended_at - self.child.started) * 1e3,
        )  # fmt: skip


@contextmanager
def probing(backends: Sequence[str], request: Request, watch: Watch = lambda stages: None) -> Iterator[Iterator[Found]]:
    """Start every probe; iterate over rows in the order of ``backends``; leaving the block ends whatever still runs.

    ``watch`` is called again and again with name, stage and note of what works. Raises BadModel for a model that no
    backend can be judged on, and where its file changes meanwhile.
    """
    if not backends:
        yield iter(())
        return
    with Family() as family, ExitStack() as stack:
        truth = None
        if request.depth != "open":
            model = stack.enter_context(closing(load_model(request.model)))
            truth = stack.enter_context(closing(Truth(family, request, model)))
        candidates, counters = [], Counters()
        for backend in backends:
            candidates.append(Attempt(family, backend, request, truth, counters))
            stack.callback(candidates[-1].end)
        if truth:
            soundness.refuse(model)  # reads the whole file, while the others begin
        yield _rows(candidates, truth, watch)


def _rows(candidates: Sequence[Attempt], truth: Truth | None, watch: Watch) -> Iterator[Found]:
    everyone: list[Process] = [*([truth] if truth else []), *candidates]
    for candidate in candidates:
        while not candidate.over or (truth and not truth.over and candidate.code == BAD_MODEL):
            turn([each for each in everyone if not each.over])
            watch([(each.name, each.stage, each.note) for each in everyone if not each.over])
        if truth:
            truth.refuse_model()
        yield Found(candidate.row(), truth.kept if truth else None, candidate.loaded)


def turn(working: Sequence[Process]) -> None:
    """Hear whoever has something to say, then look at everybody's time."""
    talking = [each for each in working if not each.child.over]
    ready = wait([each.child for each in talking], LOOK_SECONDS if len(talking) == len(working) else ENDING_SECONDS)
    for each in talking:
        if each.child in ready:
            each.hear()
    for each in working:
        each.alone = len(working) == 1
        each.look()
