"""Compilers of the GPU text, run without a device: what a text costs on a target, and what is refused.

A toolchain compiles a source for a target and reads the resources of each entry point from what the compiler wrote. Of
each op it gets one case per distinct set of conditions, and the shapes of the 2B-4T model.
Compiled is not executed: nothing here says anything about results.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from typing import Any, ClassVar

from kparity import ops
from kparity.errors import CompileFailed
from kparity.kernels.support import SERVED, VOCABULARY
from kparity.ops.assemble import Source, file_of, gpu_source, kernel_text, uses
from kparity.ops.spec import Case, Value

UNSPILLED = ("tgemv", "attention", "rope_attention")
"""Ops whose time is the stream through registers: memory behind a register is a bug in them, not a price. So it is in
norm_tgemv at the shapes below: at rows longer than any engine gives it, it is the price.
"""


LAUNCHED: Mapping[str, tuple[Mapping[str, Value], ...]] = {
    "tgemv": tuple({"M": m, "N": n, "K": k} for m in (1, 64) for n, k in SERVED.linears),
    "attention": tuple({"M": m, "L": 4096, "H": SERVED.heads, "G": SERVED.kv_heads, "D": SERVED.head} for m in (1, 64)),
    "norm_tgemv": tuple({"M": 1, "N": n, "K": k, "pre": "add", "wscale": "row"} for n, k in SERVED.fused),
    "rope_attention": ({"M": 1, "L": 4096, "H": SERVED.heads, "G": SERVED.kv_heads, "D": SERVED.head},),
    "dense_gemv": ({"M": 1, "N": VOCABULARY, "K": SERVED.width, "dtype": "f16"},),
    "argmax": ({"M": 1, "N": VOCABULARY},),
}
"""Shapes that a 2B-4T model launches: where registers decide how fast it is."""


def conditions(text: str) -> set[str]:
    """Names that the preprocessor's conditions depend on, through the text's own macros too."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL).replace("\\\n", " ")
    macros = dict(re.findall(r"^\s*#\s*define\s+(\w+)(?:\([^)]*\))?[ \t]+(.*)$", text, flags=re.MULTILINE))
    wanted = re.findall(r"^\s*#\s*(?:el)?if\b(.*)$", text, flags=re.MULTILINE)
    found: set[str] = set()
    while wanted:
        for name in set(re.findall(r"[A-Za-z_]\w*", wanted.pop())) - found:
            found.add(name)
            wanted.append(macros.get(name, ""))
    return found


@cache
def variants(name: str) -> tuple[Case, ...]:
    """Of an op: the largest case of each set of options and conditions, and what a served model adds."""
    op = ops.get(name)
    own = kernel_text(file_of(name, "gpu"))
    decisive = conditions("".join(map(kernel_text, uses(own, "cu"))) + own)
    largest: dict[object, Case] = {}
    for case in op.cases():
        options = tuple(value for _, value in case.params if isinstance(value, str))
        values = tuple(sorted((key, value) for key, value in op.defines(case).items() if key in decisive))
        key = (op.variant(case), options, values)
        if key not in largest or op.work(case).bytes > op.work(largest[key]).bytes:
            largest[key] = case
    return tuple(dict.fromkeys([*largest.values(), *served(name)]))


@cache
def served(name: str) -> tuple[Case, ...]:
    """Of an op: the shapes that a 2B-4T model launches."""
    return tuple(ops.get(name).case(**params) for params in LAUNCHED.get(name, ()))


def every() -> list[Case]:
    """Those of all ops."""
    return [case for name in ops.BUILTIN for case in variants(name)]


def one_per_kernel() -> list[Case]:
    """The first of every kernel id: for a compiler that is slow to start."""
    first: dict[tuple[str, str], Case] = {}
    for case in every():
        first.setdefault((case.op, ops.get(case.op).variant(case)), case)
    return list(first.values())


@dataclass(frozen=True)
class Target:
    """What is compiled for: an architecture and the lanes of its warp or wavefront."""

    arch: str
    wave: int = 32

    @property
    def name(self) -> str:
        """``sm_90`` or ``gfx1030/wave64``."""
        return f"{self.arch}/wave{self.wave}" if self.arch.startswith("gfx") else self.arch


@dataclass(frozen=True)
class Resources:
    """What one entry point takes on a target."""

    entry: str
    registers: int
    """Registers of a lane: CUDA's, or VGPRs (which count the accumulation registers where both share a file)."""
    scalars: int | None
    """SGPRs of a wavefront; None for CUDA."""
    shared: int
    """Bytes of shared memory (LDS) of a group."""
    scratch: int
    """Bytes of memory of a lane's own: CUDA's stack frame, AMD's private segment."""
    spills: int
    """CUDA: bytes of spill stores and loads; AMD: spilled registers."""
    occupancy: int | None = None
    """Wavefronts of a SIMD that these registers and this LDS leave room for, where the compiler tells."""


@dataclass(frozen=True)
class Outcome:
    """The text of a case on one target: resources of its entry points, or why it is refused."""

    case: Case
    sha256: str
    resources: tuple[Resources, ...]
    refusals: tuple[str, ...]


class Toolchain(ABC):
    """One compiler of this machine; making one raises Unavailable where it is not installed."""

    name: ClassVar[str]
    prelude: ClassVar[str]
    threads: ClassVar[bool] = True
    """Whether texts may be compiled by several threads of one process."""
    brief: ClassVar[bool] = False
    """Whether one text of each kernel id is enough, because the compiler is slow to start and another takes all."""
    version: str

    @abstractmethod
    def targets(self) -> list[Target]:
        """Those of the project's targets that this compiler knows."""

    @abstractmethod
    def compile(self, source: Source, target: Target) -> list[Resources]:
        """Resources of every entry point; raises CompileFailed on an error and on a warning."""

    @classmethod
    def source(cls, case: Case, target: Target) -> Source:
        """The text of a case for a target, as the adapters make it."""
        return gpu_source(ops.get(case.op), case, cls.prelude, {"WAVE": target.wave})

    @classmethod
    def cases(cls) -> list[Case]:
        """What this compiler is given."""
        return one_per_kernel() if cls.brief else every()


def refusals(op: str, entries: Sequence[Resources], case: Case | None = None) -> list[str]:
    """Why resources are not acceptable; an op without an entry point is no proof of anything."""
    if not entries:
        return [f"{op}: the compiler reports no entry point"]
    kept = UNSPILLED if case is None or case not in served(op) else (*UNSPILLED, op)
    return [
        f"{op}: {each.entry} spills ({each.spills} spilled, {each.scratch} bytes of memory a lane, "
        f"{each.registers} registers)"
        for each in entries
        if op in kept and (each.spills or each.scratch)
    ]


def examine(toolchain: Toolchain, target: Target, case: Case, source: Source | None = None) -> Outcome:
    """Compile the text of a case and judge it; a compiler's error is a refusal with file and line."""
    source = source or toolchain.source(case, target)
    try:
        entries = toolchain.compile(source, target)
    except CompileFailed as failed:
        return Outcome(case, source.sha256, (), (f"{failed}\n{failed.log}",))
    missing = {stage.entry for stage in ops.get(case.op).stages(case, "gpu")} - {each.entry for each in entries}
    reasons = refusals(case.op, entries, case) + [f"{source.path}: no entry point {name}" for name in sorted(missing)]
    return Outcome(case, source.sha256, tuple(entries), tuple(f"{case.id}: {reason}" for reason in reasons))


def sweep(toolchain: Toolchain, target: Target) -> list[Outcome]:
    """Every text for one target, on all cores."""
    work = partial(examine, toolchain, target)
    if toolchain.threads:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(work, toolchain.cases()))
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as processes:
        return list(processes.map(work, toolchain.cases(), chunksize=4))


def summary(compiler: Toolchain, target: Target, outcomes: Sequence[Outcome]) -> str:
    """One line: texts, and per op the most registers of a lane, then spills and scratch wherever there are any."""
    most: dict[str, int] = {}
    memory: list[str] = []
    for outcome in outcomes:
        for entry in outcome.resources:
            most[outcome.case.op] = max(most.get(outcome.case.op, 0), entry.registers)
            if entry.spills or entry.scratch:
                memory.append(f"{outcome.case.id}: spills {entry.spills}, scratch {entry.scratch}")
    registers = " ".join(f"{name} {count}" for name, count in most.items())
    return "; ".join(
        [f"{compiler.version}, {target.name}: {len(outcomes)} texts, registers at most: {registers}", *memory]
    )


def output(*command: str) -> str:
    """What a compiler prints about itself."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def runtime_version(library: Any, prefix: str) -> str:
    """``13.0`` of NVRTC (prefix ``nvrtc``) or hipRTC (``hiprtc``); AttributeError where the library has none of it."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    getattr(library, f"{prefix}Version")(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def runtime_compile(
    library: Any, prefix: str, source: Source, options: Sequence[str], code: bool = False
) -> tuple[int, str, bytes]:
    """Compile with NVRTC or hipRTC, which have the same functions: status, log, and the object if asked for."""

    def call(name: str, *arguments: Any) -> int:
        return int(getattr(library, prefix + name)(*arguments))

    program, size, made = ctypes.c_void_p(), ctypes.c_size_t(), b""
    encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    text = numbered(source).encode()
    if call("CreateProgram", ctypes.byref(program), text, source.path.encode(), 0, None, None):
        raise CompileFailed(source.path, 0, f"{prefix}CreateProgram failed")
    try:
        status = call("CompileProgram", program, len(options), encoded)
        call("GetProgramLogSize", program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value + 1)
        call("GetProgramLog", program, log)
        if code and not status:
            call("GetCodeSize", program, ctypes.byref(size))
            buffer = ctypes.create_string_buffer(size.value)
            call("GetCode", program, buffer)
            made = buffer.raw
    finally:
        call("DestroyProgram", ctypes.byref(program))
    return status, log.value.decode(errors="replace"), made


def numbered(source: Source) -> str:
    """The text with ``#line`` directives, so that a compiler names the file of the repository and its line."""
    lines, text, at = source.text.splitlines(keepends=True), "", 0
    for name, length in ((f"constants of {source.op}", source.constants), *source.before):
        text += f'#line 1 "{name}"\n{"".join(lines[at : at + length])}'
        at += length
    return f'{text}#line 1 "{source.path}"\n{"".join(lines[at:])}'


def failed(source: Source, log: str) -> CompileFailed:
    """A compiler's log as an error at the place that it names first: ``file:3:8: error:`` or ``file(3): error``."""
    place = re.search(r"^(?P<path>[^\n:(]+)[:(](?P<line>\d+)[^\n]*?\b(?:error|warning)\b[^\n]*", log, re.MULTILINE)
    if not place:
        return CompileFailed(source.path, 0, log)
    return CompileFailed(place["path"], int(place["line"]), log[place.start() :])
