"""The sections of docs/performance.md: each gives the lines of its tables and the claims that it decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from performance_results import Claim, Curve, Results, Row, curves, divided, facts, threads, value
from performance_runs import SHAPES

from kparity.kernels.support import SERVED

Lines = list[str]
Section = tuple[Lines, list[Claim]]
GEMVS = SERVED.linears
"""(N, K); k and v, the small ones, are not among the targets."""
JUDGED = tuple(shape for shape in GEMVS if min(shape) >= SERVED.width)
OTHERS: Mapping[str, tuple[str, dict[str, int | str]]] = {
    "act_quant 2560": ("act_quant", {"K": 2560}),
    "act_quant 6912": ("act_quant", {"K": 6912}),
    "dense_gemv 128256×2560, f16": ("dense_gemv", {}),
    "attention at 2048": ("attention", {"L": 2048}),
}
OPS = {"2 threads": "ops, 2 threads", "1 thread": "ops, 1 thread"}
DECODE_TARGETS = dict(zip(SHAPES, ("decode_ratio_6", "decode_ratio_24", "decode_ratio_30"), strict=True))
TOLD = {"6:32000": "6 layers, vocabulary 32000", "24:512": "24 layers, vocabulary 512 (ternary only)",
        "30:128256": "30 layers, vocabulary 128256 (all of 2B-4T)"}  # fmt: skip


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Lines:
    """A table of Markdown, nothing without rows; None is a dash."""
    if not rows:
        return []
    cells = [[("—" if cell is None else str(cell)).replace("|", "/") for cell in row] for row in rows]
    return [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *(f"| {' | '.join(row)} |" for row in cells), ""]


def number(found: float | None, digits: int = 1, unit: str = "") -> str | None:
    """Rounded, with its unit."""
    return None if found is None else f"{found:.{digits}f}{unit}"


def percent(found: float | None) -> str | None:
    """A share."""
    return None if found is None else f"{100 * found:.0f} %"


def between(row: Row | None, digits: int = 2) -> str | None:
    """A ratio with its interval."""
    return None if row is None else f"{row['ratio']:.{digits}f} ({row['low']:.{digits}f} … {row['high']:.{digits}f})"


def microseconds(row: Row | None) -> str | None:
    """Median of a single op with its interval."""
    return None if row is None else f"{row['us']:.2f} ({row['us_low']:.2f} … {row['us_high']:.2f})"


def rate(row: Row | None) -> str | None:
    """Tokens per second with their interval."""
    return None if row is None else f"{row['tokens_per_s']:.1f} ({row['low']:.1f} … {row['high']:.1f})"


# --- single ops ---


def ops(results: Results) -> Section:
    """GEMV, quantisation, head and attention, cold and hot."""
    lines: Lines = []
    for told, run in OPS.items():
        lines += [f"With {told}:", "", *_ops_table(results, run)]
    published = facts()["published"]
    rows = [(name, *(row[key] for key in ("i2_s_cold", "i2_s_hot", "tq2_0_cold"))) for name, row in
            published["gemv_us"].items()]  # fmt: skip
    lines += [f"µs of others with 2 threads, {published['source']}:", ""]
    lines += table(("N×K", "bitnet.cpp I2_S cold", "hot", "ggml TQ2_0 cold"), rows)
    quantised = ", ".join(f"K = {k}: {us} µs" for k, us in published["act_quant_us"].items())
    lines += [f"ggml quantises its activations in the product ({quantised} then, one thread); `tgemv` gets them from "
              "`act_quant`, so that the ratio is over the sum of both. A floor of memory holds for cold rows; hot ones "
              "lie in a cache.", ""]  # fmt: skip
    return lines, [*_ops_claims(results)]


def _ops_table(results: Results, run: str) -> Lines:
    rows = []
    for n, k in GEMVS:
        cold, hot = (results.op(run, "tgemv", state, N=n, K=k, M=1) for state in ("cold", "hot"))
        theirs = [value(results.op(run, "mul_mat_TQ2_0", state, N=n, K=k), "us") for state in ("cold", "hot")]
        rows.append((f"tgemv {n}×{k}", *_cells(cold, hot), *(number(us) for us in theirs),
                     *(number(_over_sum(results, run, n, k, state), 2) for state in ("cold", "hot"))))  # fmt: skip
    for name, (op, params) in OTHERS.items():
        cold, hot = (results.op(run, op, state, **params) for state in ("cold", "hot"))
        if cold is not None or hot is not None:
            rows.append((name, *_cells(cold, hot), None, None, None, None))
    heads = ("op", "cold µs", "GB/s", "of the streaming read", "hot µs", "GB/s", "ggml cold µs", "ggml hot µs",
             "ggml ÷ ours cold", "hot")  # fmt: skip
    return table(heads, rows)


def _cells(cold: Row | None, hot: Row | None) -> Iterator[str | None]:
    yield from (microseconds(cold), number(value(cold, "gb_per_s")), percent(value(cold, "of_bandwidth")))
    yield from (microseconds(hot), number(value(hot, "gb_per_s")))


def _over_sum(results: Results, run: str, n: int, k: int, state: str) -> float | None:
    """ggml's product over the GEMV and the quantisation of its activations, which are always hot."""
    gemv = value(results.op(run, "tgemv", state, N=n, K=k, M=1), "us")
    quantised = value(results.op(run, "act_quant", "hot", K=k), "us")
    ours = None if gemv is None or quantised is None else gemv + quantised
    return divided(value(results.op(run, "mul_mat_TQ2_0", state, N=n, K=k), "us"), ours)


def _ops_claims(results: Results) -> Iterator[Claim]:
    for told, run in OPS.items():
        shares = {f"{n}×{k}": value(results.op(run, "tgemv", "cold", N=n, K=k, M=1), "of_bandwidth") for n, k in JUDGED}
        yield Claim("tgemv_cold_share", shares, told)
        yield Claim("tgemv_hot_ratio", {f"{n}×{k}": _over_sum(results, run, n, k, "hot") for n, k in JUDGED}, told)
        yield Claim("act_quant_us", {"": value(results.op(run, "act_quant", "hot", K=2560), "us")}, told)


# --- decode ---


def decode(results: Results) -> Section:
    """End to end against llama.cpp, scaling, AVX2, and where the time of a step goes."""
    rows = []
    for shape in SHAPES:
        published = facts()["published"]["decode"][shape]
        for at, told in enumerate(("2 threads", "1 thread", "AVX2")):
            run = f"{shape}, {told}"
            if run not in results.runs:
                continue
            row, engine = results.row(run, "tg@0"), results.engine(run)
            read = engine["bandwidth"]["bytes_per_s"] * 1e-9 if engine else None
            theirs = results.theirs(run, "tg@0")
            past = [published[kind][at] if at < 2 else None for kind in ("tq2_0", "i2_s")]
            rows.append(
                (TOLD[shape] if at == 0 else "", told if at < 2 else "2 threads, AVX2", rate(row), rate(theirs),
                 between(results.ratio(run, "tg@0")), percent(value(row, "of_bandwidth")), number(read), *past)
            )  # fmt: skip
    heads = ("shape of 2B-4T", "threads", "kparity tokens/s", "llama.cpp TQ2_0", "ratio", "of the bandwidth bound",
             "streaming read GB/s", "llama.cpp, past", "bitnet.cpp I2_S, past")  # fmt: skip
    lines = table(heads, rows)
    lines += [f"The last two columns: {facts()['published']['source']}. 1 thread and 2 threads are separate runs.", ""]
    lines += _reads(results)
    for shape in SHAPES:
        lines += _profile(results, f"{shape}, 2 threads", TOLD[shape])
    return lines, [*_decode_claims(results)]


def _decode_claims(results: Results) -> Iterator[Claim]:
    for shape, target in DECODE_TARGETS.items():
        ratios = {told: value(results.ratio(f"{shape}, {told}", "tg@0"), "ratio") for told in OPS}
        yield Claim(target, ratios)
    for told in OPS:
        shares = {f"{shape}:": value(results.row(f"{shape}, {told}", "tg@0"), "of_bandwidth") for shape in SHAPES}
        yield Claim("decode_share", shares, told)
    for shape in SHAPES:
        one, two = (
            value(results.row(f"{shape}, {told}", "tg@0"), "tokens_per_s") for told in ("1 thread", "2 threads")
        )
        yield Claim("scaling", {"": divided(two, one)}, f"decode, {TOLD[shape]}")
    hot = {f"{n}×{k}": divided(*(value(results.op(run, "tgemv", "hot", N=n, K=k, M=1), "us") for run in
                                 ("ops, 1 thread", "ops, 2 threads"))) for n, k in JUDGED}  # fmt: skip
    yield Claim("scaling", hot, "tgemv with hot weights")
    avx2 = {f"{shape}:": value(results.ratio(f"{shape}, AVX2", "tg@0"), "ratio") for shape in SHAPES[:2]}
    yield Claim("avx2_ratio", avx2)


def _reads(results: Results) -> Lines:
    """How the memory itself scales: what bounds a step that reads all weights."""
    rates = []
    for told in OPS:
        engines = [results.engine(f"{shape}, {told}") for shape in SHAPES]
        found = [engine["bandwidth"]["bytes_per_s"] for engine in engines if engine]
        rates.append(max(found) * 1e-9 if found else None)
    two, one = rates
    if two is None or one is None:
        return []
    return [f"From one thread to two the streaming read of these runs goes from {one:.1f} to {two:.1f} GB/s at best "
            f"({two / one:.2f} ×): no step that reads its weights from memory scales further.", ""]  # fmt: skip


def _profile(results: Results, run: str, told: str) -> Lines:
    """Nanoseconds of every kernel of a step, and what is left between them."""
    engine, row = results.engine(run), results.row(run, "tg@0")
    if engine is None or row is None:
        return []
    step = row["ms_per_token"]["p50"] * 1e3
    by_op: dict[str, list[float]] = {}
    for kernel in engine["kernels"]:
        if kernel["launches_per_step"]:
            found = by_op.setdefault(kernel["id"], [0, 0.0])
            found[0] += kernel["launches_per_step"]
            found[1] += (kernel["device_ns"] or 0) * 1e-3
    inside = sum(us for _, us in by_op.values())
    rows = [(f"`{name}`", int(launches), number(us), percent(us / step)) for name, (launches, us) in
            sorted(by_op.items(), key=lambda pair: -pair[1][1])]  # fmt: skip
    rows.append(("step − sum of kernels", "", number(step - inside), percent(1 - inside / step)))
    heads = (f"kernel, {told}, 2 threads", "launches", "µs in a step", "of the step")
    weights = sum(us for name, (_, us) in by_op.items() if name.startswith(("tgemv_", "dense_gemv_")))
    gb_per_s, read = row["bytes_per_token"] / weights * 1e-3, engine["bandwidth"]["bytes_per_s"] * 1e-9
    return [f"A step takes {step:.0f} µs and moves {row['bytes_per_token'] / 1e6:.0f} MB. Its matrices take "
            f"{weights:.0f} µs alone, at {gb_per_s:.1f} GB/s ({100 * gb_per_s / read:.0f} % of the streaming read), "
            f"the other kernels {inside - weights:.0f} µs. Every kernel's launches, run alone one after the other:",
            "", *table(heads, rows)]  # fmt: skip


# --- prefill ---


def prefill(results: Results) -> Section:
    """Prompts against TQ2_0 and F16, and what the GEMMs take of them."""
    rows, claims = [], []
    published = facts()["published"]["prefill"]
    ratios: dict[str, dict[str, float | None]] = {"prefill_ratio": {}, "prefill_f16_ratio": {}}
    for point in results.points("prefill") or ("pp64", "pp512"):
        row = results.row("prefill", point)
        theirs, f16 = (results.theirs("prefill", point, kind) for kind in (False, True))
        over = [results.ratio("prefill", point, kind) for kind in (False, True)]
        past = " / ".join(map(str, published.get(point, {}).values())) or None
        rows.append((point, rate(row), rate(theirs), between(over[0]), rate(f16), between(over[1]), past))
        ratios["prefill_ratio"][point], ratios["prefill_f16_ratio"][point] = (value(each, "ratio") for each in over)
    claims = [Claim(target, found) for target, found in ratios.items()]
    heads = ("prompt", "kparity tokens/s", "llama.cpp TQ2_0", "ratio", "llama.cpp F16", "ratio",
             "TQ2_0 / I2_S / F16 in the past")  # fmt: skip
    lines = table(heads, rows)
    gemms = [(f"{n}×{k}", results.op("ops, 2 threads", "tgemv", "cold", N=n, K=k, M=64) or
              results.op("ops, 2 threads", "tgemv", "hot", N=n, K=k, M=64)) for n, k in GEMVS]  # fmt: skip
    if all(row is not None for _, row in gemms):
        lines += [*table(("GEMM of 64 rows, cold", "µs", "GFLOP/s"),
                         [(name, number(value(row, "us")), number(value(row, "gflop_per_s"))) for name, row in gemms]),
                  *_gemm_share(results, [value(row, "us") or 0.0 for _, row in gemms])]  # fmt: skip
    return lines, claims


def _gemm_share(results: Results, us: Sequence[float]) -> Lines:
    """What the GEMMs of all layers take of a prompt of 64 tokens."""
    row = results.row("prefill", "pp64")
    if row is None:
        return []
    layers = results.result("prefill")["model"]["layers"]
    gemms = layers * (2 * us[0] + 2 * us[1] + 2 * us[2] + us[3]) * 1e-3
    whole = 64e3 / row["tokens_per_s"]
    return [f"A prompt of 64 tokens takes {whole:.1f} ms; the GEMMs of its {layers} layers, timed alone, {gemms:.1f} "
            f"ms ({100 * gemms / whole:.0f} %).", ""]  # fmt: skip


# --- attention, growth ---


def attention(results: Results) -> Section:
    """What the depth adds to a step, here and in llama.cpp."""
    points = results.points("depth") or ["tg@0", "tg@2048"]
    ours, theirs = ([each("depth", point) for point in points] for each in (results.row, results.theirs))
    rows = [(point, rate(a), number(_ms(a), 3), rate(b), number(_ms(b), 3))
            for point, a, b in zip(points, ours, theirs, strict=True)]  # fmt: skip
    lines = table(("depth", "kparity tokens/s", "ms/token", "llama.cpp tokens/s", "ms/token"), rows)
    here, there = _added(ours), _added(theirs)
    if here is not None and there is not None:
        lines += [f"From {points[0]} to {points[-1]} a step grows by {here:.3f} ms here and by {there:.3f} ms in "
                  "llama.cpp. The cache is f16 in both.", ""]  # fmt: skip
    grew = here is not None and there is not None and min(here, there) > 0  # noise is larger than a short cache
    return lines, [Claim("attention_ratio", {"": divided(there, here) if grew else None})]


def _ms(row: Row | None) -> float | None:
    return None if row is None else float(row["ms_per_token"]["p50"])


def _added(rows: Sequence[Row | None]) -> float | None:
    """Milliseconds between the first depth and the last."""
    shallow, deep = _ms(rows[0]), _ms(rows[-1])
    return None if shallow is None or deep is None else deep - shallow


def growth(results: Results) -> Section:
    """Straight lines of milliseconds per token, and the figure."""

    def row(curve: Curve) -> tuple[Any, ...]:
        start, slope = curve.line
        points = ", ".join(f"{x:g}: {ms:.2f}" for x, ms in zip(curve.x, curve.ms, strict=True))
        return curve.name, curve.unit, points, f"{start:.2f} + {slope:.3g} · x", percent(curve.deviation)

    found = curves(results)
    lines = table(("grows", "x", "x: ms/token", "line, ms", "largest deviation"), [row(each) for each in found])
    rates = ", ".join(f"{n}: {tokens:.1f}" for n, tokens in threads(results))
    if rates:
        lines += [f"Tokens/s by threads (6 layers, vocabulary 32000): {rates}.", ""]
    figure = ["![tokens/s as the work grows](performance.png)", ""] if found else []
    return [*lines, *figure], []


# --- comparison, harness, backends ---


def comparison(results: Results) -> Section:
    """One pass of all metrics over two arrays."""
    found: Mapping[str, Any] = results.result("comparison")
    rates, shares = found.get("gb_per_s", {}), found.get("share_of_read", {})
    rows = [(name, number(median(rates[name]), 2), percent(median(shares[name]))) for name in rates]
    past = facts()["published"]["comparison_gb_per_s"]
    rows += [(f"{name}, in the past", rate, None) for name, rate in past.items()]
    one = {name.removeprefix("one pass, "): median(shares[name]) for name in shares if name.startswith("one pass")}
    return table(("what", "GB/s", "of the streaming read beside it"), rows), [
        Claim("comparison_share", one or {"": None})
    ]


def harness(results: Results) -> Section:
    """Process starts, probes, repacking."""
    rows = {row["name"]: row for row in results.result("harness").get("rows", []) if "us" in row and not row["errors"]}
    ms = {name: row["us"] * 1e-3 for name, row in rows.items()}
    cells = [(f"`{name}`" if not row["bytes"] else name, number(ms[name], 1),
              number(row["gb_per_s"], 2) if row["bytes"] else None) for name, row in rows.items()]  # fmt: skip
    past = facts()["published"]["start_ms"]
    cells += [(f"`{name}`, in the past", us, None) for name, us in past.items()]
    full = ms.get("kparity probe --backends cpu, full")
    packed = {name.removeprefix("repack "): row["gb_per_s"] for name, row in rows.items() if name.startswith("repack")}
    claims = [Claim("help_ms", {"": ms.get("kparity --help")}),
              Claim("probe_s", {"": None if full is None else full * 1e-3}),
              Claim("repack_gb_per_s", packed or {"": None})]  # fmt: skip
    return table(("what", "ms", "GB/s"), cells), claims


def backends(results: Results) -> Section:
    """The embedded model on every backend that is here."""
    found = results.result("backends")
    rows: list[Sequence[object]] = []
    for run in found.get("runs", []):
        device, cosine = f"{run['device']['device']} ({run['device']['kind']})", run["timed_output"]["cosine"]
        rows += [
            (run["backend"], device, row["name"], rate(row), run["parity"], number(cosine, 6),
             "; ".join([*run["errors"], *row["errors"]]))
            for row in run["measurements"]
        ]  # fmt: skip
    rejected = [each for each in found.get("fallback", []) if each["status"] != "accepted"]
    rows += [(each["backend"], None, None, None, each["status"], None, each["reason"]) for each in rejected]
    heads = ("backend", "device", "measurement", "tokens/s", "parity", "cosine of the timed output", "")
    lines = table(heads, rows)
    if "verify" in (record := results.runs.get("backends", {})):
        plain = ", ".join(record["verify"]) or "PASS"
        lines += [f"No GPU is among them. `kparity receipt verify` on this run: {plain}; with `--require-gpu-kernels`: "
                  f"{', '.join(record['verify_gpu']) or 'PASS'}.", ""]  # fmt: skip
    return lines, []
