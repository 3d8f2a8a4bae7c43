"""What makes a wrong engine: a change of what it writes, records, reads from the file, or holds on the device."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

import numpy as np

from kparity.device.adapter import Backend, Buffer, Launch, Program
from kparity.engine import Engine
from kparity.engine.graph import FusedGraph, Graph
from kparity.engine.weights import Part, Weights
from kparity.model import Hparams, Model
from kparity.mutate.cell import ENGINE
from kparity.mutate.library import EMBEDDED, Subject
from kparity.ops.spec import Array

Make = Callable[[Model, Backend], Engine]
T = TypeVar("T", bound=Callable[..., Any])
MUTANTS: list[Subject] = []
"""Every wrong engine."""
MAKERS: dict[str, Make] = {}
"""Name → what makes it."""


def every() -> tuple[list[Subject], Mapping[str, Make]]:
    """All wrong engines, and what makes each."""
    for name in ("engine", "host", "seldom"):  # each adds its own
        import_module(f"kparity.mutate.{name}")
    return MUTANTS, MAKERS


def add(name: str, what: str, make: Make, model: str = EMBEDDED, soaks: bool = False) -> None:
    """One more wrong engine."""
    MUTANTS.append(Subject(ENGINE, name, what, model=model, soaks=soaks))
    MAKERS[name] = make


def wrong(
    make: Callable[[Any], Make] = lambda made: made, model: str = EMBEDDED, soaks: bool = False
) -> Callable[[T], T]:  # fmt: skip
    """Adds what it decorates, which ``make`` turns into an engine; without ``make`` it is one, or makes one."""

    def decorate(defect: T) -> T:
        name = re.sub("(?<=[a-z])(?=[A-Z])|_", "-", defect.__name__).lower()
        add(name, " ".join((defect.__doc__ or "").split()), make(defect), model, soaks)
        return defect

    return decorate


def writes(name: str, change: Callable[[Engine, Array], Array | None]) -> Make:
    """An engine that changes what it writes to ``ids``, ``pos`` or ``last`` of any graph; None drops the write."""

    def make(model: Model, backend: Backend) -> Engine:
        engine, real, fed = Engine(model, backend), backend.write, list[Graph]()
        feed = engine._feed

        def noted(graph: Graph, tokens: Sequence[int], rows: int) -> None:
            fed[:] = [graph]
            feed(graph, tokens, rows)

        def write(buffer: Buffer, array: Array) -> None:
            if not any(getattr(graph, name).handle is buffer.handle for graph in fed):
                real(buffer, array)
            elif (changed := change(engine, array)) is not None:
                real(buffer, np.ascontiguousarray(changed, array.dtype))

        engine._feed, backend.write = noted, write  # type: ignore[method-assign]
        return engine

    return make


def without(*names: str, eager: bool = False) -> Make:
    """An engine whose recordings lack the last launch of one of the ops; with ``eager`` launches one by one do, too."""

    def make(model: Model, backend: Backend) -> Engine:
        real = backend.record

        def record(launches: Sequence[Launch]) -> Program:
            if len(launches) < 4:
                return real(launches)
            lost = max(at for at, launch in enumerate(launches) if launch.kernel_id.startswith(names))
            program = real([*launches[:lost], *launches[lost + 1 :]])
            if not eager:
                program.run_eager = real(launches).run_eager  # type: ignore[method-assign]
            return program

        backend.record = record  # type: ignore[method-assign]
        return Engine(model, backend)

    return make


def misread(change: Callable[[Hparams], dict[str, Any]]) -> Make:
    """An engine whose hyper-parameters are not the file's."""

    def make(model: Model, backend: Backend) -> Engine:
        model.hparams = dataclasses.replace(model.hparams, **change(model.hparams))
        return Engine(model, backend)

    return make


def graph(graph_class: type[FusedGraph]) -> Make:
    """An engine whose programs are recorded from another graph."""

    def make(model: Model, backend: Backend) -> Engine:
        engine = Engine(model, backend)
        engine.graph_class = graph_class
        return engine

    return make


def stacked(change: Callable[[Hparams, Array, Array], None]) -> Make:
    """An engine whose stacked weight q|k|v is changed in every layer: ``change(hparams, words, scales)``, one scale a
    row, in place.
    """

    def make(model: Model, backend: Backend) -> Engine:
        engine = Engine(model, backend)
        for layer in range(model.hparams.n_layer):
            old = engine.weights.linears[layer, "attn_qkv"]
            words, scales = backend.download(old.words), backend.download(old.wscale)
            change(model.hparams, words, scales)
            new = dataclasses.replace(old, words=backend.upload(words), wscale=backend.upload(scales))
            engine.weights.linears[layer, "attn_qkv"] = new
        return engine

    return make


def head(change: Callable[[Engine, Array], Array]) -> Make:
    """An engine with another table [V, D] as its head."""

    def make(model: Model, backend: Backend) -> Engine:
        engine = Engine(model, backend)
        parts = engine.weights.head
        table = change(engine, np.concatenate([backend.download(part.buffer) for part in parts]))
        rows = [np.ascontiguousarray(table[part.row0 : part.row0 + part.rows]) for part in parts]
        engine.weights.head = [
            Part(backend.upload(some), part.row0, part.rows) for some, part in zip(rows, parts, strict=True)
        ]
        return engine

    return make


def corrupt(kept: Callable[[Weights], Buffer], change: Callable[[Array], None]) -> Make:
    """An engine of whose weights one buffer is other than the file, when everything is on the device."""

    def make(model: Model, backend: Backend) -> Engine:
        engine = Engine(model, backend)
        buffer = kept(engine.weights)
        array = backend.download(buffer).copy()
        change(array)
        backend.write(buffer, array)
        return engine

    return make
