"""What lies on a device of a model, beside what the file has for it: every weight, table and scale, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from kparity.device.adapter import Backend, Buffer, Launch
from kparity.engine.engine import Engine
from kparity.engine.weights import READERS, Part, parts_of, stacked_scales
from kparity.kernels.rope import frequencies
from kparity.model import Model
from kparity.model.tensors import Dense
from kparity.ops.spec import DTYPES, Array

PIECE = 1 << 22
"""Bytes that are compared at a time, where a backend gives a part of a buffer: they stay in the processor's cache."""


@dataclass(frozen=True)
class Held:
    """A buffer, the op that reads it, and what the file has for it: ``rows(start, stop)`` as the device holds them."""

    name: str
    op: str
    buffer: Buffer
    rows: Callable[[int, int], Array]


def everything(engine: Engine, model: Model) -> Iterator[Held]:
    """All that a step reads and does not write. ``model`` is the file, opened anew; a matrix is read when it is asked
    for.
    """
    yield from table(engine, model, "embed")
    yield from [] if model.tied else table(engine, model, "dense_gemv")
    for layer in range(model.hparams.n_layer):
        yield from norms(engine, model, f"blk.{layer}.")
        yield from linears(engine, model, layer)
    yield from norms(engine, model, "output_norm")
    h = model.hparams
    freq = frequencies(h.theta, h.rope_dim, h.rope_scale, h.rope_factors)
    for (rows, _), recorded in engine.programs.items():
        op = "rope_store" if (0, "attn_qkv") in engine.weights.linears else "rope"
        yield Held(f"the RoPE table of {rows} rows", op, recorded.graph.freq, _of(freq))


def table(engine: Engine, model: Model, op: str) -> Iterator[Held]:
    """The embedding (op ``embed``) or the head (``dense_gemv``), part by part."""
    weights = engine.weights
    name, parts, dense = (
        ("the embedding", weights.embedding, model.embedding())
        if op == "embed"
        else ("the head", weights.head, model.head())
    )
    for part in parts:
        yield Held(name if part.rows == dense.shape[0] else f"{name} from row {part.row0} on", op, part.buffer,
                   _read(dense, part))  # fmt: skip


def norms(engine: Engine, model: Model, start: str) -> Iterator[Held]:
    """The norms whose names begin so."""
    fused = {f".{name}.weight" for name in READERS} if engine.options.fused else ()
    for name, buffer in engine.weights.norms.items():
        if name.startswith(start):
            op = "norm_quant" if name.endswith(tuple(fused)) else "rmsnorm"
            yield Held(name, op, buffer, _of(model.vector(name)))


def linears(engine: Engine, model: Model, layer: int) -> Iterator[Held]:
    """Words and scales of the ternary weights of a layer, and the dense ones."""
    for (at, name), dense in engine.weights.dense.items():
        if at == layer:
            for part in dense.parts:
                yield Held(f"{name} of layer {layer}", "dense_gemv", part.buffer, _read(model.dense(layer, name), part))
    for (at, name), linear in engine.weights.linears.items():
        if at == layer:
            parts = [model.linear(layer, part) for part in parts_of(name)]
            words = parts[0].words if len(parts) == 1 else np.concatenate([part.words for part in parts])
            yield Held(f"{name} of layer {layer}", "tgemv", linear.words, _of(words))
            yield Held(f"the scales of {name} of layer {layer}", "tgemv", linear.wscale, _of(stacked_scales(parts)[1]))


def _of(array: Array) -> Callable[[int, int], Array]:
    return lambda start, stop: array[start:stop]


def _read(dense: Dense, part: Part) -> Callable[[int, int], Array]:
    def rows(start: int, stop: int) -> Array:
        out = np.empty((stop - start, dense.shape[1]), DTYPES[dense.dtype])
        dense.read(part.row0 + start, out)
        return out

    return rows


def wrong_rows(backend: Backend, buffer: Buffer, rows: Callable[[int, int], Array]) -> list[int]:
    """The rows of a buffer that are not, bit for bit, what ``rows`` has: all where type or shape is another."""
    count, width = buffer.shape[0], max(1, int(np.prod(buffer.shape[1:])))
    step, whole, found = max(1, PIECE // (width * DTYPES[buffer.dtype].itemsize)), None, list[int]()
    for at in range(0, count, step):
        theirs = rows(at, min(at + step, count))
        part = backend.view(buffer, at * width, (min(step, count - at), *buffer.shape[1:])) if count > step else None
        if part is None and whole is None:
            whole = backend.download(buffer)
        mine = whole[at : at + step] if part is None else backend.download(part)  # type: ignore[index]
        if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
            return list(range(count))
        left, right = (np.ascontiguousarray(each).reshape(len(mine), -1).view(np.uint8) for each in (mine, theirs))
        wide = np.uint64 if left.shape[1] % 8 == 0 else np.uint8
        if not np.array_equal(left.view(wide), right.view(wide)):
            found += (at + np.flatnonzero((left != right).any(axis=1))).tolist()
    return found


def bound(engine: Engine) -> dict[int, list[Buffer]]:
    """Handle of a weight's buffer → the buffers that launches of the recordings are given in its place: itself, where
    all is well. Launches come in the order of the weights.
    """
    found: dict[int, list[Buffer]] = {}
    weights, vocab = engine.weights, engine.model.hparams.vocab
    dense = [*(each.parts for each in weights.dense.values()), weights.head]
    for recorded in engine.programs.values():
        order = {
            "table": iter([part.buffer for part in weights.embedding]),
            "head": iter([part.buffer for parts in dense for part in parts]),
            "weight": iter(weights.norms.values()),
            "w": chain.from_iterable((linear.words, linear.wscale) for linear in weights.linears.values()),
        }
        for launch in recorded.program.launches:
            for name, buffer in _constant(launch, vocab):
                meant = recorded.graph.freq if name == "freq" else next(order[name], None)
                some = found.setdefault(id(meant.handle), [meant]) if meant else []
                if all(each.handle is not buffer.handle for each in some):
                    some.append(buffer)
    return found


def _constant(launch: Launch, vocab: int) -> Iterator[tuple[str, Buffer]]:
    """The buffers of a launch that hold weights, by what they are, in the order of the ABI."""
    if launch.case is None or (launch.case.op == "embed" and launch.case["V"] != vocab):  # the last row of a chunk
        return
    for arg, buffer in zip(launch.kernel.args, launch.buffers, strict=False):
        if arg.name in ("table", "weight", "freq"):
            yield arg.name, buffer
        elif arg.name in ("w", "wscale"):
            yield "head" if launch.case.op == "dense_gemv" else "w", buffer
