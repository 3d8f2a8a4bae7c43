"""What a child may say, and what every parent of this package makes of it: the one of a candidate of the probe, of a
sweep of check, of a benchmark, and of a mutant.
"""

from __future__ import annotations

import fcntl
import io
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout, suppress
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec

from kparity.backends.numpy import NumpyBackend
from kparity.check import core, document
from kparity.check import worker as check_worker
from kparity.check.runner import Sweep
from kparity.check.select import Selected
from kparity.cli.check_table import print_result
from kparity.cli.probe_table import print_probe
from kparity.gates.challenge import Sampled
from kparity.gates.table import GATES
from kparity.gates.verdict import Row
from kparity.host.text import printable
from kparity.mutate import cell as mutant
from kparity.mutate import runner as mutate_runner
from kparity.mutate.library import CONTROLS
from kparity.ops import get
from kparity.probe import document as probe_document
from kparity.probe import messages, runner
from kparity.probe.dispatcher import Outcome
from kparity.process import Child, Done, Failed, Stage, Tick, parent
from kparity.process import worker as worker_process
from tests.made_receipts import GOOD

PIPE_BYTES = 1 << 20
"""What a pipe holds here: all that a child says, at once."""
NO_PROCESS = 1 << 30
"""Beyond every id of a process."""
NO_HOST = SimpleNamespace(host=lambda: "0" * 64, kernels=lambda: "0" * 64)
"""To look at drivers again takes longer than all the rest."""
ADD = get("add")
CASE = ADD.case(M=2, D=3)


class Ended:
    """In place of a process: one that has said ``data`` and ended well."""

    pid, returncode = NO_PROCESS, 0

    def __init__(self, data: bytes, _arguments: list[str], *, pass_fds: tuple[int, ...], **_options: Any) -> None:
        self.stdin = io.BytesIO()
        fcntl.fcntl(pass_fds[0], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.write(pass_fds[0], data[:PIPE_BYTES])

    def poll(self) -> int:
        return self.returncode

    def wait(self, _seconds: float = 0.0) -> int:
        return self.returncode


@cache
def alone() -> Any:
    """In place of a family: a folder, and nothing to be ended."""
    folder = Path(tempfile.mkdtemp(prefix="kparity-fuzz-"))
    return SimpleNamespace(folder=folder, environment=lambda defaults: defaults, close=lambda: None)


def heard(data: bytes) -> Row:
    """What every parent makes of a child that says ``data`` and ends; the row of the probe."""
    instead = SimpleNamespace(**{**vars(subprocess), "Popen": partial(Ended, data)})
    with mock.patch.object(parent, "subprocess", instead):
        row = candidate()
        for other in (sweep, benchmark, mutation):
            other()
    for log in alone().folder.iterdir():
        log.unlink()
    return row


def candidate() -> Row:
    """Of a probe, down to its JSON."""
    attempt = runner.Attempt(alone(), "numpy", messages.Request(), None)
    while not attempt.over:
        attempt.hear()
        attempt.look()
    row = attempt.row()
    written(row)
    return row


@contextmanager
def shown() -> Iterator[None]:
    """What is printed here is all printable: nothing that moves a cursor, turns a direction or ends a line of ours."""
    with redirect_stdout(io.StringIO()) as out:
        yield
    assert all(printable(line) == line for line in out.getvalue().split("\n"))


def written(row: Row) -> bytes:
    """The JSON of a probe with this row, which is printed too."""
    with shown():
        print_probe(Outcome([row], row.backend if row.accepted else ""), True, True)
    return msgspec.json.encode(msgspec.structs.replace(_probe_document(), rows=[row]))


@cache
def _probe_document() -> probe_document.Document:
    refused = Row("numpy", "rejected", "KP-X", "for the form alone")
    return probe_document.document([refused], "", messages.Request(), ["numpy"], 3)


def sweep() -> None:
    """Of a sweep of one case, down to its documents."""
    asked = document.Request(
        backends=["numpy"], ops=[], kinds=[], expression=None, quick=True, max_seconds=None, replay=None
    )
    child: Child[Any] = Child(alone(), "kparity.check.worker", check_worker.Said)
    with closing(child):
        result = document.Result(
            asked, 0, list(Sweep(["numpy"], [Selected(CASE, tuple(ADD.kinds(CASE)))])._listen(child))
        )
    with mock.patch.multiple(document, commit=lambda _folder: None, fingerprint=NO_HOST):
        document.as_json(result)
    with shown():
        print_result(result)
    document.as_junit(result)
    document.as_csv(result)


def benchmark() -> None:
    """Of what is measured: each call has an answer, or fails as one."""
    with mock.patch.object(worker_process, "Family", alone), suppress(worker_process.WorkerFailed):
        worker = worker_process.Worker("numpy", "module:Class", {})
        try:
            worker.opened(0.0)
            worker.call("step", 0.0)
        finally:
            worker.close()


def mutation() -> None:
    """Of a mutant, down to its line in the store."""
    plan = mutate_runner.Plan(CONTROLS[0], "numpy", "numpy", "fused", {}, "0" * 16)
    running = mutate_runner.Running(plan, alone(), {}, 60.0)
    while not running.over:
        running.hear()
        running.look()
    msgspec.json.encode(running.result())


def _lines(*said: Any) -> bytes:
    return b"".join(msgspec.json.encode(each) + b"\n" for each in said)


def conversations() -> Iterator[bytes]:
    """What children say that are right, and one that fails; the first is a candidate that is accepted."""
    gates = [
        messages.Measured(spec.name, {name: GOOD[name] for name in spec.thresholds}, elapsed_ms=2.0)
        for spec in GATES if spec.thresholds
    ]  # fmt: skip
    opening = (
        Stage("open", 1.5),
        messages.Loaded({"/a": "1"}),
        messages.Opened(NumpyBackend().info),
        Stage("BOS", 2.5),
        Tick("1 of 72"),
    )
    sampled = Sampled(position=1, token=2, argmax=3, sha256="0" * 64, entries=[0, 3], values=[0.5, 1.5])
    yield _lines(*opening, *gates, messages.Proof({"add_numpy_generic": 7}, 0.5, [sampled]), Done())
    yield _lines(*opening, Failed("rejected", "KP-BOS-COSINE", "why"))
    records = [check_worker.Checked(0, each.as_dict()) for each in core.check_case(NumpyBackend(), ADD, CASE)]
    yield _lines(check_worker.Begun(0), *records, check_worker.Ended(0), Done())
    yield _lines(worker_process.Reply(None), worker_process.Reply({"seconds": [0.1, 0.2], "tokens": [1, 2]}))
    result, witness = mutant.GateResult("BOS", "caught", "why"), mutant.Witness("add", {"M": 2, "D": 3}, "random")
    yield _lines(
        Stage("probe", 1.0), mutant.GateSaid(result, witness), mutant.Bits("0" * 64), mutant.Invalid("x"), Done()
    )
