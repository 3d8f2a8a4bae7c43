"""Measures everything that docs/performance.md tells, and writes the page.

    python -m tools.performance [--only SECTION,…]    run, save, write the page: 20 minutes on a calm machine
    python -m tools.performance --render              the page again, from what is saved

The commands are those of tools/performance.yaml, with the targets; what they write as JSON is kept, and
tools/performance.md.j2 is the page. A run during which the host of a virtual machine gave more than 2 % of the
processors' time to others is tried again, twice at most, and the calmest counts, whatever came out of it. What is not
among ``--only`` stays as it was saved. Exit code 1 where a run gave no result; a missed target stands in the page. What
an interrupted run measured is in build/performance/unfinished.json: ``--render --json`` makes a page of it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jinja2
import numpy as np
import yaml

from kparity.bench import shapes
from kparity.host import files
from kparity.host.revision import revision
from kparity.kernels.support import SERVED
from kparity.receipts.statement import now
from kparity.receipts.verify import verify

ROOT = Path(__file__).resolve().parent.parent
SAVED, PAGE = ROOT / "bench/receipts/performance.json", ROOT / "docs/performance.md"
UNFINISHED = ROOT / "build/performance/unfinished.json"
"""What was measured until the last run is done: the sources stay as they are committed while they are measured."""
FACTS: dict[str, Any] = yaml.safe_load((ROOT / "tools/performance.yaml").read_text(encoding="utf-8"))
SCHEMA = "kparity-performance-v1"
LIMIT_S = 900
"""Of one run: a hanging one costs itself."""
KEPT, DIGITS = 24, 5
"""Raw samples that are kept of a series, evenly spaced; digits of a number."""
KEPT_PARTS = ("host", "harness", "model", "fallback", "baselines", "runs", "ops")
THREADS = ("2 threads", "1 thread")
GEMVS = SERVED.linears
"""(N, K); k and v, the small ones, are not among the targets."""
JUDGED = tuple(shape for shape in GEMVS if min(shape) >= SERVED.width)
UNITS = {"share": (100.0, "{:.0f} %"), "×": (1.0, "{:.2f} ×"), "µs": (1.0, "{:.2f} µs"), "ms": (1.0, "{:.0f} ms"),
         "s": (1.0, "{:.2f} s"), "GB/s": (1.0, "{:.2f} GB/s")}  # fmt: skip
MET, MISSED, UNKNOWN = "met", "**missed**", "not measured"


# --- runs ---


def command(text: str) -> list[str]:
    """What is started for a command as the page shows it; files that it names are written first."""
    programs = {"kparity": str(Path(sys.executable).parent / "kparity"), "python": sys.executable}
    argv = shlex.split(text)
    f16 = str(shapes.model_file(argv[argv.index("--shape") + 1], kind="f16")) if "F16" in argv else ""
    return [programs[argv[0]], *(f16 if each == "F16" else each for each in argv[1:])]


def stolen() -> tuple[int, int]:
    """Time that the host gave to others while a processor of this machine had work, and all time: of all processors
    since the start, in the clock ticks of /proc/stat; zeros where there is none.
    """
    try:
        ticks = [int(each) for each in Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return ticks[7], sum(ticks)


def calm(name: str) -> dict[str, Any]:
    """The run, or the calmest of some where the host takes too much from each (``calm`` in performance.yaml)."""
    tried, limits = list[dict[str, Any]](), FACTS["calm"]
    while not tried or (tried[-1]["stolen"] > limits["stolen"] and len(tried) < limits["tries"]):
        tried.append(execute(FACTS["runs"][name]))
    calmest = min(tried, key=lambda record: ("result" not in record, record["stolen"]))
    return {**calmest, "tries": len(tried)}


def execute(text: str) -> dict[str, Any]:
    """One run: command, time, load before it, commit, what the host took, and what came out or why nothing did."""
    source: dict[str, Any] = revision()
    record: dict[str, Any] = {"command": text, "begun": now(), "load": round(os.getloadavg()[0], 2)}
    record["commit"], record["dirty"] = source["commit"], source["dirty"]
    began, (taken, ticks) = time.monotonic(), stolen()
    with tempfile.TemporaryDirectory(prefix="kparity-performance-") as folder:
        path = Path(folder) / "result.json"
        started = [*command(text), "--json", str(path)]
        try:
            done = subprocess.run(started, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
            record |= {"code": done.returncode, "said": reasons(done.stderr, done.stdout) if done.returncode else []}
        except (subprocess.TimeoutExpired, OSError) as error:
            record |= {"code": None, "said": [str(error)]}
        record["seconds"] = round(time.monotonic() - began, 1)
        later = stolen()
        record["stolen"] = round((later[0] - taken) / max(later[1] - ticks, 1), 4)
        if path.is_file():
            record |= result(json.loads(path.read_text(encoding="utf-8")))
    return record


def reasons(stderr: str, stdout: str) -> list[str]:
    """Why a command failed: the lines that say so, or else its last words."""
    lines = [" ".join(line.split()) for line in (*stderr.splitlines(), *stdout.splitlines()) if line.strip()]
    told = [line for line in lines if any(word in line for word in ("ERROR", "output wrong"))]
    return list(dict.fromkeys(told)) or lines[-3:]


def result(document: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a document: of a receipt all but the gates' numbers, with what verify says."""
    if "predicate" not in document:
        return {"result": thinned(document)}
    found = {name: document["predicate"].get(name, []) for name in KEPT_PARTS}
    found["runs"] = [
        {**run, "parity": run["parity"]["verdict"], "kernels": [
            {"id": each["id"], "device_ns": each["device_ns"], "launches_per_step": each["launches"]["step"]}
            for each in run["kernels"]]}
        for run in found["runs"]
    ]  # fmt: skip
    refused = {key: sorted({each.code for each in verify(document, require_gpu_kernels=key == "verify_gpu")})
               for key in ("verify", "verify_gpu")}  # fmt: skip
    return {**refused, "result": thinned(found)}


def thinned(value: Any) -> Any:
    """Numbers with few digits, and long lists of samples with few of them."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: thinned(each) for name, each in value.items()}
    if isinstance(value, list):
        numbers = value and all(isinstance(each, (int, float)) for each in value)
        return [thinned(each) for each in value[:: -(-len(value) // KEPT) if numbers else 1]]
    return value


# --- what was saved ---


class Row(dict[str, Any]):
    """Something measured. What is not there is None, in an empty row everything."""

    def __missing__(self, name: str) -> None:
        return None


def rows_of(value: Any) -> Any:
    """The same with a ``Row`` for every object in it: rows of receipts leave out what does not apply."""
    if isinstance(value, list):
        return [rows_of(each) for each in value]
    return Row({name: rows_of(each) for name, each in value.items()}) if isinstance(value, dict) else value


class Results:
    """The saved runs. A row counts only with right outputs; another is empty."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.runs: dict[str, Row] = {name: rows_of(record) for name, record in document["runs"].items()}

    def result(self, name: str) -> Row:
        """What came out of a run."""
        return Row(self.runs.get(name, Row())["result"] or {})

    def engine(self, name: str) -> Row:
        """The cpu backend's part of a run."""
        return first(self.result(name)["runs"], lambda run: run["backend"] == "cpu")

    def row(self, name: str, point: str = "tg@0") -> Row:
        """A measurement of the cpu backend."""
        run = self.engine(name)
        rows = run["measurements"] if run["parity"] == "PASS" and not run["errors"] else []
        return first(rows, lambda row: row["name"] == point and not row["errors"])

    def points(self, name: str) -> list[str]:
        """The names of what a run measured of the cpu backend."""
        return [row["name"] for row in self.engine(name)["measurements"] or []]

    def theirs(self, name: str, point: str = "tg@0", f16: bool = False, part: str = "measurements") -> Row:
        """A row of llama.cpp in a run, on the same file or on the F16 file."""
        found = first(self.result(name)["baselines"], lambda row: ("-f16-" in row["name"]) == f16 and not row["errors"])
        return first(found[part], lambda row: row["name"] == point and row.get("backend", "cpu") == "cpu")

    def ratio(self, name: str, point: str = "tg@0", f16: bool = False) -> Row:
        """How many times faster the cpu backend is than llama.cpp: ratio, low, high."""
        return self.theirs(name, point, f16, "ratios") if self.row(name, point) else Row()

    def op(self, told: str, op: str, state: str, **params: int) -> Row:
        """A single op with so many threads, by some of the parameters of its case."""

        def same(row: Mapping[str, Any]) -> bool:
            found = dict(re.findall(r"(\w+)=([\w.]+)", row.get("case") or ""))
            right = row["op"] == op and row.get("state") == state and "unit_s" in row and not row["errors"]
            return right and all(found.get(key) == str(value) for key, value in params.items())

        return first(self.result(f"ops, {told}")["ops"], same)

    def gemv(self, told: str, state: str, n: int, k: int, m: int = 1) -> Row:
        """The ternary product with m rows of activations."""
        return self.op(told, "tgemv", state, N=n, K=k, M=m)

    def over(self, told: str, n: int, k: int, state: str) -> float | None:
        """ggml's product over the GEMV and the quantisation of its activations, which are always hot."""
        gemv, quantised = self.gemv(told, state, n, k), self.op(told, "act_quant", "hot", K=k)
        theirs = self.op(told, "mul_mat_TQ2_0", state, N=n, K=k)["unit_s"]
        return divided(theirs, gemv["unit_s"] + quantised["unit_s"] if gemv and quantised else None)

    def reads(self) -> list[float | None]:
        """The best streaming read of the decode runs with 2 threads and with 1, in GB/s."""
        engines = [[self.engine(f"{shape}, {told}") for shape in FACTS["shapes"]] for told in THREADS]
        rates = [[each["bandwidth"]["bytes_per_s"] * 1e-9 for each in found if each] for found in engines]
        return [max(found, default=None) for found in rates]

    def gemms(self) -> list[Row]:
        """The products of 64 rows, each beyond a cache where it can be; all or none."""
        found = [self.gemv(THREADS[0], "cold", n, k, 64) or self.gemv(THREADS[0], "hot", n, k, 64) for n, k in GEMVS]
        return found if all(found) else []

    def added(self) -> list[float | None]:
        """Milliseconds that the largest depth adds to a step, here and in llama.cpp."""
        points = self.points("depth") or ["tg@0"]
        ends = [[ms(each("depth", point)) for point in (points[0], points[-1])] for each in (self.row, self.theirs)]
        return [None if shallow is None or deep is None else deep - shallow for shallow, deep in ends]

    def profile(self, shape: str) -> Row:
        """Microseconds of a step with 2 threads, of each kernel in it, and of its matrices, with their GB/s."""
        engine, row = self.engine(f"{shape}, 2 threads"), self.row(f"{shape}, 2 threads")
        if not row:
            return Row()
        kernels: dict[str, tuple[int, float]] = {}
        for each in (each for each in engine["kernels"] if each["launches_per_step"]):
            launches, us = kernels.get(each["id"], (0, 0.0))
            kernels[each["id"]] = launches + each["launches_per_step"], us + (each["device_ns"] or 0) * 1e-3
        matrices = sum(us for name, (_, us) in kernels.items() if name.startswith(("tgemv_", "dense_gemv_")))
        rate, read = row["bytes"] / matrices * 1e-3, engine["bandwidth"]["bytes_per_s"] * 1e-9
        rows = sorted(((name, *each) for name, each in kernels.items()), key=lambda each: -each[2])
        return Row(step=row["ms_per_token"]["p50"] * 1e3, mb=row["bytes"] / 1e6, matrices=matrices, rate=rate,
                   of_read=rate / read, inside=sum(us for *_, us in rows), kernels=rows)  # fmt: skip


def first(rows: Sequence[Mapping[str, Any]] | None, wanted: Callable[[Mapping[str, Any]], bool]) -> Row:
    """The first row that is wanted, or an empty one."""
    return Row(next((row for row in rows or [] if wanted(row)), {}))


def divided(a: float | None, b: float | None) -> float | None:
    """a / b where both are there."""
    return a / b if a is not None and b else None


def us(row: Mapping[str, Any]) -> float | None:
    """Microseconds of a launch or call."""
    return row["unit_s"] * 1e6 if row else None


def ms(row: Row) -> float | None:
    """Milliseconds of a token."""
    return row["ms_per_token"]["p50"] if row else None


def curve(x: Sequence[float], y: Sequence[float]) -> Row:
    """Milliseconds of a token against something that grows, y = start + slope · x by least squares over the relative
    errors, and the largest distance of a point from the line as a share of it.
    """
    slope, start = np.polyfit(np.array(x, float), y, 1, w=1 / np.array(y))
    off = np.abs(np.array(y) / (start + slope * np.array(x, float)) - 1).max()
    return Row(x=x, ms=y, start=float(start), slope=float(slope), deviation=float(off))


def curves(results: Results) -> list[Row]:
    """Time per token against layers, vocabulary and depth; those with three points or more."""
    runs = ({6: "6:512", 12: "12:512", 18: "18:512", 24: "24:512, 2 threads"},
            {512: "6:512", 32000: "6:32000, 2 threads", 64000: "6:64000", 128256: "6:128256"})  # fmt: skip
    found = [{x: ms(results.row(run)) for x, run in each.items()} for each in runs]
    found.append({int(point[3:]): ms(results.row("depth", point)) for point in results.points("depth")})
    units = ("layers, vocabulary 512", "words, 6 layers", "tokens in the cache, 6 layers, vocabulary 32000")
    points = [{x: y for x, y in each.items() if y is not None} for each in found]
    return [Row(name=name, unit=unit, **curve(list(each), list(each.values())))
            for name, unit, each in zip(("layers", "vocabulary", "depth"), units, points, strict=True)
            if len(each) >= 3]  # fmt: skip


# --- targets ---


@dataclass(frozen=True)
class Claim:
    """A target beside what was measured: one value, or several that must all hold, each with what it is of."""

    target: str
    values: Mapping[str, float | None]
    about: str = ""

    @property
    def verdict(self) -> str:
        """Met, missed (one is enough), or not measured."""
        limit, known = FACTS["targets"][self.target], [each for each in self.values.values() if each is not None]
        if any(each < limit["value"] if limit["rule"] == "at least" else each > limit["value"] for each in known):
            return MISSED
        return MET if known and len(known) == len(self.values) else UNKNOWN

    @property
    def line(self) -> tuple[str, ...]:
        """What, asked, measured, verdict."""
        limit = FACTS["targets"][self.target]
        factor, form = UNITS[limit["unit"]]
        told = [f"{name} {'—' if each is None else form.format(each * factor)}" for name, each in self.values.items()]
        asked = f"{'≥' if limit['rule'] == 'at least' else '≤'} {form.format(limit['value'] * factor)}"
        what = f"{limit['what']}, {self.about}".removesuffix(", ")
        return what, asked, ", ".join(told).strip(), self.verdict


def claims(r: Results) -> dict[str, list[Claim]]:
    """What the sections hold against targets."""
    found: dict[str, list[Claim]] = {section: [] for section in FACTS["sections"]}
    for told in THREADS:
        cold = {f"{n}×{k}": r.gemv(told, "cold", n, k)["of_bandwidth"] for n, k in JUDGED}
        hot = {f"{n}×{k}": r.over(told, n, k, "hot") for n, k in JUDGED}
        quantised = us(r.op(told, "act_quant", "hot", K=2560))
        found["ops"] += [Claim("tgemv_cold_share", cold, told), Claim("tgemv_hot_ratio", hot, told),
                         Claim("act_quant_us", {"": quantised}, told)]  # fmt: skip
        shares = {f"{shape}:": r.row(f"{shape}, {told}")["of_bandwidth"] for shape in FACTS["shapes"]}
        found["decode"].append(Claim("decode_share", shares, told))
    for shape, each in FACTS["shapes"].items():
        ratios = {told: r.ratio(f"{shape}, {told}")["ratio"] for told in THREADS}
        steps = (r.row(f"{shape}, {told}")["unit_s"] for told in reversed(THREADS))
        found["decode"].append(Claim(each["target"], ratios))
        found["decode"].append(Claim("scaling", {"": divided(*steps)}, f"decode, {each['told']}"))
    taken = {shape: [r.gemv(told, "hot", *shape)["unit_s"] for told in reversed(THREADS)] for shape in JUDGED}
    hot = {f"{n}×{k}": divided(*taken[n, k]) for n, k in JUDGED}
    avx2 = {f"{shape}:": r.ratio(f"{shape}, AVX2")["ratio"] for shape in ("6:32000", "24:512")}
    found["decode"] += [Claim("scaling", hot, "tgemv with hot weights"), Claim("avx2_ratio", avx2)]
    found["prefill"] = [Claim(target, {point: r.ratio("prefill", point, f16)["ratio"] for point in ("pp64", "pp512")})
                        for target, f16 in (("prefill_ratio", False), ("prefill_f16_ratio", True))]  # fmt: skip
    here, there = r.added()
    grew = here is not None and there is not None and min(here, there) > 0  # noise is larger than a short cache
    found["attention"] = [Claim("attention_ratio", {"": divided(there, here) if grew else None})]
    shares = r.result("comparison")["share_of_read"] or {}
    one = {name.removeprefix("one pass, "): median(shares[name]) for name in shares if name.startswith("one pass")}
    found["comparison"] = [Claim("comparison_share", one or {"": None})]
    rows = {row["name"]: row for row in r.result("harness")["rows"] or [] if "unit_s" in row and not row["errors"]}
    packed = {name.removeprefix("repack "): row["gb_per_s"] for name, row in rows.items() if name.startswith("repack")}
    full = rows.get("kparity probe --backends cpu, full", Row())
    found["harness"] = [Claim("help_ms", {"": divided(us(rows.get("kparity --help", Row())), 1e3)}),
                        Claim("probe_s", {"": full["unit_s"]}),
                        Claim("repack_gb_per_s", packed or {"": None})]  # fmt: skip
    return found


# --- the page ---


def fixed(found: float | None, digits: int = 1) -> str | None:
    """A rounded number."""
    return None if found is None else f"{found:.{digits}f}"


def percent(found: float | None) -> str | None:
    """A share."""
    return None if found is None else f"{100 * found:.0f} %"


def within(values: Sequence[float] | None, digits: int = 1) -> str | None:
    """A number with the two ends of its interval."""
    return "{:.{d}f} ({:.{d}f} … {:.{d}f})".format(*values, d=digits) if values else None


def rate(row: Row) -> str | None:
    """Tokens per second of a model."""
    return within([1 / row[name] for name in ("unit_s", "high_s", "low_s")] if row else None)


def times(row: Row) -> str | None:
    """Microseconds of an op."""
    return within([row[name] * 1e6 for name in ("unit_s", "low_s", "high_s")] if row else None, 2)


def faster(row: Row) -> str | None:
    """How many times faster."""
    return within([row[name] for name in ("ratio", "low", "high")] if row else None, 2)


def page(document: Mapping[str, Any]) -> str:
    """docs/performance.md: the same document gives the same page."""
    results = Results(document)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "tools"), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda cell: "—" if cell is None else cell,
    )  # fmt: skip
    found = claims(results)
    text: str = environment.get_template("performance.md.j2").render(
        r=results, facts=FACTS, claims=found, every=[claim for section in found.values() for claim in section],
        curves=curves(results), gemvs=GEMVS, threads=THREADS, fixed=fixed, percent=percent, rate=rate, times=times,
        faster=faster, us=us, median=median, ms=ms, MET=MET, MISSED=MISSED, UNKNOWN=UNKNOWN,
    )  # fmt: skip
    return text


# --- the command ---


def save(path: Path, document: Mapping[str, Any]) -> None:
    """Write the whole document, a run a line, so that a broken run leaves the last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(name)}: {json.dumps(run, ensure_ascii=False)}" for name, run in document["runs"].items()]
    files.write(path, f'{{"schema": "{SCHEMA}", "runs": {{\n' + ",\n".join(lines) + "\n}}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(FACTS["sections"]), help="sections to measure anew")
    parser.add_argument("--render", action="store_true", help="write the page from what is saved, measure nothing")
    parser.add_argument("--json", type=Path, default=SAVED, help="where results are kept")
    parser.add_argument("-o", "--output", type=Path, default=PAGE, help="the page")
    options = parser.parse_args(arguments)
    saved, output = options.json, options.output
    files.refuse_unwritable(*([output] if options.render else [saved, output]))
    if unknown := set(options.only.split(",")) - set(FACTS["sections"]):
        parser.error(f"--only takes {', '.join(FACTS['sections'])}, not {', '.join(unknown)}")
    wanted = {run for section in options.only.split(",") for run in FACTS["sections"][section]["runs"]}
    document = json.loads(saved.read_text(encoding="utf-8")) if saved.is_file() else {"runs": {}}
    failed = []
    for name in (name for name in FACTS["runs"] if name in wanted and not options.render):
        print(f"{name}: {FACTS['runs'][name]}", file=sys.stderr, flush=True)
        record = document["runs"][name] = calm(name)
        save(UNFINISHED, document)
        failed += [] if "result" in record else [name]
        print(f"  {record['seconds']:.0f} s, exit code {record['code']} {'; '.join(record['said'])}", file=sys.stderr)
    if not options.render:
        save(saved, document)
        UNFINISHED.unlink(missing_ok=True)
    files.write(output, page(document))
    print(f"{output}: {len(document['runs'])} runs" + (f"; no result of {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
