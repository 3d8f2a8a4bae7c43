"""NVIDIA's machine code, as ``nvdisasm -c -hex`` lists it: 16 bytes an instruction, of which 21 bits say how it waits.

From sm_70 on the compiler writes the dependences into the code: a load counts up one of six scoreboards when it is
issued and down when its value has arrived, and any instruction may wait until some of them are at 0; ``DEPBAR.LE``
waits until one is at most at a number. The places of these bits are public by measurement only (Jia et al.,
"Dissecting the NVIDIA Volta GPU Architecture via Microbenchmarking", 2018, section 2.1): from bit 105 of 128 on, 4 bits
of stall, 1 of yield, 3 of the scoreboard that a result counts, 3 of the one that its operands count, 6 of scoreboards
to wait for.
"""

from __future__ import annotations

import re
from collections import defaultdict

from kparity.errors import WrongInput
from tools.machine import Kind, Step

_LINE = re.compile(
    r"^\s*(?:(?P<label>\.?[\w$.]+):|/\*(?P<at>[0-9a-f]{4,})\*/\s+(?P<text>[^;]+);\s*/\* 0x[0-9a-f]{16} \*/)\s*$"
)
_SECOND = re.compile(r"^\s*/\* 0x(?P<high>[0-9a-f]{16}) \*/\s*$")
_SECTION = re.compile(r"^\s*\.section\s+\.text\.(?P<entry>\w+)")
_KINDS = {"BAR": Kind.BARRIER, "STS": Kind.SHARE}
_NONE = 7
"""Of a field of three bits: no scoreboard."""


def control(high: int) -> tuple[int | None, frozenset[int]]:
    """Of the upper 64 bits: the scoreboard that the result counts, and those that are waited for."""
    counts, mask = high >> 46 & 7, high >> 52 & 63
    return None if counts == _NONE else counts, frozenset(at for at in range(6) if mask >> at & 1)


def listed(listing: str) -> dict[str, list[tuple[str, int]]]:
    """Entry point -> instructions (text, upper half), with labels as (``name:``, 0)."""
    found: dict[str, list[tuple[str, int]]] = {}
    current: list[tuple[str, int]] | None = None
    pending: str | None = None
    for line in listing.splitlines():
        if section := _SECTION.match(line):
            current = found.setdefault(section["entry"], [])
        elif current is None:
            continue
        elif pending is not None:
            second = _SECOND.match(line)
            if not second:
                raise WrongInput(f"SASS listing: no second half of {pending!r}; list with nvdisasm -c -hex")
            current.append((pending, int(second["high"], 16)))
            pending = None
        elif match := _LINE.match(line):
            if match["label"]:
                current.append((f"{match['label']}:", 0))
            else:
                pending = " ".join(match["text"].split())
    if not found:
        raise WrongInput("SASS listing: no section of code; list a cubin with nvdisasm -c -hex")
    return found


def _bytes(opcode: str) -> int:
    """Of a load of global memory, for each lane."""
    parts = opcode.split(".")
    if parts[0] not in ("LDG", "LD"):
        return 0
    return next((int(part) // 8 for part in parts[1:] if part in ("64", "128", "256")), 4)


def steps(listing: str) -> dict[str, list[Step]]:
    """Entry point -> its steps, without padding."""
    return {entry: _steps(lines) for entry, lines in listed(listing).items()}


def _steps(lines: list[tuple[str, int]]) -> list[Step]:
    found: list[Step] = []
    labels: dict[str, int] = {}
    counted: dict[int, list[int]] = defaultdict(list)  # scoreboard -> loads that count it and may be under way
    for text, high in lines:
        if text.endswith(":"):
            labels[text[:-1]] = len(found)
            continue
        words = text.split()
        if words[0].startswith("@"):
            words = words[1:]
        opcode = words[0]
        if opcode == "NOP":
            continue
        target = re.search(r"\(\.?(\S+?)\)", text.replace("`(.", "(.")) if opcode.startswith("BRA") else None
        back = labels.get(f".{target[1]}") if target else None
        if back == len(found):
            break  # a branch to itself: the padding behind the end
        counts, waited = control(high)
        waits: set[int] = set()
        for board in waited:
            waits.update(counted.pop(board, ()))
        if depbar := re.search(r"DEPBAR\.LE SB(\d), 0x([0-9a-f]+)", text):
            board, left = int(depbar[1]), int(depbar[2], 16)
            waiting = counted[board]
            waits.update(waiting[: len(waiting) - left])
            counted[board] = waiting[len(waiting) - left :] if left else []
        size = _bytes(opcode)
        if size and counts is not None:
            counted[counts].append(len(found))
        kind = Kind.LOAD if size else _KINDS.get(opcode.partition(".")[0], Kind.OTHER)
        found.append(Step(text, kind, size, bool(size) and ".NA" in opcode, frozenset(waits), back))
    return found
