"""Whether the probe ever rejects a right backend: every gate, on every right backend, over many windows of tokens.

    python -m tools.false_alarms --resume .cache/false_alarms.jsonl --seconds 600
    python -m tools.false_alarms --resume .cache/false_alarms.jsonl --json bench/receipts/false_alarms.json \\
        --markdown docs/false_alarms.md

A probe is one backend (an instruction set and a number of threads, a runtime and a wavefront), one model, one
activation quantisation, one type of cache and one window of tokens; it runs in this process, with engines that stay
open. For every eighth window it is ``kparity probe`` too, in processes of its own and with empty caches of compilers,
on tokens that the window's number draws. What was done is appended to the file of ``--resume`` at once and not done
again, so that a run can be cut in pieces. Intel's OpenCL runtime has a process of its own, because the loader reads its
list of runtimes once.

Two sets: on ``fixed`` the limits were fixed, and only ``held-out`` (other seeds, models and prompts) says how often a
right backend is rejected. A limit that is changed after a look at it needs another set. Small: ``--windows 2``.

Exit code 0: no right backend was rejected; 1: one was; 3: nothing ran.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from importlib import resources
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np

from kparity import contracts
from kparity.contracts import RULES
from kparity.device import fingerprint
from kparity.device.adapter import Backend
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.engine.engine import served_context
from kparity.errors import DeviceFault, KparityError, Unavailable, WrongInput
from kparity.gates.candidate import Candidate
from kparity.gates.candidate import run as run_gates
from kparity.gates.reference import Reference, compute, first_token
from kparity.gates.table import GATES
from kparity.gates.vacuous import controlled, doubts
from kparity.host import files
from kparity.host.text import markdown_table
from kparity.model import Model, load_model
from kparity.model.writer import TINY, write
from kparity.numerics.statistics import upper_bound
from kparity.probe.messages import DEFAULT_POSITIONS

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
"""Models of random weights beside the embedded one: on these the limits were fixed."""
OTHERS = {
    "other silu i2_s": dataclasses.replace(TINY, arch="bitnet", type="i2_s", layers=4, seed=201),
    "other relu2 tq1_0": dataclasses.replace(TINY, type="tq1_0", width=512, heads=8, kv_heads=4, untied=True, seed=202),
    "other block scales": dataclasses.replace(TINY, type="tq2_0", block_scales=True, layers=3, vocab=500, seed=203),
}
"""The same of the held-out set, on which nothing was ever fixed."""
HELD_OUT = 2_000_000
"""Number of the first window of the held-out set; its prompts are text of LICENSE."""
COLD = 8
"""Every so many windows one is probed in processes of its own, too."""
CODE = ("gates", "plain", "engine", "numerics")
"""Rooms whose code the records are of."""
SETS = ("held-out", "fixed")
Opener = Callable[[], Backend]
Record = Mapping[str, Any]
CONFIDENCE = 0.95
"""Of the bound on the rate of false alarms."""


def right_backends() -> dict[str, Opener]:
    """Name → how to open it; those that are not there raise Unavailable when they are opened."""
    from kparity.backends.cpu import CpuBackend, isas

    def torch() -> Backend:
        backend = open_backend("torch")
        backend.torch.set_num_threads(1)  # type: ignore[attr-defined] # threads wait longer than small tensors take
        return backend

    openers: dict[str, Opener] = {
        f"cpu:{isa}:{count}": partial(CpuBackend, isa=isa, threads=count) for isa in isas() for count in (1, 2)
    }
    openers |= {f"opencl:{name}:{wave}": partial(open_opencl, name, wave) for name in DRIVERS for wave in (32, 64)}
    return openers | {"wgpu": partial(open_backend, "wgpu"), "torch": torch, "numpy": partial(open_backend, "numpy")}


def open_opencl(runtime: str, wave: int) -> Backend:
    """The device of a runtime, whatever other devices there are."""
    from kparity.backends.opencl import OpenclBackend

    for index in count():
        backend = OpenclBackend.open(index, wave=wave)  # behind the last device this raises Unavailable
        if backend.info.driver.startswith(DRIVERS[runtime]):
            return backend
        backend.close()
    raise AssertionError("counting has no end")


def window(model: Model, seed: int, length: int) -> list[int]:
    """``length`` ids: a stretch of text for even seeds, random ids for odd ones and where there is no text."""
    rng = np.random.default_rng([seed, length])
    text: list[int] = []
    if seed % 2 == 0:
        with suppress(KparityError):
            whole = resources.files("kparity").joinpath("data/heldout.txt").read_text(encoding="utf-8")
            if seed >= HELD_OUT:
                whole = (ROOT / "LICENSE").read_text(encoding="utf-8")
            text = [token for token in model.tokenizer.encode(whole, bos=False) if token < model.hparams.vocab]
    if len(set(text)) < length:
        text = [int(token) for token in rng.integers(0, model.hparams.vocab, 2 * length)]
    start = int(rng.integers(0, len(text) - length))
    return [first_token(model), *text[start : start + length - 1]]


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
        if why := doubts(reference, candidate.contract):
            found |= {"rejected": True, "gate": "any", "code": "KP-VACUOUS", "reason": "; ".join(why)}
    except DeviceFault as fault:
        found |= {"rejected": True, "gate": "run", "code": fault.code, "reason": str(fault)}
    return found


def cold(name: str, setting: Mapping[str, str], path: Path, at: int) -> dict[str, Any]:
    """The same by ``kparity probe`` of the backend that a name begins with; raises Unavailable."""
    backend, *options = name.split(":")
    command = [sys.executable, "-m", "kparity.cli.main", "probe", "-b", backend, "--json", "--nonce", str(at)]
    command += [*(() if setting["model"] == "embedded" else ("--model", str(path)))]
    command += ["--act", setting["act"], "--kv", setting["kv"]]
    with tempfile.TemporaryDirectory() as empty:
        environment = {**os.environ, "XDG_CACHE_HOME": empty}
        environment |= dict(zip(("KPARITY_CPU_ISA", "KPARITY_THREADS"), options, strict=False))
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    row = json.loads(done.stdout)["rows"][0]
    if row["status"] == "unavailable":
        raise Unavailable(row["reason"], "", row["code"])
    measures = {each["threshold"]: each["value"] for gate in row["gates"] for each in gate["measures"]}
    found = {"rejected": row["status"] != "accepted", "gates": len(row["gates"]), "measures": measures}
    return found | ({name: row[name] for name in ("code", "reason")} if found["rejected"] else {})


def code_sha256() -> str:
    """Of the texts of the rooms whose code was run."""
    paths = sorted(path for room in CODE for path in (ROOT / "kparity" / room).glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


class Log:
    """The probes that were done: a header that says with which kernels, gates and contract, and a line each."""

    def __init__(self, path: Path, which: str = "fixed") -> None:
        contract = contracts.load(contracts.PROBE)
        text = json.dumps(contract.document, sort_keys=True, default=str)
        self.header = {
            "schema": "kparity-false-alarms-v1",
            "kernels_sha256": fingerprint.kernels(),
            "contract": [contract.id, contract.version, hashlib.sha256(text.encode()).hexdigest()],
            "code_sha256": code_sha256(),
            "gates": [gate.name for gate in GATES],
            "positions": DEFAULT_POSITIONS,
            "set": which,
        }
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or not path.stat().st_size:
            self.add(self.header)
        self.read()

    def read(self) -> None:
        """Take in what the file holds, by another process too; WrongInput where it was made under other conditions."""
        header, *lines = map(json.loads, files.read_text(self.path).splitlines())
        if header != self.header:
            raise WrongInput(
                f"{self.path} was made with other kernels, gates, another set or contract; name another file"
            )
        self.records = [line for line in lines if "missing" not in line]
        self.missing = {line["backend"]: line["missing"] for line in lines if "missing" in line}

    def add(self, line: dict[str, Any]) -> None:
        """Keep a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def absent(self, backend: str, reason: str) -> None:
        """Keep that a backend is not there."""
        if self.missing.get(backend) != reason:
            self.missing[backend] = reason
            self.add({"backend": backend, "missing": reason})


def run(
    log: Log, openers: dict[str, Opener], model: Model, setting: dict[str, str], windows: int, ends: float
) -> None:  # fmt: skip
    """Probe every backend over every window, with one model at one choice of options (``model``, ``act``, ``kv``),
    until all is done or the clock passes ``ends``. What was done before is left out, as is what is missing.
    """
    act, kv = setting["act"], setting["kv"]
    done = [{name: record[name] for name in ("backend", "model", "act", "kv", "window")} for record in log.records]
    length = min(DEFAULT_POSITIONS, model.hparams.context)
    engines: dict[str, Engine] = {}
    absent: set[str] = set()
    reference: Reference | None = None
    try:
        for at, name in product(range(windows), openers):
            at += HELD_OUT * (log.header["set"] == "held-out")
            about = {"backend": name, **setting, "window": at}
            if at // 2 % SLOW.get(name, 1) or name in absent or about in done:
                continue
            if time.monotonic() >= ends:
                return
            if name not in engines:
                try:
                    engines[name] = Engine(model, openers[name](), act=act, kv=kv)
                except Unavailable as reason:
                    log.absent(name, str(reason))
                    absent.add(name)
                    continue
            tokens = window(model, at, length)
            if reference is None or reference.tokens != tokens:
                context = served_context(0, model.hparams.context)
                given = partial(compute, model, tokens, act=act, kv=kv, context=context)
                reference = controlled(given, contracts.load(contracts.PROBE))
            started = time.perf_counter()
            record = {**about, **probe(engines[name], reference), "seconds": round(time.perf_counter() - started, 4)}
            log.records.append(record)
            log.add(record)
            if sys.stderr.isatty():
                rejected = sum(each["rejected"] for each in log.records)
                print(f"\r{len(log.records)} probes, {rejected} rejected", end="", file=sys.stderr)
    finally:
        for engine in engines.values():
            engine.close()


def run_cold(
    log: Log, names: Sequence[str], model: Model, setting: dict[str, str], windows: int, ends: float
) -> None:  # fmt: skip
    """The same in processes of their own: CPUs of every kind, and one device of every other backend."""
    chosen = dict.fromkeys(name if name.startswith("cpu:") else name.split(":")[0] for name in names)
    done = [{name: record[name] for name in ("backend", "model", "act", "kv", "window")} for record in log.records]
    for at, name in product(range(COLD - 1, windows, COLD), chosen):
        at += HELD_OUT * (log.header["set"] == "held-out")
        about = {"backend": f"{name}, cold", **setting, "window": at}
        if about in done or time.monotonic() >= ends:
            continue
        started = time.perf_counter()
        try:
            record = {**about, **cold(name, setting, model.path, at)}
        except Unavailable as reason:
            log.absent(about["backend"], str(reason))
            continue
        record |= {"seconds": round(time.perf_counter() - started, 4)}
        log.records.append(record)
        log.add(record)


@contextmanager
def models(which: str) -> Iterator[dict[str, Model]]:
    """The embedded model and those of random weights of a set."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        paths = {
            name: write(Path(folder) / f"{spec.seed}.gguf", spec)
            for name, spec in (OTHERS if which == "held-out" else RANDOM).items()
        }
        yield {
            name: stack.enter_context(closing(load_model(path))) for name, path in {"embedded": None, **paths}.items()
        }


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
    log.read()


def counts(records: Sequence[Record], *names: str) -> list[dict[str, Any]]:
    """Probes, rejects and seconds by the values of some fields."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record[name] for name in names), []).append(record)
    return [
        {
            **dict(zip(names, key, strict=True)),
            "probes": len(group),
            "rejected": sum(record["rejected"] for record in group),
            "median_seconds": round(float(np.median([record["seconds"] for record in group])), 3),
        }
        for key, group in sorted(groups.items())
    ]


def distributions(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Every measure: median, the value that 1 % exceed towards the threshold, the worst, and the share of it used."""
    contract = contracts.load(contracts.PROBE)
    found = []
    for name in dict.fromkeys(name for record in records for name in record["measures"]):
        values = np.array([record["measures"][name] for record in records if name in record["measures"]], np.float64)
        threshold = contract.threshold(name)
        worst_last = np.sort(values if threshold.rule == "at most" else -values)  # a NaN is sorted to the end
        ranks = (len(values) - 1) // 2, math.ceil(0.99 * len(values)) - 1, -1
        median, p99, worst = (abs(float(worst_last[at])) for at in ranks)
        found.append(
            {"threshold": name, "rule": threshold.rule, "limit": threshold.value, "probes": len(values),
             "median": median, "p99": p99, "worst": worst}
        )  # fmt: skip
    return found


def summary(header: Mapping[str, Any], records: Sequence[Record], missing: Mapping[str, str]) -> dict[str, Any]:
    """Everything that the report shows. Probes that saw the same bits (other threads) count once in the rates: those of
    the same model, options and tokens with the same numbers.
    """
    rejects = [record for record in records if record["rejected"]]
    fields = ("model", "act", "kv", "window")
    evidence = [(*map(record.get, fields), repr(sorted(record["measures"].items()))) for record in records]
    distinct = dict(zip(evidence, (bool(record["rejected"]) for record in records), strict=True))
    bound = upper_bound(sum(distinct.values()), len(distinct), CONFIDENCE) if records else None
    return {
        **header,
        "probes": len(records),
        "distinct": len(distinct),
        "rejected": len(rejects),
        "confidence": CONFIDENCE,
        "rate_at_most": bound,
        "by_backend": counts(records, "backend"),
        "by_setting": counts(records, "model", "act", "kv"),
        "measures": distributions(records),
        "rejects": [{name: value for name, value in record.items() if name != "measures"} for record in rejects],
        "missing": {name: reason for name, reason in missing.items() if all(name != r["backend"] for r in records)},
    }


def as_markdown(result: Mapping[str, Any]) -> str:
    """The report for people."""
    title, contract = "# False alarms of the probe", result["contract"]
    if not result["probes"]:
        return f"{title}\n\nNo probe ran.\n"

    def table(section: str, *columns: str, head: Sequence[str] = (), left: int = 1) -> str:
        rows = ([row[name] for name in columns] for row in result[section])
        return markdown_table(head or columns, rows, left)

    measures = [
        (f"`{row['threshold']}`", *(f"{row[name]:.6g}" for name in ("median", "p99", "worst")),
         f"{RULES[row['rule']][0]} {row['limit']:g}")
        for row in result["measures"]
    ]  # fmt: skip
    parts = [
        title,
        f"Set: {result['set']}.\n"
        f"Right backends at every gate of the full probe ({', '.join(result['gates'])}), {contract[0]} {contract[1]}, "
        f"{result['positions']} positions per probe: **{result['rejected']} of {result['probes']} probes rejected**.",
        f"{result['distinct']} of the probes are distinct: the others saw the same bits (another number of threads or "
        f"lanes) and are no trials of their own. The rate of false alarms is at most {result['rate_at_most']:.2%} "
        f"(one-sided Wilson bound at {result['confidence']:.0%}, over the distinct ones). It holds for these devices, "
        "models and tokens. Made by `python -m tools.false_alarms`.",
        table("by_backend", "backend", "probes", "rejected", "median_seconds",
              head=("backend", "probes", "rejected", "s per probe")),
        table("by_setting", "model", "act", "kv", "probes", "rejected",
              head=("model", "activations", "cache", "probes", "rejected"), left=3),
        markdown_table(("measure", "median", "99 %", "worst", "threshold"), measures),
        table("rejects", "backend", "model", "act", "kv", "window", "code", "reason", left=7)
        if result["rejects"] else "",
        "\n".join(f"Not there: {name}: {reason}" for name, reason in result["missing"].items()),
    ]  # fmt: skip
    return "\n\n".join(filter(None, parts)) + "\n"


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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--resume", type=Path, default=ROOT / ".cache" / "false_alarms.jsonl", metavar="FILE")
    parser.add_argument("--set", choices=SETS, default="held-out", help="models, seeds and prompts: those on which the "
                        "limits were fixed, or others [default: held-out]")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="N", help="stop after N seconds")
    parser.add_argument("--windows", type=int, default=16, help="windows of tokens per setting")
    parser.add_argument("--only", default="", metavar="A,B", help="backends whose names begin like one of these")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # this is the process of Intel's runtime
    options = parser.parse_args(arguments)
    files.refuse_unwritable(*filter(None, [options.json, options.markdown]))
    try:
        openers, log = chosen(options.only), Log(options.resume, options.set)
    except WrongInput as wrong:
        print(wrong, file=sys.stderr)
        return 2
    ends = time.monotonic() + options.seconds
    apart = [] if options.here else [name for name in openers if name.startswith("opencl:intel")]
    own = {name: opener for name, opener in openers.items() if name not in apart}
    if own:
        with models(options.set) as known:
            for (act, kv), (name, model) in product(OPTIONS, known.items()):
                setting = {"model": name, "act": act, "kv": kv}
                run(log, own, model, setting, options.windows, ends)
                run_cold(log, [*own], model, setting, options.windows, ends)
    left = ends - time.monotonic()
    if apart and left > 0:
        more = [
            "--here",
            "--set",
            options.set,
            "--resume",
            str(options.resume.resolve()),
            "--windows",
            str(options.windows),
        ]
        more += ["--seconds", f"{left:.0f}"] if left < float("inf") else []
        with_intel([*more, "--only", ",".join(apart)], log, apart)
    result = summary(log.header, log.records, log.missing)
    text = as_markdown(result)
    if options.json:
        files.write(options.json, json.dumps(result, indent=1) + "\n")
    if options.markdown:
        files.write(options.markdown, text)
    print(text)
    return 3 if not result["probes"] else 1 if result["rejected"] else 0


if __name__ == "__main__":
    sys.exit(main())
