"""Predicts what a decode step of BitNet b1.58 2B-4T takes on an H100, from the machine code of its launches.

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
from kparity.ops.spec import Case, Stage
from tools import machine_table
from tools.machine import Step, measure, sass
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

    @property
    def each(self) -> float:
        """Seconds of one launch."""
        return self.gap + self.latency + self.stream + self.rest


class Prediction(Struct, frozen=True):
    """A step at a depth of the cache."""

    commit: str
    depth: int
    parts: list[Part]

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


def step() -> Counter[Case]:
    """The launches of a decode step of the whole model, by case."""
    two, three = (_launched(layers) for layers in (2, 3))
    return Counter({case: two[case] + (LAYERS - 2) * (three[case] - two[case]) for case in three})


def _launched(layers: int) -> Counter[Case]:
    spec = writer.Spec(layers=layers, vocab=SMALL, context=CONTEXT)
    with TemporaryDirectory() as folder:
        path = writer.write_file(Path(folder) / "model.gguf", writer.keys(spec), list(writer.tensors(spec)))
        model, backend = load_model(path), open_backend("cuda-ptx")
        engine = Engine(model, backend, context=CONTEXT)
        found = Counter(_whole(launch.case) for launch in engine.recorded(1).program.launches)
        engine.close()
        model.close()
    return found


def _whole(case: Case) -> Case:
    """The case with the model's vocabulary."""
    params = {name: VOCABULARY if value == SMALL else value for name, value in case.params}
    return ops.get(case.op).case(**params)


def bytes_of(case: Case, depth: int) -> int:
    """What a launch moves; attention as much of its cache as is filled."""
    if case.op == "attention":
        case = ops.get(case.op).case(**{**dict(case.params), "L": depth + 1})
    return ops.get(case.op).work(case).bytes


def part(case: Case, stage: Stage, count: int, steps: Sequence[Step], room: int, depth: int) -> Part:
    """The prediction for one stage. What is under way on the whole device bounds how fast its memory can be read
    (Little's law), and so does what one multiprocessor brings.
    """
    x, y, z = stage.launch.groups
    groups, block, measures = x * y * z, stage.launch.block, measure(steps)
    first = stage == ops.get(case.op).stages(case, "gpu")[0]
    cold = first and case.op in STREAMS
    scratch = sum(arg.nbytes for arg in ops.get(case.op).scratch(case, "gpu"))
    at_once = min(groups, MULTIPROCESSORS * max(room // block, 1))
    under_way = at_once * block * max(16 * measures.in_flight, asked(steps))
    rate = min(BANDWIDTH, under_way / (DRAM if cold else CACHE), min(groups, MULTIPROCESSORS) * EACH)
    latency = (DRAM if cold else CACHE) + max(measures.rounds - 1, 0) * CACHE
    rest = measures.barriers * BARRIER + TAIL
    stream = (bytes_of(case, depth) if first else scratch) / rate
    if first and z > 1:  # the groups that end last count up, read the parts of the others, and meet no other at it
        rest += 2 * CACHE
        stream += scratch / (min(x * y, MULTIPROCESSORS) * EACH)
    return Part(case.id, stage.entry, count, GAP, latency, stream, rest)


def asked(steps: Sequence[Step]) -> int:
    """Bytes of a lane's loads of any width that are under way when one of them is waited for; at most in one place."""
    most = now = 0
    for step in steps:
        now = 0 if step.waits else now
        now += step.bytes
        most = max(most, now)
    return most


def predicted(launches: Counter[Case], depth: int, revision: str) -> Prediction:
    """A step of these launches with as many tokens in the cache."""
    toolchain, parts = compilers.Nvcc(), []
    for case, count in launches.items():
        stages = ops.get(case.op).stages(case, "gpu")
        found, listing = toolchain.machine_code(toolchain.source(case, TARGET), TARGET)
        steps, resources = sass.steps(listing), {each.entry: each for each in found}
        for stage in stages:
            room = lanes(TARGET, resources[stage.entry], stage.launch.block)
            parts.append(part(case, stage, count, steps[stage.entry], room, depth))
    return Prediction(revision, depth, parts)


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
    return "\n".join(lines)


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", metavar="COMMIT", help="take the texts of a commit, as what was before")
    options = parser.parse_args()
    launches = step()
    before = coding.decode(RECEIPT.read_bytes(), type=Receipt).before if RECEIPT.exists() else []
    if options.before:
        revision = (git(machine_table.ROOT, "rev-parse", "--verify", f"{options.before}^{{commit}}") or "").strip()
        if not revision:
            raise SystemExit(f"{options.before}: not a commit")
        with machine_table.texts_of(revision):
            before = [predicted(launches, depth, revision) for depth in DEPTHS]
    now = [predicted(launches, depth, commit(machine_table.ROOT) or "") for depth in DEPTHS]
    weights = sum(count * ops.get(case.op).work(case).bytes for case, count in launches.items() if "gemv" in case.op)
    receipt = Receipt(SCHEMA, "H100 SXM, predicted", weights, now, before)
    files.write(RECEIPT, coding.format(coding.encode(receipt), indent=1).decode() + "\n")
    print(table(receipt))
    text = machine_table.DOCS.read_text(encoding="utf-8")
    files.write(machine_table.DOCS, machine_table.between(text, BEGIN, END, table(receipt)))


if __name__ == "__main__":
    main()
