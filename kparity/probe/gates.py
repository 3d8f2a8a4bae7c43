"""The gates that a backend must pass before it may serve, each enforcing its clause of the contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from kparity import compare, ops
from kparity.engine import Engine
from kparity.graph import Linear, parts_of
from kparity.plain.file import opened
from kparity.plain.weights import matrix
from kparity.probe.candidate import Candidate, Distance, noise_floor, non_finite
from kparity.probe.reference import exact_activations
from kparity.probe.table import of_depth
from kparity.probe.verdict import Gate, Measure
from kparity.spec import Array, padded


def gate_bos(candidate: Candidate) -> Gate:
    """One BOS token on a fresh cache: finite logits whose cosine with the reference reaches the threshold."""
    engine, reference = candidate.engine, candidate.reference
    engine.reset()
    logits = engine.step(reference.tokens[0])
    wrong = non_finite(logits)
    if wrong:
        return Gate(
            "BOS", "FAIL", [candidate.measure("bos_cosine", float("nan"))], "KP-BOS-NONFINITE", f"{wrong} at position 0"
        )
    measure = candidate.measure("bos_cosine", compare.cosine(logits, reference.bos))
    return candidate.judged(
        "BOS",
        [measure],
        lambda bad: (
            "KP-BOS-COSINE",
            f"cosine vs {reference.name} = {bad.value:.6f} (< {bad.limit:g}) at position 0/{len(reference.tokens)}",
        ),
    )


def _shapes(engine: Engine) -> Iterator[tuple[int, str, Linear]]:
    """One weight for each distinct GEMV shape, from different layers where the model has several."""
    seen: set[tuple[int, int, str]] = set()
    layers = engine.model.hparams.n_layer
    names = dict.fromkeys(name for _, name in engine.weights.linears)
    for index, name in enumerate(names):
        layer = index % layers
        weight = engine.weights.linears[layer, name]
        if (weight.n, weight.k, weight.kind) not in seen:
            seen.add((weight.n, weight.k, weight.kind))
            yield layer, name, weight


def _run_gemv(engine: Engine, weight: Linear, q: Array, wscale: Array | None, ascale: Array) -> Array:
    """The very kernel that serves, on resident weights: f32 [rows, N]. ``wscale`` None takes the weight's own."""
    backend, rows = engine.backend, len(q)
    kernel = engine.kernels.get("tgemv", M=rows, N=weight.n, K=weight.k, wscale=weight.kind, ascale=engine.options.act)
    spans = kernel.args[3].shape[1]
    scale = weight.wscale if wscale is None else backend.upload(wscale)
    qsum = q.reshape(rows, spans, -1).sum(axis=-1, dtype=np.int32)
    out = backend.upload(np.full((rows, weight.n), np.nan, np.float32))  # poisoned: a kernel that never ran shows
    inputs = (backend.upload(q), backend.upload(ascale), backend.upload(qsum))
    backend.record([kernel.bind(weight.words, scale, *inputs, out)]).run()
    return backend.download(out).astype(np.float64)


def _in_file(candidate: Candidate, weight: Linear, layer: int, name: str) -> tuple[Array, Array]:
    """Rows f32 [N, K] of a GEMV by the file's second reader, and scales f32 as the device should hold them."""
    blocks = padded(weight.k) // 256
    with opened(candidate.engine.model.path) as file:
        read = [matrix(file, f"blk.{layer}.{part}") for part in parts_of(name)]
    rows = np.concatenate([values for values, _ in read])
    scales = np.concatenate([np.broadcast_to(each, (len(each), blocks)) for _, each in read])
    if weight.kind == "block256":
        return rows, scales
    # A block of zeros has no say in the scale that the others of its row, or of all rows, share.
    starts = np.arange(0, weight.k, 256)
    said = np.bitwise_or.reduceat(rows != 0, starts, axis=1)
    chosen = scales[np.arange(len(rows)), said.argmax(axis=1)]
    return rows, chosen if weight.kind == "row" else chosen[[int(said.any(axis=1).argmax())]]


def _scaled_error(engine: Engine, weight: Linear, wscale: Array, q: Array, ascale: Array, got: Array) -> float:
    """Largest error after scaling, in ULP of f32 (per tensor) or as twice its share of the bound (per block).

    ``wscale`` is the file's: rows with the scales of others are wrong however well they are multiplied.
    """
    backend = engine.backend
    op = ops.get("tgemv")
    case = op.case(M=len(q), N=weight.n, K=weight.k, wscale=weight.kind, ascale=engine.options.act)
    qsum = q.reshape(len(q), ascale.shape[1], -1).sum(axis=-1, dtype=np.int32)
    inputs = [backend.download(weight.words), wscale.astype(np.float32), q, ascale, qsum]
    truth = op.reference(case, inputs, np.float64)
    limit = op.bounds(case, inputs, truth)[0].limit
    assert limit is not None
    error = np.abs(got - truth[0])
    share = np.divide(error, limit, out=np.where(error > 0, np.inf, 0.0), where=limit > 0)
    return 2.0 * float(np.max(share)) if np.isfinite(got).all() else float("nan")


def gate_exact(candidate: Candidate) -> Gate:
    """Integer accumulators of every GEMV shape, bit for bit, by one-hot, random and extreme activations.

    The kernels that serve run with unit scales, so that their f32 output is the accumulator itself (exact below 2²⁴),
    and with the model's own scales for the roundings after it. Truth comes from the file's bytes by the second
    reader.
    """
    engine = candidate.engine
    mismatches, ulp, first = 0, 0.0, ""
    for layer, name, weight in _shapes(engine):
        truth_weights, scales = _in_file(candidate, weight, layer, name)
        for rows in (1, engine.chunk):
            engine.tick(f"blk.{layer}.{name}")
            q = exact_activations(weight.k, padded(weight.k), rows)
            spans = 1 if engine.options.act == "token" else padded(weight.k) // 256
            ones = np.ones(weight.wscale.shape, np.float32)
            got = _run_gemv(engine, weight, q, ones, np.ones((rows, spans), np.float32))
            want = q[:, : weight.k].astype(np.float32) @ truth_weights.T
            wrong = ~(got == want)
            if wrong.any():
                row, column = np.argwhere(wrong)[0]
                first = first or (
                    f"{int(wrong.sum())} of {wrong.size} accumulators of blk.{layer}.{name} "
                    f"[{rows}x{weight.n}x{weight.k}] differ, first at row {row}, column {column}: "
                    f"{got[row, column]:g} for {want[row, column]:g}"
                )
            mismatches += int(wrong.sum())
            ascale = np.random.default_rng(rows).uniform(0.005, 0.05, (rows, spans)).astype(np.float32)
            if rows == 1 or engine.model.n_bytes < 1 << 26:
                scaled = _run_gemv(engine, weight, q, None, ascale)
                ulp = max(ulp, _scaled_error(engine, weight, scales, q, ascale, scaled))
    measures = [candidate.measure("exact_mismatches", mismatches), candidate.measure("exact_scaled_ulp", ulp)]
    return candidate.judged(
        "exact",
        measures,
        lambda bad: (
            ("KP-EXACT-BITS", first)
            if bad.threshold == "exact_mismatches"
            else (
                "KP-EXACT-SCALE",
                f"accumulators are right, but scaled results are off by {bad.value:g} ULP (> {bad.limit:g})",
            )
        ),
    )


def gate_positions(candidate: Candidate) -> Gate:
    """Teacher-forced decode, step by step: cosine and norm ratio at every position."""
    engine, reference = candidate.engine, candidate.reference
    count = len(reference.tokens)
    engine.reset()
    found = [(engine.step(token), engine.best()) for token in reference.tokens]
    steps = candidate.steps = np.stack([logits for logits, _ in found])
    candidate.best = [best for _, best in found]
    far = Distance.between(steps, reference.logits)
    floor = noise_floor(candidate)
    noise = (1 - far.median) / floor
    measures = [
        candidate.measure("positions_cosine", far.cosine),
        candidate.measure("positions_noise", noise),
        candidate.measure("positions_factor", far.factor),
        candidate.measure("positions_norm", far.norm),
        candidate.measure("positions_min", count),
    ]

    def failure(bad: Measure) -> tuple[str, str]:
        wrong = non_finite(steps)
        if wrong:
            return "KP-POS-NONFINITE", f"{wrong} over {count} positions"
        versus, limit = f"vs {reference.name}", f"{bad.limit:g}"
        reasons = {
            "positions_min": ("KP-UNSUPPORTED", f"{count} positions were probed, the contract asks for {limit}"),
            "positions_cosine": (
                "KP-POS-COSINE",
                f"cosine {versus} = {far.cosine:.6f} (< {limit}) at position {far.low}/{count}",
            ),
            "positions_noise": (
                "KP-POS-COSINE",
                f"median of 1 - cosine {versus} over {count} positions = {1 - far.median:.3g}: "
                f"{noise:.1f} times the noise of the reference itself (> {limit})",
            ),
            "positions_factor": (
                "KP-POS-NORM",
                f"logits {versus} carry a factor: median norm ratio is off by {far.factor:.6f} (> {limit})",
            ),
            "positions_norm": (
                "KP-POS-NORM",
                f"norm ratio {versus} is off by {far.norm:.6f} (> {limit}) at position {far.high}/{count}",
            ),
        }
        return reasons[bad.threshold]

    return candidate.judged("positions", measures, failure)


def _prefill_lengths(chunk: int, count: int) -> list[int]:
    """Prompt lengths that end in a padded chunk, at the end of a chunk, one after it, and in a second one."""
    wanted = (chunk // 4 + 1, chunk, chunk + 1, 2 * chunk - 1)
    return sorted({length for length in wanted if 2 <= length < count})


def gate_prefill(candidate: Candidate) -> Gate:
    """Batched prefill against the candidate's own stepwise logits, and one step on the cache that it wrote."""
    engine, tokens = candidate.engine, candidate.reference.tokens
    assert candidate.steps is not None
    got, wanted, names = [], [], []
    for length in _prefill_lengths(engine.chunk, len(tokens)):
        engine.reset()
        got += [engine.prefill(tokens[:length]), engine.step(tokens[length])]
        wanted += [candidate.steps[length - 1], candidate.steps[length]]
        names += [f"after a prefill of {length}", f"one step after a prefill of {length}"]
    far = Distance.between(np.stack(got), np.stack(wanted))
    noise = (1 - far.median) / noise_floor(candidate)
    measures = [
        candidate.measure("prefill_cosine", far.cosine),
        candidate.measure("prefill_noise", noise),
        candidate.measure("prefill_norm", far.norm),
    ]

    def failure(bad: Measure) -> tuple[str, str]:
        reasons = {
            "prefill_cosine": f"cosine of prefill vs stepwise = {far.cosine:.6f} (< {bad.limit:g}) {names[far.low]}",
            "prefill_noise": f"median of 1 - cosine of prefill vs stepwise = {1 - far.median:.3g}: {noise:.1f} times "
            f"the noise of the reference itself (> {bad.limit:g})",
            "prefill_norm": f"norm ratio of prefill vs stepwise is off by {far.norm:.6f} (> {bad.limit:g}) "
            f"{names[far.high]}",
        }
        return "KP-PREFILL", reasons[bad.threshold]

    return candidate.judged("prefill", measures, failure)


def gate_replay(candidate: Candidate, count: int = 2) -> Gate:
    """What was recorded (a graph, an encoder, a queue) against the same launches one by one with a wait after each.

    A launch that a recording lost, or two that overlap, differ from it; both run the same kernels on the same buffers.
    """
    engine, tokens = candidate.engine, candidate.reference.tokens
    assert candidate.steps is not None
    engine.reset()
    eager = [engine.step(token, eager=True) for token in tokens[:count]]
    recorded = [*candidate.steps[:count]]
    length = min(engine.chunk, len(tokens))
    for one_by_one, found in ((True, eager), (False, recorded)):
        engine.reset()
        found.append(engine.prefill(tokens[:length], eager=one_by_one))
    wrong = np.stack(eager) != np.stack(recorded)
    names = [*(f"at position {at}" for at in range(count)), f"after a prefill of {length}"]
    rows = np.flatnonzero(wrong.any(axis=1))
    return candidate.judged(
        "replay",
        [candidate.measure("replay_differences", int(wrong.sum()))],
        lambda bad: (
            "KP-REPLAY",
            f"{int(bad.value)} of {wrong.size} logits differ between the recording and its launches one by one, "
            f"first {names[rows[0]]}",
        ),
    )


def gate_reset(candidate: Candidate, count: int = 8) -> Gate:
    """After all that traffic: reset, and the first tokens again, bit for bit."""
    engine, tokens = candidate.engine, candidate.reference.tokens
    assert candidate.steps is not None
    engine.reset()
    again = np.stack([engine.step(token) for token in tokens[:count]])
    wrong = again != candidate.steps[:count]  # a NaN differs from itself: it fails closed
    rows = np.flatnonzero(wrong.any(axis=1))
    measure = candidate.measure("reset_differences", int(wrong.sum()))
    return candidate.judged(
        "reset",
        [measure],
        lambda bad: (
            "KP-RESET",
            f"{int(bad.value)} of {wrong.size} logits differ after a reset, first at position {rows[0]}",
        ),
    )


def run(candidate: Candidate, depth: str, stage: Callable[[str], None] = lambda name: None) -> Iterator[Gate]:
    """The gates of a depth that compute, one by one; ``stage`` is told each name before. Stops after a failure."""
    for spec in of_depth(depth):
        if not spec.function:
            continue
        stage(spec.name)
        started = time.perf_counter()
        verdict = spec.load()(candidate)
        verdict.elapsed_ms = (time.perf_counter() - started) * 1e3
        yield verdict
        if verdict.verdict == "FAIL":
            return
