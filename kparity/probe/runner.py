"""Probes backends in child processes, side by side, and turns whatever happens to them into rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kparity import processes
from kparity.contracts.known import Issue
from kparity.probe.verdict import Gate, Measure, Row, concluded

POLL_SECONDS = 0.005
DEFAULT_POSITIONS = 72
"""Beyond the 64 keys of one attention tile, so that its boundary is probed too."""


@dataclass(frozen=True)
class Request:
    """What to probe, and how deep."""

    model: str | None = None
    depth: str = "full"
    positions: int = DEFAULT_POSITIONS
    timeout: float = 0.0
    require_gpu: bool = False
    act: str = "token"
    kv: str = "f16"
    index: int = 0
    issues: tuple[Issue, ...] = ()
    """Known issues that refuse on this host."""


def default_timeout(model: str | None) -> float:
    """Seconds per probe: a minute, and more for a large model on a slow device (20 minutes for 3 GB)."""
    size = 0 if model is None else Path(model).stat().st_size
    return 60.0 + size / 2.5e6


@dataclass
class Child:
    """One running probe."""

    backend: str
    process: subprocess.Popen[bytes]
    events_path: Path
    log_path: Path
    started: float
    timeout: float
    events: list[dict[str, Any]] = field(default_factory=list)
    waited: float = 0.0
    ended: float | None = None
    timed_out: bool = False
    _offset: int = 0
    _waiting_since: float | None = None

    def poll(self) -> bool:
        """Read new events; end the process past its time; True once it is over."""
        self._read()
        now = time.monotonic()
        if self.process.poll() is not None:
            self._read()
            self.ended = self.ended or now
            return True
        self._account_waiting(now)
        if now - self.started - self.waited > self.timeout:
            self.timed_out = True
            self.kill()
            self.ended = now
            return True
        return False

    def kill(self) -> None:
        """End the process and everything that it started."""
        processes.kill(self.process)

    def stage(self) -> str:
        """The last stage that the child announced."""
        return next((event["stage"] for event in reversed(self.events) if event["event"] == "stage"), "start")

    def find(self, name: str) -> dict[str, Any] | None:
        """The last event of a kind."""
        return next((event for event in reversed(self.events) if event["event"] == name), None)

    def last_log_line(self) -> str:
        """The last line that the child or its libraries wrote."""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")[:200]

    def _read(self) -> None:
        if not self.events_path.exists():
            return
        with self.events_path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self._offset += whole
        self.events += [json.loads(line) for line in text[:whole].splitlines()]

    def _account_waiting(self, now: float) -> None:
        """Time spent waiting for another probe of the same card does not count."""
        if self.stage() == "wait":
            self._waiting_since = self._waiting_since or now
            return
        if self._waiting_since is not None:
            self.waited += now - self._waiting_since
            self._waiting_since = None


def start(backend: str, request: Request, folder: Path) -> Child:
    """Start the child process of one backend."""
    events, log = folder / f"{backend}.events", folder / f"{backend}.log"
    timeout = request.timeout or default_timeout(request.model)
    document = {
        "backend": backend, "index": request.index, "model": request.model, "depth": request.depth,
        "positions": request.positions, "require_gpu": request.require_gpu, "act": request.act, "kv": request.kv,
        "folder": str(folder), "events": str(events), "debug": bool(os.environ.get("KPARITY_DEBUG")),
        "issues": [issue.as_dict() for issue in request.issues if issue.backend == backend],
    }  # fmt: skip
    with log.open("wb") as sink:
        process = processes.start("kparity.probe.child", sink, environment())
    processes.send(process.stdin, json.dumps(document).encode())
    return Child(backend, process, events, log, time.monotonic(), timeout)


def environment() -> dict[str, str]:
    """The child's environment: one BLAS thread, because several probes that spin for the same cores slow each other
    down.
    """
    return {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **os.environ, "KPARITY_PROBE_CHILD": "1"}


def row_of(child: Child, request: Request) -> Row:
    """The row of a probe that is over."""
    device, reference, proof = child.find("device"), child.find("reference"), child.find("proof")
    gates = [
        Gate(**{**event["gate"], "measures": [Measure(**measure) for measure in event["gate"]["measures"]]})
        for event in child.events
        if event["event"] == "gate"
    ]
    row = Row(
        backend=child.backend,
        status="rejected",
        device=device["info"] if device else None,
        label=device["label"] if device else "",
        reference=reference["name"] if reference else "",
        gates=gates,
        timings_ms=_timings(child.events),
        dispatches=proof["dispatches"] if proof else {},
        device_step_ms=proof["device_step_ms"] if proof else None,
        depth=request.depth,
        positions=reference["positions"] if reference else 0,
        elapsed_ms=((child.ended or time.monotonic()) - child.started) * 1e3,
    )
    _judge(row, child)
    return row


def _judge(row: Row, child: Child) -> None:
    error = child.find("error")
    failed = next((gate for gate in row.gates if gate.verdict == "FAIL"), None)
    if failed is not None:
        row.code, row.reason = failed.code, failed.reason
    elif child.timed_out:
        row.code = "KP-PROBE-HANG"
        row.reason = f"no answer within {child.timeout:g} s, ended at stage {child.stage()}"
    elif error is not None:
        row.status, row.code, row.reason = error["status"], error["code"], error["reason"]
    elif child.find("done") is None or child.process.returncode != 0:
        row.code, row.reason = death(child)
    elif row.depth == "open" or concluded(row.gates):
        row.status = "accepted"
    else:
        row.code, row.reason = "KP-PROBE-ERROR", "no gate that computes was run"


def death(child: Child) -> tuple[str, str]:
    """Code and reason of a process that ended without a verdict."""
    code = child.process.returncode
    said = child.last_log_line()
    quoted = f": {said}" if said else ""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL:
            return (
                "KP-PROBE-OOM",
                f"killed by the system ({name}) at stage {child.stage()}, out of memory most likely{quoted}",
            )
        return "KP-PROBE-CRASH", f"crashed with {name} at stage {child.stage()}{quoted}"
    return "KP-PROBE-EXIT", f"exited with {code} at stage {child.stage()} without a verdict{quoted}"


def _timings(events: list[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds per stage, from the child's own clock."""
    marks = [(event["stage"], event["at_ms"]) for event in events if event["event"] == "stage"]
    ends = [at for _, at in marks[1:]] + ([events[-1]["at_ms"]] if events else [])
    found: dict[str, float] = {}
    for (stage, at), end in zip(marks, ends, strict=True):
        found[stage] = found.get(stage, 0.0) + end - at
    return found


@contextmanager
def probing(backends: Sequence[str], request: Request) -> Iterator[Iterator[tuple[Row, Path]]]:
    """Start every probe; iterate over rows in the order of ``backends``; leaving the block ends whatever still runs.

    Beside each row stands the path of the reference's BOS logits (an .npy file that lives as long as the block).
    """
    with tempfile.TemporaryDirectory(prefix="kparity-") as name:
        folder = Path(name)
        children = [start(backend, request, folder) for backend in backends]
        try:
            yield _rows(children, request, folder)
        finally:
            for child in children:
                if child.process.poll() is None:
                    child.kill()


def _rows(children: list[Child], request: Request, folder: Path) -> Iterator[tuple[Row, Path]]:
    over: set[int] = set()
    for index, child in enumerate(children):
        while index not in over:
            over |= {at for at, other in enumerate(children) if at not in over and other.poll()}
            if index not in over:
                time.sleep(POLL_SECONDS)
        yield row_of(child, request), folder / f"{child.backend}.bos.npy"
