"""Whether the probe ever rejects a right backend: every gate, on every right backend, over many windows of tokens.

    python -m tools.false_alarms --resume .cache/false_alarms.jsonl --seconds 600
    python -m tools.false_alarms --resume .cache/false_alarms.jsonl --json bench/receipts/false_alarms.json \\
        --markdown docs/false_alarms.md

A probe is one backend (an instruction set and a number of threads, a runtime and a wavefront), one model, one
activation quantisation, one type of cache and one window of tokens; it runs in this process, with engines that stay
open. What was done is appended to the file of ``--resume`` at once and not done again, so that a run can be cut in
pieces. Intel's OpenCL runtime has a process of its own, because the loader reads its list of runtimes once.

Exit code 0: no right backend was rejected; 1: one was; 3: nothing ran.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from kparity import contracts
from kparity.device import fingerprint
from kparity.device.adapter import Backend
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.errors import DeviceFault, KparityError, Unavailable, WrongInput
from kparity.gates.candidate import Candidate
from kparity.gates.candidate import run as run_gates
from kparity.gates.reference import Reference, compute, first_token
from kparity.gates.table import GATES
from kparity.model import Model, load_model
from kparity.model.writer import TINY, write
from kparity.probe.runner import DEFAULT_POSITIONS
from tools.false_alarms_report import as_markdown, summary

ROOT = Path(__file__).resolve().parent.parent
INTEL = Path(sys.prefix) / "lib" / "libintelocl.so"
DRIVERS = {"pocl": "Portable Computing Language", "intel": "Intel"}
"""OpenCL runtimes, and how their drivers' names begin."""
SLOW = {"numpy": 4, "torch": 4, "wgpu": 2}
"""Backends that take every 4th or every 2nd pair of windows (text, random ids) only."""
OPTIONS = tuple((act, kv) for act in ("token", "block256") for kv in ("f16", "f32"))
RANDOM = {
    "random silu tq2_0": dataclasses.replace(TINY, arch="bitnet", seed=11),
    "random relu2 i2_s": dataclasses.replace(TINY, type="i2_s", layers=3, heads=8, kv_heads=2, seed=12),
    "random block scales": dataclasses.replace(TINY, type="tq1_0", block_scales=True, untied=True, seed=13),
}
"""Models of random weights beside the embedded one."""
Opener = Callable[[], Backend]


@dataclass(frozen=True)
class Setting:
    """A model and the options of its engine."""

    model: str
    act: str
    kv: str


def right_backends() -> dict[str, Opener]:
    """Name → how to open it; those that are not there raise Unavailable when they are opened."""
    from kparity.backends.cpu import CpuBackend, isas

    def cpu(isa: str, threads: int) -> Opener:
        return lambda: CpuBackend(isa=isa, threads=threads)

    def other(name: str) -> Opener:
        return lambda: open_backend(name)

    def torch() -> Backend:
        backend = open_backend("torch")
        backend.torch.set_num_threads(1)  # type: ignore[attr-defined] # threads wait longer than small tensors take
        return backend

    def opencl(runtime: str, wave: int) -> Opener:
        return lambda: open_opencl(runtime, wave)

    found: dict[str, Opener] = {f"cpu:{isa}:{threads}": cpu(isa, threads) for isa in isas() for threads in (1, 2)}
    found |= {f"opencl:{runtime}:{wave}": opencl(runtime, wave) for runtime in DRIVERS for wave in (32, 64)}
    return found | {"wgpu": other("wgpu"), "torch": torch, "numpy": other("numpy")}


def open_opencl(runtime: str, wave: int) -> Backend:
    """The device of a runtime, whatever other devices there are."""
    from kparity.backends.opencl import OpenclBackend

    index = 0
    while True:
        backend = OpenclBackend.open(index, wave=wave)  # behind the last device this raises Unavailable
        if backend.info.driver.startswith(DRIVERS[runtime]):
            return backend
        backend.close()
        index += 1


def window(model: Model, seed: int, count: int) -> list[int]:
    """``count`` ids: a stretch of held-out text for even seeds, random ids for odd ones and where there is no text."""
    rng = np.random.default_rng([seed, count])
    text: list[int] = []
    if seed % 2 == 0:
        with suppress(KparityError):
            whole = resources.files("kparity").joinpath("data/heldout.txt").read_text(encoding="utf-8")
            text = [token for token in model.tokenizer.encode(whole, bos=False) if token < model.hparams.vocab]
    if len(set(text)) < count:
        text = [int(token) for token in rng.integers(0, model.hparams.vocab, 2 * count)]
    start = int(rng.integers(0, len(text) - count))
    return [first_token(model), *text[start : start + count - 1]]


class Judges:
    """The references of one setting, kept for the window at hand."""

    def __init__(self, model: Model, setting: Setting) -> None:
        self.model, self.setting = model, setting
        self._kept: dict[int, Reference] = {}

    def reference(self, seed: int, tokens: list[int]) -> Reference:
        """What the probe compares with."""
        if seed not in self._kept:
            self._kept = {seed: compute(self.model, tokens, act=self.setting.act, kv=self.setting.kv)}
        return self._kept[seed]


def probe(engine: Engine, reference: Reference) -> dict[str, Any]:
    """All gates of the full probe: verdict, the measures of each, and for a reject its gate, code and reason."""
    found: dict[str, Any] = {"rejected": False, "gates": 0, "measures": {}}
    candidate = Candidate(engine, reference, contracts.load(contracts.PROBE))
    try:
        for gate in run_gates(candidate, "full"):
            found["gates"] += 1
            found["measures"] |= {measure.threshold: measure.value for measure in gate.measures}
            if gate.verdict != "PASS":
                found |= {"rejected": True, "gate": gate.name, "code": gate.code, "reason": gate.reason}
    except DeviceFault as fault:
        found |= {"rejected": True, "gate": "run", "code": fault.code, "reason": str(fault)}
    return found


class Log:
    """The probes that were done: a header that says with which kernels and contract, and a line each."""

    def __init__(self, path: Path) -> None:
        contract = contracts.load(contracts.PROBE)
        text = json.dumps(contract.document, sort_keys=True, default=str)
        self.header = {
            "schema": "kparity-false-alarms-v1",
            "kernels_sha256": fingerprint.kernels(),
            "contract": [contract.id, contract.version, hashlib.sha256(text.encode()).hexdigest()],
            "gates": [gate.name for gate in GATES],
            "positions": DEFAULT_POSITIONS,
        }
        self.path, self.records, self.missing = path, list[dict[str, Any]](), dict[str, str]()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            self._read()
        else:
            self._append(self.header)

    def _read(self) -> None:
        header, *lines = self.path.read_text(encoding="utf-8").splitlines()
        if json.loads(header) != self.header:
            raise WrongInput(f"{self.path} was made with other kernels, gates or another contract; name another file")
        self.records, self.missing = [], {}
        for line in map(json.loads, lines):
            if "missing" in line:
                self.missing[line["backend"]] = line["missing"]
            else:
                self.records.append(line)

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def add(self, record: dict[str, Any]) -> None:
        """Keep a probe."""
        self.records.append(record)
        self._append(record)

    def absent(self, backend: str, reason: str) -> None:
        """Keep that a backend is not there."""
        if self.missing.get(backend) != reason:
            self.missing[backend] = reason
            self._append({"backend": backend, "missing": reason})

    def reread(self) -> None:
        """Take in what another process appended."""
        self._read()


class Run:
    """Every setting × window × backend, until all are done or the time is over."""

    def __init__(self, log: Log, openers: dict[str, Opener], windows: int, seconds: float) -> None:
        self.log, self.openers, self.windows = log, openers, windows
        self.ends = time.monotonic() + seconds
        self.done = {self.key(record) for record in log.records}
        self.absent: set[str] = set()

    @staticmethod
    def key(record: dict[str, Any]) -> tuple[str, ...]:
        """What makes a probe the same as another."""
        return tuple(str(record[name]) for name in ("backend", "model", "act", "kv", "window"))

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self.ends

    def left(self, setting: Setting) -> list[dict[str, Any]]:
        """What is to be probed of a setting, window by window."""
        every = (
            {"backend": name, **dataclasses.asdict(setting), "window": at}
            for at in range(self.windows)
            for name in self.openers
            if at // 2 % SLOW.get(name, 1) == 0
        )
        return [each for each in every if self.key(each) not in self.done]

    def setting(self, model: Model, setting: Setting) -> None:
        """One model at one choice of options; what is missing is noted and left out."""
        engines: dict[str, Engine] = {}
        judges, count = Judges(model, setting), min(DEFAULT_POSITIONS, model.hparams.context)
        try:
            for about in self.left(setting):
                name = about["backend"]
                if self.over:
                    return
                if name in self.absent:
                    continue
                if name not in engines:
                    try:
                        engines[name] = Engine(model, self.openers[name](), act=setting.act, kv=setting.kv)
                    except Unavailable as reason:
                        self.log.absent(name, str(reason))
                        self.absent.add(name)
                        continue
                tokens = window(model, about["window"], count)
                reference = judges.reference(about["window"], tokens)
                started = time.perf_counter()
                found = probe(engines[name], reference)
                self.log.add({**about, **found, "seconds": round(time.perf_counter() - started, 4)})
                show(self.log)
        finally:
            for engine in engines.values():
                engine.close()


def show(log: Log) -> None:
    """Progress, on a terminal."""
    if sys.stderr.isatty():
        rejected = sum(record["rejected"] for record in log.records)
        print(f"\r{len(log.records)} probes, {rejected} rejected", end="", file=sys.stderr)


@contextmanager
def models() -> Iterator[dict[str, Model]]:
    """The embedded model and those of random weights."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"embedded": load_model(None)}
        for name, spec in RANDOM.items():
            path = Path(folder) / f"{name.replace(' ', '-')}.gguf"
            write(path, spec)
            found[name] = load_model(path)
        try:
            yield found
        finally:
            for model in found.values():
                model.close()


def with_intel(arguments: Sequence[str], log: Log, names: Sequence[str]) -> None:
    """This script once more for Intel's runtime, in a process whose loader knows that one only."""
    if not INTEL.exists():
        for name in names:
            log.absent(name, f"{INTEL} does not exist; pip install intel-opencl-rt intel-cmplr-lib-rt")
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "intel.icd").write_text(f"{INTEL}\n", encoding="utf-8")
        libraries = ":".join(filter(None, [str(INTEL.parent), os.environ.get("LD_LIBRARY_PATH", "")]))
        environment = {**os.environ, "OCL_ICD_VENDORS": folder, "LD_LIBRARY_PATH": libraries}
        command = [sys.executable, "-m", "tools.false_alarms", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False, stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 1, 3):
        raise SystemExit(f"the process of Intel's runtime ended with {done.returncode}")
    log.reread()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--resume", type=Path, default=ROOT / ".cache" / "false_alarms.jsonl", metavar="FILE")
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="N", help="stop after N seconds")
    parser.add_argument("--windows", type=int, default=16, help="windows of tokens per setting")
    parser.add_argument("--only", default="", metavar="A,B", help="backends whose names begin like one of these")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # this is the process of Intel's runtime
    return parser.parse_args(arguments)


def chosen(only: str) -> dict[str, Opener]:
    """The backends whose names begin like one of those asked for; raises WrongInput where none does."""
    known = right_backends()
    starts = tuple(name.strip() for name in only.split(",") if name.strip())
    wrong = [start for start in starts if not any(name.startswith(start) for name in known)]
    if wrong:
        raise WrongInput(f"no right backend begins with {wrong[0]!r}; known: {', '.join(known)}")
    return {name: opener for name, opener in known.items() if not starts or name.startswith(starts)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is left, and report everything that was done."""
    options = parse(arguments)
    try:
        openers, log = chosen(options.only), Log(options.resume)
    except WrongInput as wrong:
        print(wrong, file=sys.stderr)
        return 2
    apart = {} if options.here else {name: each for name, each in openers.items() if name.startswith("opencl:intel")}
    run = Run(
        log, {name: each for name, each in openers.items() if name not in apart}, options.windows, options.seconds
    )
    if run.openers:
        with models() as known:
            for act, kv in OPTIONS:
                for name, model in known.items():
                    run.setting(model, Setting(name, act, kv))
    if apart and not run.over:
        limit = run.ends - time.monotonic()
        more = ["--here", "--resume", str(options.resume.resolve()), "--windows", str(options.windows)]
        more += ["--seconds", f"{limit:.0f}"] if limit < float("inf") else []
        with_intel([*more, "--only", ",".join(apart)], log, list(apart))
    found = summary(log.header, log.records, log.missing)
    text = as_markdown(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    print(text)
    return 3 if not found["probes"] else 1 if found["rejected"] else 0


if __name__ == "__main__":
    sys.exit(main())
