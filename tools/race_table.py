"""Takes every barrier of every CUDA text away, one at a time, and tells what the race detector of cuda-ptx says.

    python -m tools.race_table            print the table
    python -m tools.race_table --write    write it into docs/ptx.md

A barrier is redundant where NVRTC makes the same PTX without it for every case of the op, or where no case has a race
without it: then its kernel comes to it once, and nothing was left that somebody could still read. The exit code is 1
where an unchanged text has a race.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kparity import ops
from kparity.backends.cuda_ptx import CudaPtxBackend
from kparity.check.core import check_case
from kparity.check.record import FAIL
from kparity.host import files
from kparity.ops.assemble import Source, kernel_text
from kparity.ops.spec import Case, Op

PAGE = Path(__file__).resolve().parent.parent / "docs" / "ptx.md"
BEGIN, END = "<!-- race table: begin -->", "<!-- race table: end -->"
BARRIER = re.compile(r"BARRIER\(\);")


@dataclass(frozen=True)
class Site:
    """One barrier of a text: its file below ``kernels/`` and which one of the file it is."""

    op: str
    file: str
    number: int

    @property
    def place(self) -> str:
        """``attention.cu:186``."""
        text = kernel_text(self.file)
        at = list(BARRIER.finditer(text))[self.number].start()
        return f"{Path(self.file).name}:{text.count(chr(10), 0, at) + 1}"


class Without(CudaPtxBackend):
    """The interpreter, on texts from which one barrier is gone."""

    site: Site | None = None

    @classmethod
    def source(cls, op: Op, case: Case, constants: Mapping[str, int | float]) -> Source:
        """The text without the barrier of ``site``; its lines stay."""
        found = super().source(op, case, constants)
        if cls.site is None or cls.site.op != op.name:
            return found
        whole = kernel_text(cls.site.file)
        match = list(BARRIER.finditer(whole))[cls.site.number]
        return replace(found, text=found.text.replace(whole, whole[: match.start()] + whole[match.end() :]))


def sites() -> Iterator[Site]:
    """The barriers of every op's own text, and those of the reduction that it uses."""
    for name in ops.NAMES:
        own = f"{name}/{name}.cu"
        shared = ["prelude/lanes.h"] if "REDUCE(" in kernel_text(own) else []
        for file in (own, *shared):
            yield from (Site(name, file, at) for at in range(len(BARRIER.findall(kernel_text(file)))))


def race(backend: CudaPtxBackend, name: str) -> str:
    """The first race of an op's cases in random inputs, or an empty string."""
    op = ops.get(name)
    for case in op.cases():
        for record in check_case(backend, op, case, kinds=["random"]):
            if record.outcome == FAIL:
                return f"{case.id}: {record.reason}"
    return ""


def same_text(backend: CudaPtxBackend, site: Site) -> bool:
    """Whether NVRTC makes the same PTX with and without a barrier, for every case of the op; lines are left out."""
    op, made = ops.get(site.op), []
    for each in (None, site):
        Without.site = each
        texts = (backend.compiler.compile(backend.source(op, case, backend.constants)) for case in op.cases())
        made.append([re.sub(rb"\t\.loc.*\n", b"", text) for text in texts])
    return made[0] == made[1]


def row(backend: CudaPtxBackend, site: Site) -> str:
    """A row of the table."""
    Without.site = site
    found = race(backend, site.op)
    if not found:
        why = "not in the PTX" if same_text(backend, site) else "no race without it: passed once"
        return f"| `{site.op}` | {site.place} | redundant: {why} |"
    said = re.search(r"race on (\w+)\[byte \d+\]: (\w+ after \w+)", found)
    lines = re.findall(r"\w+\.cu:(\d+)", found)
    what = f"`{said[1]}`, {said[2]}, lines {' and '.join(lines)}" if said else found[:100]
    return f"| `{site.op}` | {site.place} | race: {what} |"


def main() -> int:
    """Print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table into docs/ptx.md")
    write = parser.parse_args().write
    backend = Without.open(sanitize=True)
    Without.site = None
    alarms = [found for name in ops.NAMES if (found := race(backend, name))]
    lines = ["| op | barrier | without it |", "|---|---|---|"]
    for site in sites():
        lines.append(row(backend, site))
        print(lines[-1], file=sys.stderr, flush=True)
    if write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        files.write(PAGE, before + "\n".join([BEGIN, *lines, END]) + rest.partition(END)[2])
    else:
        print("\n".join(lines))
    print(*alarms, sep="\n", file=sys.stderr)
    return int(bool(alarms))


if __name__ == "__main__":
    sys.exit(main())
