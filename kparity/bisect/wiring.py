"""Right kernels, wrongly used: launches of a graph beside those of one that is made anew from the file, their
parameters, the buffers that they are bound to, and the weights in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from itertools import chain
from typing import Any

import numpy as np

from kparity.device.adapter import Launch
from kparity.engine import resident
from kparity.engine.engine import Engine
from kparity.engine.graph import FusedGraph, Graph
from kparity.engine.traced import Tapped
from kparity.engines.own import Own
from kparity.ladder.ways import Calls
from kparity.model import Model, load_model
from kparity.traces.slots import ABSENT, Key


def compared(own: Own, rows: int, key: Key) -> list[str]:
    """Op, kind (``graph`` or ``weights``) and a sentence of the first thing that is not the file's, up to a slot;
    nothing where all is.
    """
    engine, model = own.engine, load_model(own.facts.model)
    try:
        shared = (engine.kernels, engine.weights, engine.cache, engine.options, rows)
        kind = type("Traced", (Tapped, engine.graph_class), {})
        used, meant = (
            kind(engine.model.hparams, *shared, every_row=True),
            _meant(engine)(model.hparams, *shared, every_row=True),
        )
        last = {str(tap.name): done for done, taps in used.taps.items() for tap in taps}.get(str(key), 0)
        found = next(_launches(used, meant, engine, last), []) or next(_weights(engine, model, key), [])
    finally:
        model.close()
    return found


def _meant(engine: Engine) -> type[Graph]:
    return FusedGraph if engine.options.fused else Graph


def _launches(used: Graph, meant: Graph, engine: Engine, last: int) -> Iterator[list[str]]:
    """Where both lists of launches part: one too many or too few, a parameter, a buffer."""
    left, right = used.launches[:last], meant.launches
    ids = [[each.case.id if each.case else each.kernel_id for each in some] for some in (left, right)]
    names = _roles(used, engine), _roles(meant, engine)
    for what, a, b, c, d in SequenceMatcher(a=ids[0], b=ids[1], autojunk=False).get_opcodes():
        if what == "equal":
            for one, other in zip(left[a:b], right[c:d], strict=True):
                yield from _bound(one, other, *names)
        elif a < last:
            yield _parted(left[a:b], right[c:d])


def _parted(used: list[Launch], meant: list[Launch]) -> list[str]:
    """Other launches than the file asks for."""
    for one, other in zip(used, meant, strict=False):
        if one.case and other.case and one.case.op == other.case.op:
            theirs = dict(other.case.params)
            wrong = [f"{name} is {value}, the file says {theirs[name]}" for name, value in one.case.params
                     if theirs[name] != value]  # fmt: skip
            return [one.case.op, "graph", f"{one.case.op} is launched with another parameter: {'; '.join(wrong)}"]
    there, wanted = ([each.case.op for each in some if each.case] for some in (used, meant))
    op = next(iter(wanted or there))
    return [op, "graph", f"launched: {', '.join(there) or 'nothing'}; the file asks for {', '.join(wanted) or 'none'}"]


def _bound(one: Launch, other: Launch, used: Mapping[int, str], meant: Mapping[int, str]) -> Iterator[list[str]]:
    """Buffers that are not those of the same launch of the other graph."""
    assert one.case is not None
    for arg, mine, theirs in zip(one.kernel.args, one.buffers, other.buffers, strict=False):
        left, right = used.get(id(mine.handle), "a buffer of nothing else"), meant.get(id(theirs.handle), "another")
        if left != right:
            yield [one.case.op, "graph", f"{one.case.op} is bound to {left} for its {arg.name}, not to {right}"]
        elif left == "freq":
            a, b = (each.kernel.backend.download(buffer) for each, buffer in ((one, mine), (other, theirs)))
            if not np.array_equal(a, b):
                at = int(np.flatnonzero(a != b)[0])
                told = f"frequency {at} of RoPE is {a[at]:.6g}, the file's is {b[at]:.6g}"
                yield [one.case.op, "graph", told]


def _roles(graph: Graph, engine: Engine) -> dict[int, str]:
    """What each buffer is, by its memory."""
    found = {id(buffer.handle): name for name, buffer in graph._pool.items()} | {id(graph.freq.handle): "freq"}
    for layer, parts in enumerate(engine.cache):
        found |= {id(part.handle): f"the {name} of layer {layer}" for name, part in zip("kv", parts, strict=True)}
    weights = engine.weights
    for (layer, name), linear in weights.linears.items():
        found |= {id(linear.words.handle): f"{name} of layer {layer}", id(linear.wscale.handle): f"scales of {name}"}
    tables = {"the embedding": weights.embedding, "the head": weights.head}
    found |= {id(part.buffer.handle): name for name, parts in tables.items() for part in parts}
    return found | {id(buffer.handle): name for name, buffer in weights.norms.items()}


def _weights(engine: Engine, model: Model, key: Key) -> Iterator[list[str]]:
    """Weights of the slot's layer, or of embedding and head, that are not what the file holds."""
    if key.layer == ABSENT:
        op = {"embd": "embed", "logits": "dense_gemv"}.get(key.slot)
        held = chain(resident.table(engine, model, op) if op else (), resident.norms(engine, model, "output_norm"))
    else:
        start = f"blk.{key.layer}."
        held = chain(resident.norms(engine, model, start), resident.linears(engine, model, key.layer))
    for each in held:
        rows, count = resident.wrong_rows(engine.backend, each.buffer, each.rows), each.buffer.shape[0]
        if rows:
            told = (
                f"{len(rows)} of {count} rows of {each.name} on the device are not the file's, the first is {rows[0]}"
            )
            yield [each.op, "weights", told]


def fed_wrong(engine: Engine, calls: Calls) -> str:
    """What the device holds of the last piece that was fed and is not what it was given; empty where all is."""
    if engine.position != sum(len(tokens) for _, tokens in calls):
        return f"{engine.position} tokens are counted, {sum(len(tokens) for _, tokens in calls)} were fed since a reset"
    method, tokens = calls[-1]
    if method == "score":
        rows, at = engine.chunk, (len(tokens) - 1) // engine.chunk * engine.chunk
    else:
        at, rows, _ = list(engine.pieces(len(tokens)))[-1]
    recorded, piece = engine.recorded(rows, method == "score"), tokens[at : at + rows]
    graph = recorded.graph
    ids = [[each.kernel_id for each in some.launches] for some in (graph, recorded.program)]
    if ids[0] != ids[1]:
        at = next((at for at, pair in enumerate(zip(*ids, strict=False)) if pair[0] != pair[1]), min(map(len, ids)))
        told = f"launch {at} is {ids[0][at]} in the graph" if at < len(ids[0]) else "more launches than the graph"
        return f"what was recorded has {len(ids[1])} launches, the graph {len(ids[0])}: {told}"
    first = engine.position - len(piece)
    wanted: dict[str, Any] = {
        "ids": [*piece, *[0] * (rows - len(piece))],
        "pos": [*range(first, first + len(piece)), *[-1] * (rows - len(piece))],
    }
    if rows > 1 and not graph.every_row:
        wanted["last"] = [len(piece) - 1]
    for name, expected in wanted.items():
        held = engine.backend.download(getattr(graph, name)).tolist()
        if held != expected:
            row = next(row for row, (a, b) in enumerate(zip(held, expected, strict=True)) if a != b)
            return f"row {row} of {name!r} is {held[row]} on the device, {expected[row]} belongs there"
    return ""
