"""Decode and prefill of a whole model on every backend that is there, interleaved, with parity in the same receipt.

    python bench/gpu_decode.py --backends cuda,torch,wgpu,opencl --shape 2b-4t[:layers] [--receipt FILE] [--seconds 20]
    python bench/gpu_decode.py --backends cpu --model FILE.gguf

A random model of the shape is written once to a temporary folder (``--cache``). Each engine is first compared with the
cpu engine, logits against logits; the tokens of its timed run must then be those that the compared path gives. The
bound is bytes per token ÷ the device's own copy bandwidth in the same run. Exit code 1 where parity fails or nothing
was timed; 3 where no backend opened.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timing
from gpu_ops import opened, refused
from timing import Receipt, Series, bootstrap

from kparity import contracts
from kparity.adapter import Backend
from kparity.bench.gguf_writer import TINY, Spec, write
from kparity.compare import cosine
from kparity.engine import Engine
from kparity.graph import LINEARS
from kparity.model import Model, load_model
from kparity.registry import open_backend
from kparity.spec import Array, padded

BLOCK = 16
"""Steps of one engine before it is the next one's turn."""
CHECKED = 24
"""Tokens whose logits are compared: BOS and some steps."""
GOAL_OF_BOUND = 0.5
SHAPES = {"2b-4t": Spec(layers=30), "tiny": TINY}


def model_file(shape: str, cache: Path) -> Path:
    """A random model of a shape (``2b-4t``, ``2b-4t:8``), written unless it is there."""
    name, _, layers = shape.partition(":")
    if name not in SHAPES or (layers and not re.fullmatch(r"[1-9]\d?", layers)):
        raise SystemExit(f"shape is {shape!r}, expected one of {', '.join(SHAPES)}, with :LAYERS if wanted")
    spec = SHAPES[name]
    spec = Spec(**{**vars(spec), "layers": int(layers)}) if layers else spec
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{name}-{spec.layers}.gguf"
    if not path.exists():
        partial = path.with_suffix(".partial")
        write(partial, spec)
        partial.replace(path)
    return path


def bytes_per_token(model: Model, position: int, kv_bytes: int = 2) -> dict[str, int]:
    """What one decode step must read, whatever the launches are: all weights, and the cache up to its position."""
    h = model.hparams
    q, kv = h.n_head * h.head_dim, h.n_kv * h.head_dim
    shapes = {"attn_q": (q, h.width), "attn_k": (kv, h.width), "attn_v": (kv, h.width), "attn_output": (h.width, q),
              "ffn_gate": (h.ffn, h.width), "ffn_up": (h.ffn, h.width), "ffn_down": (h.width, h.ffn)}  # fmt: skip
    ternary = h.n_layer * sum(shapes[name][0] * padded(shapes[name][1]) // 4 for name in LINEARS)
    head, embedding = model.head().array, model.embedding().array
    found = {
        "ternary": ternary,
        "norms": 4 * (h.n_layer * (2 * h.width + q + h.ffn) + h.width),
        "head": int(head.nbytes),
        "embedding_row": int(embedding[:1].nbytes),
        "kv_cache": 2 * kv_bytes * kv * h.n_layer * (position + 1),
    }
    return {**found, "total": sum(found.values())}


@dataclass
class Runner:
    """An engine, what it was found to compute, and its samples."""

    name: str
    engine: Engine
    tokens: list[int] = field(default_factory=list)
    greedy: list[int] = field(default_factory=list)
    steps_s: list[float] = field(default_factory=list)
    device_s: list[float] = field(default_factory=list)
    prefills: dict[int, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    parity: dict[str, Any] = field(default_factory=dict)

    def compare(self, tokens: Sequence[int], wanted: Sequence[Array]) -> None:
        """Teacher-forced logits against the cpu engine's; and the greedy continuation that timed runs must repeat."""
        self.engine.reset()
        got = [self.engine.step(token) for token in tokens]
        found = [cosine(a, b) for a, b in zip(got, wanted, strict=True)]
        contract = contracts.load(contracts.PROBE)
        limits = [contract.threshold("bos_cosine"), *[contract.threshold("positions_cosine")] * (len(tokens) - 1)]
        passed = all(limit.holds(value) for limit, value in zip(limits, found, strict=True))
        same = [int(a.argmax()) == int(b.argmax()) for a, b in zip(got, wanted, strict=True)]
        self.parity = {
            "reference": "cpu", "tokens": list(tokens), "cosine": found, "bos_cosine": found[0],
            "min_cosine": min(found), "argmax_equal": sum(same), "threshold": limits[-1].value, "passed": passed,
        }  # fmt: skip
        if not passed:
            self.errors.append(f"parity: cosine vs cpu = {min(found):.6f} at position {int(np.argmin(found))}")
        self.engine.reset()
        token, self.greedy = tokens[0], []
        for _ in range(CHECKED):
            token = int(self.engine.step(token).argmax())
            self.greedy.append(token)

    def restart(self, first: int) -> None:
        """An empty cache again."""
        self.engine.reset()
        self.tokens = [first]

    def block(self, steps: int, keep: bool = True) -> None:
        """Some greedy steps, each timed by the wall: a step ends when its token is on the host."""
        for _ in range(steps):
            began = time.perf_counter()
            token = self.engine.step_greedy(self.tokens[-1])
            if keep:
                self.steps_s.append(time.perf_counter() - began)
            self.tokens.append(token)

    def verify(self) -> None:
        """The timed run's tokens are those of the compared path."""
        count = min(len(self.greedy), len(self.tokens) - 1)
        if self.tokens[1 : count + 1] != self.greedy[:count]:
            self.errors.append("the timed run gives other tokens than the compared one")
        if not count:
            self.errors.append("nothing was timed")

    def prefill(self, tokens: Sequence[int], keep: bool = True) -> None:
        """A prompt on an empty cache, until its logits are on the host."""
        self.engine.reset()
        began = time.perf_counter()
        self.engine.prefill(tokens)
        if keep:
            self.prefills.setdefault(len(tokens), []).append(time.perf_counter() - began)

    def row(self, model: Model, copy_rate: float) -> dict[str, Any]:
        """Numbers of one engine."""
        info = self.engine.backend.info
        row: dict[str, Any] = {
            "name": f"{self.name} decode", "backend": self.name, "op": "decode", "device": info.device,
            "kind": info.kind, "options": self.engine.options_dict(), "parity": self.parity,
            "verified": not self.errors, "errors": list(self.errors),
        }  # fmt: skip
        if not self.steps_s:
            return {**row, "verified": False, "errors": row["errors"] or ["nothing was timed"]}
        middle, low, high = bootstrap(self.steps_s)
        depth = len(self.tokens) // 2
        moved = bytes_per_token(model, depth, 2 if self.engine.options.kv == "f16" else 4)
        ms = np.array(self.steps_s) * 1e3
        row.update(
            ms_per_token=middle * 1e3, ms_low=low * 1e3, ms_high=high * 1e3, tokens_per_s=1 / middle, steps=len(ms),
            percentiles_ms={str(p): float(np.percentile(ms, p)) for p in (1, 10, 50, 90, 99)},
            bytes_per_token=moved, gb_per_s=moved["total"] / middle * 1e-9, samples_s=self.steps_s,
        )  # fmt: skip
        if self.device_s:  # the program alone, by the device's clock: what the host adds is the difference
            row["device_ms_per_token"] = float(np.median(self.device_s)) * 1e3
            row["samples_device_s"] = self.device_s
        if copy_rate:
            bound = moved["total"] / copy_rate
            row.update(bound_ms=bound * 1e3, bound_tokens_per_s=1 / bound, of_bound=bound / middle)
            if info.kind == "gpu" and middle < bound / timing.SLACK:
                row["errors"].append("faster than the roofline floor")
            if info.kind == "gpu" and self.name == "cuda":
                row["goals"] = {"of_bound": {"goal": GOAL_OF_BOUND, "reached": bound / middle,
                                             "met": bound / middle >= GOAL_OF_BOUND}}  # fmt: skip
        row["prefill"] = {
            str(length): {"tokens_per_s": length / float(np.median(found)), "samples_s": found}
            for length, found in self.prefills.items()
        }
        return row


def rates_of(backends: Sequence[Backend], nbytes: int, receipt: Receipt) -> dict[str, float]:
    """Copy bandwidth of every device, in the run that it is compared with."""
    table: list[Series] = [
        timing.copy_series(each, nbytes if each.info.kind == "gpu" else min(nbytes, 1 << 28)) for each in backends
    ]
    timing.interleave(table, seconds=1.5)
    rows = [timing.judge_times(series, receipt.result["devices"][b.name]["peak_bytes_per_s"], measured=False)
            for b, series in zip(backends, table, strict=True)]  # fmt: skip
    receipt.result["rows"] += rows
    return {b.name: row.get("gb_per_s", 0.0) * 1e9 for b, row in zip(backends, rows, strict=True)}


def guarded(runner: Runner, action: Any, *arguments: Any) -> bool:
    """Whether an engine got through; a fault is kept as an error, and the engine is out from then on."""
    try:
        action(*arguments)
    except Exception as error:
        runner.errors.append(f"{type(error).__name__}: {error}")
        return False
    return True


def measure(options: argparse.Namespace, receipt: Receipt, model: Model, backends: Sequence[Backend]) -> None:
    """Parity first, then rounds of blocks; the receipt is written after every stage."""
    rates = rates_of(backends, 1 << 20 if options.smoke else 1 << 30, receipt)
    receipt.result["copy_bytes_per_s"] = rates
    first = model.hparams.bos or 0
    checked = 6 if options.smoke else CHECKED
    rng = np.random.default_rng(11)
    prompt = [first, *(int(t) for t in rng.integers(0, model.hparams.vocab, 511))]
    context = min(options.context, model.hparams.context)
    reference = Engine(model, open_backend("cpu"), context=context)
    wanted = [reference.step(token) for token in prompt[:checked]]
    reference.close()

    runners, started = [], time.perf_counter()
    for backend in backends:
        began = time.perf_counter()
        try:
            runner = Runner(backend.name, Engine(model, backend, context=context))
        except Exception as error:  # too little memory, or a kernel that does not build
            receipt.result["rows"].append({
                "name": f"{backend.name} decode", "backend": backend.name, "op": "decode", "verified": False,
                "errors": [f"{type(error).__name__}: {error}"],
            })  # fmt: skip
            continue
        runners.append(runner)
        if guarded(runner, runner.compare, prompt[:checked], wanted):
            print(f"{runner.name}: min cosine vs cpu {runner.parity['min_cosine']:.6f}, "
                  f"ready and compared after {time.perf_counter() - began:.1f} s", flush=True)  # fmt: skip
    alive = [runner for runner in runners if not runner.errors]
    for runner in alive:
        runner.restart(first)
        guarded(runner, runner.block, 4, False)  # warm-up: caches, clocks, recorded programs
        runner.restart(first)
    until = time.perf_counter() + options.seconds
    steps = 8 if options.smoke else options.steps
    for turn in range(-(-steps // BLOCK)):
        at = turn % max(len(alive), 1)
        for runner in (*alive[at:], *alive[:at]):
            if len(runner.tokens) + BLOCK < context and not runner.errors:
                guarded(runner, runner.block, min(steps, BLOCK))
        if time.perf_counter() > until:
            break
    for runner in alive:
        if not runner.errors:
            runner.verify()
    publish(receipt, runners, model, rates)
    for _ in range(3 if options.smoke else 20):
        for runner in alive:
            if not runner.errors:
                program = runner.engine.recorded(1).program
                guarded(runner, lambda runner=runner, program=program: runner.device_s.append(program.run_timed()))
    lengths = (16,) if options.smoke else (32, 128, 512)
    for length in lengths:
        for turn in range(4):
            for runner in alive:
                slow = runner.steps_s and length * np.median(runner.steps_s) > 20  # a software device: seconds a token
                if length < context and not runner.errors and not slow:
                    guarded(runner, runner.prefill, prompt[:length], turn > 0)
            if time.perf_counter() > started + 3 * options.seconds:
                break
    publish(receipt, runners, model, rates)


def publish(receipt: Receipt, runners: Sequence[Runner], model: Model, rates: dict[str, float]) -> None:
    """Replace the rows of the engines by what is known now, and write."""
    rows = receipt.result["rows"]
    for runner in runners:
        rows[:] = [row for row in rows if row["name"] != f"{runner.name} decode"]
        rows.append(runner.row(model, rates.get(runner.name, 0.0)))
    receipt.write()


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    if "ms_per_token" not in row:
        return f"{row['name']:16} {'; '.join(row['errors'])}"
    bound = (f", bound {row['bound_tokens_per_s']:.1f} tokens/s, {100 * row['of_bound']:.1f} % of it"
             if "bound_ms" in row else "")  # fmt: skip
    prefill = "".join(f", pp{n} {each['tokens_per_s']:.0f}" for n, each in row["prefill"].items())
    tail = "".join(f" ERROR {error}" for error in row["errors"])
    percentiles = row["percentiles_ms"]
    spread = (
        f"p10 {percentiles['10']:.3f}, p99 {percentiles['99']:.3f}; program {row.get('device_ms_per_token', 0):.3f}"
    )
    return (f"{row['name']:16} {row['tokens_per_s']:9.1f} tokens/s, {row['ms_per_token']:.3f} ms ({spread}), "
            f"{row['gb_per_s']:.1f} GB/s{bound}{prefill}{tail}")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", default="cuda,torch,wgpu,opencl")
    parser.add_argument("--shape", default="2b-4t", help="2b-4t, 2b-4t:LAYERS or tiny")
    parser.add_argument("--model", type=Path, help="a GGUF file instead of a shape")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "kparity-models")
    parser.add_argument("--write-only", action="store_true", help="write the model of the shape and end")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=20.0, help="of decoding at most, all backends together")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, few steps: measures nothing")
    parser.add_argument("--require", default="", help="backends whose absence is a failure")
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args(arguments)
    shape = "tiny" if options.smoke else options.shape
    path = options.model or model_file(shape, options.cache)
    if options.write_only:
        print(path)
        return 0
    kind, command = "decode-smoke" if options.smoke else "decode", sys.argv if arguments is None else arguments
    receipt = Receipt(options.receipt, kind, command)
    receipt.result["model"] = {"file": path.name, "bytes": path.stat().st_size, "shape": options.model or shape}
    receipt.result["model"]["shape"] = str(receipt.result["model"]["shape"])
    found = [opened(name, receipt) for name in options.backends.split(",")]
    backends = [backend for backend in found if backend is not None]
    try:
        if refused(options.require, receipt) or not backends:
            receipt.write(complete=True)
            return 3
        measure(options, receipt, load_model(path), backends)
        receipt.write(complete=True)
        for row in receipt.result["rows"]:
            print(line(row) if row["op"] == "decode" else f"{row['name']}: {row.get('gb_per_s', 0):.1f} GB/s")
        return 1 if receipt.failed else 0
    finally:
        for backend in backends:
            backend.close()


if __name__ == "__main__":
    sys.exit(main())
