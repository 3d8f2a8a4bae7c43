"""Takes every barrier of every CUDA text away, one at a time, and tells what the race detector of cuda-ptx says.

    python -m tools.race_table            print the table
    python -m tools.race_table --write    write it into docs/ptx.md

The barriers are those of the mutants ``no-barrier-…`` (``kparity mutate``). One is redundant where no case has a race
without it. The exit code is 1 where an unchanged text has a race.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path, PurePosixPath
from unittest.mock import patch

from kparity import ops
from kparity.check.core import check_case
from kparity.check.record import FAIL
from kparity.device.adapter import Backend
from kparity.device.registry import open_backend
from kparity.host import files
from kparity.mutate import barriers
from kparity.ops import assemble
from kparity.ops.mutant import Mutant

PAGE = Path(__file__).resolve().parent.parent / "docs" / "ptx.md"
BEGIN, END = "<!-- race table: begin -->", "<!-- race table: end -->"


def race(backend: Backend, name: str) -> str:
    """The first race of an op's cases in random inputs, or an empty string."""
    op = ops.get(name)
    for case in op.cases():
        for record in check_case(backend, op, case, kinds=["random"]):
            if record.outcome == FAIL:
                return f"{case.id}: {record.reason}"
    return ""


def place(mutant: Mutant) -> str:
    """``attention.cu:225``: where the barrier stands that a mutant lacks."""
    (each,) = mutant.patches["gpu"]
    call = barriers.CALLS["gpu"]
    before = call.join(assemble.kernel_text(each.file).split(call)[: each.only])
    return f"{PurePosixPath(each.file).name}:{before.count(chr(10)) + 1}"


def row(backend: Backend, op: str, mutant: Mutant) -> str:
    """A row of the table."""
    patched, real = mutant.sources(op, "gpu"), assemble.kernel_text
    with patch.object(assemble, "kernel_text", lambda relative: patched.get(relative) or real(relative)):
        found = race(backend, op)
    if not found:
        return f"| `{op}` | {place(mutant)} | redundant: no race without it, passed once |"
    lines = re.findall(r"\w+\.cu:(\d+)", found) or re.findall(r"(\w+\.h:\d+)", found)
    if said := re.search(r"race on (\w+)\[byte \d+\]: (\w+ after \w+)", found):
        what = f"`{said[1]}`, {said[2]}"
    elif said := re.search(r"read of (\w+) that another block wrote", found):
        what = f"`{said[1]}`, read after another block's write"
    else:
        return f"| `{op}` | {place(mutant)} | {found[:100]} |"
    return f"| `{op}` | {place(mutant)} | race: {what}, line{'s' * (len(lines) > 1)} {' and '.join(lines)} |"


def main() -> int:
    """Print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table into docs/ptx.md")
    write = parser.parse_args().write
    backend = open_backend("cuda-ptx", sanitize=True)
    alarms = [found for name in ops.NAMES if (found := race(backend, name))]
    lines = ["| op | barrier | without it |", "|---|---|---|"]
    for op in ops.NAMES:
        for mutant in barriers.of_op(op).values():
            if "gpu" in mutant.patches:
                lines.append(row(backend, op, mutant))
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
