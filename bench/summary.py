"""One table over a folder of receipts: step, result, key number.

    python bench/summary.py DIR [--steps FILE] [--write FILE]

``--steps`` is what bench/on_gpu.sh notes of each step (name, required or optional, exit code, seconds, log). Exit code
1 where a required step failed, or none was noted as having run.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kparity.bench.machine import gpu_state
from kparity.errors import WrongInput
from kparity.host import files
from kparity.host.revision import revision
from kparity.receipts.document import digest, read
from kparity.receipts.record import Predicate, Statement

METRICS = {
    "time": "gpu__time_duration.sum", "read": "dram__bytes_read.sum", "registers": "launch__registers_per_thread",
    "of dram peak": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
}  # fmt: skip
ABSENT, TIMEOUT = "absent", (124, 137)
COLUMNS = ("step", "result", "key number")
SHAPE = ("M", "N", "K", "D", "L", "H", "pre", "mode", "ascale")
"""Parameters of a case that decide its time."""
HERE = Path(__file__).resolve().parent


def result_of(code: int, required: bool) -> str:
    """An exit code in a word; what is not there is said, not passed over."""
    if code == 0:
        return "pass"
    if code == 77:  # by custom: cannot be run here
        return "ABSENT" if required else ABSENT
    return "TIMEOUT" if code in TIMEOUT else f"FAIL ({code})"


def steps(path: Path) -> list[dict[str, Any]]:
    """The steps that were noted, in order; a log's telling last line is the key number of a step without receipt."""
    found = []
    for line in path.read_text().splitlines():
        name, need, code, seconds, log = line.split("\t")
        text = (path.parent / log).read_text(errors="replace") if log and (path.parent / log).is_file() else ""
        key = telling(text, name == "build" or code != "0")
        found.append({
            "step": name, "required": need == "required", "code": int(code), "seconds": float(seconds),
            "result": result_of(int(code), need == "required"), "key": key,
        })  # fmt: skip
    return found


def telling(text: str, last: bool) -> str:
    """The line of a log that says how it went: pytest's count, a sanitizer's sum, or else the last."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if "─" not in line]
    telltale = r"(ERROR|RACECHECK) SUMMARY|\d+ (passed|failed|error)|^Backend: |path rejected|^required and absent"
    sums = [line.strip("= ") for line in lines if re.search(telltale, line)]
    cases = [line for line in lines if re.search(r"\d+ cases on ", line)]
    chosen = [*cases[-1:], *sums[-1:]] or (lines[-1:] if last else [])
    return "; ".join(chosen)[:120]


def counters(log: Path) -> Iterator[tuple[str, str, str]]:
    """What a profiler's CSV tells of the last launch of each kernel and grid."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    start = next((at for at, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in csv.DictReader(lines[start:]):
        key = (row.get("Kernel Name") or "?", row.get("Grid Size") or "?")
        value = f"{row.get('Metric Value')} {row.get('Metric Unit') or ''}".strip()
        found.setdefault(key, {})[row.get("Metric Name") or "?"] = value
    for (kernel, grid), metrics in found.items():
        numbers = [f"{name} {metrics[metric]}" for name, metric in METRICS.items() if metric in metrics]
        yield f"ncu {kernel} {grid.replace(' ', '')}", "pass", ", ".join(numbers)


def documents(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Rows of every JSON document of a folder; a receipt whose digest does not fit is named as such."""
    for path in sorted(folder.glob("*.json"), reverse=True):  # the most telling at the end, where a terminal stands
        if not path.name.startswith("summary"):
            try:
                document = read(path)
                if made := TABLES.get(document.get("schema", "")):
                    yield from ((f"{path.stem} {name}", *rest) for name, *rest in made(document))
                elif "predicate" not in document:
                    yield from ((f"{path.stem} {row['backend']}", *_verdict(row)) for row in document.get("rows", []))
                elif digest(document) != document["predicate"].get("sha256"):
                    yield path.stem, "FAIL", "the digest does not fit the content"
                else:
                    yield from receipt(path.stem, msgspec.convert(document, Statement).predicate)
            except (WrongInput, msgspec.ValidationError) as error:
                yield path.stem, "FAIL", str(error)


def looked(document: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Rows of bench/first_look.py."""
    for row in document["rates"]:
        yield row["name"], "pass" if row["right"] else "FAIL", f"{row['per_s']:.4g} {row['unit']}/s"
    for row in document["resources"]:
        beside = [f"{name} {row[name]} (compilers: {row['receipt'][name]})" for name in row.get("receipt", ())]
        spilt = [f"spills {row['local']} B"] if row["local"] > 0 else []
        yield f"{row['case']} {row['entry']}", "FAIL" if spilt else "pass", ", ".join([*spilt, *beside])


def varied(document: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Rows of bench/variants.py."""
    for row in document["rows"]:
        name = f"{row['variant']} {row['what']}"
        if row.get("errors") or "unsupported" in row:
            yield name, "FAIL" if row.get("errors") else ABSENT, (row.get("errors") or [row["unsupported"]])[0][:160]
        else:
            times = f"{row['today_s'] * 1e6:.2f} µs today, {row['changed_s'] * 1e6:.2f} changed"
            yield name, "pass", f"{times}, {row['ratio']:.3f} × as fast (runs of one side within {row['spread']:.3f})"


TABLES = {"kparity-first-look-v1": looked, "kparity-variants-v1": varied}


def receipt(name: str, predicate: Predicate) -> Iterator[tuple[str, str, str]]:
    """Rows of the table for a receipt."""
    for each in predicate.fallback:
        if each.status != "accepted":
            yield f"{name} {each.backend}", *_verdict(msgspec.to_builtins(each))
    told = predicted()
    for run in predicate.runs:
        output, wrong = run.timed_output, run.parity.verdict != "PASS" or bool(run.errors)
        checked = f", timed output: cosine {output.cosine:.6f}" if output and output.cosine is not None else ""
        yield _row(f"{name} {run.backend}", run.errors, f"{run.device.device}{checked}", wrong)
        for row in run.measurements:
            share = f", {100 * row.of_bandwidth:.1f} % of bandwidth" if row.of_bandwidth is not None else ""
            middle, low, high = row.rates
            rate = f"{middle:.1f} tokens/s ({low:.1f} … {high:.1f}){share}"
            rate += _beside(told, row.name, "tokens/s", run.device.device)
            yield _row(f"{name} {run.backend} {row.name}", row.errors, rate)
        yield from ((f"{name} {run.backend} {each.name}", "skipped", each.reason) for each in run.skipped)
    for op in predicate.ops:
        if op.unsupported:
            yield f"{name} {op.name}", ABSENT, op.unsupported[:160]
        else:
            rate = f"{op.unit_s * 1e6:.2f} µs, {op.gb_per_s or 0.0:.1f} GB/s" if op.unit_s else ""
            rate += _beside(told, shape_of(op.case), "µs", op.device.device if op.device else "")
            yield _row(f"{name} {op.name}", op.errors, rate)


def predicted() -> dict[str, float]:
    """What tools/predicted.py says of an H100: µs of a launch by its shape, tokens/s by the name of a measurement."""
    try:
        told = read(HERE / "receipts" / "predicted.json")
        steps, prefills = told["now"], told["prefill"]
    except WrongInput:
        return {}
    found = {f"tg@{step['depth']}": 1 / sum(part["count"] * _seconds(part) for part in step["parts"]) for step in steps}
    for step in (steps[0], *prefills):
        shapes: dict[str, float] = {}
        for part in step["parts"]:
            shape = shape_of(part["case"])
            shapes[shape] = shapes.get(shape, 0.0) + _seconds(part) * 1e6  # all stages of a case
        found = shapes | found
    return found


def shape_of(case: str) -> str:
    """A case by what its time depends on."""
    op, _, rest = case.partition("[")
    return f"{op} {' '.join(sorted(each for each in rest.rstrip(']').split(',') if each.partition('=')[0] in SHAPE))}"


def _seconds(part: dict[str, Any]) -> float:
    return float(sum(part[term] for term in ("gap", "latency", "stream", "rest")))


def _beside(told: dict[str, float], name: str, unit: str, device: str) -> str:
    return f", predicted {told[name]:.2f} {unit}" if "H100" in device and name in told else ""


def _row(name: str, errors: Sequence[str], number: str, wrong: bool = False) -> tuple[str, str, str]:
    return name, "FAIL" if errors or wrong else "pass", "; ".join([*errors, number])[:160]


def _verdict(row: dict[str, Any]) -> tuple[str, str]:
    """Result and numbers of a row of a probe: the device, and the worst cosine that each gate measured."""
    result = {"accepted": "pass", "unavailable": ABSENT}.get(row["status"], "FAIL")
    if row.get("reason"):
        return result, f"[{row.get('code', '')}] {row['reason']}"[:120]
    cosines = [each for gate in row.get("gates", []) for each in gate["measures"] if "cosine" in each["threshold"]]
    numbers = [f"{each['threshold']} {each['value']:.6f}" for each in cosines if isinstance(each.get("value"), float)]
    return result, ", ".join([row.get("label") or "", *numbers])[:120]


def table(rows: Sequence[tuple[str, str, str]]) -> str:
    """Columns of equal width."""
    widths = [max(len(row[at]) for row in (COLUMNS, *rows)) for at in (0, 1)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in (COLUMNS, *rows)]
    return "\n".join([lines[0], "-" * min(max(map(len, lines)), 150), *lines[1:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=Path)
    parser.add_argument("--write", type=Path, help="the same as JSON, with the commit and the devices")
    options = parser.parse_args(arguments)
    noted = steps(options.steps) if options.steps else []
    rows = list(documents(options.folder))
    if options.steps:
        rows += counters(options.steps.parent / "ncu.log")
    rows += [(f"{each['step']} ({each['seconds']:.0f} s)", each["result"], each["key"]) for each in noted]
    failed = [each["step"] for each in noted if each["required"] and each["code"] != 0]
    code = 1 if failed or (options.steps and not noted) or not rows else 0
    source = revision()
    if options.write:
        summary = {"schema": "kparity-summary-v1", "revision": source, "gpu": gpu_state(), "steps": noted,
                   "failed": failed, "rows": [dict(zip(COLUMNS, row, strict=True)) for row in rows]}  # fmt: skip
        files.write(options.write, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    changed = source["changed"]
    print(f"commit {source['commit']}, {len(changed)} files differ{': ' if changed else ''}{', '.join(changed[:8])}")
    print(table(rows))
    print(f"required steps failed: {', '.join(failed)}" if failed else "every required step passed" if noted else "")
    return code


if __name__ == "__main__":
    sys.exit(main())
