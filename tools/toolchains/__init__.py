"""Compilers of the GPU text, run without a device: what a text costs on a target, and what is refused.

A toolchain compiles a source for a target and reads the resources of each entry point from what the compiler wrote.
Compiled is not executed: nothing here says anything about results.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any, ClassVar

from kparity import ops
from kparity.errors import CompileFailed
from kparity.ops.assemble import Source, gpu_source, kernel_text, uses
from kparity.ops.spec import Case
from tools.toolchains.texts import every, one_per_kernel

UNSPILLED = ("tgemv", "attention")
"""Ops whose time is the stream through registers: memory behind a register is a bug in them, not a price."""


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
    """One compiler. ``open`` raises Unavailable where it is not installed."""

    name: ClassVar[str]
    prelude: ClassVar[str]
    threads: ClassVar[bool] = True
    """Whether texts may be compiled by several threads of one process."""
    brief: ClassVar[bool] = False
    """Whether one text of each kernel id is enough, because the compiler is slow to start and another takes all."""
    version: str

    @classmethod
    @abstractmethod
    def open(cls) -> Toolchain:
        """The compiler of this machine."""

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


def refusals(op: str, entries: Sequence[Resources]) -> list[str]:
    """Why resources are not acceptable; an op without an entry point is no proof of anything."""
    if not entries:
        return [f"{op}: the compiler reports no entry point"]
    return [
        f"{op}: {each.entry} spills ({each.spills} spilled, {each.scratch} bytes of memory a lane, "
        f"{each.registers} registers)"
        for each in entries
        if op in UNSPILLED and (each.spills or each.scratch)
    ]


def examine(toolchain: Toolchain, target: Target, case: Case, source: Source | None = None) -> Outcome:
    """Compile the text of a case and judge it; a compiler's error is a refusal with file and line."""
    source = source or toolchain.source(case, target)
    try:
        entries = toolchain.compile(source, target)
    except CompileFailed as failed:
        return Outcome(case, source.sha256, (), (f"{failed}\n{failed.log}",))
    missing = {stage.entry for stage in ops.get(case.op).stages(case, "gpu")} - {each.entry for each in entries}
    reasons = refusals(case.op, entries) + [f"{source.path}: no entry point {name}" for name in sorted(missing)]
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
    library: Any, prefix: str, source: Source, prelude: str, options: Sequence[str], code: bool = False
) -> tuple[int, str, bytes]:
    """Compile with NVRTC or hipRTC, which have the same functions: status, log, and the object if asked for."""

    def call(name: str, *arguments: Any) -> int:
        return int(getattr(library, prefix + name)(*arguments))

    program, size, made = ctypes.c_void_p(), ctypes.c_size_t(), b""
    encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    text = numbered(source, prelude).encode()
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


def numbered(source: Source, prelude: str) -> str:
    """The text with ``#line`` directives, so that a compiler names the file of the repository and its line."""
    lines = source.text.splitlines(keepends=True)
    own = "".join(lines[source.first_line :])
    path = f"prelude/{prelude}.h"
    paths = (path, *uses(kernel_text(path), "h"), *uses(own, "cu"))
    shared = {f"kernels/{each}": kernel_text(each).count("\n") for each in paths}
    constants = source.first_line - sum(shared.values())
    text, at = "", 0
    for name, length in {f"constants of {source.op}": constants, **shared}.items():
        text += f'#line 1 "{name}"\n{"".join(lines[at : at + length])}'
        at += length
    return f'{text}#line 1 "{source.path}"\n{own}'


def failed(source: Source, log: str) -> CompileFailed:
    """A compiler's log as an error at the place that it names first: ``file:3:8: error:`` or ``file(3): error``."""
    place = re.search(r"^(?P<path>[^\n:(]+)[:(](?P<line>\d+)[^\n]*?\b(?:error|warning)\b[^\n]*", log, re.MULTILINE)
    if not place:
        return CompileFailed(source.path, 0, log)
    return CompileFailed(place["path"], int(place["line"]), log[place.start() :])
