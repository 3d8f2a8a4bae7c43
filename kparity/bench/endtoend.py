"""Models end to end: several engines, each in a process of its own, measured in turn on the same sequence of tokens."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kparity.bench import llamacpp
from kparity.bench.machine import clocks
from kparity.bench.subject import Point, points
from kparity.bench.timing import Sample, converged, in_turn
from kparity.errors import KparityError, WrongInput
from kparity.host import progress
from kparity.model import load_model
from kparity.process import Family
from kparity.process.worker import Worker, WorkerFailed
from kparity.receipts.record import Skipped

ENGINE = "kparity.bench.endtoend_worker:EndToEnd"
LLAMACPP = "kparity.bench.llamacpp:LlamaCpp"
TURN_S = 0.2
"""A fast engine repeats its work within one turn for this long, so that a slow one does not leave it few samples."""
REPEATS = 16
"""Samples of one turn at most."""
LEAST, MOST = {"prefill": 3, "decode": 2}, 64
"""Turns at each point."""
ROUND = 256
"""The cache of a run holds a multiple of this many positions."""
SLOW_S = 1.0
"""A sample that takes this long is no warm-up."""


@dataclass(frozen=True)
class Request:
    """What to measure. ``backends`` are those that may be timed; ``seconds`` is for all points together."""

    model: str
    backends: tuple[str, ...]
    prompts: tuple[int, ...] = (32, 128, 512)
    depths: tuple[int, ...] = (0, 512, 2048)
    seconds: float = 30.0
    seed: int = 0
    act: str = "token"
    kv: str = "f16"
    index: int = 0
    llamacpp_files: tuple[str, ...] = ()
    """Each in a llama.cpp of its own: empty for the model itself, or the name of the same model in another type."""
    nonce: str = ""
    """Somebody's word from which the tokens are drawn, beside the seed."""

    @property
    def points(self) -> list[Point]:
        """Everything that is asked for."""
        return points(self.prompts, self.depths)


@dataclass
class Samples:
    """Everything that was timed of one engine at one point."""

    seconds: list[float] = field(default_factory=list)
    """Of one token (decode) or of one prompt (prefill)."""
    device: list[Sample] = field(default_factory=list)
    """The same work by the device's clock, in runs of its own."""
    joules: list[float | None] = field(default_factory=list)
    """Of one turn: several tokens, or one prompt."""
    digests: list[str] = field(default_factory=list)
    """Of the output of each turn."""


@dataclass
class Contender:
    """One of the engines: its worker, what it says of itself, its samples, and what went wrong."""

    name: str
    worker: Worker
    baseline: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    samples: dict[Point, Samples] = field(default_factory=lambda: defaultdict(Samples))
    bandwidth: list[dict[str, Any]] = field(default_factory=list)
    concluded: dict[str, Any] = field(default_factory=dict)
    """What ``Subject.conclude`` gave."""
    skipped: list[Skipped] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds_per_token: float = 0.0
    """Of the last prompt: what the next one may cost."""

    @property
    def alive(self) -> bool:
        """Whether it can still be called."""
        return not self.errors

    def call(self, method: str, seconds: float, **arguments: Any) -> Any:
        """The worker's answer; None, with the reason kept, where there is none."""
        if not self.alive:
            return None
        try:
            return self.worker.call(method, seconds, **arguments)
        except WorkerFailed as problem:
            self.errors.append(f"{method}: {problem.reason}" if problem.status != "died" else problem.reason)
            return None

    def sample(self, point: Point, seconds: float) -> dict[str, Any] | None:
        """A prompt, which tells what a token costs, or a block of steps; None as in ``call``."""
        sample: dict[str, Any] | None = self.call(point.phase, seconds, length=point.length)
        if sample and point.phase == "prefill":
            self.seconds_per_token = sample["seconds"][0] / point.length
        return sample

    def skip(self, point: Point, reason: str) -> None:
        """Note why a point is not measured."""
        self.skipped.append(Skipped(name=point.name, reason=reason))


@dataclass
class Found:
    """The result of a run: the engines that opened, why others did not, the reference's name, the clocks."""

    engines: list[Contender]
    unopened: dict[str, WorkerFailed]
    reference: str
    clocks: dict[str, dict[str, Any]]


class EndToEndRun:
    """Opens the engines, takes samples in turn, checks what was computed, and closes everything."""

    def __init__(self, request: Request, log: Callable[[str], None]) -> None:
        self.request, self.log = request, log
        self.limit_s = 2 * (60.0 + Path(request.model).stat().st_size / 2.5e6 if request.model else 60.0)
        with closing(load_model(request.model)) as model:
            self.model_context = model.hparams.context
        self.fitting = [point for point in request.points if point.prefix <= self.model_context]
        length = max((point.prefix for point in self.fitting), default=1)
        context = min(-(-length // ROUND) * ROUND, self.model_context)
        self.options = {"model": request.model, "seed": request.seed, "nonce": request.nonce, "context": context,
                        "length": length}  # fmt: skip

    def run(self) -> Found:
        """Everything, in order: reference, engines, prompts, steps, checks, kernels. Nothing without a backend."""
        if not self.request.backends:
            return Found([], {}, "", {"before": {}, "after": {}})
        with progress.task("bench", len(self.fitting)) as self.task, Family() as family:
            expected = str(family.folder / "reference.npz")
            reference = self._reference(expected)
            with self._opened() as (engines, unopened):
                before = clocks()
                self._measure(engines)
                after = clocks()
                self.task.stage("outputs against the reference")
                for engine in engines:  # nothing is timed for the record after this
                    limit_s = self.limit_s + self.request.seconds
                    engine.concluded = engine.call("conclude", limit_s, path=expected) or {}
        return Found(engines, unopened, reference, {"before": before, "after": after})

    def _reference(self, path: str) -> str:
        """Logits of every prefix that is timed, by the cpu backend with another instruction set than the one timed."""
        name, options = _reference_options()
        self.log(f"reference: {name}, {self.options['length']} tokens")
        self.task.stage(f"reference: {name}")
        options |= {"act": self.request.act, "kv": self.request.kv}
        worker = Worker("reference", ENGINE, {**self.options, **options})
        try:
            worker.opened(self.limit_s)
            prefixes = [point.prefix for point in self.fitting]
            worker.call("write_outputs", 10 * self.limit_s, prefixes=prefixes, path=path)
        except WorkerFailed as problem:
            raise WrongInput(f"the reference ({name}) does not run this model: {problem.reason}") from problem
        finally:
            worker.close()
        return name

    @contextmanager
    def _opened(self) -> Iterator[tuple[list[Contender], dict[str, WorkerFailed]]]:
        """Every engine that opens, one after the other; the reasons of the others."""
        request, engines, unopened = self.request, list[Contender](), dict[str, WorkerFailed]()
        ours = {"index": request.index, "act": request.act, "kv": request.kv}
        wanted = [(name, ENGINE, {"backend": name, **ours}) for name in request.backends]
        wanted += [(llamacpp.named(file), LLAMACPP, {"file": file}) for file in request.llamacpp_files]
        with ExitStack() as stack:
            for name, factory, options in wanted:
                self.task.stage(f"opening {name}")
                worker = Worker(name, factory, {**self.options, **options})
                stack.callback(worker.close)
                try:
                    worker.opened(self.limit_s)
                    about = worker.call("about", self.limit_s)
                    engines.append(Contender(name, worker, factory == LLAMACPP, about))
                    self.log(f"opened: {about.get('label', name)}")
                except WorkerFailed as problem:
                    unopened[name] = problem
                    self.log(f"not opened: {name}: [{problem.code}] {problem.reason}")
            yield engines, unopened

    def _measure(self, engines: Sequence[Contender]) -> None:
        """Prompts from the shortest to the longest; then steps, on a cache that is filled once."""
        for engine in engines:
            for point in self.request.points:
                if point not in self.fitting:
                    engine.skip(point, f"{point.prefix} tokens exceed the model's context of {self.model_context}")
            if not engine.baseline:
                engine.call("start_counting", self.limit_s)
        share = self.request.seconds / max(len(self.fitting), 1)
        for point in self.fitting:
            if point.phase == "prefill":
                self._sample(point, [each for each in engines if self._affordable(each, point)], share)
        depths = [point for point in self.fitting if point.phase == "decode"]
        entered = {engine.name: self._filled(engine, depths) for engine in engines}
        for point in depths:
            self._sample(point, [each for each in engines if point in entered[each.name]], share)

    def _affordable(self, engine: Contender, point: Point) -> bool:
        """Whether one sample fits the time that is given, by the pace of the last prompt; a point that does not is
        skipped with the reason.
        """
        cost, seconds = engine.seconds_per_token * point.length, self.request.seconds
        if cost > seconds:
            told = f"{point.length} tokens would take about {cost:.0f} s, all points have {seconds:g} s"
            engine.skip(point, told)
        return engine.alive and cost <= seconds

    def _filled(self, engine: Contender, depths: Sequence[Point]) -> list[Point]:
        """The depths that an engine takes part in, with its cache filled for the deepest.

        Every depth is stepped through once, the shallow ones first: a step rewrites its position in the cache with the
        rounding of a step, and from then on each repetition of a block gives the same bits.
        """
        taken = [point for point in depths if self._affordable(engine, point)]
        if taken:
            engine.call("fill", self.limit_s + self.request.seconds, length=taken[-1].length)
            for point in taken:
                engine.sample(point, self.limit_s)
        return taken

    def _sample(self, point: Point, engines: Sequence[Contender], seconds: float) -> None:
        """Turns in rotating order until every interval is narrow, or the time is used up."""
        self.task.stage(point.name)
        engines = [engine for engine in engines if engine.alive]
        for engine in engines:  # a sample that does not count, unless the engine is slow and runs already
            if point.phase == "decode" or engine.seconds_per_token * point.length < SLOW_S:
                engine.sample(point, self.limit_s)
            engine.worker.rest()
        turns = in_turn(
            engines, lambda engine, _: self._turn(engine, point),
            lambda engine: converged(engine.samples[point].seconds), least=LEAST[point.phase],
            hurried=LEAST[point.phase], most=MOST, seconds=seconds,
        )  # fmt: skip
        for engine in (engine for engine in engines if engine.alive):
            self.log(f"{engine.name} {point.name}: {len(engine.samples[point].seconds)} samples in {turns} turns")
        self.task.advance()

    def _turn(self, engine: Contender, point: Point) -> None:
        """What one engine does while the others rest: samples, and where it has them one by the device's clock and one
        of its bandwidth. It is over when its threads rest, too.
        """
        samples, limit, until = engine.samples[point], self.limit_s + self.request.seconds, time.monotonic() + TURN_S
        for _ in range(REPEATS):
            sample = engine.sample(point, limit)
            if sample is None:
                break
            samples.seconds += sample["seconds"]
            samples.joules.append(sample["joules"])
            samples.digests.append(sample["digest"])
            if time.monotonic() > until:
                break
        slow = engine.seconds_per_token * point.length > SLOW_S
        if engine.about.get("device_clock") and not (samples.device and slow):
            both = engine.call("device", limit, phase=point.phase, length=point.length)
            samples.device += [Sample(*both)] if both else []
        if not engine.baseline:
            read = engine.call("bandwidth", limit)
            engine.bandwidth += [read] if read else []
        engine.worker.rest()


def _reference_options() -> tuple[str, dict[str, Any]]:
    """Name and options of the engine that the timed output is held against: separate launches, and where the machine
    has a second instruction set, that one; fp32 numpy where there is no native module.
    """
    with suppress(KparityError, ImportError, AttributeError):
        from kparity.backends.cpu import choose_isa, twin_isa

        serving = choose_isa(os.environ.get("KPARITY_CPU_ISA"))
        chosen = twin_isa(serving) or serving
        return f"cpu {chosen}", {"backend": "cpu", "isa": chosen, "fused": False}
    return "numpy", {"backend": "numpy", "fused": False}
