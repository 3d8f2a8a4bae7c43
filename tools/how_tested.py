"""The numbers of docs/how-tested.md, counted in the tree: nothing is run.

python -m tools.how_tested           # print them
python -m tools.how_tested --docs    # write them into the page
"""

from __future__ import annotations

import argparse
import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

from kparity import contracts, ops
from kparity.contracts import coverage
from kparity.gates.table import GATES
from kparity.host.text import markdown_table
from kparity.mutate import library
from tools import between
from tools.burnin_faults import FAULTS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/how-tested.md"
STARTS = {"run", "python", "served", "subprocess"}
MARKERS = ("slow", "gpu", "compile", "alone", "sampled")
KINDS = {
    "all": "",
    "once for each backend": "take `backend`, which `tests/conftest.py` fills",
    "over drawn inputs": "Hypothesis, `@given`",
    "the command in a process of its own": "call `tests/cli.py`, or start one",
    "in a browser": "take `browser`",
    "marked `slow`": "more than a few seconds",
    "marked `gpu`": "a real GPU",
    "marked `compile`": "CUDA's and AMD's compilers over every GPU text",
    "marked `alone`": "hold a time against a limit, while nothing else runs",
    "marked `sampled`": "a part of their parameters, all of them with KPARITY_WHOLE=1",
}
LANES = {
    "`python3 tests/newcomer.py`": "a clone, `sh setup.sh probe`, the README's commands; first step of `.ci/run`",
    "`sh setup.sh test`": "ruff, mypy, all tests in two processes, then those that hold times; the second step",
    "`KPARITY_WHOLE=1 .venv/bin/python -m pytest`": "what is sampled otherwise, whole; before a release",
    "`bash .ci/ship`": "sdist, the same wheel twice, a probe on each Python that is here, SBOM, pip-audit; a release",
    "`bash bench/on_gpu.sh OUT`": "all of it on a host with a GPU",
    "`sh tools/sanitize.sh`": "the native module under ASan and UBSan",
    "`python -m tests.fuzz TARGET --seconds N`": "one target for longer than the seconds of a test",
    "`python -m tools.harness_mutants`": "changes of gates, limits and rules that no quick test notices",
}
"""Command → what it runs, and when."""


def names_of(node: ast.AST) -> Iterator[str]:
    """The last part of every name that is called or decorates."""
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute):
            yield each.attr
        elif isinstance(each, ast.Name):
            yield each.id


def tests(file: Path) -> Iterator[set[str]]:
    """Of every test function of a file, the kinds that it is of."""
    tree = ast.parse(file.read_text("utf-8"))
    whole = {name for node in tree.body if isinstance(node, ast.Assign) for name in names_of(node.value)
             if any(getattr(each, "id", "") == "pytestmark" for each in node.targets)}  # fmt: skip
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks = {name for each in node.decorator_list for name in names_of(each)} | whole
            given = {each.arg for each in node.args.args}
            called = {name.id for each in node.body for name in ast.walk(each) if isinstance(name, ast.Name)}
            kinds = {"all", *(f"marked `{name}`" for name in MARKERS if name in marks)}
            kinds |= {"once for each backend"} if "backend" in given else set()
            kinds |= {"over drawn inputs"} if "given" in marks else set()
            kinds |= (
                {"the command in a process of its own"} if called & {"run", "python", "served", "subprocess"} else set()
            )
            kinds |= {"in a browser"} if "browser" in given else set()
            yield kinds


def functions() -> str:
    """Test functions by kind; a function with parameters is many tests, and is counted once."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    count = Counter(kind for file in files for kinds in tests(file) for kind in kinds)
    rows = [(f"{kind}, in {len(files)} files" if kind == "all" else kind, why, count[kind])
            for kind, why in KINDS.items()]  # fmt: skip
    return markdown_table(("test functions", "which", "number"), rows)


def cases() -> str:
    """Cases, kinds of input and wrong kernels by op."""
    rows = []
    for op in ops.every():
        short, long = op.cases(), list(dict.fromkeys((*op.cases(), *op.sweep())))
        runs = sum(len(list(op.kinds(case))) for case in long)
        mutants = library.of_op(op.name).values()
        rows.append((op.name, len(short), len(long), runs, len(mutants), sum(len(each.patches) for each in mutants)))
    sums = [sum(row[at] for row in rows) for at in range(1, 6)]  # type: ignore[misc]
    head = ("op", "cases, short list", "long list", "with kinds of input", "wrong kernels", "in all dialects")
    return markdown_table(head, [*rows, ("all", *sums)])


def controls() -> str:
    """What is known to be wrong, and must be rejected."""
    engines = sum(each.mutant is None for each in library.every())
    liars = (ROOT / "tests/liars/kparity_liars-1.0.dist-info/entry_points.txt").read_text("utf-8")
    (places,) = re.findall(r"Of (\d+) places", (ROOT / "docs/harness.md").read_text("utf-8"))
    fuzz = import_module("tests.fuzz.targets")
    kept = sum(path.is_file() for path in fuzz.KEPT.rglob("*"))
    rows = (
        ("wrong engines", engines, "`kparity mutate` ([mutation.md](mutation.md))"),
        ("lying backends", liars.count("liar-"), "`tests/test_liars.py`, `tests/test_check.py` and others"),
        ("faults of servers", len(FAULTS), "`tests/test_burnin_faults.py` ([burnin.md](burnin.md))"),
        ("places in gates, limits and rules where one thing may be changed", places,
         "`python -m tools.harness_mutants` ([harness.md](harness.md))"),
        ("fuzz targets", len(fuzz.TARGETS), "`tests/test_fuzz.py`"),
        ("inputs that once did harm", kept, "`tests/test_fuzz.py`, all of them"),
    )  # fmt: skip
    return markdown_table(("what", "number", "met by"), rows)


def clauses() -> str:
    """Contracts: what is promised, and by how many tests it would be refuted."""
    rows = []
    for name in contracts.names():
        found = coverage.score(contracts.load(name))
        rows.append((name, found.thresholds, found.discharged + found.functional + found.partial, found.tests))
    sums = [sum(row[at] for row in rows) for at in range(1, 4)]  # type: ignore[misc]
    head = ("contract", "thresholds", "claims that a test may refute", "tests that do")
    return markdown_table(head, [*rows, ("all", *sums)])


def commands() -> str:
    """Commands in the blocks of pages."""
    table, pages = import_module("tests.page_commands"), import_module("tests.test_page_commands")
    ways = [pages.way(page, command) for page, found in pages.PAGES.items() for command, _ in found]
    left = Counter(way.why.value for way in ways if isinstance(way, table.Left))
    rows = [("as they are printed, or shorter", len(ways) - sum(left.values()))]
    rows += [(f"left out: {why.value}", left[why.value]) for why in table.Why]
    return markdown_table(("commands of the pages", "number"), rows)


def lanes() -> str:
    """Who runs what."""
    return markdown_table(("lane", "what it runs"), list(LANES.items()))


SECTIONS = {
    "tests": functions, "cases": cases, "controls": controls, "contracts": clauses, "commands": commands,
    "lanes": lanes,
}  # fmt: skip


def page(text: str) -> str:
    """The page with every table counted anew."""
    for name, table in SECTIONS.items():
        text = between(text, name, table())
    return re.sub(r"\d+ gates", f"{len(GATES)} gates", text)


def main(arguments: Iterable[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", action="store_true", help="write docs/how-tested.md")
    options = parser.parse_args(None if arguments is None else list(arguments))
    text = page(PAGE.read_text("utf-8"))
    if options.docs:
        PAGE.write_text(text, "utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
