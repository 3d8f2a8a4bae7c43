"""The runs behind docs/performance.md: which command each is, in full and in small, and what is kept of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

F16 = "F16"
"""Stands in a command for the F16 file of the run's own shape."""
KEPT = 24
"""Raw samples that are kept of a series: evenly spaced, in order."""
DIGITS = 5
OPS = (
    "step and (tgemv and ascale=token and not N=3840 and not N=13824 or act_quant and mode=token or attention"
    " and L=2048) or dense_gemv and large"
)
QUICK_OPS = "step and (tgemv and N=640 or act_quant and mode=token)"
BENCH = ("kparity", "bench", "--backends", "cpu")
LLAMACPP = ("--baseline", "llama.cpp")


@dataclasses.dataclass(frozen=True)
class Run:
    """A command. ``shape``: a model of random weights; ``seconds``: what the run, or each op in it, may sample."""

    command: tuple[str, ...]
    shape: str = ""
    seconds: int = 8

    def argv(self, quick: bool = False) -> list[str]:
        """The command as it is run and shown; in small with ``quick``."""
        if self.command[0] != "kparity":
            return [*self.command, *(QUICK_SCRIPTS[self.command[1]] if quick else ())]
        found = [*self.command]
        if self.shape:
            found += ["--shape", small(self.shape) if quick else f"2b-4t:{self.shape}"]
        found += ["--seconds", str(1 if quick else self.seconds)]
        return [smaller(each) for each in found] if quick else found


QUICK_SCRIPTS = {"bench/harness.py": ("--rounds", "3"), "bench/compare_speed.py": ("--mb", "16", "--rounds", "1")}


def small(shape: str) -> str:
    """A shape of the same kind of which a step takes a moment."""
    layers, vocab = map(int, shape.split(":"))
    return f"tiny:{max(layers // 6, 1)}:{max(vocab // 100, 300)}"


def smaller(argument: str) -> str:
    """Lengths that fit the context of the small shapes, and a few ops."""
    if argument in (OPS, f"{OPS} or tgemv and prefill"):
        return QUICK_OPS
    if re.fullmatch(r"\d+(,\d+)*", argument) and int(argument.split(",")[-1]) >= 512:
        return ",".join(str(int(each) // 32) for each in argument.split(","))
    return argument


def decode(shape: str, threads: int, *more: str, seconds: int = 8) -> Run:
    """Steps on an empty cache, llama.cpp beside them."""
    command = (*BENCH, "--threads", str(threads), *LLAMACPP, "--pp", "-", "--tg", "0", *more)
    return Run(command, shape, seconds)


def growth(shape: str) -> Run:
    """Steps on an empty cache, without anybody beside."""
    return Run((*BENCH, "--threads", "2", "--pp", "-", "--tg", "0"), shape, 5)


SHAPES = ("6:32000", "24:512", "30:128256")
RUNS: Mapping[str, Run] = {
    "ops, 2 threads": Run(("kparity", "bench", "--ops", f"{OPS} or tgemv and prefill", *BENCH[2:], "--threads", "2",
                           *LLAMACPP)),
    "ops, 1 thread": Run(("kparity", "bench", "--ops", OPS, *BENCH[2:], "--threads", "1", *LLAMACPP)),
    "depth": Run((*BENCH, "--threads", "2", *LLAMACPP, "--pp", "-", "--tg", "0,512,1024,2048"), SHAPES[0], 24),
    **{f"{shape}, {name}": decode(shape, n) for shape in SHAPES for n, name in ((2, "2 threads"), (1, "1 thread"))},
    **{f"{shape}, AVX2": decode(shape, 2, "--isa", "avx2") for shape in SHAPES[:2]},
    "prefill": Run((*BENCH, "--threads", "2", *LLAMACPP, "--baseline-file", F16, "--pp", "64,512", "--tg", "-"),
                   SHAPES[0], 40),
    **{f"{layers}:512": growth(f"{layers}:512") for layers in (6, 12, 18)},
    **{f"6:{vocab}": growth(f"6:{vocab}") for vocab in (64000, 128256)},
    "comparison": Run(("python", "bench/compare_speed.py")),
    "harness": Run(("python", "bench/harness.py")),
    "backends": Run(("kparity", "bench", "--backends", "cpu,wgpu,opencl,torch", "--pp", "32,128", "--tg", "0"),
                    seconds=20),
}  # fmt: skip
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "ops": ("ops, 2 threads", "ops, 1 thread"),
    "decode": tuple(name for name in RUNS if name.startswith(SHAPES) and "," in name),
    "prefill": ("prefill",),
    "attention": ("depth",),
    "growth": ("6:512", "12:512", "18:512", "24:512, 2 threads", "6:32000, 2 threads", "6:32000, 1 thread", "6:64000",
               "6:128256", "depth"),
    "comparison": ("comparison",),
    "harness": ("harness",),
    "backends": ("backends",),
}  # fmt: skip


def wanted(sections: Sequence[str]) -> list[str]:
    """The runs of some sections, each once, in the order of ``RUNS``."""
    names = {name for section in sections for name in SECTIONS[section]}
    return [name for name in RUNS if name in names]


def thinned(value: Any) -> Any:
    """Numbers with few digits, and long lists of samples with few of them."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: thinned(each) for name, each in value.items()}
    if isinstance(value, list):
        numbers = value and all(isinstance(each, (int, float)) for each in value)
        step = -(-len(value) // KEPT) if numbers else 1
        return [thinned(each) for each in value[::step]]
    return value


OP_FIELDS = ("name", "backend", "op", "case", "state", "tag", "kernel", "us", "us_low", "us_high", "gb_per_s",
             "gflop_per_s", "of_bandwidth", "limit", "errors", "verified", "baseline", "ratios", "samples_device_s",
             "launches_per_sample", "unsupported")  # fmt: skip
RUN_FIELDS = ("backend", "device", "timed_output", "determinism", "engine", "kernels", "graph", "bandwidth",
              "measurements", "skipped", "errors")  # fmt: skip


def kept(predicate: Mapping[str, Any]) -> dict[str, Any]:
    """What the page needs of a receipt's predicate: all but the gates' single numbers and the digests of texts."""
    runs = [{name: run[name] for name in RUN_FIELDS} for run in predicate["runs"]]
    for run, whole in zip(runs, predicate["runs"], strict=True):
        run["parity"] = whole["parity"]["verdict"]
        run["kernels"] = [
            {"id": each["id"], "device_ns": each["device_ns"], "launches_per_step": each["launches"]["step"]}
            for each in whole["kernels"]
        ]
    found = {name: predicate[name] for name in ("host", "harness", "model", "fallback", "baselines")}
    ops = [{name: row[name] for name in OP_FIELDS if name in row} for row in predicate.get("ops", [])]
    document: dict[str, Any] = thinned({**found, "runs": runs, "ops": ops})
    return document
