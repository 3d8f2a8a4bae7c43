"""cpu: the native kernels, one source compiled per instruction set; a whole program runs in one call without the GIL.

Environment: ``KPARITY_CPU_ISA`` (scalar, avx2, avx512vnni, amx, neon) instead of the best set of the machine;
``KPARITY_THREADS`` instead of one thread per processor that this process may use. The number of threads changes no
bit; the instruction set changes floating-point sums, within the bounds of their ops, and no integer.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import kparity
from kparity.backends._memory import Memory
from kparity.device.adapter import Backend, Buffer, DeviceInfo, Kernel, Launch, Program, require_fit, sliced
from kparity.device.remedies import Reason
from kparity.errors import DeviceFault, WrongInput
from kparity.host.processors import MOST_THREADS, processors
from kparity.ops.spec import DTYPES, Array, Case, Dispatches, Op

_native: Any
try:
    _native = import_module("kparity._native")
except ImportError as error:
    _native = None
    _missing = str(error)

ISAS = ("scalar", "avx2", "avx512vnni", "amx", "neon")


def isas() -> dict[str, str]:
    """Name and label of the instruction sets that this machine has, the plainest first."""
    return dict(_native.cpu_isas())


def choose_isa(wanted: str | None, what: str = "KPARITY_CPU_ISA") -> str:
    """The instruction set to use: the one asked for, or the best; raises WrongInput, which says ``what`` asked, for one
    that cannot be had.
    """
    have = list(isas())
    if not wanted:
        return have[-1]
    if wanted not in ISAS:
        raise WrongInput(f"{what} is {wanted!r}, expected one of {', '.join(ISAS)}")
    if wanted not in have:
        raise WrongInput(f"{what} is {wanted!r}, which this machine does not have; it has {', '.join(have)}")
    return wanted


def twin_isa(serving: str) -> str | None:
    """The instruction set of this machine that shares least with another; None where there is no second one.

    AVX-512 VNNI and AMX have the tiles of prefill in common, so AVX2 comes before them.
    """
    have = isas()
    return next((isa for isa in ("avx2", "neon", "avx512vnni", "scalar") if isa in have and isa != serving), None)


def choose_threads(wanted: str | int | None, what: str = "KPARITY_THREADS") -> int:
    """The number of threads: the one asked for, or as many as ``processors``; raises WrongInput as ``choose_isa``."""
    if wanted is None or wanted == "":
        return processors()
    text = str(wanted).strip()
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_THREADS):
        raise WrongInput(f"{what} is {text!r}, expected a number from 1 to {MOST_THREADS}, or nothing")
    return int(text)


def processor() -> str:
    """What the machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return " ".join(value.split())
    return platform.processor() or platform.machine() or "cpu"


class CpuKernel(Kernel):
    """A native kernel at one case."""

    def __init__(self, backend: CpuBackend, op: Op, case: Case) -> None:
        super().__init__(backend, op, case)
        defines = {name: float(value) for name, value in op.defines(case).items()}
        try:
            self.native = _native.CpuKernel(backend.isa, op.name, defines)
        except ValueError as error:
            raise WrongInput(f"{case.id}: {error}") from error


class CpuProgram(Program):
    """Launches that one native call runs, with a barrier between two that share threads."""

    def __init__(self, backend: CpuBackend, launches: Sequence[Launch]) -> None:
        super().__init__(backend, launches)
        pairs = []
        for launch in self.launches:
            assert isinstance(launch.kernel, CpuKernel)
            pairs.append((launch.kernel.native, [buffer.handle.ctypes.data for buffer in launch.buffers]))
        self.native = _native.CpuProgram(backend.pool, pairs)

    def _run(self) -> None:
        try:
            self.native.run()
        except RuntimeError as error:
            raise DeviceFault(f"cpu: {error}") from error


class CpuBackend(Backend):
    """Host memory, one instruction set, one pool of threads.

    Large arrays lie on cache lines and huge pages (``_memory``).
    """

    name = "cpu"
    dialect = "native"
    bound_by_memory = True
    api = "native"
    id_dialects = ISAS
    drives_gpu = False
    place = 50
    environment = ("KPARITY_CPU_ISA", "KPARITY_THREADS")
    options = ("isa", "threads")
    reasons: ClassVar[Mapping[str, Reason]] = {
        "KP-CPU-NONATIVE": Reason(
            "the native module is missing",
            "kparity was installed without its compiled part (kparity._native).",
            "install its wheel again; in a checkout run sh setup.sh probe, which needs a C++17 compiler",
        ),
        "KP-CPU-NODEVICE": Reason(
            "there is one CPU device",
            "An index above 0 was asked for; the CPU backend is the whole machine.",
            "use index 0: it is the whole machine",
        ),
    }
    view = sliced
    kernel = CpuKernel
    program = CpuProgram
    isa: str
    threads: int
    pool: Any

    @classmethod
    def refuse_environment(cls) -> None:
        """As ``Backend.refuse_environment``."""
        if _native is not None:
            choose_isa(os.environ.get("KPARITY_CPU_ISA"))
        choose_threads(os.environ.get("KPARITY_THREADS"))

    def __init__(self, isa: str | None = None, threads: int | None = None) -> None:
        if _native is None:
            raise self.unavailable("KP-CPU-NONATIVE", f"the native module of kparity cannot be imported ({_missing})")
        self.isa = choose_isa(isa, "isa") if isa else choose_isa(os.environ.get("KPARITY_CPU_ISA"))
        given = threads is not None
        self.threads = (
            choose_threads(threads, "threads") if given else choose_threads(os.environ.get("KPARITY_THREADS"))
        )
        self.pool = _native.CpuPool(self.threads)
        self.memory = Memory()
        self.dispatches = Dispatches()
        self.info = DeviceInfo(
            backend="cpu", device=processor(), kind="cpu", api=self.api, driver="",
            library=f"kparity {kparity.__version__}",
            detail=f"{isas()[self.isa]}, {self.threads} thread{'s' if self.threads > 1 else ''}",
            shown=("detail",),  # the instruction set and the threads say it all
        )  # fmt: skip

    @property
    def id_dialect(self) -> str:
        return self.isa

    @classmethod
    def open(cls, index: int = 0, isa: str | None = None, threads: int | None = None) -> CpuBackend:
        if index != 0:
            raise cls.unavailable("KP-CPU-NODEVICE", f"there is no cpu device {index}")
        return cls(isa, threads)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        return Buffer(self.memory.empty(shape, DTYPES[dtype]), dtype, shape)

    def host_memory(self, buffer: Buffer) -> Array:
        array: Array = buffer.handle
        return array

    def write(self, buffer: Buffer, array: Array) -> None:
        require_fit(buffer, array)
        buffer.handle[...] = np.ascontiguousarray(array).reshape(buffer.shape)

    def download(self, buffer: Buffer) -> Array:
        out: Array = np.array(buffer.handle, order="C", copy=True)
        return out

    def copy(self, source: Buffer, target: Buffer) -> None:
        require_fit(target, source.handle)
        target.handle[...] = source.handle.reshape(target.shape)

    def sync(self) -> None:
        """Nothing is pending: a program returns when it is done."""

    def close(self) -> None:
        self.pool.close()
