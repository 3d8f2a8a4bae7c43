"""Reads the machine code of the kernels whose time is a stream through registers, and tables it before and after.

    python -m tools.machine_table                    compile, write bench/receipts/machine_code.json, print what fails
    python -m tools.machine_table --before COMMIT    the same with the texts of a commit, kept as what was before
    python -m tools.machine_table --docs             write the table of docs/machine-code.md from the receipt

Exit code 1 where a limit is not met by the texts of today; see ``tools.machine.limits`` and ``tests/test_machine.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

from msgspec import Struct
from msgspec import json as coding

from kparity import ops
from kparity.host import files
from kparity.host.revision import commit, git
from kparity.kernels.support import SERVED, VOCABULARY
from kparity.ops import assemble
from kparity.ops.spec import Case
from tools import toolchains
from tools.machine import Measures, isa, measure, sass
from tools.machine.limits import Limits, limits
from tools.machine.occupancy import lanes
from tools.toolchains import Resources, Target, compilers

ROOT = Path(__file__).resolve().parent.parent
RECEIPT, DOCS = ROOT / "bench" / "receipts" / "machine_code.json", ROOT / "docs" / "machine-code.md"
SCHEMA = "kparity-machine-code-v1"
BEGIN, END = "<!-- machine code: begin -->", "<!-- machine code: end -->"
CUDA = tuple(Target(arch) for arch in ("sm_80", "sm_90", "sm_120"))
HIP = (Target("gfx942", 64), Target("gfx1100"), Target("gfx1201"))


class Row(Struct, frozen=True):
    """One text on one target."""

    case: str
    target: str
    block: int
    """Work-items of a group."""
    registers: int
    shared: int
    """Bytes of a group."""
    lanes: int
    """Work-items that a multiprocessor holds."""
    measures: Measures


class Half(Struct, frozen=True):
    """The rows of one state of the texts."""

    commit: str
    dirty: bool
    rows: list[Row]


class Receipt(Struct, frozen=True):
    """What the compilers of this machine made of the texts, and of those before."""

    schema: str
    compilers: list[str]
    before: Half | None
    now: Half


def cases() -> list[Case]:
    """What a decode step of 2B-4T launches, a chunk of 32 rows and one of 512."""
    gemvs = [{"M": 1, "N": n, "K": k} for n, k in ((640, 2560), (2560, 2560), (13824, 2560), (2560, 6912))]
    shape = {"H": SERVED.heads, "G": SERVED.kv_heads, "D": SERVED.head}
    prompts = [{"M": m, "N": 13824, "K": 2560} for m in (32, 512)]
    found = [ops.get("tgemv").case(**each) for each in (*gemvs, *prompts)]
    found.append(ops.get("dense_gemv").case(M=1, N=VOCABULARY, K=SERVED.width, dtype="f16"))
    found.append(ops.get("attention").case(M=1, L=4096, **shape))
    found += [ops.get("norm_quant").case(M=1, D=2560, pre="add"), ops.get("norm_quant").case(M=1, D=6912, pre="relu2")]
    return found


def read(case: Case, target: Target) -> Row:
    """Compile one text and measure its first entry point."""
    stage = ops.get(case.op).stages(case, "gpu")[0]
    toolchain = _toolchain(compilers.Nvcc if target in CUDA else compilers.Clang)
    found, listing = toolchain.machine_code(toolchain.source(case, target), target)
    steps: Callable[[str], dict[str, Any]] = sass.steps if target in CUDA else isa.steps
    resources: Resources = next(each for each in found if each.entry == stage.entry)
    measures = measure(steps(listing)[stage.entry])
    block = stage.launch.block
    room = lanes(target, resources, block)
    return Row(case.id, target.name, block, resources.registers, resources.shared, room, measures)


@cache
def _toolchain(kind: type[compilers.Nvcc | compilers.Clang]) -> compilers.Nvcc | compilers.Clang:
    return kind()


def rows() -> list[Row]:
    """Every case on every target."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda each: read(*each), product(cases(), (*CUDA, *HIP))))


@contextmanager
def texts_of(revision: str) -> Iterator[None]:
    """Kernel texts are those of a commit; their geometry (``__init__.py``) is today's."""

    @cache
    def text(relative: str) -> str:
        found = git(ROOT, "show", f"{revision}:kernels/{relative}")
        if found is None:
            raise SystemExit(f"kernels/{relative}: not in {revision}")
        return found

    with patch.object(assemble, "kernel_text", text), patch.object(toolchains, "kernel_text", text):
        yield


def failures(half: Half) -> list[str]:
    """What the limits say of the rows, a line each."""
    allowed = {case.id: limits(case) for case in cases()}
    found = []
    for row in half.rows:
        limit = allowed[row.case]
        if limit and (said := limit.failures(row.measures)):
            found.append(f"{row.case} on {row.target}: {'; '.join(said)} ({limit.findings})")
    return found


def table(receipt: Receipt) -> str:
    """The table of the document."""
    before = {(row.case, row.target): row for row in receipt.before.rows} if receipt.before else {}
    bounds = {case.id: limits(case) for case in cases()}
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for row in receipt.now.rows:
        old = before.get((row.case, row.target))
        cells = [change(row, old, get) for get in COLUMNS]
        lines.append(f"| `{row.case}` | {row.target} | {' | '.join(cells)} | {verdict(bounds[row.case], old)} |")
    return "\n".join(lines)


def in_flight(row: Row) -> int:
    """KiB of the stream that the work-items of a full multiprocessor have under way."""
    return row.lanes * row.measures.in_flight * 16 // 1024


HEAD = ("case", "target", "loads in flight", "kept", "in series", "late", "registers", "shared", "KiB in flight",
        "per 16 B", "barriers", "failed before")  # fmt: skip
COLUMNS: tuple[Callable[[Row], float], ...] = (
    lambda row: row.measures.in_flight,
    lambda row: row.measures.kept,
    lambda row: row.measures.rounds,
    lambda row: row.measures.late,
    lambda row: row.registers,
    lambda row: row.shared,
    in_flight,
    lambda row: row.measures.per_load,
    lambda row: row.measures.barriers,
)


def change(row: Row, old: Row | None, get: Callable[[Row], float]) -> str:
    """A number, with the one before where that was another."""
    return f"{get(row):g}" if old is None or get(old) == get(row) else f"{get(old):g} → {get(row):g}"


def verdict(limit: Limits | None, old: Row | None) -> str:
    """Whether what was before fails the limits."""
    return limit.findings if limit and old and limit.failures(old.measures) else "–"


def between(text: str, begin: str, end: str, table: str) -> str:
    """The document with a table between its markers."""
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise SystemExit(f"{DOCS} has no {begin} and {end}")
    return f"{head}{begin}\n{table}\n{end}{tail}"


def stored() -> Receipt:
    """The committed receipt."""
    return coding.decode(RECEIPT.read_bytes(), type=Receipt)


def main() -> int:
    """Run; exit code 1 where a limit is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", metavar="COMMIT", help="take the texts of a commit, as what was before")
    parser.add_argument("--docs", action="store_true", help="write the table of docs/machine-code.md")
    options = parser.parse_args()
    if options.docs:
        files.write(DOCS, between(DOCS.read_text(encoding="utf-8"), BEGIN, END, table(stored())))
        return 0
    before = stored().before if RECEIPT.exists() else None
    if options.before:
        revision = git(ROOT, "rev-parse", "--verify", f"{options.before}^{{commit}}")
        if revision is None:
            raise SystemExit(f"{options.before}: not a commit")
        with texts_of(revision.strip()):
            before = Half(revision.strip(), False, rows())
        print(*failures(before), sep="\n")
    now = Half(commit(ROOT) or "", bool(git(ROOT, "status", "--porcelain", "--", "kernels", "tools")), rows())
    versions = [_toolchain(kind).version for kind in (compilers.Nvcc, compilers.Clang)]
    disassembler = toolchains.output(compilers.nvdisasm(), "--version")
    versions.append(f"nvdisasm {disassembler.partition('release ')[2].splitlines()[0]}")
    files.write(RECEIPT, written(Receipt(SCHEMA, versions, before, now)))
    said = failures(now)
    print("\n".join(said) or "every limit is met")
    return int(bool(said))


def written(receipt: Receipt) -> str:
    """The receipt as JSON, a line for each row."""
    text = coding.format(coding.encode(receipt), indent=1).decode()
    return _lines(json.loads(text))


def _lines(value: dict[str, Any]) -> str:
    halves = {}
    for name in ("before", "now"):
        half = value[name]
        if half:
            halves[name] = ",\n".join(json.dumps(row, separators=(",", ":")) for row in half["rows"])
            half["rows"] = f"@{name}@"
    text = json.dumps(value, indent=1, ensure_ascii=False)
    for name, body in halves.items():
        text = text.replace(f'"@{name}@"', f"[\n{body}]", 1)
    return text + "\n"


if __name__ == "__main__":
    sys.exit(main())
