"""Compilers of the GPU text, run without a device: what a text costs on a target, and what is refused.

A toolchain compiles a source for a target and reads the resources of each entry point from what the compiler wrote.
Compiled is not executed: nothing here says anything about results.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import ClassVar

from kparity.errors import CompileFailed
from kparity.ops.assemble import Source, gpu_source, kernel_text, uses
from tools.toolchains.texts import Variant, every, one_per_kernel

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
    """One text on one target: resources of its entry points, or why it is refused."""

    variant: Variant
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
    def source(cls, variant: Variant, target: Target) -> Source:
        """The text of a variant for a target, as the adapters make it."""
        return gpu_source(variant.op, variant.case, cls.prelude, {"WAVE": target.wave})


def refusals(op: str, found: Sequence[Resources]) -> list[str]:
    """Why resources are not acceptable; an op without an entry point is no proof of anything."""
    if not found:
        return [f"{op}: the compiler reports no entry point"]
    return [
        f"{op}: {each.entry} spills ({each.spills} spilled, {each.scratch} bytes of memory a lane, "
        f"{each.registers} registers)"
        for each in found
        if op in UNSPILLED and (each.spills or each.scratch)
    ]


def examine(toolchain: Toolchain, target: Target, variant: Variant, source: Source | None = None) -> Outcome:
    """Compile one variant and judge it; a compiler's error is a refusal with file and line."""
    source = source or toolchain.source(variant, target)
    try:
        found = toolchain.compile(source, target)
    except CompileFailed as failed:
        return Outcome(variant, source.sha256, (), (f"{failed}\n{failed.log}",))
    missing = {stage.entry for stage in variant.op.stages(variant.case, "gpu")} - {each.entry for each in found}
    said = refusals(variant.op.name, found) + [f"{source.path}: no entry point {name}" for name in sorted(missing)]
    return Outcome(variant, source.sha256, tuple(found), tuple(f"{variant.case.id}: {text}" for text in said))


def chosen(toolchain: Toolchain | type[Toolchain]) -> list[Variant]:
    """The variants that a compiler is given."""
    return one_per_kernel() if toolchain.brief else every()


def sweep(toolchain: Toolchain, target: Target, variants: Sequence[Variant]) -> list[Outcome]:
    """Every variant for one target, on all cores."""
    if toolchain.threads:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda variant: examine(toolchain, target, variant), variants))
    with ProcessPoolExecutor(
        os.cpu_count(), mp_context=get_context("spawn"), initializer=_adopt, initargs=(toolchain,)
    ) as processes:
        return list(processes.map(_examine_here, ((target, variant) for variant in variants), chunksize=4))


_adopted: list[Toolchain] = []  # what a child process compiles with


def _adopt(toolchain: Toolchain) -> None:
    _adopted[:] = [toolchain]


def _examine_here(work: tuple[Target, Variant]) -> Outcome:
    return examine(_adopted[0], *work)


def numbered(source: Source, prelude: str) -> str:
    """The text with ``#line`` directives, so that a compiler names the file of the repository and its line."""
    lines = source.text.splitlines(keepends=True)
    own = "".join(lines[source.first_line :])
    path = f"prelude/{prelude}.h"
    paths = (path, *uses(kernel_text(path), "h"), *uses(own, "cu"))
    lengths = [kernel_text(path).count("\n") for path in paths]
    text, at = "", 0
    for name, length in (
        (f"constants of {source.op}", source.first_line - sum(lengths)),
        *zip([f"kernels/{path}" for path in paths], lengths, strict=True),
    ):
        text += f'#line 1 "{name}"\n{"".join(lines[at : at + length])}'
        at += length
    return f'{text}#line 1 "{source.path}"\n{own}'


def failed(source: Source, log: str) -> CompileFailed:
    """A compiler's log as an error at the place that it names first: ``file:3:8: error:`` or ``file(3): error``."""
    found = re.search(r"^(?P<path>[^\n:(]+)[:(](?P<line>\d+)[^\n]*?\b(?:error|warning)\b[^\n]*", log, re.MULTILINE)
    if not found:
        return CompileFailed(source.path, 0, log)
    return CompileFailed(found["path"], int(found["line"]), log[found.start() :])
