"""The flow of a kernel: its basic blocks, which registers live on after each, and where addresses come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kparity.ptx.text import Address, Instruction, Kernel, Number, Operand, Register, Several, Symbol, refused

BARRIER = re.compile(r"bar\.sync|barrier\.sync(?:\.aligned)?")
IGNORED = re.compile(r"membar\.\w+|fence(?:\.\w+)*|nanosleep\.u32|prefetch\S*|discard\S*")
"""All threads see one memory; the order in which it becomes visible to other blocks is watched, not modelled."""


@dataclass
class BasicBlock:
    """Instructions that are run together, and what comes after them: ``kind`` is ``next``, ``goto``, ``branch`` (the
    function gives the condition), ``barrier``, ``exit`` or ``leave`` (an exit on a condition).
    """

    code: list[Instruction]
    kind: str = "next"
    target: int = -1
    after: int = -1
    negated: bool = False
    run: Callable[[list[Any], Any, Any], Any] | None = None
    uses: set[str] = field(default_factory=set)
    gives: set[str] = field(default_factory=set)
    alive: set[str] = field(default_factory=set)
    """Registers that are read after it."""


def parts_of(each: Operand) -> tuple[Operand, ...]:
    """The operands within an operand."""
    return each.parts if isinstance(each, Several) else (each,)


def gives(instruction: Instruction) -> tuple[Operand, ...]:
    """What an instruction writes."""
    name = instruction.opcode.partition(".")[0]
    if name in ("st", "red", "cp", "bra", "ret", "exit", "trap", "bar", "barrier") or not instruction.operands:
        return ()
    return () if IGNORED.fullmatch(instruction.opcode) else parts_of(instruction.operands[0])


def reads(instruction: Instruction) -> Iterable[str]:
    """The registers that an instruction reads, its guard and what the guard keeps included."""
    given = gives(instruction)
    for operand in instruction.operands[bool(given) :]:
        for each in parts_of(operand):
            base = each.base if isinstance(each, Address) else each
            if isinstance(base, Register):
                yield base.name
    if instruction.guard:
        yield instruction.guard.lstrip("!")
        yield from (each.name for each in given if isinstance(each, Register))


def split(kernel: Kernel) -> list[BasicBlock]:
    """The basic blocks, in the order of the text."""
    starts = {0, *kernel.labels.values()}
    for at, each in enumerate(kernel.code):
        if each.opcode.partition(".")[0] in ("bra", "ret", "exit") or BARRIER.fullmatch(each.opcode):
            starts.add(at + 1)
    edges = sorted(start for start in starts if start < len(kernel.code))
    number = {start: at for at, start in enumerate(edges)}
    blocks = []
    for at, start in enumerate(edges):
        end = edges[at + 1] if at + 1 < len(edges) else len(kernel.code)
        block = BasicBlock(kernel.code[start:end], after=at + 1)
        last = block.code[-1]
        name = last.opcode.partition(".")[0]
        if name in ("ret", "exit"):
            block.kind, block.negated = ("leave" if last.guard else "exit"), last.guard.startswith("!")
        elif BARRIER.fullmatch(last.opcode):
            if last.guard or last.operands != (Number(0),):
                raise refused(last.row, f"{last.opcode} other than barrier 0 of all threads is not executed here")
            block.kind = "barrier"
        elif name == "bra":
            label = last.operands[0]
            if not isinstance(label, Symbol) or label.name not in kernel.labels:
                raise refused(last.row, f"a branch to {label}")
            block.kind, block.negated = ("branch" if last.guard else "goto"), last.guard.startswith("!")
            block.target = number.get(kernel.labels[label.name], len(edges))
        blocks.append(block)
    blocks.append(BasicBlock([], "exit"))
    return blocks


def find_alive(blocks: Sequence[BasicBlock]) -> None:
    """Which registers are read after each block, by the usual backward iteration."""
    for block in blocks:
        for each in block.code:
            block.uses |= set(reads(each)) - block.gives
            block.gives |= {part.name for part in gives(each) if isinstance(part, Register)}
    changed = True
    while changed:
        changed = False
        for block in reversed(blocks):
            follow = [block.after] if block.kind in ("next", "barrier", "branch", "leave") else []
            follow += [block.target] if block.kind in ("goto", "branch") else []
            alive = set().union(*(blocks[at].uses | (blocks[at].alive - blocks[at].gives) for at in follow))
            changed |= alive != block.alive
            block.alive = alive


def find_origins(kernel: Kernel) -> dict[str, frozenset[str]]:
    """Register → the parameters and variables that its address can come from, wherever it is written."""
    origins: dict[str, frozenset[str]] = {}
    known = (*kernel.params, *kernel.variables)
    carried = [
        each for each in kernel.code
        if re.match(r"(?:add|sub|mov|cvta|selp|mad|ld\.param|and|or|cvt)\b", each.opcode) and gives(each)
    ]  # fmt: skip
    changed = True
    while changed:
        changed = False
        for each in carried:
            found = frozenset[str]().union(*(origins.get(name, ()) for name in reads(each)))
            bases = [o.base if isinstance(o, Address) else o for o in each.operands[1:]]
            found |= {base.name for base in bases if isinstance(base, Symbol) and base.name in known}
            for part in gives(each):
                if isinstance(part, Register) and not found <= origins.get(part.name, frozenset()):
                    origins[part.name] = origins.get(part.name, frozenset()) | found
                    changed = True
    return origins
