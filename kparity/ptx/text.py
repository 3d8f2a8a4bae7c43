"""PTX as text, read into typed instructions with the lines of the CUDA source that they come from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from kparity.errors import CompileFailed

SIZES = {"pred": 1} | {f"{kind}{bits}": bits // 8 for kind in "busf" for bits in (8, 16, 32, 64)} | {"bf16": 2}
"""Bytes of the fundamental types."""


@dataclass(frozen=True)
class Place:
    """A line of the source, and the line of the kernel from which inlined code came; 0 where the PTX does not tell."""

    line: int = 0
    caller: int = 0


@dataclass(frozen=True)
class Register:
    """A virtual register, or a special one such as ``%tid.x``."""

    name: str


@dataclass(frozen=True)
class Number:
    """An immediate: the bits of a float (``0f…``, ``0d…``), or an integer, which takes the type of its place."""

    value: int
    floating: int = 0
    """Bytes of a float; 0 for an integer."""


@dataclass(frozen=True)
class Symbol:
    """A variable, a parameter or a label."""

    name: str


@dataclass(frozen=True)
class Address:
    """``[base+offset]``."""

    base: Register | Symbol | Number
    offset: int


@dataclass(frozen=True)
class Several:
    """``{a, b}`` (a vector) or ``a|b`` (two results)."""

    parts: tuple[Operand, ...]


Operand = Register | Number | Symbol | Address | Several


@dataclass(frozen=True)
class Instruction:
    """One instruction; ``guard`` is the predicate before which it stands, ``!`` negated, or empty."""

    opcode: str
    operands: tuple[Operand, ...]
    guard: str
    place: Place
    row: int
    """Line of the PTX."""


@dataclass(frozen=True)
class Variable:
    """Memory that a text declares: offset in its state space, bytes, and what it holds at first."""

    space: str
    offset: int
    size: int
    content: bytes = b""


@dataclass
class Kernel:
    """An entry point: parameters, registers by type, variables, instructions and the labels that stand before them."""

    name: str
    params: dict[str, tuple[str, int]]
    """Name → type and bytes, in order."""
    registers: dict[str, str] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def bytes_of(self, space: str) -> int:
        """What the variables of a state space take, padded to 16 bytes."""
        return _aligned(max((v.offset + v.size for v in self.variables.values() if v.space == space), default=0), 16)


_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)[^{;]*\{")
_PARAM = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(?:\.ptr[^,]*?\s)?([\w$]+)(?:\[(\d+)\])?\s*$")
_LOC = re.compile(r"\.loc\s+\d+\s+(\d+)\s+\d+(?:.*inlined_at\s+\d+\s+(\d+))?")
_REG = re.compile(r"\.reg\s+\.(\w+)\s+(.*)")
_VARIABLE = re.compile(
    r"(?:\.(?:visible|extern|weak)\s+)*\.(shared|local|global|const)\s+(?:\.align\s+(\d+)\s+)?(?:\.attribute\S+\s+)?"
    r"\.(\w+)\s+([\w$]+)((?:\[\d*\])*)\s*(?:=\s*(.*))?$", re.DOTALL
)  # fmt: skip
_LINE = re.compile(r"\.(?:loc|file|pragma|version|target|address_size)\b")
"""Directives that end with their line."""
_LABEL = re.compile(r"([\w$]+):(?!:)\s*")
_INSTRUCTION = re.compile(r"(?:@(!?[%\w$]+)\s+)?([a-z]\w*(?:(?:\.|::)\w+)*)\s*(.*)$", re.DOTALL)
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s{}\[\]]+")


def _aligned(offset: int, to: int) -> int:
    return -(-offset // to) * to


def refused(row: int, what: str) -> CompileFailed:
    """The error of a text that this interpreter does not take."""
    return CompileFailed("PTX", row, what)


@lru_cache(maxsize=1 << 14)
def operand(text: str) -> Operand:
    """One operand; raises ValueError for what is none."""
    if text[0] == "{":
        return Several(tuple(operand(each.strip()) for each in text[1:-1].split(",")))
    if text[0] == "[":
        match = re.fullmatch(r"([%\w$.]+)\s*(?:([+-])\s*(-?\w+))?", text[1:-1].strip())
        base = operand(match[1]) if match else None
        if match is None or not isinstance(base, Register | Symbol | Number):
            raise ValueError(text)
        number = int(match[3] or "0", 0)
        return Address(base, -number if match[2] == "-" else number)
    if "|" in text:
        return Several(tuple(map(operand, text.split("|"))))
    if match := re.fullmatch(r"0([fFdD])([0-9a-fA-F]+)", text):
        return Number(int(match[2], 16), 4 if match[1] in "fF" else 8)
    if match := re.fullmatch(r"-?(?:0[xX][0-9a-fA-F]+|\d+)U?", text):
        return Number(int(text.rstrip("U"), 0))
    if re.fullmatch(r"%[\w$.]+", text):
        return Register(text)
    if re.fullmatch(r"[\w$]+", text):
        return Symbol(text)
    raise ValueError(text)


def _content(kind: str, text: str, row: int) -> bytes:
    """The bytes of an initialiser."""
    parts = text.strip().strip("{}").split(",")
    try:
        values = [each.value for part in parts if isinstance(each := operand(part.strip()), Number)]
        if len(values) < len(parts):
            raise ValueError
        return b"".join(value.to_bytes(SIZES[kind], "little", signed=value < 0) for value in values)
    except (ValueError, OverflowError):
        raise refused(row, f"an initialiser that is no list of numbers: {text[:60]}") from None


class Reader:
    """Reads one text, statement by statement."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.module: dict[str, Variable] = {}
        self.sizes: dict[str, int] = {}
        """Bytes that variables take so far, by state space."""

    def kernels(self) -> dict[str, Kernel]:
        """Every entry point by its name; raises CompileFailed with the line of the PTX."""
        found = {}
        entries = list(_ENTRY.finditer(self.text))
        head = self.text[: entries[0].start()] if entries else self.text
        for row, statement in self._statements(head, 1):
            if isinstance(statement, str) and (match := _VARIABLE.match(statement)):
                self._declare(self.module, match, row)
            elif re.match(r"(?:\.\w+\s+)*\.func\b", statement):
                raise refused(row, "a function that was not inlined: calls are not executed here")
        for entry in entries:
            row = self.text.count("\n", 0, entry.end()) + 1
            kernel = Kernel(entry[1], dict(self._params(entry[2], row)))
            kernel.variables = dict(self.module)
            self.sizes["local"], before = 0, self.sizes.get("shared", 0)
            self._body(kernel, self.text[entry.end() :], row)
            self.sizes["shared"] = before
            found[kernel.name] = kernel
        return found

    @staticmethod
    def _params(text: str, row: int) -> Iterator[tuple[str, tuple[str, int]]]:
        for each in filter(str.strip, text.split(",")):
            match = _PARAM.match(each.strip())
            if not match or match[1] not in SIZES:
                raise refused(row, f"a parameter that is not understood: {each.strip()}")
            yield match[2], (match[1], SIZES[match[1]] * int(match[3] or 1))

    def _declare(self, into: dict[str, Variable], match: re.Match[str], row: int) -> None:
        space, align, kind, name, dims, content = match.groups()
        if kind not in SIZES:
            raise refused(row, f"a variable of type .{kind}")
        size = SIZES[kind]
        for dim in re.findall(r"\[(\d*)\]", dims):
            size *= int(dim or "0")
        offset = _aligned(self.sizes.get(space, 0), int(align or SIZES[kind]))
        self.sizes[space] = offset + size
        into[name] = Variable(space, offset, size, _content(kind, content, row) if content else b"")

    @staticmethod
    def _statements(text: str, row: int) -> Iterator[tuple[int, str]]:
        """Statements, labels (which end in a colon), lone braces, each with its line."""
        pending = ""
        for at, raw in enumerate(text.split("\n"), row):
            line = raw.partition("//")[0].strip()
            while line:
                if not pending and line[0] in "{}":
                    yield at, line[0]
                    line = line[1:].lstrip()
                elif not pending and _LINE.match(line):
                    yield at, line
                    line = ""
                elif not pending and (label := _LABEL.match(line)):
                    yield at, f"{label[1]}:"
                    line = line[label.end() :]
                else:
                    statement, end, line = line.partition(";")
                    pending += f"{statement} "
                    if end:
                        yield at, pending.strip()
                        pending, line = "", line.lstrip()

    def _body(self, kernel: Kernel, text: str, row: int) -> None:
        scopes: list[dict[str, str]] = [{}]
        """Registers of nested braces, which inline assembly declares, with names of their own."""
        place = Place()
        for at, statement in self._statements(text, row):
            if statement == "{":
                scopes.append({})
            elif statement == "}":
                scopes.pop()
                if not scopes:
                    return
            elif statement[-1] == ":":
                kernel.labels[statement[:-1]] = len(kernel.code)
            elif statement[0] != ".":
                kernel.code.append(self._instruction(statement, scopes, place, at))
            elif match := _LOC.match(statement):
                place = Place(int(match[1]), int(match[2] or 0)) if match[1] != "0" else place
            elif match := _REG.match(statement):
                self._registers(kernel, match[1], match[2], scopes, at)
            elif match := _VARIABLE.match(statement):
                self._declare(kernel.variables, match, at)
            elif not statement.startswith(".pragma"):
                raise refused(at, f"a directive that is not understood: {statement}")
        raise refused(row, f"{kernel.name} has no end")

    @staticmethod
    def _registers(kernel: Kernel, kind: str, names: str, scopes: list[dict[str, str]], row: int) -> None:
        if kind not in SIZES:
            raise refused(row, f"registers of type .{kind}")
        for name in names.split(","):
            many = re.fullmatch(r"\s*([%\w$]+)(?:<(\d+)>)?\s*", name)
            if not many:
                raise refused(row, f"registers that are not understood: {name}")
            if many[2]:
                kernel.registers |= {f"{many[1]}{at}": kind for at in range(int(many[2]))}
            elif len(scopes) > 1:
                scopes[-1][many[1]] = f"%scope{len(kernel.registers)}_{many[1].lstrip('%')}"
                kernel.registers[scopes[-1][many[1]]] = kind
            else:
                kernel.registers[many[1]] = kind

    @staticmethod
    def _instruction(statement: str, scopes: list[dict[str, str]], place: Place, row: int) -> Instruction:
        match = _INSTRUCTION.fullmatch(statement)
        if not match:
            raise refused(row, f"not an instruction: {statement}")
        rest = match[3]
        guard = match[1] or ""
        for scope in scopes[1:]:
            for name, own in scope.items():
                rest = re.sub(rf"(?<![%\w$.]){re.escape(name)}(?![\w$])", own, rest)
                guard = re.sub(rf"(?<![%\w$]){re.escape(name)}$", own, guard)
        try:
            operands = tuple(map(operand, _OPERAND.findall(rest)))
        except (ValueError, AttributeError):
            raise refused(row, f"operands that are not understood: {statement}") from None
        return Instruction(match[2], operands, guard, place, row)


def read(text: str) -> dict[str, Kernel]:
    """The entry points of a PTX text by name; raises CompileFailed with the line for what is not understood."""
    return Reader(text).kernels()
