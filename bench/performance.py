"""Measures everything that docs/performance.md tells, and writes the page.

    python bench/performance.py [--only SECTION,…]    run, save, write the page: 20 minutes on a calm machine
    python bench/performance.py --render              the page again, from what is saved
    python bench/performance.py --quick               everything in small, into build/performance, in a few minutes

The numbers are those of ``kparity bench``, bench/harness.py and bench/compare_speed.py, which this script starts one
after the other; it measures nothing by itself. A run during which the host of a virtual machine gave more than 2 % of
the processors' time to others is tried again, twice at most, and the calmest counts, whatever came out of it.
Sections: ops, decode, prefill, attention, growth, comparison, harness, backends. What is not among ``--only`` stays as
it was saved. Exit code 1 where a run gave no result; a missed target is none of its business: it stands in the page.
What an interrupted run measured is in build/performance/unfinished.json: ``--render --json`` makes a page of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from performance_figure import draw
from performance_page import page
from performance_results import facts
from performance_runs import F16, RUNS, SECTIONS, Run, kept, thinned, wanted

from kparity.bench import shapes
from kparity.host.revision import revision
from kparity.receipts.statement import now
from kparity.receipts.verify import verify

ROOT = Path(__file__).resolve().parent.parent
SAVED, PAGE = ROOT / "bench" / "receipts" / "performance.json", ROOT / "docs" / "performance.md"
QUICK = ROOT / "build" / "performance"
UNFINISHED = QUICK / "unfinished.json"
"""What was measured until the last run is done: the sources stay as they are committed while they are measured."""
SCHEMA = "kparity-performance-v1"
LIMIT_S = 900
"""Of one run: a hanging one costs itself."""
KPARITY = Path(sys.executable).parent / "kparity"


def command(argv: Sequence[str]) -> list[str]:
    """What is started for a command as the page shows it; files that it names are written first."""
    programs = {"kparity": [str(KPARITY)], "python": [sys.executable]}
    rest = list(argv[1:])
    if F16 in rest:
        rest[rest.index(F16)] = str(shapes.model_file(rest[rest.index("--shape") + 1], kind="f16"))
    return [*programs[argv[0]], *rest]


def stolen() -> tuple[int, int]:
    """Time that the host gave to others while a processor of this machine had work, and all time: of all processors
    since the start, in the clock ticks of /proc/stat; zeros where there is none.
    """
    try:
        ticks = [int(each) for each in Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return ticks[7], sum(ticks)


def calm(run: Run, quick: bool) -> dict[str, Any]:
    """The run, or the calmest of some where the host takes too much from each (``calm`` in bench/performance.yaml)."""
    tried, limits = list[dict[str, Any]](), facts()["calm"]
    while not tried or (not quick and tried[-1]["stolen"] > limits["stolen"] and len(tried) < limits["tries"]):
        tried.append(execute(run, quick))
    return {**min(tried, key=lambda record: ("result" not in record, record["stolen"])), "tries": len(tried)}


def execute(run: Run, quick: bool) -> dict[str, Any]:
    """One run: command, time, load before it, commit, what the host took, and what came out or why nothing did."""
    argv = run.argv(quick)
    source = revision()
    record: dict[str, Any] = {
        "command": " ".join(f'"{each}"' if " " in each else each for each in argv), "begun": now(),
        "load": round(os.getloadavg()[0], 2), "commit": source["commit"], "dirty": source["dirty"],
    }  # fmt: skip
    began, (taken, ticks) = time.monotonic(), stolen()
    with tempfile.TemporaryDirectory(prefix="kparity-performance-") as folder:
        path = Path(folder) / "result.json"
        try:
            done = subprocess.run(
                [*command(argv), "--json", str(path)],
                cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False,
            )  # fmt: skip
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
    told = [line for line in lines if any(word in line for word in ("ERROR", "MISSES", "output wrong"))]
    return list(dict.fromkeys(told)) or lines[-3:]


def result(document: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a document, with the verdict of ``kparity receipt verify`` where it is a receipt."""
    if "predicate" not in document:
        return {"result": thinned(document)}
    refused = {
        "verify": sorted({each.code for each in verify(document)}),
        "verify_gpu": sorted({each.code for each in verify(document, require_gpu_kernels=True)}),
    }
    return {**refused, "result": kept(document["predicate"])}


def save(path: Path, document: dict[str, Any]) -> None:
    """Write the whole document, so that a broken run leaves the last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    lines = [f"{json.dumps(name)}: {json.dumps(run, ensure_ascii=False)}" for name, run in document["runs"].items()]
    head = json.dumps({name: each for name, each in document.items() if name != "runs"})[1:-1]
    partial.write_text("{" + head + ', "runs": {\n' + ",\n".join(lines) + "\n}}\n", encoding="utf-8")
    partial.replace(path)


def loaded(path: Path) -> dict[str, Any]:
    """What was saved, or an empty document."""
    if not path.is_file():
        return {"schema": SCHEMA, "runs": {}}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def render(document: dict[str, Any], path: Path) -> None:
    """Write the page and its figure beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(document), encoding="utf-8")
    if not draw(document, path.with_suffix(".png")):
        print("no figure is drawn: that needs results of the section growth, and kparity[report]", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections to measure anew")
    parser.add_argument("--quick", action="store_true", help="small shapes and few samples, to try the script")
    parser.add_argument("--render", action="store_true", help="write the page from what is saved, measure nothing")
    parser.add_argument("--json", type=Path, help="where results are kept")
    parser.add_argument("-o", "--output", type=Path, help="the page")
    options = parser.parse_args(arguments)
    saved = options.json or (QUICK / "performance.json" if options.quick else SAVED)
    output = options.output or (QUICK / "performance.md" if options.quick else PAGE)
    sections = options.only.split(",")
    if set(sections) - set(SECTIONS):
        parser.error(f"--only takes {', '.join(SECTIONS)}")
    document, failed = loaded(saved), []
    for name in [] if options.render else wanted(sections):
        print(f"{name}: {' '.join(RUNS[name].argv(options.quick))}", file=sys.stderr, flush=True)
        record = calm(RUNS[name], options.quick)
        document["runs"][name] = record
        save(UNFINISHED, document)
        failed += [] if "result" in record else [name]
        said = "; ".join(record["said"])
        print(f"  {record['seconds']:.0f} s, exit code {record['code']}{': ' if said else ''}{said}", file=sys.stderr)
    if not options.render:
        save(saved, document)
        UNFINISHED.unlink(missing_ok=True)
    render(document, output)
    print(f"{output}: {len(document['runs'])} runs" + (f"; no result of {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
