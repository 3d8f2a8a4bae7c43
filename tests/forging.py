"""How receipts lie: a change to a right one, with the code that must refuse it and the options that it takes.

``redigest`` says whether the forger computed the digest (and the subjects) anew.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from statistics import median
from typing import Any

import numpy as np

from kparity.receipts.statement import redigested
from tests.edits import Edit, at, both, put
from tests.made_receipts import LAYERS, NOW, ops_receipt, probe_receipt, receipt, subject


@cache
def right(of: tuple[str, ...], ops: bool, probe: bool) -> dict[str, Any]:
    """The right receipt that a forgery begins with."""
    return probe_receipt(*of, nonce="n") if probe else ops_receipt(of[0]) if ops else receipt(*of)


@dataclass(frozen=True)
class Forgery:
    """A lie: who tells it (``of``: the backends of the right receipt), what it changes, and what it must be told."""

    name: str
    code: str
    edit: Edit
    of: tuple[str, ...] = ("cuda", "cpu")
    ops: bool = False
    """Whether the right receipt is one of single ops, on the first of ``of``."""
    probe: bool = False
    """Whether it is one of a probe by the nonce ``n``."""
    redigest: bool = True
    renamed: bool = True
    """Whether the subjects follow the change."""
    demands: dict[str, Any] = field(default_factory=dict)

    def made(self) -> dict[str, Any]:
        """The forged statement."""
        statement = copy.deepcopy(right(self.of, self.ops, self.probe))
        self.edit(statement["predicate"])
        if self.renamed:
            with suppress(KeyError):  # the forger took away what subjects are made of
                statement["subject"] = subject(statement["predicate"])
        return redigested(statement) if self.redigest else statement


def resampled(samples: Callable[[list[float]], list[float]], run: int = 0, at: int = 1) -> Edit:
    """Other samples, with every figure computed from them as an honest writer would."""

    def change(predicate: dict[str, Any]) -> None:
        owner = predicate["runs"][run]
        each = owner["measurements"][at]
        each["samples_s"] = samples(each["samples_s"])
        _follow(each, owner["bandwidth"]["bytes_per_s"])

    return change


def _follow(each: dict[str, Any], bandwidth: float) -> None:
    from kparity.bench.timing import bootstrap

    seconds, nbytes = np.array(each["samples_s"]) / each["units"], each["bytes"]
    middle, low, high = bootstrap(seconds)
    each.update(unit_s=middle, low_s=low, high_s=high, floor_s=nbytes / bandwidth,
                of_bandwidth=nbytes / bandwidth / middle, gb_per_s=nbytes / middle * 1e-9)  # fmt: skip
    for name in each["ms_per_token"]:
        each["ms_per_token"][name] = float(np.percentile(seconds, int(name[1:]))) * 1e3


def twice_as_fast(samples: list[float]) -> list[float]:
    return [each / 2 for each in samples]


def smaller_model(predicate: dict[str, Any]) -> None:
    """Faster than memory, with a token of fewer bytes to explain it."""
    for each in predicate["runs"][0]["measurements"]:
        each["bytes"] /= 10
        each["samples_s"] = [second / 5 for second in each["samples_s"]]
        each["device_s"] = [second / 5 for second in each["device_s"]]
        _follow(each, predicate["runs"][0]["bandwidth"]["bytes_per_s"])
    for kernel in predicate["runs"][0]["kernels"]:
        kernel["device_ns"] = kernel["device_ns"] and kernel["device_ns"] / 5


def replayed(**times: int) -> Edit:
    """Other numbers of replays, with dispatches to fit."""

    def change(predicate: dict[str, Any]) -> None:
        run = predicate["runs"][0]
        replays = run["graph"]["replays"]
        replays.update(times)
        for kernel in run["kernels"]:
            kernel["dispatches"] = sum(replays[name] * each for name, each in kernel["launches"].items())

    return change


def faster_op(index: int, times: float) -> Edit:
    """A row of a single op that is faster, by both clocks, with every figure to fit."""

    def edit(predicate: dict[str, Any]) -> None:
        row = predicate["ops"][index]
        for name in ("device_s", "samples_s"):
            row[name] = [each / times for each in row[name]]
        for name in ("unit_s", "low_s", "high_s"):
            row[name] /= times
        for name in ("gb_per_s", "gflop_per_s"):
            row[name] *= times

    return edit


def scaled(times: float, memory: float = 0.0) -> Edit:
    """Every measurement of the first run that much faster, and its memory (or that much slower), figures to fit."""

    def edit(predicate: dict[str, Any]) -> None:
        run = predicate["runs"][0]
        run["bandwidth"]["samples_s"] = [each * (memory or 1 / times) for each in run["bandwidth"]["samples_s"]]
        run["bandwidth"]["bytes_per_s"] = run["bandwidth"]["bytes"] / median(run["bandwidth"]["samples_s"])
        for each in run["measurements"]:
            for name in ("samples_s", "device_s"):
                each[name] = [second / times for second in each[name]]
            _follow(each, run["bandwidth"]["bytes_per_s"])
        for kernel in run["kernels"]:
            kernel["device_ns"] = kernel["device_ns"] and kernel["device_ns"] / times

    return edit


def prompt_of(seconds: float) -> Edit:
    """A prompt that took that long for a token, in a memory that could deliver it."""
    return both(
        put("runs.1.bandwidth.cache_bytes", 1 << 30),
        resampled(lambda samples: [each / median(samples) * 128 * seconds for each in samples], run=1, at=0),
    )


def far_baseline(predicate: dict[str, Any]) -> None:
    """A baseline that is four hundred times slower, without a doubt."""
    theirs, told = predicate["baselines"][0]["measurements"][0], predicate["baselines"][0]["ratios"][0]
    theirs["samples_s"] = [each * 200 for each in theirs["samples_s"]]
    for name in ("unit_s", "low_s", "high_s"):
        theirs[name] *= 200
    theirs["ms_per_token"] = {name: each * 200 for name, each in theirs["ms_per_token"].items()}
    for name in ("ratio", "low", "high"):
        told[name] *= 200
    predicate["begun"] = (NOW - timedelta(days=1)).isoformat()


def absent(code: str) -> Edit:
    """Another backend that was asked for, and why it was not there."""

    def edit(predicate: dict[str, Any]) -> None:
        predicate["request"]["backends"].append("hip")
        predicate["fallback"].append({"backend": "hip", "status": "unavailable", "code": code, "reason": "none"})

    return edit


def each_kernel(edit: Edit) -> Edit:
    """The same edit of every kernel of the first run."""
    return lambda predicate: [edit(kernel) for kernel in predicate["runs"][0]["kernels"]]


def sure(predicate: dict[str, Any]) -> None:
    """The interval of somebody who is certain."""
    each = at(predicate, SPEED)
    each.update(low_s=each["unit_s"] * 0.99999, high_s=each["unit_s"] * 1.00001)


def copied(predicate: dict[str, Any]) -> None:
    """The samples of one measurement under the name of another."""
    for run in predicate["runs"]:
        run["measurements"].append({**copy.deepcopy(run["measurements"][1]), "name": "tg@512", "depth": 512})


def walled(row: int, wall: Callable[[list[float], list[float]], list[float]]) -> Edit:
    """Other times of the wall, from those of the device and the wall, around the samples of a row of single ops."""

    def edit(predicate: dict[str, Any]) -> None:
        each = predicate["ops"][row]
        each["samples_s"] = wall(each["device_s"], each["samples_s"])

    return edit


def again(predicate: dict[str, Any], samples: Callable[[list[float]], list[float]]) -> None:
    """The samples of one prompt for a step of another backend, with every figure to fit."""
    source, each = predicate["runs"][0]["measurements"][1], predicate["runs"][1]["measurements"][1]
    middle = median(each["samples_s"]) / median(source["samples_s"])
    each["samples_s"] = [second * middle for second in samples(source["samples_s"])]
    _follow(each, predicate["runs"][1]["bandwidth"]["bytes_per_s"])


def shallow(predicate: dict[str, Any]) -> None:
    """A model of half the layers, with kernels, dispatches and bytes of the whole one."""
    predicate["model"].update(layers=LAYERS // 2, bytes=440_000_000)


def fewer_launches(predicate: dict[str, Any]) -> None:
    """Every layer's attention once in two, in all programs, with dispatches to fit."""
    for run in predicate["runs"]:
        kernel, graph = run["kernels"][3], run["graph"]
        for name, launches in kernel["launches"].items():
            graph["launches"][name] -= launches // 2
            kernel["launches"][name] = launches - launches // 2
        kernel["dispatches"] = sum(graph["replays"][name] * each for name, each in kernel["launches"].items())


def renamed_kernel(old: str, new: str) -> Edit:
    """Another kernel of the same dialect in the place of one."""
    return lambda predicate: [
        kernel.update(id=kernel["id"].replace(old, new)) for run in predicate["runs"] for kernel in run["kernels"]
        if old in kernel["id"]
    ]  # fmt: skip


def read(nbytes: Callable[[float], float]) -> Edit:
    """Other bytes of a token, with throughput, floor and share to fit."""

    def edit(predicate: dict[str, Any]) -> None:
        for run in predicate["runs"]:
            for each in run["measurements"]:
                each["bytes"] = nbytes(each["bytes"])
                _follow(each, run["bandwidth"]["bytes_per_s"])

    return edit


def doubled(predicate: dict[str, Any]) -> None:
    gates = predicate["runs"][0]["parity"]["gates"]
    gates.append(dict(gates[0]))


def measured(name: str, value: float, run: int = 0) -> Edit:
    """Another value of a measure."""
    return lambda predicate: [
        gate.update(value=value) for gate in predicate["runs"][run]["parity"]["gates"] if gate["name"] == name
    ]


def told(**of: Any) -> Edit:
    """Other facts about the logits at one position, on every backend."""
    return lambda predicate: [run["logits"][1].update(of) for run in predicate["runs"]]


def commanded(old: str, new: str) -> Edit:
    """Another command line than COMMAND."""
    return put("request.command", COMMAND.replace(old, new).split())


COMMAND = "kparity bench --backends cuda,cpu --pp 128 --tg 0,8192 --seed 1 --model made.gguf --baseline llama.cpp"
"""What the right receipt could have been made by."""
SPEED = "runs.0.measurements.1"
RATIO = "baselines.0.ratios.0"
