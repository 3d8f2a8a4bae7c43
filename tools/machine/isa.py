"""AMD's machine code, as clang writes it with ``-S``: loads count a counter of the wavefront up, and waits name it.

Loads of vector memory come back in the order in which they were issued, so ``s_waitcnt vmcnt(N)`` (``s_wait_loadcnt N``
from gfx12 on) waits for all but the last N; up to gfx9 stores count there too. Scalar loads come back in any order, and
only a wait for all of them says anything ("RDNA3 Instruction Set Architecture", 2023, section 5.6; "AMD Instinct MI300
Instruction Set Architecture", 2025, section 4.4). Kernel arguments are not counted as loads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from kparity.errors import WrongInput
from tools.machine import Kind, Step

_ENTRY = re.compile(r"^(?P<entry>\w+):\s+; @(?P=entry)$(?P<code>.*?)^\s+\.section", re.DOTALL | re.MULTILINE)
_LABEL = re.compile(r"^(\.L\w+):")
_SCALAR = re.compile(r"s_load_(?:dword(?:x(\d+))?|[bu](\d+)) (?P<into>\S+), (?P<base>\S+),")
_KINDS = {"s_barrier": Kind.BARRIER, "s_barrier_wait": Kind.BARRIER}
_STREAMED = re.compile(r"\b(nt|slc|th:TH_LOAD_NT)\b")


def steps(assembly: str) -> dict[str, list[Step]]:
    """Entry point -> its steps."""
    counts_stores = bool(re.search(r"amdgcn-amd-amdhsa--gfx9", assembly))
    found = {match["entry"]: _steps(match["code"].splitlines(), counts_stores) for match in _ENTRY.finditer(assembly)}
    if not found:
        raise WrongInput("AMD assembly: no entry point; write it with clang -S")
    return found


def _size(opcode: str) -> int:
    """Bytes that a vector load brings to a lane."""
    if match := re.search(r"_dwordx(\d)$", opcode):
        return 4 * int(match[1])
    if match := re.search(r"_[bui](\d+)$", opcode):
        return max(1, int(match[1]) // 8)
    return 4


def _left(text: str) -> tuple[int | None, bool]:
    """Vector loads that a wait leaves under way (None: it is about others), and whether it is for all scalar loads."""
    if match := re.match(r"s_waitcnt (.*)", text):
        vector = re.search(r"vmcnt\((\d+)\)", match[1])
        return int(vector[1]) if vector else None, "lgkmcnt(0)" in match[1]
    if match := re.match(r"s_wait_(loadcnt|kmcnt|loadcnt_dscnt)\s+0x([0-9a-f]+)", text):
        number = int(match[2], 16)
        if match[1] == "loadcnt_dscnt":
            number = number >> 8 & 63
        return (None, number == 0) if match[1] == "kmcnt" else (number, False)
    return None, False


def _steps(lines: Iterable[str], counts_stores: bool) -> list[Step]:
    found: list[Step] = []
    labels: dict[str, int] = {}
    vector: list[int] = []  # under way, in order; stores among them where they count
    scalar: list[int] = []
    arguments: str | None = None
    for line in lines:
        if label := _LABEL.match(line):
            labels[label[1]] = len(found)
            continue
        text = " ".join(line.partition(";")[0].split())
        if not text or text.startswith(".") or text.endswith(":"):
            continue
        opcode, waits = text.split()[0], set[int]()
        left, all_scalar = _left(text)
        if left is not None and left < len(vector):
            waits.update(at for at in vector[: len(vector) - left] if found[at].bytes)
            vector = vector[len(vector) - left :]
        if all_scalar:
            waits.update(scalar)
            scalar = []
        size = 0
        if re.match(r"(global|flat|buffer)_load", opcode):
            size = _size(opcode)
            vector.append(len(found))
        elif counts_stores and re.match(r"(global|flat|buffer)_store", opcode):
            vector.append(len(found))
        elif read := _SCALAR.match(text):
            arguments = arguments or read["base"]
            if read["base"] != arguments:
                size = 4
                scalar.append(len(found))
        branch = re.match(r"s_c?branch\w* (\.L\w+)", text)
        kind = Kind.LOAD if size else _KINDS.get(opcode, Kind.OTHER)
        if opcode.startswith(("ds_write", "ds_store")):
            kind = Kind.SHARE
        streamed = bool(size) and bool(_STREAMED.search(text))
        found.append(Step(text, kind, size, streamed, frozenset(waits), labels.get(branch[1]) if branch else None))
    return found
