"""The gate ``exact``: integer accumulators of every GEMV, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kparity import ops
from kparity.engine import Engine
from kparity.engine.column_sums import product, span_sums
from kparity.engine.weights import Linear, parts_of
from kparity.gates.candidate import Candidate
from kparity.gates.reference import SEED
from kparity.gates.verdict import Gate, Measure
from kparity.model.gguf_file import GgufFile
from kparity.numerics.expected import Expected
from kparity.ops.spec import Array, act_spans, padded
from kparity.plain.file import opened
from kparity.plain.weights import PIECE, ternary

SPAN = 64
"""Weights that have a scale of their own in the finest of types."""


def _shapes(engine: Engine) -> Iterator[tuple[int, str, Linear]]:
    """One weight for each distinct GEMV shape, from different layers where the model has several."""
    seen: set[tuple[int, int, str]] = set()
    names = dict.fromkeys(name for _, name in engine.weights.linears)
    for index, name in enumerate(names):
        layers = [layer for layer, each in engine.weights.linears if each == name]
        layer = layers[index % len(layers)]
        weight = engine.weights.linears[layer, name]
        if (weight.n, weight.k, weight.kind) not in seen:
            seen.add((weight.n, weight.k, weight.kind))
            yield layer, name, weight


def _in_file(file: GgufFile, weight: Linear, layer: int, name: str, q: Array) -> tuple[Array, Array]:
    """Accumulators f32 [len(q), N] of a GEMV by the file's second reader, some rows of it at a time, and scales f32 as
    the device should hold them.
    """
    starts = np.arange(0, weight.k, SPAN)
    activations, found = q[:, : weight.k].astype(np.float32), list[tuple[Array, Array, Array]]()
    for stem in (f"blk.{layer}.{part}" for part in parts_of(name)):
        for piece in ternary(file, stem, weight.k, file.tensors[f"{stem}.weight"].rows):
            of_row = piece.scales.shape[1]
            spans = np.repeat(piece.scales, len(starts) // of_row if of_row > 1 else len(starts), axis=1)
            present = np.bitwise_or.reduceat(piece.values != 0, starts, axis=1)
            found.append((piece.values @ activations.T, spans, present))
    sums, scales, present = (np.concatenate(each) for each in zip(*found, strict=True))
    if len(weight.wscale.shape) == 2:  # several spans of the file may share one on the device
        padding = ((0, 0), (0, padded(weight.k) // SPAN - len(starts)))
        shape = *weight.wscale.shape, -1
        scales, present = (np.pad(each, padding).reshape(shape) for each in (scales, present))
        return sums.T, np.take_along_axis(scales, present.argmax(axis=2)[:, :, None], 2)[:, :, 0]
    # A span of zeros has no say in the scale that the others of its row, or of all rows, share.
    chosen = scales[np.arange(len(scales)), present.argmax(axis=1)]
    return sums.T, chosen if weight.kind == "row" else chosen[[int(present.any(axis=1).argmax())]]


def _scaled_error(engine: Engine, weight: Linear, wscale: Array, q: Array, ascale: Array, got: Array) -> float:
    """Largest error after scaling, in ULP of f32 (per tensor) or as twice its share of the bound (per block).

    ``wscale`` is the file's: rows with the scales of others are wrong however well they are multiplied.
    """
    op, words, used = ops.get("tgemv"), engine.backend.download(weight.words), 0.0
    for at in range(0, weight.n, PIECE // weight.k):
        rows = slice(at, at + PIECE // weight.k)
        some = wscale if weight.kind == "tensor" else wscale[rows]
        case = op.case(M=len(q), N=len(words[rows]), K=weight.k, wscale=weight.kind, ascale=engine.options.act)
        known = Expected.of(op, case, [words[rows], some.astype(np.float32), q, ascale, span_sums(q, ascale.shape[1])])
        limit, error = known.bounds[0].limit, np.abs(got[:, rows] - known.truth[0])
        assert limit is not None
        share = np.divide(error, limit, out=np.where(error > 0, np.inf, 0.0), where=limit > 0)
        used = max(used, float(np.max(share)))
    return 2.0 * used if np.isfinite(got).all() else float("nan")


def exact_activations(k: int, kp: int, rows: int) -> Array:
    """int8 activations [rows, kp] for the exact rung: random rows, one-hot rows at both ends and between, extremes.

    A one-hot row reads one column of the weights: any permutation of the layout shows in it.
    """
    rng = np.random.default_rng([SEED, k, rows])
    q = np.zeros((rows, kp), np.int8)
    q[:, :k] = rng.integers(-128, 128, (rows, k))
    columns = np.unique(np.concatenate([[0, k - 1], rng.integers(0, k, max(0, rows // 2 - 2))]))
    for row, column in enumerate(columns[: rows // 2]):
        q[row] = 0
        q[row, column] = 127 if row % 2 else -128
    if rows >= 8:
        q[-1, :k] = 127
        q[-2, :k] = -128
    return q


def _given(engine: Engine) -> Iterator[tuple[str, Linear, Array, Array, Array]]:
    """For each GEMV shape, and for one row and a chunk: name, weight, scales, activations int8, accumulators f32."""
    with opened(engine.model.path) as file:
        for layer, name, weight in _shapes(engine):
            given = [exact_activations(weight.k, padded(weight.k), rows) for rows in (1, engine.chunk)]
            truth, scales = _in_file(file, weight, layer, name, np.concatenate(given))
            for q, want in zip(given, np.split(truth, [1]), strict=True):
                yield f"blk.{layer}.{name}", weight, scales, q, want


def gate_exact(candidate: Candidate) -> Gate:
    """Integer accumulators of every GEMV shape, bit for bit, by one-hot, random and extreme activations.

    The kernels that serve run with unit scales, so that their f32 output is the accumulator itself (exact below 2²⁴),
    and with the model's own scales for the roundings after it. Truth comes from the file's bytes by the second
    reader.
    """
    engine = candidate.engine
    mismatches, ulp, first = 0, 0.0, ""
    for name, weight, scales, q, want in _given(engine):
        engine.tick(name)
        rows, spans = len(q), act_spans(engine.options.act, weight.k)
        got = product(engine, weight, q)
        wrong = ~(got == want)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            first = first or (
                f"{int(wrong.sum())} of {wrong.size} accumulators of {name} "
                f"[{rows}x{weight.n}x{weight.k}] differ, first at row {row}, column {column}: "
                f"{got[row, column]:g} for {want[row, column]:g}"
            )
        mismatches += int(wrong.sum())
        ascale = np.random.default_rng(rows).uniform(0.005, 0.05, (rows, spans)).astype(np.float32)
        if rows == 1 or engine.model.n_bytes < 1 << 26:
            scaled = product(engine, weight, q, None, ascale)
            ulp = max(ulp, _scaled_error(engine, weight, scales, q, ascale, scaled))

    def failure(bad: Measure) -> tuple[str, str]:
        if bad.threshold == "exact_mismatches":
            return "KP-EXACT-BITS", first
        off = f"scaled results are off by {bad.value:g} ULP (> {bad.limit:g})"
        return "KP-EXACT-SCALE", f"accumulators are right, but {off}"

    return candidate.judged("exact", {"exact_mismatches": mismatches, "exact_scaled_ulp": ulp}, failure)
