"""cuda: the GPU text through NVRTC and CuPy. ``hip`` is this adapter with another compiler, prelude and probes.

The text is compiled by NVRTC directly, not by CuPy's RawModule, which always adds ``-ftz=true``: subnormals are kept.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from kparity.adapter import Backend, Bound, Buffer, DeviceInfo, Kernel, Program, dtype_name, require_contiguous
from kparity.assemble import Source, gpu_source
from kparity.errors import CompileFailed, DeviceFault, Unavailable, WrongInput
from kparity.spec import DTYPES, MAX_GROUPS, Array, Case, Dispatches, Op

OOM = ("OutOfMemory", "MemoryAllocation", "OUT_OF_MEMORY")
LOST = (
    "NoDevice",
    "DevicesUnavailable",
    "DeviceUninitialized",
    "ECCUncorrectable",
    "Deinitialized",
    "HardwareStackError",
)


def cdll(names: Sequence[str]) -> Any:
    """The first of these libraries that loads, or ``None``: tells of a missing driver long before CuPy is imported."""
    for name in names:
        with suppress(OSError):
            return ctypes.CDLL(name)
    return None


def version_of(number: int) -> str:
    """``13000`` as CUDA counts it: ``13.0``."""
    return f"{number // 1000}.{number % 1000 // 10}"


class CudaBound(Bound):
    """A function with its grid and its argument list."""

    def __init__(self, kernel: CudaKernel, buffers: Sequence[Buffer]) -> None:
        launch = kernel.op.launch(kernel.case)
        self.kernel_id, self.function = kernel.id, kernel.function
        self.grid, self.block = launch.groups, (launch.block, 1, 1)
        self.handles = tuple(buffer.handle for buffer in buffers)  # also keeps the memory alive


class CudaKernel(Kernel):
    """One function of a loaded module."""

    def __init__(self, backend: CudaBackend, function: Any, op: Op, case: Case) -> None:
        super().__init__(f"{op.name}_{backend.name}_{op.variant(case)}", op, case)
        self.function = function

    def bind(self, *buffers: Buffer) -> CudaBound:
        self.check(buffers)
        handles = [id(buffer.handle) for buffer in buffers]
        for arg, handle in zip(self.args, handles, strict=True):
            if arg.role != "in" and handles.count(handle) > 1:
                raise WrongInput(
                    f"{self.case.id}: {arg.name} is written and bound twice; the text declares it unaliased"
                )
        return CudaBound(self, buffers)


class CudaProgram(Program):
    """Launches on the backend's stream."""

    def __init__(self, backend: CudaBackend, launches: Sequence[Bound]) -> None:
        super().__init__(backend, launches)
        self.cuda = backend
        self._calls = [
            (each.function, each.grid, each.block, each.handles) for each in launches if isinstance(each, CudaBound)
        ]
        if len(self._calls) != len(self.launches):
            raise WrongInput(f"a program of {backend.name} holds launches of {backend.name} only")

    def _run(self) -> None:
        with self.cuda.guarded("launching kernels"):
            for function, grid, block, handles in self._calls:
                function(grid, block, handles, stream=self.cuda.stream)

    def run_timed(self) -> float:
        """Seconds between two events around the launches, by the device's clock."""
        cuda, stream = self.cuda.cupy.cuda, self.cuda.stream
        self.cuda.sync()
        with self.cuda.guarded("timing kernels"):
            begin, end = cuda.Event(), cuda.Event()
            begin.record(stream)
        self.run()
        with self.cuda.guarded("running kernels"):
            end.record(stream)
            end.synchronize()
            return float(cuda.get_elapsed_time(begin, end)) * 1e-3


class CudaBackend(Backend):
    """One CUDA device, one stream. Modules are kept by source, in memory and on disk."""

    name = "cuda"
    dialect = "gpu"
    prelude: ClassVar[str] = "cuda"
    api: ClassVar[str] = "CUDA"
    tag: ClassVar[str] = "KP-CUDA"
    package: ClassVar[str] = 'pip install "kparity[cuda]"'

    def __init__(self, cupy: Any, index: int) -> None:
        self.cupy, self.dispatches = cupy, Dispatches()
        self.device = cupy.cuda.Device(index)
        self._faults = (
            cupy.cuda.runtime.CUDARuntimeError,
            cupy.cuda.driver.CUDADriverError,
            cupy.cuda.memory.OutOfMemoryError,
        )
        self._modules: dict[str, Any] = {}
        self.stream: Any = None
        with self.guarded("opening the device"):
            self.properties: Mapping[str, Any] = cupy.cuda.runtime.getDeviceProperties(index)
            self.stream = cupy.cuda.Stream(non_blocking=True)
            self.arch = self._arch()
            self.info = self._describe()

    # What HIP does otherwise: probes, architecture, compiler options.

    @classmethod
    def _probe_driver(cls) -> None:
        """Raise Unavailable unless a driver and a device are there; imports nothing: a refusal costs milliseconds."""
        driver = cdll(("libcuda.so.1", "nvcuda.dll"))
        if driver is None:
            raise Unavailable(
                "no CUDA driver (libcuda.so.1 not found)",
                "install NVIDIA's driver, or start the container with --gpus all",
                "KP-CUDA-NODRIVER",
            )
        status, count, version = driver.cuInit(0), ctypes.c_int(0), ctypes.c_int(0)
        driver.cuDriverGetVersion(ctypes.byref(version))
        if status == 34:  # CUDA_ERROR_STUB_LIBRARY
            raise Unavailable(
                "no CUDA driver (libcuda.so.1 is the toolkit's stub)",
                "take the stubs folder out of LD_LIBRARY_PATH and install NVIDIA's driver",
                "KP-CUDA-NODRIVER",
            )
        if status in (35, 803, 804):  # INSUFFICIENT_DRIVER, SYSTEM_DRIVER_MISMATCH, COMPAT_NOT_SUPPORTED_ON_DEVICE
            raise Unavailable(
                f"CUDA driver does not fit (cuInit returned {status}, driver API {version_of(version.value)})",
                "update NVIDIA's driver, or reboot after an update",
                "KP-CUDA-OLDDRIVER",
            )
        if status == 0:
            driver.cuDeviceGetCount(ctypes.byref(count))
        if count.value == 0:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
            raise Unavailable(
                f"no CUDA device (cuInit returned {status}, CUDA_VISIBLE_DEVICES is {visible or 'empty'})",
                "check nvidia-smi and CUDA_VISIBLE_DEVICES",
                "KP-CUDA-NODEVICE",
            )

    @classmethod
    def _probe_library(cls, cupy: Any) -> None:
        """Raise Unavailable unless this CuPy is built for the API and fits the driver."""
        runtime = cupy.cuda.runtime
        if runtime.is_hip:
            raise Unavailable(
                "the installed CuPy is built for ROCm", f"pip uninstall it, then {cls.package}", "KP-CUDA-NOLIB"
            )
        driver, library = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver // 1000 < library // 1000:
            raise Unavailable(
                f"CUDA driver too old (it speaks CUDA {version_of(driver)}, CuPy is built for {version_of(library)})",
                f"update NVIDIA's driver, or install the CuPy of CUDA {driver // 1000} (cupy-cuda{driver // 1000}x)",
                "KP-CUDA-OLDDRIVER",
            )

    def _arch(self) -> str:
        """The compiler's target: the device's own, or the newest that the compiler knows."""
        own = 10 * int(self.properties["major"]) + int(self.properties["minor"])
        known = [int(arch) for arch in self.cupy.cuda.nvrtc.getSupportedArchs()]
        return f"sm_{own}" if own in known else f"compute_{max((arch for arch in known if arch < own), default=own)}"

    def _options(self) -> tuple[str, ...]:
        """No fast-math: subnormals kept, division and square root rounded correctly."""
        return (f"--gpu-architecture={self.arch}", "--std=c++17", "--ftz=false", "--prec-div=true", "--prec-sqrt=true")

    def _binary(self, nvrtc: Any, program: Any) -> bytes:
        """What the driver loads: machine code, or PTX where the device is newer than the compiler."""
        return bytes(nvrtc.getCUBIN(program) if self.arch.startswith("sm_") else nvrtc.getPTX(program))

    def _identity(self) -> str:
        """The UUID as nvidia-smi prints it, or the PCI address."""
        raw = self.properties.get("uuid", b"")
        if isinstance(raw, bytes) and len(raw) == 16:
            text = raw.hex()
            return f"GPU-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
        return f"pci {self.device.pci_bus_id}"

    # What both share.

    @classmethod
    def open(cls, index: int = 0) -> CudaBackend:
        cls._probe_driver()
        try:
            cupy = import_module("cupy")
        except (ImportError, OSError) as error:
            reason = str(error).strip().splitlines()
            raise Unavailable(
                f"CuPy cannot be imported ({reason[0] if reason else 'no reason given'})",
                cls.package,
                f"{cls.tag}-NOLIB",
            ) from None
        cls._probe_library(cupy)
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except RuntimeError as error:
            raise Unavailable(
                f"no {cls.api} device ({error})", "check the driver and its device list", f"{cls.tag}-NODEVICE"
            ) from None
        if not 0 <= index < count:
            raise Unavailable(
                f"no {cls.api} device {index} ({count} visible)",
                f"choose an index below {count}",
                f"{cls.tag}-NODEVICE",
            )
        return cls(cupy, index)

    def _describe(self) -> DeviceInfo:
        runtime, found = self.cupy.cuda.runtime, self.properties
        name = found["name"]
        memory = int(found["totalGlobalMem"])
        return DeviceInfo(
            backend=self.name, device=name.decode() if isinstance(name, bytes) else str(name), kind="gpu", api=self.api,
            driver=f"{self.api} {version_of(runtime.driverGetVersion())}", library=f"cupy {self.cupy.__version__}",
            uuid=self._identity(), max_binding=memory, max_threads=int(found["maxThreadsPerBlock"]),
            subgroup=int(found["warpSize"]), detail=f"{self.arch}, {memory / 2**30:.0f} GiB",
        )  # fmt: skip

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
        except self._faults as error:
            text = f"{type(error).__name__}: {error}"
            code = next((c for words, c in ((OOM, "OOM"), (LOST, "LOST")) if any(w in text for w in words)), "FAULT")
            raise DeviceFault(f"{text} while {doing}", f"KP-DEVICE-{code}") from error

    def supports(self, op: Op, case: Case) -> str | None:
        launch = op.launch(case)
        if launch.block > self.info.max_threads:
            return f"{case.id} needs groups of {launch.block} work-items, this device has {self.info.max_threads}"
        if max(launch.groups[1:]) > MAX_GROUPS:
            return f"{case.id} needs a grid of {launch.groups}, y and z hold {MAX_GROUPS}"
        return super().supports(op, case)

    def upload(self, array: Array) -> Buffer:
        require_contiguous(array)
        buffer = self.empty(array.shape, dtype_name(array))
        self.write(buffer, array)
        return buffer

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        with self.guarded(f"allocating {dtype}{list(shape)}"):
            return Buffer(self.cupy.empty(shape, DTYPES[dtype]), dtype, shape)

    def write(self, buffer: Buffer, array: Array) -> None:
        require_contiguous(array)
        if array.nbytes != buffer.nbytes:
            raise WrongInput(f"{array.nbytes} bytes given for a buffer of {buffer.nbytes}")
        with self.guarded(f"writing {array.nbytes} bytes"):
            buffer.handle.set(array.view(DTYPES[buffer.dtype]).reshape(buffer.shape), stream=self.stream)
            self.stream.synchronize()  # the caller may change the array now

    def download(self, buffer: Buffer) -> Array:
        with self.guarded(f"reading {buffer.nbytes} bytes"):
            array: Array = buffer.handle.get(stream=self.stream)
            self.stream.synchronize()
            return array

    def build(self, op: Op, case: Case) -> CudaKernel:
        source = gpu_source(op, case, self.prelude)
        module = self._modules.get(source.text)
        if module is None:
            binary = self._compiled(source)
            with self.guarded(f"loading {source.path}"):
                module = self.cupy.cuda.function.Module()
                module.load(binary)
            self._modules[source.text] = module
        with self.guarded(f"loading {source.path}"):
            return CudaKernel(self, module.get_function(op.name), op, case)

    def _compiled(self, source: Source) -> bytes:
        """Machine code of a text, from the cache on disk where it is there; a cache that cannot be used is no error."""
        nvrtc, options = self.cupy.cuda.nvrtc, self._options()
        key = hashlib.sha256(repr((source.sha256, options, nvrtc.getVersion())).encode()).hexdigest()
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kparity" / self.name
        kept = home / f"{source.op}-{key[:32]}.bin"
        with suppress(OSError):
            return kept.read_bytes()
        program = nvrtc.createProgram(source.text, source.path, (), ())
        try:
            nvrtc.compileProgram(program, options)
            binary = self._binary(nvrtc, program)
        except nvrtc.NVRTCError as error:
            raise self._compile_failed(source, nvrtc.getProgramLog(program) or str(error)) from None
        finally:
            nvrtc.destroyProgram(program)
        with suppress(OSError):
            home.mkdir(parents=True, exist_ok=True)
            partial = home / f"{kept.name}.{os.getpid()}"
            partial.write_bytes(binary)
            partial.replace(kept)  # another process sees the whole file or none
        return binary

    def _compile_failed(self, source: Source, log: str) -> CompileFailed:
        """The first error, by the op's own line count; logs have ``file(12): error: …`` or ``file:12:3: error: …``."""
        found = re.search(r"[(:](\d+)(?:\)|:\d+): (?:fatal |catastrophic )?error:? ", log)
        line = int(found.group(1)) - source.first_line if found else 0
        return CompileFailed(source.path, max(line, 0), log[found.end() :] if found else log)

    def record(self, launches: Sequence[Bound]) -> CudaProgram:
        return CudaProgram(self, launches)

    def sync(self) -> None:
        with self.guarded("waiting for the device"):
            self.stream.synchronize()

    def close(self) -> None:
        self._modules.clear()
        self.stream = None
