"""Predicts what a decode step of BitNet b1.58 2B-4T takes on an H100, and a prefill, from the machine code of its
launches.

    python -m tools.predicted [--before COMMIT]    write bench/receipts/predicted.json and the table in the docs

A prediction and no measurement: no device ran. The launches are those of the engine on the cuda backend's texts; loads
in flight, latencies in series, barriers and registers are read from the SASS of each (``tools.machine_table``); the
constants below are what public sources say of the device, or assumed. With ``--before`` the texts of a commit stand
beside today's, in today's geometry.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct
from msgspec import json as coding

from kparity import ops
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.host import files
from kparity.host.revision import commit, git
from kparity.kernels.support import VOCABULARY
from kparity.model import load_model, writer
from kparity.ops.spec import Case, Stage, ceil_div
from tools import machine_table
from tools.machine import Step, loop_of, measure, sass, stream
from tools.machine.occupancy import lanes
from tools.toolchains import Target, compilers

RECEIPT = machine_table.ROOT / "bench" / "receipts" / "predicted.json"
SCHEMA = "kparity-predicted-v1"
BEGIN, END = "<!-- predicted: begin -->", "<!-- predicted: end -->"
TARGET = Target("sm_90")
LAYERS, CONTEXT, SMALL = 30, 4096, 1024
"""Of 2B-4T; and the vocabulary of the files from which the launches are taken, in whose place the model's is put."""
DEPTHS = (0, 2048)

MULTIPROCESSORS, PEAK, BANDWIDTH = 132, 3.35e12, 3.0e12
"""Of an H100 SXM: by its data sheet, and what of it a copy reaches: assumed."""
GAP = 1.2e-6
"""Between dependent nodes of a graph, the launch included: assumed."""
DRAM, CACHE = 0.6e-6, 0.25e-6
"""Latency of a load of what no cache holds, and of what a kernel has just written: assumed."""
STREAMS = ("tgemv", "dense_gemv", "embed", "attention")
"""Ops whose first launch reads what no cache holds."""
EACH = 110e9
"""Bytes per second that one multiprocessor brings at most: 64 a clock at 1.755 GHz."""
BARRIER, TAIL = 0.1e-6, 0.2e-6
"""A barrier with the shuffles before it, and the last stores: assumed."""
CHUNKS = (32, 512)
"""Rows of a prefill: what an engine takes by itself, and a prompt of 512 tokens at once."""
CLOCK, ISSUED = 1.755e9, 4
"""Cycles a second, and instructions that a multiprocessor issues in one; of IDP4A half as many."""
PEAK_PRODUCTS, PRODUCTS = 1979e12 / 2, 0.62 * 4096
"""Products of int8 a second by the data sheet; and those that a multiprocessor does in a cycle by mma.sync, which is
62 % of the most ("Benchmarking and Dissecting the Nvidia Hopper GPU Architecture", 2024)."""
SECOND_LEVEL = 5.5e12
"""Bytes a second of the second level of caches, to all multiprocessors: assumed."""
ENDED = 0.5e-9
"""Of a group that ends at once, all multiprocessors together: assumed."""


class Part(Struct, frozen=True):
    """One launch of a step, as often as it occurs; seconds of each time."""

    case: str
    entry: str
    count: int
    gap: float
    latency: float
    stream: float
    rest: float
    """Barriers and the end."""
    bound: str = "memory"
    """What the stream waits for."""
    least: float = 0.0
    """Seconds by the data sheet's roofline of memory and matrix cores."""

    @property
    def each(self) -> float:
        """Seconds of one launch."""
        return self.gap + self.latency + self.stream + self.rest


class Prediction(Struct, frozen=True):
    """A step at a depth of the cache."""

    commit: str
    depth: int
    parts: list[Part]
    rows: int = 1

    @property
    def launches(self) -> int:
        """Nodes of the graph."""
        return sum(part.count for part in self.parts)

    def total(self, *terms: str) -> float:
        """Seconds of these terms over all launches; of all terms without one."""
        names = terms or ("gap", "latency", "stream", "rest")
        return sum(float(part.count * getattr(part, name)) for part in self.parts for name in names)


class Receipt(Struct, frozen=True):
    """Predictions for the texts of today and, where asked for, of a commit."""

    schema: str
    device: str
    bytes: int
    """That a step must read: weights, and nothing of the cache."""
    now: list[Prediction]
    before: list[Prediction]
    prefill: list[Prediction]
    prefill_before: list[Prediction]


def step(rows: int = 1) -> Counter[Case]:
    """The launches of a step of the whole model that takes so many tokens, by case."""
    two, three = (_launched(layers, rows) for layers in (2, 3))
    return Counter({case: two[case] + (LAYERS - 2) * (three[case] - two[case]) for case in three})


def _launched(layers: int, rows: int) -> Counter[Case]:
    spec = writer.Spec(layers=layers, vocab=SMALL, context=CONTEXT)
    with TemporaryDirectory() as folder:
        path = writer.write_file(Path(folder) / "model.gguf", writer.keys(spec), list(writer.tensors(spec)))
        model, backend = load_model(path), open_backend("cuda-ptx")
        engine = Engine(model, backend, context=CONTEXT, chunk=rows)
        found = Counter(_whole(launch.case) for launch in engine.recorded(rows).program.launches)
        engine.close()
        model.close()
    return found


def _whole(case: Case) -> Case:
    """The case with the model's vocabulary."""
    params = {name: VOCABULARY if value == SMALL else value for name, value in case.params}
    return ops.get(case.op).case(**params)


def bytes_of(case: Case, depth: int) -> int:
    """What a launch moves; attention as much of its cache as is filled."""
    if ops.JOINED.get(case.op, case.op) == "attention":
        case = ops.get(case.op).case(**{**dict(case.params), "L": depth + int(case["M"])})
    return ops.get(case.op).work(case).bytes


def part(case: Case, stage: Stage, count: int, steps: Sequence[Step], room: int, depth: int) -> Part:
    """The prediction for one stage. What is under way on the whole device bounds how fast its memory can be read
    (Little's law), and so does what one multiprocessor brings.
    """
    x, y, z = stage.launch.groups
    groups, block, measures = x * y * z, stage.launch.block, measure(steps)
    first = stage == ops.get(case.op).stages(case, "gpu")[0]
    cold = first and ops.JOINED.get(case.op, case.op) in STREAMS
    parts = ops.get(case.op).scratch(case, "gpu")
    scratch = sum(arg.nbytes for arg in parts)
    at_once = min(groups, MULTIPROCESSORS * max(room // block, 1))
    under_way = at_once * block * max(16 * measures.in_flight, asked(steps))
    rate = min(BANDWIDTH, under_way / (DRAM if cold else CACHE), min(groups, MULTIPROCESSORS) * EACH)
    latency = (DRAM if cold else CACHE) + max(measures.rounds - 1, 0) * CACHE
    rest = measures.barriers * BARRIER + TAIL
    stream = (bytes_of(case, depth) if first else scratch) / rate
    if case.op == "norm_tgemv":  # each group reads the row, and what it is normed by
        row = sum(arg.nbytes for arg in ops.get(case.op).args(case)[2:-1] if arg.role == "in")
        stream += -(-groups // MULTIPROCESSORS) * row / EACH
    if any(
        arg.role == "inout" for arg in parts
    ):  # the groups that end last count up, read the parts of the others, and meet no other at it
        rest += 2 * CACHE
        stream += scratch / (min(groups // (z if z > 1 else x), MULTIPROCESSORS) * EACH)
    terms, bound = {"memory": stream}, "memory"
    if first and int(case["M"]) > 1:
        terms |= many(case, steps, depth)
        rest += terms.pop("ended", 0.0)
        bound = max(terms, key=lambda each: terms[each])
    return Part(case.id, stage.entry, count, GAP, latency, terms[bound], rest, bound, roofline(case, depth))


def roofline(case: Case, depth: int) -> float:
    """Seconds of a product by the data sheet, of memory or of matrix cores, whichever is longer; 0 for other ops."""
    if "gemv" not in case.op:
        return 0.0
    return max(bytes_of(case, depth) / PEAK, int(case["M"]) * int(case["N"]) * int(case["K"]) / PEAK_PRODUCTS)


def many(case: Case, steps: Sequence[Step], depth: int) -> dict[str, float]:
    """Seconds that many rows of activations take beside memory: what groups read again, from the second level of
    caches; products and instructions of the loop of tgemv; and ``ended``, groups that end at once.
    """
    m = int(case["M"])
    if case.op == "attention":  # each row reads its keys and values: on average those of half of the rows
        one = ops.get(case.op).case(**{**dict(case.params), "M": 1, "L": depth + max(m // 2, 1)})
        return {"second level": m * ops.get(case.op).work(one).bytes / SECOND_LEVEL}
    if case.op != "tgemv":
        return {}
    has = {name: int(value) for name, value in ops.get(case.op).defines(case).items()}
    loop, matrix = loop_of(steps, stream(steps)), measure(steps).products
    code = [steps[at].text for at in loop]
    rows, tokens = has["GPU_BLOCK"] // has["GPU_LANES"] * has["TILE_N"], 32 if matrix else has["TILE_M"]
    groups = ceil_div(has["N"], rows) * ceil_div(m, tokens)
    if matrix:
        trips = ceil_div(has["BLOCKS"], 4 if rows == 32 else 1)
    else:
        trips = ceil_div(ceil_div(has["WORDS"] // 4, has["GPU_LANES"]), has["AHEAD"])
    turns = ceil_div(groups, MULTIPROCESSORS) * has["GPU_BLOCK"] // 32 * trips  # of the loop, on the busiest one
    slots = len(code) + sum("IDP" in each for each in code)
    return {
        "second level": groups * has["KP"] * (rows // 4 + tokens) / SECOND_LEVEL,
        "matrix cores": turns * matrix * 16 * 8 * 32 / PRODUCTS / CLOCK,
        "instructions": turns * slots / ISSUED / CLOCK,
        "ended": (ceil_div(has["N"], rows) * ceil_div(m, has["TILE_M"]) - groups) * ENDED,
    }


def asked(steps: Sequence[Step]) -> int:
    """Bytes of a lane's loads of any width that are under way when one of them is waited for; at most in one place."""
    most = now = 0
    for step in steps:
        now = 0 if step.waits else now
        now += step.bytes
        most = max(most, now)
    return most


def predicted(launches: Counter[Case], depth: int, revision: str, rows: int = 1) -> Prediction:
    """A step of these launches with as many tokens in the cache."""
    toolchain, parts = compilers.Nvcc(), []
    for case, count in launches.items():
        stages = ops.get(case.op).stages(case, "gpu")
        found, listing = toolchain.machine_code(toolchain.source(case, TARGET), TARGET)
        steps, resources = sass.steps(listing), {each.entry: each for each in found}
        for stage in stages:
            room = lanes(TARGET, resources[stage.entry], stage.launch.block)
            parts.append(part(case, stage, count, steps[stage.entry], room, depth))
    return Prediction(revision, depth, parts, rows)


def table(receipt: Receipt) -> str:
    """Terms, then launches, slowest first."""
    head = (
        "| texts | tokens in the cache | launches | gaps | latencies | streams | rest | µs | tokens/s | of the bound |"
    )
    lines, bound = [head, "|" + "---|" * 10], receipt.bytes / PEAK
    for name, each in [("before", one) for one in receipt.before] + [("now", one) for one in receipt.now]:
        terms = [f"{each.total(term) * 1e6:.0f}" for term in ("gap", "latency", "stream", "rest")]
        total = each.total()
        numbers = [*terms, f"{total * 1e6:.0f}", f"{1 / total:.0f}", f"{bound / total:.0%}"]
        lines.append(f"| {name} | {each.depth} | {each.launches} | {' | '.join(numbers)} |")
    last = receipt.now[-1]
    head = (
        f"| launch (now, {last.depth} tokens in the cache) | times | gap | latency | stream | rest | µs | µs in all |"
    )
    lines += ["", head, "|" + "---|" * 8]
    for one in sorted(last.parts, key=lambda each: -each.count * each.each):
        seconds = [one.gap, one.latency, one.stream, one.rest, one.each]
        numbers = [*(f"{each * 1e6:.2f}" for each in seconds), f"{one.count * one.each * 1e6:.0f}"]
        entry = "" if one.entry == one.case.partition("[")[0] else f" {one.entry}"
        lines.append(f"| `{one.case}`{entry} | {one.count} | {' | '.join(numbers)} |")
    return "\n".join([*lines, "", *prefills(receipt)])


def prefills(receipt: Receipt) -> list[str]:
    """The lines of the table of prefills, and of the launches of the longest."""
    head = ("texts", "rows at once", "launches", "gaps", "latencies", "streams", "rest", "µs", "tokens/s",
            "products, of the roofline")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    named = [("before", one) for one in receipt.prefill_before] + [("now", one) for one in receipt.prefill]
    for name, one in sorted(named, key=lambda each: each[1].rows):
        total = one.total()
        products = [part for part in one.parts if part.least]
        share = sum(part.count * part.least for part in products) / sum(part.count * part.each for part in products)
        terms = [f"{one.total(term) * 1e6:.0f}" for term in ("gap", "latency", "stream", "rest")]
        numbers = [*terms, f"{total * 1e6:.0f}", f"{one.rows / total:.0f}", f"{share:.0%}"]
        lines.append(f"| {name} | {one.rows} | {one.launches} | {' | '.join(numbers)} |")
    last = receipt.prefill[-1]
    of_launches = (f"launch (now, {last.rows} rows)", "times", "stream waits for", "stream", "all else", "µs in all")
    lines += ["", f"| {' | '.join(of_launches)} |", "|" + "---|" * len(of_launches)]
    for part in sorted(last.parts, key=lambda each: -each.count * each.each)[:8]:
        numbers = [*(f"{each * 1e6:.2f}" for each in (part.stream, part.each - part.stream)),
                   f"{part.count * part.each * 1e6:.0f}"]  # fmt: skip
        lines.append(f"| `{part.case}` | {part.count} | {part.bound} | {' | '.join(numbers)} |")
    return lines


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", metavar="COMMIT", help="take the texts of a commit, as what was before")
    options = parser.parse_args()
    launches = step()
    chunks = {rows: step(rows) for rows in CHUNKS}

    def taken(revision: str, decode: bool = True) -> tuple[list[Prediction], list[Prediction]]:
        steps = [predicted(launches, depth, revision) for depth in DEPTHS] if decode else []
        return steps, [predicted(each, 0, revision, rows) for rows, each in chunks.items()]

    stored = coding.decode(RECEIPT.read_bytes(), type=Receipt) if RECEIPT.exists() else None
    before = (stored.before, stored.prefill_before) if stored else ([], [])
    if options.before:
        revision = (git(machine_table.ROOT, "rev-parse", "--verify", f"{options.before}^{{commit}}") or "").strip()
        if not revision:
            raise SystemExit(f"{options.before}: not a commit")
        with machine_table.texts_of(revision):
            folders = {case.op: f"{revision}:kernels/{case.op}" for case in launches}
            missing = [op for op, folder in folders.items() if git(machine_table.ROOT, "show", folder) is None]
            if missing and stored:  # the launches of today are not those of before
                print(f"decode as stored: {', '.join(sorted(missing))} was not in {options.before}")
                before = stored.before, taken(revision, False)[1]
            else:
                before = taken(revision)
    now = taken(commit(machine_table.ROOT) or "")
    weights = sum(count * ops.get(case.op).work(case).bytes for case, count in launches.items() if "gemv" in case.op)
    receipt = Receipt(SCHEMA, "H100 SXM, predicted", weights, now[0], before[0], now[1], before[1])
    files.write(RECEIPT, coding.format(coding.encode(receipt), indent=1).decode() + "\n")
    print(table(receipt))
    text = machine_table.DOCS.read_text(encoding="utf-8")
    files.write(machine_table.DOCS, machine_table.between(text, BEGIN, END, table(receipt)))


if __name__ == "__main__":
    main()
