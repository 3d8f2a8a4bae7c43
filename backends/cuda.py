"""cuda: the GPU text through NVRTC and CuPy. ``hip`` is this adapter with another compiler, prelude and probes.

The text is compiled by NVRTC directly, not by CuPy's RawModule, which always adds ``-ftz=true``: subnormals are kept.

A program of several launches is captured in a CUDA graph at its first run and replayed from then on: the addresses of
its buffers are fixed, and whatever changes from step to step is in a buffer. Writes, replays and reads follow each
other on one stream. Where a graph cannot be captured, kernels are launched one by one, and a line on stderr and
``DeviceInfo.detail`` say so. With ``KPARITY_DEBUG`` set, the device is waited for after every launch, without graphs,
so that a fault is reported with the kernel that caused it.
"""

from __future__ import annotations

import ctypes
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from msgspec.structs import replace

from kparity.backends._cupy import Compiler, CupyKernel, CupyProgram, Transfers, cdll, fault
from kparity.device.adapter import Backend, Buffer, DeviceInfo, require_fit, sliced
from kparity.device.remedies import Reason, missing_package
from kparity.errors import CompileFailed, DeviceFault, Unavailable
from kparity.host.streams import log
from kparity.ops.assemble import Source, gpu_source, prelude_text
from kparity.ops.spec import DTYPES, MAX_GROUPS, Array, Case, Dispatches, Op

POISON = 0xFF
"""Every byte of fresh scratch memory: NaN, or −1. A kernel that counts on zeros fails everywhere, not now and then."""


class CudaBackend(Backend):
    """One CUDA device, one stream. Modules are kept by source, in memory and on disk."""

    name = "cuda"
    dialect = "gpu"
    api = "CUDA"
    place: ClassVar[int | None] = 10
    packages: ClassVar[tuple[str, ...]] = ("cupy-cuda13x", "cupy-cuda12x")
    extra = "cuda"
    libraries: ClassVar[tuple[str, ...]] = ("libcuda.so.1", "libnvrtc.so")
    nodes: ClassVar[tuple[str, ...]] = ("/dev/nvidia0", "/dev/nvidiactl")
    driver_files: ClassVar[tuple[str, ...]] = (
        "/proc/driver/nvidia/version",
        "/proc/driver/nvidia/gpus/*/information",
        "/sys/module/nvidia/version",
        "/usr/lib/*-linux-gnu/libcuda.so*",
    )
    environment: ClassVar[tuple[str, ...]] = ("CUDA_*", "NVIDIA_*", "CUPY_*", "KPARITY_DEBUG")
    reasons: ClassVar[Mapping[str, Reason]] = {
        "KP-CUDA-NOLIB": missing_package(packages[0], extra),
        "KP-CUDA-NODRIVER": Reason(
            "no CUDA driver",
            "libcuda.so.1, which the NVIDIA driver installs, was not found by the dynamic linker.",
            "install NVIDIA's driver, or start the container with the NVIDIA runtime (--gpus all)",
            ("LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu/nvidia/current",),
        ),
        "KP-CUDA-NODEVICE": Reason(
            "a CUDA driver, but no device",
            "No device has this index: none is installed, CUDA_VISIBLE_DEVICES hides it, or permissions do.",
            "check nvidia-smi -L and CUDA_VISIBLE_DEVICES",
            ("CUDA_VISIBLE_DEVICES=0", "nvidia-smi -L"),
        ),
        "KP-CUDA-OLDDRIVER": Reason(
            "the CUDA driver is older than the library",
            "CuPy was built for a newer CUDA than the installed driver serves.",
            "update NVIDIA's driver (reboot after an update), or install the CuPy of the driver's CUDA version",
        ),
        "KP-CUDA-NOARCH": Reason(
            "no code for this CUDA device",
            "NVRTC does not know the device's compute capability, or the driver does not load what NVRTC makes.",
            "install the CuPy and NVRTC that fit device and driver (cupy-cuda12x up to sm_70), or update the driver",
        ),
    }
    device_clock = copy_clock = True
    constants: Mapping[str, int | float] = {"WAVE": 32}
    view = sliced
    program = CupyProgram
    prelude: ClassVar[str] = "cuda"
    compiler_name: ClassVar[str] = "NVRTC"
    tag: ClassVar[str] = "KP-CUDA"
    visible: ClassVar[tuple[str, ...]] = ("CUDA_VISIBLE_DEVICES",)
    processors: ClassVar[str] = "SMs"
    node_query: ClassVar[str] = "cuGraphGetNodes"
    hint: ClassVar[str] = "KPARITY_DEBUG=1 names the kernel"
    """What names the kernel of a fault that does not tell it."""
    max_items: ClassVar[int] = 1 << 62
    """Work-items that a grid may have in one dimension."""

    def __init__(self, cupy: Any, index: int, library: Any = None) -> None:
        self.cupy, self.library, self.index, self.dispatches = cupy, library, index, Dispatches()
        self.debug = bool(os.environ.get("KPARITY_DEBUG"))
        self.graphs = not self.debug
        self.device = cupy.cuda.Device(index)
        cuda = cupy.cuda
        self.faults = (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError, cuda.memory.OutOfMemoryError)
        self._modules: dict[str, Any] = {}
        self.stream: Any = None
        with self.guarded("opening the device"):
            self.properties: Mapping[str, Any] = cupy.cuda.runtime.getDeviceProperties(index)
            self.arch = self._arch()
            self.stream = cupy.cuda.Stream(non_blocking=True)
            self.transfers = Transfers(cupy.cuda, self.stream)
            self.compiler = Compiler(cupy.cuda.nvrtc, self.name, self._options(), self._binary)
            self.info = self._describe()
            self.grid = tuple(self.properties.get("maxGridSize") or (2**31 - 1, MAX_GROUPS, MAX_GROUPS))
            self.constants = {"WAVE": self.info.subgroup}
        self._check_target()

    # What HIP does otherwise: probes, architecture, compiler options, identity.

    @classmethod
    def _probe_driver(cls) -> Any:
        """The driver's library. Raises Unavailable without it or a device, in milliseconds: nothing is imported."""
        driver = cdll(("libcuda.so.1", "nvcuda.dll"))
        if driver is None:
            raise cls.unavailable("KP-CUDA-NODRIVER", "no CUDA driver (libcuda.so.1 not found)")
        status, count, version = driver.cuInit(0), ctypes.c_int(0), ctypes.c_int(0)
        driver.cuDriverGetVersion(ctypes.byref(version))
        if status == 34:  # CUDA_ERROR_STUB_LIBRARY
            raise cls.unavailable(
                "KP-CUDA-NODRIVER",
                "no CUDA driver (libcuda.so.1 is the toolkit's stub)",
                "take the stubs folder out of LD_LIBRARY_PATH and install NVIDIA's driver",
            )
        if status in (35, 803, 804):  # INSUFFICIENT_DRIVER, SYSTEM_DRIVER_MISMATCH, COMPAT_NOT_SUPPORTED_ON_DEVICE
            raise cls.unavailable(
                "KP-CUDA-OLDDRIVER",
                f"CUDA driver does not fit (cuInit returned {status}, driver API {cls._version(version.value)})",
            )
        if status == 0:
            driver.cuDeviceGetCount(ctypes.byref(count))
        if count.value == 0:
            message = f"no CUDA device (cuInit returned {status}, {cls._visibility()})"
            raise cls.unavailable("KP-CUDA-NODEVICE", message)
        return driver

    @classmethod
    def _probe_library(cls, cupy: Any) -> None:
        """Raise Unavailable unless this CuPy is built for the API and fits the driver."""
        runtime = cupy.cuda.runtime
        if runtime.is_hip:
            raise cls._other_cupy("ROCm")
        driver, library = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver // 1000 < library // 1000:
            raise cls.unavailable(
                "KP-CUDA-OLDDRIVER",
                f"CUDA driver too old (it speaks CUDA {cls._version(driver)}, CuPy is built for "
                f"{cls._version(library)})",
                f"update NVIDIA's driver, or install the CuPy of CUDA {driver // 1000} (cupy-cuda{driver // 1000}x)",
            )

    @staticmethod
    def _version(number: int) -> str:
        """``13000`` as CUDA counts it: ``13.0``."""
        return f"{number // 1000}.{number % 1000 // 10}"

    def _arch(self) -> str:
        """The compiler's target: the device's own, or the newest older one, as PTX that the driver translates."""
        own = 10 * int(self.properties["major"]) + int(self.properties["minor"])
        known = [int(arch) for arch in self.cupy.cuda.nvrtc.getSupportedArchs()]
        if own in known:
            return f"sm_{own}"
        if own < min(known):
            raise self.unavailable(
                f"{self.tag}-NOARCH",
                f"NVRTC has no code for sm_{own} (it begins at sm_{min(known)})",
                "install an older NVRTC and the CuPy that goes with it (cupy-cuda12x)",
            )
        return f"compute_{max(arch for arch in known if arch < own)}"

    def _target(self) -> str:
        """The architecture as DeviceInfo tells it."""
        own = f"sm_{self.properties['major']}{self.properties['minor']}"
        return own if own == self.arch else f"{own} by PTX of {self.arch}, which this NVRTC knows last"

    def _options(self) -> tuple[str, ...]:
        """No fast-math: subnormals kept, division and square root rounded correctly; fused multiply-add is allowed."""
        return (
            f"--gpu-architecture={self.arch}", "--std=c++17",
            "--ftz=false", "--prec-div=true", "--prec-sqrt=true", "--fmad=true",
        )  # fmt: skip

    def _binary(self, nvrtc: Any, program: Any) -> bytes:
        """What the driver loads: machine code, or PTX where the device is newer than the compiler."""
        return bytes(nvrtc.getCUBIN(program) if self.arch.startswith("sm_") else nvrtc.getPTX(program))

    def _identity(self) -> str:
        """The UUID as nvidia-smi prints it, or the PCI address. Asked of the driver: CuPy cuts it at a zero byte."""
        query = getattr(self.library, "cuDeviceGetUuid_v2", None) or getattr(self.library, "cuDeviceGetUuid", None)
        handle, raw = ctypes.c_int(0), (ctypes.c_ubyte * 16)()
        if query and self.library.cuDeviceGet(ctypes.byref(handle), self.index) == 0 and query(raw, handle) == 0:
            return f"GPU-{uuid.UUID(bytes=bytes(raw))}"
        return f"pci {self.device.pci_bus_id}"

    @staticmethod
    def _release() -> str:
        """The release of the driver that is installed, or an empty string: not what API version it speaks."""
        management, text = cdll(("libnvidia-ml.so.1",)), ctypes.create_string_buffer(96)
        with suppress(AttributeError):  # None, or a library without these names
            if management.nvmlInit_v2() == 0:
                status = management.nvmlSystemGetDriverVersion(text, len(text))
                management.nvmlShutdown()
                return text.value.decode(errors="replace") if status == 0 else ""
        with suppress(OSError):
            return Path("/sys/module/nvidia/version").read_text(encoding="utf-8").strip()
        return ""

    # What both share.

    @classmethod
    def _other_cupy(cls, built_for: str) -> Unavailable:
        code = f"{cls.tag}-NOLIB"
        remedy = f"pip uninstall it, then {cls.reasons[code].remedy}"
        return cls.unavailable(code, f"the installed CuPy is built for {built_for}", remedy)

    @classmethod
    def _visibility(cls) -> str:
        """The variables that hide devices, with their values."""
        return ", ".join(f"{name} is {os.environ.get(name, 'unset') or 'empty'}" for name in cls.visible)

    @classmethod
    def open(cls, index: int = 0) -> CudaBackend:
        library = cls._probe_driver()
        try:
            cupy = import_module("cupy")
        except (ImportError, OSError) as error:
            reason = str(error).strip().splitlines()
            message = f"CuPy cannot be imported ({reason[0] if reason else 'no reason given'})"
            raise cls.unavailable(f"{cls.tag}-NOLIB", message) from None
        cls._probe_library(cupy)
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except RuntimeError as error:
            raise cls.unavailable(f"{cls.tag}-NODEVICE", f"no {cls.api} device ({error})") from None
        if not 0 <= index < count:
            raise cls.unavailable(
                f"{cls.tag}-NODEVICE",
                f"no {cls.api} device {index} ({count} visible, {cls._visibility()})",
                f"choose an index below {count}" if count else "",
            )
        try:
            cupy.cuda.nvrtc.getVersion()  # CuPy loads the compiler at its first use
        except (RuntimeError, ImportError, OSError) as error:
            message = f"{cls.compiler_name} cannot be loaded ({str(error).strip().splitlines()[0]})"
            raise cls.unavailable(f"{cls.tag}-NOLIB", message) from None
        return cls(cupy, index, library)

    def _check_target(self) -> None:
        """Compile and load the prelude with an empty kernel: the compiler and the driver must agree on the target."""
        head = f"#define BLOCK 64\n#define WAVE {self.info.subgroup}\n{prelude_text(self.prelude)}"
        text, path = f"{head}\nKERNEL target() {{}}\n", f"kernels/prelude/{self.prelude}.h"
        try:
            lines = head.count("\n")
            self._module(Source("target", "target.cu", text, lines, ((path, lines - 2),)))
        except (CompileFailed, DeviceFault) as error:
            message = f"{self.compiler_name} makes no code that this device takes ({self.arch}: {error})"
            raise self.unavailable(f"{self.tag}-NOARCH", message) from error

    def _number(self, name: str, attribute: str) -> int:
        """A property of the device; since CUDA 13 some are attributes only. 0 where neither is known."""
        runtime = self.cupy.cuda.runtime
        with suppress(AttributeError, RuntimeError):
            return int(self.properties.get(name) or runtime.deviceGetAttribute(getattr(runtime, attribute), self.index))
        return 0

    def _describe(self) -> DeviceInfo:
        runtime, properties = self.cupy.cuda.runtime, self.properties
        name, memory = properties["name"], int(properties["totalGlobalMem"])
        units = self._number("multiProcessorCount", "cudaDevAttrMultiProcessorCount")
        core = self._number("clockRate", "cudaDevAttrClockRate") // 1000  # both in kHz
        bus = self._number("memoryClockRate", "cudaDevAttrMemoryClockRate") // 1000
        facts = [self._target(), f"{units} {self.processors}", f"{memory / 2**30:.0f} GiB"]
        facts += [f"{core} MHz, memory {bus} MHz", f"pci {self.device.pci_bus_id}"]
        facts += ["debug: waits after every launch"] if self.debug else []
        release, compiler = self._release(), self.cupy.cuda.nvrtc.getVersion()
        driver = f"{self.api} {self._version(runtime.driverGetVersion())}"
        return DeviceInfo(
            backend=self.name, device=name.decode() if isinstance(name, bytes) else str(name), kind="gpu", api=self.api,
            driver=f"{driver}, release {release}" if release else driver,
            library=f"cupy {self.cupy.__version__}, runtime {self._version(runtime.runtimeGetVersion())}, "
            f"{self.compiler_name} {'.'.join(map(str, compiler))}",
            uuid=self._identity(), max_binding=memory, max_threads=int(properties["maxThreadsPerBlock"]),
            subgroup=int(properties["warpSize"]), detail=", ".join(facts),
        )  # fmt: skip

    def graph_nodes(self, graph: Any) -> int | None:
        """How many nodes a captured graph has, or ``None`` where this CuPy or the driver does not tell."""
        handle, query = getattr(graph, "graph", 0), getattr(self.library, self.node_query, None)
        count = ctypes.c_size_t(0)
        if not handle or query is None or query(ctypes.c_void_p(handle), None, ctypes.byref(count)) != 0:
            return None
        return count.value

    def without_graphs(self, reason: str) -> None:
        """From now on kernels are launched one by one; says so on stderr and in ``info``, once."""
        if self.graphs:
            self.graphs = False
            self.info = replace(self.info, detail=f"{self.info.detail}, no graph")
            log(f"{self.name}: no graph, kernels are launched one by one: {reason.splitlines()[0]}")

    @contextmanager
    def guarded(self, doing: str) -> Iterator[None]:
        """Make this device and stream current; turn the API's errors into DeviceFault with a stable code."""
        try:
            with self.device:
                if self.stream is None:
                    yield
                else:
                    with self.stream:  # CuPy's allocator orders the reuse of memory by the current stream
                        yield
        except self.faults as error:
            raise fault(error, doing, "" if self.debug else self.hint) from error

    def supports(self, op: Op, case: Case) -> str | None:
        for launch in (stage.launch for stage in op.stages(case, self.dialect)):
            if launch.groups[0] * launch.block > self.max_items:
                return f"{launch.groups[0] * launch.block} work-items in a row, {self.api} has {self.max_items}"
        return super().supports(op, case)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        with self.guarded(f"allocating {dtype}{list(shape)}"):
            return Buffer(self.cupy.empty(shape, DTYPES[dtype]), dtype, shape)

    def poison(self, buffer: Buffer) -> None:
        """Fill a buffer with what is not zero."""
        with self.guarded("filling scratch memory"):
            if buffer.nbytes:
                self.cupy.cuda.runtime.memsetAsync(buffer.handle.data.ptr, POISON, buffer.nbytes, self.stream.ptr)

    def write(self, buffer: Buffer, array: Array) -> None:
        require_fit(buffer, array)
        with self.guarded(f"writing {array.nbytes} bytes"):
            self.transfers.write(int(buffer.handle.data.ptr), np.ascontiguousarray(array))

    def download(self, buffer: Buffer) -> Array:
        array: Array = np.empty(buffer.shape, DTYPES[buffer.dtype])
        with self.guarded(f"reading {buffer.nbytes} bytes"):
            self.transfers.read(int(buffer.handle.data.ptr), array)
        return array

    def copy(self, source: Buffer, target: Buffer) -> None:
        runtime, kind = self.cupy.cuda.runtime, self.cupy.cuda.runtime.memcpyDeviceToDevice
        with self.guarded(f"copying {source.nbytes} bytes"):
            runtime.memcpyAsync(target.handle.data.ptr, source.handle.data.ptr, source.nbytes, kind, self.stream.ptr)

    def copy_timed(self, source: Buffer, target: Buffer) -> float:
        return self.timed(lambda: self.copy(source, target))

    def timed(self, work: Callable[[], None]) -> float:
        """Seconds between two events around what ``work`` enqueues, by the device's clock."""
        cuda = self.cupy.cuda
        self.sync()
        with self.guarded("timing"):
            begin, end = cuda.Event(), cuda.Event()
            begin.record(self.stream)
        work()
        with self.guarded("timing"):
            end.record(self.stream)
            end.synchronize()
            return float(cuda.get_elapsed_time(begin, end)) * 1e-3

    @classmethod
    def source(cls, op: Op, case: Case, constants: Mapping[str, int | float]) -> Source:
        return gpu_source(op, case, cls.prelude, constants)

    def build(self, op: Op, case: Case) -> CupyKernel:
        return CupyKernel(self, self._module(self.source(op, case, self.constants)), op, case)

    def _module(self, source: Source) -> Any:
        """The loaded module of a text, compiled at most once."""
        if source.text not in self._modules:

            def loaded(binary: bytes) -> Any:
                module = self.cupy.cuda.function.Module()
                module.load(binary)
                return module

            with self.guarded(f"loading {source.path}"):
                self._modules[source.text] = self.compiler.load(source, loaded, self.faults)
        return self._modules[source.text]

    def sync(self) -> None:
        with self.guarded("waiting for the device"):
            self.stream.synchronize()

    def close(self) -> None:
        if self.stream is not None:
            with suppress(DeviceFault), self.guarded("closing the device"):
                self.stream.synchronize()
                self._modules.clear()
                self.cupy.get_default_memory_pool().free_all_blocks()
        self.stream = None
