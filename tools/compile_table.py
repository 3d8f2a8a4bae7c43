"""Compiles every GPU text with every compiler of this machine, runs the parity cases, and writes what came out.

    python -m tools.compile_table            compile and run, write bench/receipts/compile.json, print a line a target
    python -m tools.compile_table --check    exit code 1 where a text has changed since the receipt
    python -m tools.compile_table --write    write the support table of docs/support.md from the receipt

A text that a compiler refuses, or that spills where it must not, is listed in the receipt under ``refused`` and makes
the exit code 1; see ``tools.toolchains`` for the rules and ``tests/test_compile.py`` for the gate.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kparity import ops
from kparity.device import registry
from kparity.errors import Unavailable
from kparity.host import files
from kparity.host.revision import commit, git
from tools.toolchains import Target, Toolchain, compilers, every, summary, sweep

ROOT = Path(__file__).resolve().parent.parent
RECEIPT, PAGE = ROOT / "bench" / "receipts" / "compile.json", ROOT / "docs" / "support.md"
SCHEMA = "kparity-compile-v1"
TOOLCHAINS: Mapping[str, type[Toolchain]] = {
    kind.name: kind for kind in (compilers.Nvrtc, compilers.Nvcc, compilers.Clang, compilers.Hiprtc)
}  # fmt: skip
PTX = "cuda-ptx"
"""The interpreter, which executes what the row `cuda` compiles, and is no GPU."""
COLUMNS = ("text", "entry", "registers", "scalars", "shared", "scratch", "spills", "occupancy")
RUNTIMES = {"pocl": "PoCL", "intel": "Intel's CPU runtime"}
BEGIN, END = "<!-- support table: begin -->", "<!-- support table: end -->"


def state() -> tuple[str, str]:
    """The commit, and what of the kernels, backends, harness and tests is not in it."""
    changed = git(ROOT, "status", "--porcelain", "--", "kernels", "kparity", "backends", "tests")
    return commit(ROOT) or "", changed or ""


def compiled() -> dict[str, Any]:
    """Every text on every target of every compiler that is here; texts are numbered in the order in which they come."""
    found: dict[str, Any] = {"compilers": {}, "missing": {}, "texts": [], "targets": [], "refused": []}
    numbers: dict[str, int] = {}
    for name, kind in TOOLCHAINS.items():
        try:
            toolchain = kind()
        except Unavailable as missing:
            found["missing"][name] = str(missing)
            continue
        found["compilers"][name] = toolchain.version
        for target in toolchain.targets():
            outcomes = sweep(toolchain, target)
            print(summary(toolchain, target, outcomes), flush=True)
            for each in outcomes:
                case = each.case
                if case.id not in numbers:
                    numbers[case.id] = len(numbers)
                    variant = ops.get(case.op).variant(case)
                    found["texts"].append({"op": case.op, "variant": variant, "case": case.id, "sha256": {}})
                found["texts"][numbers[case.id]]["sha256"][f"{kind.prelude} {target.wave}"] = each.sha256
            rows = [
                [numbers[each.case.id], *(getattr(entry, column) for column in COLUMNS[1:])]
                for each in outcomes
                for entry in each.resources
            ]
            found["targets"].append({"toolchain": name, "target": target.name, "rows": rows})
            found["refused"] += [f"{name} {target.name}: {why}" for each in outcomes for why in each.refusals]
    return found


def executed() -> dict[str, Any]:
    """What the generic parity tests run here: backend -> devices, and the cases of each op that pass."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "-p", "no:cacheprovider"]
        tests = ["tests/test_ops.py::test_op", "tests/test_waves.py::test_every_case"]
        subprocess.run([*command, *tests], cwd=ROOT, stdout=sys.stderr, check=False)
        ran = xml.parse(report).getroot().iter("testcase")
        passed = [test.get("name", "") for test in ran if not len(test)]
    cases: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in passed:
        if parts := re.match(r"test_op\[(\w+)[/\w]*-(\w+)(\[.*\])\]$", name):
            cases[parts[1]][parts[2]].add(parts[3])
    found: dict[str, Any] = {}
    for name, by_op in cases.items():
        backend = registry.open_backend(name)
        device, driver = backend.info.device, backend.info.driver.partition(" (")[0]
        device = f"{device}, {driver}" if name == "opencl" else backend.info.label
        found[name] = {"kind": backend.info.kind, "devices": [device],
                       "cases": {op: len(by_op[op]) for op in ops.BUILTIN if by_op[op]}}  # fmt: skip
        backend.close()
    waves = sorted(match[1] for name in passed if (match := re.match(r"test_every_case\[(.*)\]", name)))
    if "opencl" in found:
        found["opencl"]["waves"] = waves
    return found | interpreted()


def interpreted() -> dict[str, Any]:
    """The same of cuda-ptx, whose cases are all that ``kparity check`` has, in random inputs; nothing without NVRTC."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "check.json"
        command = [sys.executable, "-m", "kparity", "check", "-b", PTX, "--kind", "random", "--json", str(report)]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode not in (0, 1):
            return {}
        records = json.loads(report.read_text(encoding="utf-8"))["records"]
    passed = Counter(each["op"] for each in records if each["outcome"] == "PASS")
    failed = sorted(f"{each['case']}: {each['reason']}" for each in records if each["outcome"] == "FAIL")
    return {PTX: {"kind": "software", "devices": sorted({each["device"] for each in records}), "failed": failed,
                  "cases": {op: passed[op] for op in ops.BUILTIN if passed[op]}}}  # fmt: skip


def stale(receipt: Mapping[str, Any]) -> list[str]:
    """Texts that are not those of the receipt any more, or are not in it."""
    kinds = {kind.prelude: kind for kind in TOOLCHAINS.values()}
    today = {case.id: case for case in every()}
    kept = {text["case"]: text["sha256"] for text in receipt["texts"]}
    changed = set(today) ^ set(kept)
    for case in set(today) & set(kept):
        for key, sha256 in kept[case].items():
            prelude, wave = key.split()
            if kinds[prelude].source(today[case], Target("", int(wave))).sha256 != sha256:
                changed.add(case)
    return sorted(changed)


def targets_of(receipt: Mapping[str, Any], *names: str) -> str:
    """``NVRTC 13.0: sm_75, …; nvcc …``: which compiler took the texts for which targets."""
    said = []
    for name in names:
        archs: dict[str, list[str]] = defaultdict(list)
        for each in receipt["targets"]:
            if each["toolchain"] == name:
                arch, _, wave = each["target"].partition("/wave")
                archs[arch] += [wave] if wave else []
        if archs:
            listed = ", ".join(f"{arch} ({' and '.join(waves)})" if waves else arch for arch, waves in archs.items())
            said.append(f"{short(receipt['compilers'][name])}: {listed}")
    return "; ".join(said) or "–"


def short(version: str) -> str:
    """A compiler's version without the distribution's part."""
    version = re.sub(r".*clang version ([\d.]+).*", r"clang \1", version)
    return re.sub(r"release [\d.]+, V", "", version)


NO_GPU = (
    "No device run on a GPU exists yet: `cuda` is executed at PTX level by an interpreter ([ptx.md](ptx.md)),\n"
    "`hip` is compiled for what is listed and not executed."
)
LEGEND = """\
Per op: ✓ and the number of parity cases that passed on the device above; *p* and the number of those that passed at PTX
level; *c* and the number of texts that were compiled for every target above and have not been executed; – neither."""


def support(receipt: Mapping[str, Any]) -> str:
    """The support table."""
    ran, later, at = receipt["executed"], "the driver, when it runs", "[compile.json](../bench/receipts/compile.json)"
    sources = {
        "cpu": ("`.h`", "the machine that installs it"),
        "wgpu": ("`.wgsl`", later),
        "opencl": ("`.cu`", later),
        "cuda": ("`.cu`", targets_of(receipt, "nvrtc", "nvcc")),
        "hip": ("`.cu`", targets_of(receipt, "clang", "hiprtc")),
        "torch": ("`_torch.py`", "–"),
        "numpy": ("`__init__.py`", "–"),
    }
    on_gpu = [f"`{name}`" for name, each in ran.items() if each["kind"] == "gpu"]
    lines = [f"Executed on a GPU: {', '.join(on_gpu)}." if on_gpu else NO_GPU, ""]
    lines += ["| backend | text | compiled for | executed on | receipt |", "|---|---|---|---|---|"]
    for name, (text, how) in sources.items():
        devices = "; ".join(ran[name]["devices"]) if name in ran else "nothing yet"
        if name == "cuda" and name not in ran and PTX in ran:
            devices = "PTX level (interpreter); no GPU yet"
        if name == "opencl" and ran.get(name, {}).get("waves"):
            by_runtime: dict[str, list[str]] = defaultdict(list)
            for runtime, _, wave in (each.partition("-") for each in ran[name]["waves"]):
                by_runtime[RUNTIMES[runtime]].append(wave)
            again = (f"{runtime} with wavefronts of {' and '.join(each)}" for runtime, each in by_runtime.items())
            devices += f"; the same cases on {', on '.join(again)}"
        proof = at if name in ran or name in ("cuda", "hip") else "–"
        lines.append(f"| `{name}` | {text} | {how} | {devices} | {proof} |")
    names = " | ".join(f"`{name}`" for name in sources)
    lines += ["", LEGEND, "", f"| op | {names} |", "|---" * (len(sources) + 1) + "|"]
    lines += [f"| `{op}` | {' | '.join(cell(receipt, name, op) for name in sources)} |" for op in ops.BUILTIN]
    refused = f"{len(receipt['refused'])} refusals, listed in it" if receipt["refused"] else "nothing refused"
    state = " with changes" if receipt["dirty"] else ""
    return "\n".join([*lines, "", f"The receipt is of commit `{receipt['commit'][:12]}`{state}; {refused}."])


def cell(receipt: Mapping[str, Any], backend: str, op: str) -> str:
    """One backend and op: executed, compiled, or neither."""
    if count := receipt["executed"].get(backend, {}).get("cases", {}).get(op):
        return f"✓ {count}"
    if backend == "cuda" and (count := receipt["executed"].get(PTX, {}).get("cases", {}).get(op)):
        return f"*p* {count}"
    complete = {"cuda": "nvrtc", "hip": "clang"}.get(backend)
    per_target = [
        {row[0] for row in each["rows"] if receipt["texts"][row[0]]["op"] == op}
        for each in receipt["targets"]
        if each["toolchain"] == complete
    ]
    count = min((len(texts) for texts in per_target), default=0)
    return f"*c* {count}" if count else "–"


def with_support(page: str, receipt: Mapping[str, Any]) -> str:
    """The page with the table that the receipt gives, between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"docs/support.md has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{support(receipt)}\n{END}{after}"


def written(receipt: Mapping[str, Any]) -> str:
    """The receipt as JSON, a line for each row."""
    rows_ = {f"@{number}@": each["rows"] for number, each in enumerate(receipt["targets"])}
    targets = [{**each, "rows": key} for each, key in zip(receipt["targets"], rows_, strict=True)]
    text = json.dumps({**receipt, "targets": targets, "texts": "@texts@"}, indent=1, ensure_ascii=False)
    for key, lines in {**rows_, "@texts@": receipt["texts"]}.items():
        body = ",\n".join(json.dumps(line, separators=(",", ":")) for line in lines)
        text = text.replace(f'"{key}"', f"[\n{body}]", 1)
    return text + "\n"


def main() -> int:
    """Run; exit code 1 where a text is refused or stale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare the receipt with the texts of today")
    parser.add_argument("--write", action="store_true", help="write the table of docs/support.md from the receipt")
    options = parser.parse_args()
    if options.check or options.write:
        receipt = json.loads(RECEIPT.read_text(encoding="utf-8"))
        if options.write:
            files.write(PAGE, with_support(PAGE.read_text(encoding="utf-8"), receipt))
        changed = stale(receipt) if options.check else []
        print("\n".join(changed) or "the receipt is of these texts" if options.check else "docs/support.md is written")
        return int(bool(changed))
    before = state()
    receipt = {"schema": SCHEMA, "commit": before[0], "dirty": bool(before[1]), "columns": COLUMNS}
    receipt |= compiled()
    receipt["executed"] = executed()
    receipt["dirty"] |= state() != before  # a tree that changed meanwhile is not the commit either
    RECEIPT.parent.mkdir(exist_ok=True)
    files.write(RECEIPT, written(receipt))
    print(*receipt["refused"], sep="\n")
    return int(bool(receipt["refused"]))


if __name__ == "__main__":
    sys.exit(main())
