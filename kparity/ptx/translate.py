"""A kernel as Python: basic blocks become functions over arrays of all threads of a batch of blocks.

A register is an array of ``(blocks, threads)`` or of what broadcasts to it: what depends on the block alone has one
column, what depends on the thread alone one row. Within a basic block nothing is masked but memory: what the lanes that
are not here compute is dropped at its end, where registers that live on are merged under the mask.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kparity.ptx import arithmetic
from kparity.ptx.flow import IGNORED, BasicBlock, find_alive, find_origins, gives, parts_of, reads, split
from kparity.ptx.opcodes import DTYPES, form
from kparity.ptx.text import (
    SIZES,
    Address,
    Instruction,
    Kernel,
    Number,
    Operand,
    Place,
    Register,
    Several,
    Symbol,
    refused,
)

MEMORY = re.compile(
    r"(?P<what>ld|st)(?P<volatile>\.volatile|\.relaxed\.\w+|\.acquire\.\w+|\.release\.\w+|\.weak)?"
    r"(?P<space>\.global|\.shared|\.local|\.param|\.const)?(?:\.nc)?(?:\.(?:ca|cg|cs|lu|cv|wb|wt))?"
    r"(?:\.L[12]::\w+)*(?P<vector>\.v2|\.v4)?\.(?P<type>[busf](?:8|16|32|64))"
)  # fmt: skip
ATOMIC = re.compile(
    r"(?P<what>atom|red)(?P<order>\.(?:relaxed|acquire|release|acq_rel))?(?:\.(?:cta|gpu|sys))?(?P<space>\.global|\.shared)?"
    r"\.(?P<operation>add|min|max|exch|cas|and|or|xor|inc|dec)\.(?P<type>[busf](?:32|64))"
)  # fmt: skip
FENCE = re.compile(r"membar\.(?:gl|sys)|fence(?:\.\w+)*\.(?:gpu|sys)")
"""What orders memory over the device."""
SHUFFLE = re.compile(r"shfl\.sync\.(up|down|bfly|idx)\.b32")
VOTE = re.compile(r"vote\.sync\.(ballot\.b32|all\.pred|any\.pred|uni\.pred)")
REDUCE = re.compile(r"redux\.sync\.(add|min|max|and|or|xor)\.([bus]32)")

COPY = re.compile(r"cp\.async\.(ca|cg)\.shared(?:::cta)?\.global(?:\.L2::\d+B)?")
COPIED = re.compile(r"cp\.async\.(commit_group|wait_group|wait_all)")
ROWS = re.compile(r"ldmatrix\.sync\.aligned\.m8n8\.x([124])\.shared(?:::cta)?\.b16")
MATRIX = re.compile(r"mma\.sync\.aligned\.m16n8k32\.row\.col(?:\.satfinite)?\.s32\.(s8|u8)\.(s8|u8)\.s32")


@dataclass
class Program:
    """A translated kernel."""

    kernel: Kernel
    blocks: list[BasicBlock]
    registers: int
    places: list[Place]
    """Places in the source, by the numbers that the functions name."""
    grain: int
    """Bytes of the smallest access to shared memory: the unit of the race detector."""
    warp_barriers: bool
    """Whether it has ``bar.warp.sync``, which orders the accesses within a warp."""
    exchanges: bool = False
    """Whether it has atomics on global memory, by which blocks can meet."""
    copies: bool = False
    """Whether it has copies that go on by themselves."""


class Writer:
    """Writes the functions of a kernel."""

    def __init__(self, kernel: Kernel, perturb: bool) -> None:
        self.kernel, self.blocks = kernel, split(kernel)
        find_alive(self.blocks)
        self.origins = find_origins(kernel)
        self.slots: dict[str, int] = {}
        self.places: dict[Place, int] = {}
        self.constants: dict[tuple[str, int], str] = {}
        self.rounded = self._rounded()
        self.names: dict[str, Any] = {
            "np": np, "A": arithmetic, "keep": keep, "both": both, "approximate": arithmetic.Approximations(perturb),
        }  # fmt: skip

    def program(self) -> Program:
        """The kernel with a function for every block."""
        text = "\n".join(self._function(at, block) for at, block in enumerate(self.blocks))
        exec(compile(text, f"<{self.kernel.name}>", "exec"), self.names)
        for at, block in enumerate(self.blocks):
            block.run = self.names[f"block{at}"]
        found = (MEMORY.fullmatch(each.opcode) or ATOMIC.fullmatch(each.opcode) for each in self.kernel.code)
        sizes = [SIZES[match["type"]] for match in found if match and match["space"] in (".shared", None)]
        barriers = any(each.opcode.startswith("bar.warp") for each in self.kernel.code)
        atomics = (ATOMIC.fullmatch(each.opcode) for each in self.kernel.code)
        exchanges = any(match and match["what"] == "atom" and match["space"] != ".shared" for match in atomics)
        copies = any(each.opcode.startswith("cp.async") for each in self.kernel.code)
        grain = min([*sizes, *[4] * copies], default=4)
        return Program(self.kernel, self.blocks, len(self.slots), list(self.places), grain, barriers, exchanges, copies)

    def _rounded(self) -> set[str]:
        """Registers that are written by floating-point arithmetic alone or by a copy: their NaN are the canonical."""
        found = set()
        for each in self.kernel.code:
            known = form(each.opcode)
            if known and known.rounds and isinstance(each.operands[0], Register):
                found.add(each.operands[0].name)
        return found

    def slot(self, register: str) -> int:
        """The number of a register that lives longer than a block."""
        return self.slots.setdefault(register, len(self.slots))

    def place(self, each: Instruction) -> int:
        """The number of an instruction's place in the source."""
        return self.places.setdefault(each.place, len(self.places))

    @staticmethod
    def variable(register: str) -> str:
        """The Python name of a register."""
        return "v" + re.sub(r"\W", "_", register)

    def kind(self, register: str, row: int) -> str:
        """The numpy dtype in which a register is held: unsigned, or float where it is declared so."""
        if register not in self.kernel.registers:
            raise refused(row, f"a register that is not declared: {register}")
        return DTYPES[self.kernel.registers[register]].replace("i", "u")

    # Operands.

    def constant(self, dtype: str, value: int) -> str:
        """A name for an array of one element with these bits."""
        size = int(dtype[1:]) if dtype != "?" else 1
        bits = value & (1 << 8 * size) - 1
        name = self.constants.setdefault((dtype, bits), f"c{len(self.constants)}")
        if name not in self.names:
            held = np.frombuffer(bits.to_bytes(size, "little"), dtype).reshape(1, 1)
            self.names[name] = held
        return name

    def use(self, operand: Operand, kind: str, row: int) -> str:
        """An operand as an expression of the type's dtype."""
        want = DTYPES[kind]
        if isinstance(operand, Number):
            if operand.floating not in (0, SIZES[kind]) or (kind in ("f32", "f64") and not operand.floating):
                raise refused(row, f"an immediate of another type than .{kind}")
            return self.constant(want, operand.value)
        if isinstance(operand, Symbol):
            if operand.name not in self.kernel.variables:
                raise refused(row, f"a symbol that is not known: {operand.name}")
            return f"X.address_of({operand.name!r}, '{want}')"
        if not isinstance(operand, Register):
            raise refused(row, f"an operand that is not understood: {operand}")
        if operand.name in SPECIAL:
            return self._viewed(f"X.{SPECIAL[operand.name]}", "u4", want, row)
        if operand.name not in self.kernel.registers:
            raise refused(row, f"a special register that is not known: {operand.name}")
        name = self.variable(operand.name)
        have = self.kind(operand.name, row)
        if have[0] == "f" and want[0] != "f" and operand.name in self.rounded:
            name = f"A.canonical({name})"
        return self._viewed(name, have, want, row)

    @staticmethod
    def _viewed(text: str, have: str, want: str, row: int) -> str:
        if have == want:
            return text
        if "?" in (have, want):
            raise refused(row, "a predicate and a number are mixed")
        if have[1:] == want[1:]:
            return f"{text}.view('{want}')"
        if int(have[1:]) < int(want[1:]):
            raise refused(row, f"a register of {have[1:]} bytes is read as {want[1:]} bytes")
        return f"{text}.view('u{have[1:]}').astype('u{want[1:]}').view('{want}')"

    def assign(self, operand: Operand, kind: str, text: str, each: Instruction) -> str:
        """A statement that gives an expression of the type's dtype to a register."""
        if operand == Symbol("_"):
            return text
        if not isinstance(operand, Register):
            raise refused(each.row, f"a result that is no register: {operand}")
        held, have = self.kind(operand.name, each.row), DTYPES[kind]
        name = self.variable(operand.name)
        if held != have and (held == "?" or have == "?" or int(held[1:]) < int(have[1:])):
            raise refused(each.row, f"a result of .{kind} in {operand.name}")
        if held != have and held[1:] == have[1:]:
            text = f"({text}).view('{held}')"
        elif held != have:  # a wider register: extended by the sign, or by zeros
            text = f"({text}).astype('{have[0].replace('f', 'u')}{held[1:]}').view('{held}')"
        if each.guard:
            return f"{name} = keep({self._guard(each)}, {text}, {name})"
        return f"{name} = {text}"

    def _guard(self, each: Instruction) -> str:
        return ("~" if each.guard.startswith("!") else "") + self.variable(each.guard.lstrip("!"))

    def mask(self, each: Instruction) -> str:
        """The lanes that execute an instruction: those of the block, under its guard."""
        return f"both(m, {self._guard(each)})" if each.guard else "m"

    # Statements.

    def statement(self, each: Instruction) -> str:
        """One instruction in Python."""
        for pattern, write in self.SPECIAL_FORMS:
            if match := pattern.fullmatch(each.opcode):
                return write(self, match, each)
        if each.opcode.startswith("mov.") and any(isinstance(o, Several) for o in each.operands):
            return self._pack(each)
        known = form(each.opcode)
        if known is None:
            raise refused(each.row, f"the instruction {each.opcode} is not known here")
        results, sources = each.operands[:1], each.operands[1:]
        if len(sources) != len(known.sources):
            raise refused(each.row, f"{each.opcode} with {len(sources)} sources")
        pairs = zip(sources, known.sources, strict=True)
        text = known.text.format(*(self.use(source, kind, each.row) for source, kind in pairs))
        if not isinstance(results[0], Several):
            return self.assign(results[0], known.result, text, each)
        if known.result != "pred" or known.sources[-1] == "pred":
            raise refused(each.row, f"{each.opcode} with two results")
        first, second = results[0].parts
        lines = [f"t = {text}", self.assign(first, "pred", "t", each), self.assign(second, "pred", "~t", each)]
        return "; ".join(lines)

    def _pack(self, each: Instruction) -> str:
        """``mov`` between a register and the parts that it is made of."""
        target, source = each.operands
        kind = each.opcode.rpartition(".")[2]
        if isinstance(source, Several):
            part = f"u{8 * SIZES[kind] // len(source.parts)}"
            wide = DTYPES[kind].replace("b", "u")
            pieces = [f"{self.use(one, part, each.row)}.astype('{wide}')" for one in source.parts]
            shifts = [f"np.{np.dtype(wide).name}({at * 8 * SIZES[part]})" for at in range(len(pieces))]
            terms = [f"({piece} << {shift})" for piece, shift in zip(pieces, shifts, strict=True)]
            return self.assign(target, kind, " | ".join(terms), each)
        assert isinstance(target, Several)
        part = f"u{8 * SIZES[kind] // len(target.parts)}"
        wide = np.dtype(DTYPES[kind]).name
        lines = [f"t = {self.use(source, kind, each.row)}"]
        for at, one in enumerate(target.parts):
            moved = f"(t >> np.{wide}({at * 8 * SIZES[part]})).astype('{DTYPES[part]}')"
            lines.append(self.assign(one, part, moved, each))
        return "; ".join(line for line in lines if "=" in line)

    def _address(self, operand: Operand, each: Instruction) -> tuple[str, str, int]:
        """Where an instruction goes: the origin's name or None, the base as an expression, the offset."""
        if not isinstance(operand, Address):
            raise refused(each.row, f"an address that is not understood: {operand}")
        base = operand.base
        if isinstance(base, Symbol):
            wide = "u4" if self.kernel.variables[base.name].space in ("shared", "local") else "u8"
            return repr(base.name), f"X.address_of({base.name!r}, '{wide}')", operand.offset
        if isinstance(base, Number):
            return "None", self.constant("u8", base.value), operand.offset
        origins = self.origins.get(base.name, frozenset())
        width = self.kind(base.name, each.row)
        origin = repr(next(iter(origins))) if len(origins) == 1 else "None"
        return origin, self.use(base, f"u{8 * int(width[1:])}", each.row), operand.offset

    def _memory(self, match: re.Match[str], each: Instruction) -> str:
        kind, count = match["type"], int((match["vector"] or ".v1")[2:])
        space = (match["space"] or ".generic")[1:]
        values = parts_of(each.operands[match["what"] == "st"])
        if len(values) != count or len(each.operands) != 2:
            raise refused(each.row, f"{each.opcode} of {len(values)} registers")
        if space == "param":
            return self._parameter(kind, values, each)
        origin, base, offset = self._address(each.operands[match["what"] == "ld"], each)
        where = f"{self.place(each)}, '{space}', {origin}, {base}, {offset}, '{DTYPES[kind]}'"
        if match["what"] == "st":
            given = ", ".join(self.use(value, kind, each.row) for value in values)
            return f"X.store({where}, ({given},), {self.mask(each)})"
        if count == 1:
            return self.assign(values[0], kind, f"X.load({where}, 1, {self.mask(each)})[0]", each)
        lines = [f"t = X.load({where}, {count}, {self.mask(each)})"]
        lines += [self.assign(value, kind, f"t[{at}]", each) for at, value in enumerate(values)]
        return "; ".join(line for line in lines if "=" in line)

    def _parameter(self, kind: str, values: Sequence[Operand], each: Instruction) -> str:
        address = each.operands[1]
        if not isinstance(address, Address) or not isinstance(address.base, Symbol) or len(values) != 1:
            raise refused(each.row, "a parameter that is not read by its name")
        return self.assign(
            values[0], kind, f"X.parameter({address.base.name!r}, {address.offset}, '{DTYPES[kind]}')", each
        )

    def _atomic(self, match: re.Match[str], each: Instruction) -> str:
        kind, at = match["type"], int(match["what"] == "atom")
        origin, base, offset = self._address(each.operands[at], each)
        given = ", ".join(self.use(value, kind, each.row) for value in each.operands[at + 1 :])
        space = (match["space"] or ".generic")[1:]
        text = (
            f"X.atomic({self.place(each)}, '{space}', {origin}, {base}, {offset}, '{DTYPES[kind]}', "
            f"'{match['operation']}', ({given},), {self.mask(each)})"
        )
        order, fence = match["order"] or "", self._fence(match, each)
        before, after = order in (".release", ".acq_rel"), order in (".acquire", ".acq_rel")
        lines = [fence] * before + [self.assign(each.operands[0], kind, text, each) if at else text] + [fence] * after
        return "; ".join(lines)

    def _fence(self, match: re.Match[str], each: Instruction) -> str:
        return f"X.fence({self.mask(each)})"

    def _shuffle(self, match: re.Match[str], each: Instruction) -> str:
        target, *sources = each.operands
        value, lane, clamp, members = (self.use(source, "u32", each.row) for source in sources)
        text = f"X.shuffle({self.place(each)}, '{match[1]}', {value}, {lane}, {clamp}, {members}, {self.mask(each)})"
        lines = [f"t = {text}", self.assign(parts_of(target)[0], "b32", "t[0]", each)]
        lines += [self.assign(each_, "pred", "t[1]", each) for each_ in parts_of(target)[1:]]
        return "; ".join(line for line in lines if "=" in line)

    def _vote(self, match: re.Match[str], each: Instruction) -> str:
        name, kind = match[1].split(".")
        target, source, members = each.operands
        text = self.use(source, "pred", each.row)
        members_ = self.use(members, "u32", each.row)
        vote = f"X.vote({self.place(each)}, '{name}', {text}, {members_}, {self.mask(each)})"
        return self.assign(target, kind, vote, each)

    def _reduce(self, match: re.Match[str], each: Instruction) -> str:
        target, source, members = each.operands
        given, members_ = self.use(source, match[2], each.row), self.use(members, "u32", each.row)
        text = f"X.reduce({self.place(each)}, '{match[1]}', {given}, {members_}, {self.mask(each)})"
        return self.assign(target, match[2], text, each)

    def _matrix(self, match: re.Match[str], each: Instruction) -> str:
        if "satfinite" in each.opcode:
            raise refused(each.row, f"{each.opcode}: sums that saturate are not executed here")
        counts = [len(parts_of(operand)) for operand in each.operands]
        if counts != [4, 4, 2, 4]:
            raise refused(each.row, f"{each.opcode} of {counts} registers, not of 4, 4, 2 and 4")
        given = [f"({', '.join(self.use(part, 'b32', each.row) for part in parts_of(o))})" for o in each.operands[1:]]
        signs = f"{match[1] == 's8'}, {match[2] == 's8'}"
        lines = [f"t = X.matrix({self.place(each)}, {', '.join(given)}, {signs}, {self.mask(each)})"]
        lines += [self.assign(part, "b32", f"t[{at}]", each) for at, part in enumerate(parts_of(each.operands[0]))]
        return "; ".join(lines)

    def _rows(self, match: re.Match[str], each: Instruction) -> str:
        parts = parts_of(each.operands[0])
        if len(parts) != int(match[1]):
            raise refused(each.row, f"{each.opcode} of {len(parts)} registers")
        origin, base, offset = self._address(each.operands[1], each)
        where = f"{self.place(each)}, {origin}, {base}, {offset}"
        lines = [f"t = X.rows_of_matrices({where}, {len(parts)}, {self.mask(each)})"]
        lines += [self.assign(part, "b32", f"t[{at}]", each) for at, part in enumerate(parts)]
        return "; ".join(lines)

    def _copy(self, match: re.Match[str], each: Instruction) -> str:
        size = each.operands[2]
        if not isinstance(size, Number) or size.value not in ((4, 8, 16) if match[1] == "ca" else (16,)):
            raise refused(each.row, f"{each.opcode} of {size}")
        ends = ", ".join(f"({', '.join(map(str, self._address(each.operands[at], each)))})" for at in (0, 1))
        given = self.use(each.operands[3], "u32", each.row) if len(each.operands) > 3 else None
        return f"X.copy({self.place(each)}, {ends}, {size.value}, {given}, {self.mask(each)})"

    def _copied(self, match: re.Match[str], each: Instruction) -> str:
        if match[1] == "commit_group":
            return f"X.commit({self.mask(each)})"
        pending = each.operands[0] if match[1] == "wait_group" else Number(0)
        if not isinstance(pending, Number):
            raise refused(each.row, f"{each.opcode} of {pending}")
        return f"X.wait({pending.value if match[1] == 'wait_group' else None}, {self.mask(each)})"

    def _active(self, match: re.Match[str], each: Instruction) -> str:
        return self.assign(each.operands[0], "b32", f"X.active({self.mask(each)})", each)

    def _warp_barrier(self, match: re.Match[str], each: Instruction) -> str:
        return f"X.warp_barrier({self.place(each)}, {self.use(each.operands[0], 'u32', each.row)}, {self.mask(each)})"

    def _trap(self, match: re.Match[str], each: Instruction) -> str:
        return f"X.trap({self.place(each)}, {self.mask(each)})"

    def _nothing(self, match: re.Match[str], each: Instruction) -> str:
        return "pass"

    SPECIAL_FORMS: tuple[tuple[re.Pattern[str], Callable[..., str]], ...] = (
        (MEMORY, _memory), (ATOMIC, _atomic), (SHUFFLE, _shuffle), (VOTE, _vote), (REDUCE, _reduce), (MATRIX, _matrix),
        (ROWS, _rows), (COPY, _copy), (COPIED, _copied),
        (re.compile(r"activemask\.b32"), _active), (re.compile(r"bar\.warp\.sync"), _warp_barrier),
        (re.compile(r"trap|brkpt"), _trap), (FENCE, _fence), (IGNORED, _nothing),
    )  # fmt: skip

    def _function(self, at: int, block: BasicBlock) -> str:
        """A block's function of the registers, the mask (None for all lanes) and the batch."""
        lines = [f"def block{at}(R, m, X):"]
        lines += [f"    {self.variable(name)} = R[{self.slot(name)}]" for name in sorted(block.uses - SPECIAL.keys())]
        kept = block.alive & block.gives
        last = self._last_uses(block, kept)
        body = block.code[:-1] if block.kind not in ("next",) and block.code else block.code
        for number, each in enumerate(body):
            lines.append(f"    {self.statement(each)}")
            if dead := last.get(number):
                lines.append(f"    {' = '.join(dead)} = None")
        for name in sorted(kept):
            slot, variable = self.slot(name), self.variable(name)
            lines.append(f"    R[{slot}] = {variable} if m is None else keep(m, {variable}, R[{slot}])")
        if block.kind in ("branch", "leave"):
            lines.append(f"    return {self.variable(block.code[-1].guard.lstrip('!'))}")
        return "\n".join([*lines, "    return None", ""])

    def _last_uses(self, block: BasicBlock, kept: set[str]) -> dict[int, list[str]]:
        """Instruction → the names that nobody reads after it, whose arrays may go."""
        seen = set(kept) | ({block.code[-1].guard.lstrip("!")} if block.code and block.code[-1].guard else set())
        found: dict[int, list[str]] = {}
        for at in range(len(block.code) - 1, -1, -1):
            each = block.code[at]
            named = {*reads(each), *(part.name for part in gives(each) if isinstance(part, Register))} - SPECIAL.keys()
            fresh = sorted(named - seen)
            seen |= named
            if fresh:
                found[at] = [self.variable(name) for name in fresh]
        return found


SPECIAL = {f"%{name}.{axis}": f"{name}_{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"} | {
    "%laneid": "lane", "%warpid": "warp", "%nwarpid": "warps", "WARP_SZ": "warp_size",
    **{f"%lanemask_{which}": f"lanemask_{which}" for which in ("eq", "lt", "le", "gt", "ge")},
}  # fmt: skip
"""Special registers → attributes of a batch."""


def keep(mask: Any, new: Any, old: Any) -> Any:
    """The new value in the lanes of a mask, the old one elsewhere; where there is no old one, the new one."""
    return new if old is None else np.where(mask, new, old)


def both(mask: Any, guard: Any) -> Any:
    """The lanes of a mask (None: all) under a guard; None where that is all."""
    joined = guard if mask is None else mask & guard
    return None if joined.all() else joined


def translate(kernel: Kernel, perturb: bool = False) -> Program:
    """The program of a kernel; raises CompileFailed with the line of the PTX for what is not known."""
    return Writer(kernel, perturb).program()
