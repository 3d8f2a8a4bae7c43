"""opencl: the GPU text through pyopencl, on any OpenCL 1.2 device; PoCL makes a CPU one of them."""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import struct
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kparity.device.adapter import Backend, Buffer, DeviceInfo, Kernel, Kind, Launch, Program, require_fit
from kparity.device.remedies import Reason, missing_package
from kparity.errors import CompileFailed, DeviceFault, WrongInput
from kparity.host import install
from kparity.ops.assemble import Source, gpu_source
from kparity.ops.spec import DTYPES, Array, Case, Dispatches, Op

WAVES = (32, 64)
"""Lanes of a wavefront that the texts are written for."""
OOM = ("MEM_OBJECT_ALLOCATION_FAILURE", "OUT_OF_RESOURCES", "OUT_OF_HOST_MEMORY", "INVALID_BUFFER_SIZE")
LOST = ("DEVICE_NOT_AVAILABLE", "INVALID_DEVICE", "INVALID_CONTEXT", "INVALID_COMMAND_QUEUE")


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made itself if need be."""
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except (OSError, RuntimeError):  # RuntimeError: no home at all
        return False


@cache
def _settle_caches() -> None:
    """Without a writable cache folder PoCL finds no device and pyopencl fails: lend them one for this process."""
    if not _writable(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")):
        lent = tempfile.TemporaryDirectory(prefix="kparity-opencl-", ignore_cleanup_errors=True)
        atexit.register(lent.cleanup)
        os.environ["XDG_CACHE_HOME"] = lent.name


def _devices(cl: Any) -> list[Any]:
    """Devices of all platforms: GPUs first, then accelerators, then CPUs; the order of the platforms within each."""
    try:
        platforms = cl.get_platforms()
    except cl.Error as error:
        raise OpenclBackend.unavailable("KP-OPENCL-NOPLATFORM", f"no OpenCL platform ({error})") from None
    devices: list[Any] = []
    for platform in platforms:
        with suppress(cl.Error):  # a platform whose driver is installed and whose device is not there
            devices.extend(platform.get_devices())
    ranks = {cl.device_type.GPU: 0, cl.device_type.ACCELERATOR: 1, cl.device_type.CPU: 2}
    return sorted(devices, key=lambda each: next((rank for bit, rank in ranks.items() if each.type & bit), 3))


def _kind(cl: Any, device: Any) -> Kind:
    """What the device is, never guessed upwards: a GPU is what says so and is not known to compute on the host."""
    if device.type & cl.device_type.CPU:
        return "cpu"
    if device.type & cl.device_type.GPU and not OpenclBackend.named_software(device.name):
        return "gpu"
    return "software"


def _asked(cl: Any, device: Any, key: int, size: int) -> bytes | None:
    """A device query by its number in the OpenCL registry; pyopencl itself refuses numbers that it has no name for."""
    try:
        query = ctypes.CDLL(cl._cl.__file__).clGetDeviceInfo  # the loader that pyopencl is linked to
    except (OSError, AttributeError):
        return None
    answer = (ctypes.c_ubyte * size)()
    status = query(ctypes.c_void_p(device.int_ptr), ctypes.c_uint(key), ctypes.c_size_t(size), answer, None)
    return bytes(answer) if status == 0 else None


def _identity(cl: Any, device: Any) -> str:
    """UUID or PCI address, or an empty string where the driver tells neither."""
    if raw := _asked(cl, device, 0x106A, 16):  # CL_DEVICE_UUID_KHR
        return str(uuid.UUID(bytes=raw))
    if raw := _asked(cl, device, 0x410F, 16):  # CL_DEVICE_PCI_BUS_INFO_KHR: domain, bus, device, function
        return "pci {:04x}:{:02x}:{:02x}.{:x}".format(*struct.unpack("4I", raw))
    if (bus := _asked(cl, device, 0x4008, 4)) and (slot := _asked(cl, device, 0x4009, 4)):  # CL_DEVICE_PCI_…_ID_NV
        place = int.from_bytes(slot, sys.byteorder)
        return f"pci 0000:{int.from_bytes(bus, sys.byteorder):02x}:{place >> 3:02x}.{place & 7:x}"
    if raw := _asked(cl, device, 0x4037, 24):  # CL_DEVICE_TOPOLOGY_AMD: its last three bytes
        return f"pci 0000:{raw[21]:02x}:{raw[22]:02x}.{raw[23]:x}"
    return ""


@contextmanager
def _faults(cl: Any, doing: str) -> Iterator[None]:
    """Turn an OpenCL error into a DeviceFault with a stable code."""
    try:
        yield
    except cl.Error as error:
        name = cl.status_code.to_string(error.code) if hasattr(error, "code") else str(error)
        code = next((c for words, c in ((OOM, "OOM"), (LOST, "LOST")) if any(w in name for w in words)), "FAULT")
        raise DeviceFault(f"OpenCL {name} while {doing}", f"KP-DEVICE-{code}") from error


def _compile_failed(source: Source, log: str) -> CompileFailed:
    """The compiler's first error, by the line count of the file that it is in: PoCL writes ``error: file:5:8: …``, the
    others ``file:5:8: error: …``."""
    match = re.search(r"error: [^\n]*?:(?P<a>\d+):\d+: |:(?P<b>\d+):\d+: (?:fatal )?error: ", log)
    return source.failed(int(match["a"] or match["b"]), log[match.end() :]) if match else source.failed(0, log)


class OpenclBound(Launch):
    """Kernel objects whose arguments are set, one for each stage: an enqueue needs nothing else."""

    def __init__(self, kernel: OpenclKernel, buffers: Sequence[Buffer]) -> None:
        super().__init__(kernel, buffers)
        self.calls: list[tuple[Any, tuple[int, int, int], tuple[int, int, int]]] = []
        for stage in kernel.stages:
            handle = kernel.backend.cl.Kernel(kernel.compiled, stage.entry)  # an object keeps its arguments
            handle.set_args(*(buffer.handle for buffer in self.buffers))
            (x, y, z), block = stage.launch.groups, stage.launch.block
            self.calls.append((handle, (x * block, y, z), (block, 1, 1)))


class OpenclKernel(Kernel):
    """The entry points of a built program."""

    launch = OpenclBound
    backend: OpenclBackend

    def __init__(self, backend: OpenclBackend, program: Any, op: Op, case: Case) -> None:
        super().__init__(backend, op, case)
        self.compiled = program

    def shared(self, one: Buffer, other: Buffer) -> bool:
        return one.handle is other.handle


class OpenclProgram(Program):
    """Enqueues on an in-order queue."""

    backend: OpenclBackend

    def __init__(self, backend: OpenclBackend, launches: Sequence[Launch]) -> None:
        super().__init__(backend, launches)
        self._calls = [call for each in launches if isinstance(each, OpenclBound) for call in each.calls]

    def _enqueue(self, queue: Any) -> list[Any]:
        enqueue = self.backend.cl.enqueue_nd_range_kernel
        with _faults(self.backend.cl, "enqueuing kernels"):
            return [enqueue(queue, handle, total, local) for handle, total, local in self._calls]

    def _run(self) -> None:
        self._enqueue(self.backend.queue)

    def run_timed(self) -> float:
        """Seconds from the start of the first kernel to the end of the last, by the device's profiling clock."""
        if not self.launches:
            return 0.0
        self.backend.sync()
        queue = self.backend.profiling_queue
        events = self._enqueue(queue)
        with _faults(self.backend.cl, "running kernels"):
            queue.finish()
            nanoseconds = events[-1].profile.end - events[0].profile.start
        self.count()
        return float(nanoseconds) * 1e-9


class OpenclBackend(Backend):
    """One OpenCL device. Compiled programs are kept by source; between processes pyopencl or the driver keeps
    them (asking PoCL for its binaries would cost as much as compiling them once more)."""

    name = "opencl"
    dialect = "gpu"
    api = "OpenCL"
    place = 40
    packages = ("pyopencl", "pocl-binary-distribution")
    extra = "opencl"
    libraries = ("libOpenCL.so.1",)
    manifests = ("/etc/OpenCL/vendors",)
    nodes = ("/dev/dri",)
    driver_files = ("/usr/lib/*-linux-gnu/libOpenCL.so*", "/usr/lib/*-linux-gnu/libLLVM-*.so*")
    environment = (
        "OCL_*", "OPENCL_*", "CL_*", "CLOVER_*", "POCL_*", "PYOPENCL_BUILD_OPTIONS", "PYOPENCL_NO_CACHE",
        "RUSTICL_*", "CUDA_*", "GPU_*", "AMD_*",
        "HSA_*", "IGC_*", "NEO*", "SYCL_*", "TBB_*", "GALLIUM_*", "MESA_*",
    )  # fmt: skip
    software = ("pocl", "portable computing language", "pthread", "oclgrind")
    options = ("wave",)
    reasons: ClassVar[Mapping[str, Reason]] = {
        "KP-OPENCL-NOLIB": missing_package(packages[0], extra),
        "KP-OPENCL-NOPLATFORM": Reason(
            "no OpenCL platform",
            "The ICD loader found no driver under /etc/OpenCL/vendors or OCL_ICD_VENDORS.",
            "install the device's OpenCL driver, or PoCL, which makes a device of the CPU",
            (install.pip(packages[1]), f"OCL_ICD_VENDORS={manifests[0]}"),
        ),
        "KP-OPENCL-NOCACHE": Reason(
            "PoCL has no cache",
            "PoCL shows no device where it cannot write the folder that POCL_CACHE_DIR names.",
            "set POCL_CACHE_DIR to a folder that you may write, or unset it",
            ("POCL_CACHE_DIR=/tmp",),
        ),
        "KP-OPENCL-NODEVICE": Reason(
            "OpenCL platforms, but no device",
            "No platform reports a device with this index.",
            "check the device's driver with clinfo -l",
            ("clinfo -l",),
        ),
    }
    device_clock = copy_clock = True
    grid = (1 << 62, 1 << 62, 1 << 62)
    program = OpenclProgram
    constants: Mapping[str, int | float] = {"WAVE": 32}

    def __init__(self, cl: Any, device: Any, wave: int = 32) -> None:
        self.cl, self.device, self.dispatches = cl, device, Dispatches()
        with _faults(cl, "creating a context"):
            self.context = cl.Context([device])
            self.queue = cl.CommandQueue(self.context, device)
        self._programs: dict[str, Any] = {}
        correct = device.single_fp_config & cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT
        self._options = ["-cl-std=CL1.2"] + (["-cl-fp32-correctly-rounded-divide-sqrt"] if correct else [])
        platform = device.platform
        self.info = DeviceInfo(
            backend="opencl", device=device.name.strip(), kind=_kind(cl, device), api=self.api,
            driver=f"{platform.name.strip()} {device.driver_version.strip()} ({platform.version.strip()})",
            library=f"pyopencl {cl.VERSION_TEXT}", uuid=_identity(cl, device),
            max_binding=int(device.max_mem_alloc_size), max_threads=int(device.max_work_group_size),
        )  # fmt: skip
        self.constants = {"WAVE": wave} | ({} if self.info.kind == "gpu" else {"ON_CPU": 1})

    @classmethod
    def open(cls, index: int = 0, wave: int = 32) -> OpenclBackend:
        """Open device ``index``; ``wave`` lanes are what a reduction joins first: OpenCL 1.2 does not tell the
        hardware's number, and the text is right for any."""
        if wave not in WAVES:
            raise WrongInput(f"wave is {wave}, expected one of {', '.join(map(str, WAVES))}")
        _settle_caches()
        try:
            cl = import_module("pyopencl")
        except (ImportError, OSError) as error:
            raise cls.unavailable("KP-OPENCL-NOLIB", f"pyopencl cannot be imported ({error})") from None
        devices = _devices(cl)
        named = os.environ.get("POCL_CACHE_DIR")
        if not devices and named and not _writable(Path(named)):
            raise cls.unavailable("KP-OPENCL-NOCACHE", f"PoCL cannot write its cache, POCL_CACHE_DIR={named}")
        if not 0 <= index < len(devices):
            count = f"{len(devices)} device{'' if len(devices) == 1 else 's'}"
            raise cls.unavailable(
                "KP-OPENCL-NODEVICE",
                f"no OpenCL device {index} ({count} on {len(cl.get_platforms())} platforms)",
                f"choose an index below {len(devices)}" if devices else "",
            )
        return cls(cl, devices[index], wave)

    @cached_property
    def profiling_queue(self) -> Any:
        """A second queue, made when it is first needed: timestamps cost some drivers time on every launch."""
        flags = self.cl.command_queue_properties.PROFILING_ENABLE
        with _faults(self.cl, "creating a queue"):
            return self.cl.CommandQueue(self.context, self.device, flags)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        buffer = Buffer(None, dtype, shape)
        with _faults(self.cl, f"allocating {buffer.nbytes} bytes"):
            buffer.handle = self.cl.Buffer(self.context, self.cl.mem_flags.READ_WRITE, max(buffer.nbytes, 16))
        return buffer

    def view(self, buffer: Buffer, start: int, shape: tuple[int, ...]) -> Buffer | None:
        part = Buffer(None, buffer.dtype, shape)
        with suppress(self.cl.Error):  # a device divides a buffer at some offsets only
            part.handle = buffer.handle.get_sub_region(start * DTYPES[part.dtype].itemsize, part.nbytes)
        return part if part.handle is not None else None

    def write(self, buffer: Buffer, array: Array) -> None:
        require_fit(buffer, array)
        if array.nbytes:
            with _faults(self.cl, f"writing {array.nbytes} bytes"):
                # Blocks until the array may be changed.
                self.cl.enqueue_copy(self.queue, buffer.handle, np.ascontiguousarray(array))

    def download(self, buffer: Buffer) -> Array:
        array: Array = np.empty(buffer.shape, DTYPES[buffer.dtype])
        if array.nbytes:
            with _faults(self.cl, f"reading {array.nbytes} bytes"):
                self.cl.enqueue_copy(self.queue, array, buffer.handle)
        return array

    def copy(self, source: Buffer, target: Buffer) -> None:
        self._copy(self.queue, source, target)

    def copy_timed(self, source: Buffer, target: Buffer) -> float:
        self.sync()
        event = self._copy(self.profiling_queue, source, target)
        with _faults(self.cl, "copying"):
            event.wait()
            return float(event.profile.end - event.profile.start) * 1e-9

    def _copy(self, queue: Any, source: Buffer, target: Buffer) -> Any:
        with _faults(self.cl, f"copying {source.nbytes} bytes"):
            return self.cl.enqueue_copy(queue, target.handle, source.handle)

    @classmethod
    def source(cls, op: Op, case: Case, constants: Mapping[str, int | float]) -> Source:
        return gpu_source(op, case, "opencl", constants)

    def build(self, op: Op, case: Case) -> OpenclKernel:
        source = self.source(op, case, self.constants)
        program = self._programs.get(source.text)
        if program is None:
            program = self._programs[source.text] = self._compile(source)
        return OpenclKernel(self, program, op, case)

    def _compile(self, source: Source) -> Any:
        cl = self.cl
        try:
            with warnings.catch_warnings():  # pyopencl warns of every log that is not empty
                warnings.simplefilter("ignore")
                return cl.Program(self.context, source.text).build(self._options, [self.device])
        except cl.Error as error:
            if getattr(error, "code", None) == cl.status_code.BUILD_PROGRAM_FAILURE:
                raise _compile_failed(source, str(error)) from None
            with _faults(cl, f"compiling {source.path}"):
                raise

    def sync(self) -> None:
        with _faults(self.cl, "waiting for the device"):
            self.queue.finish()

    def close(self) -> None:
        self._programs.clear()
        self.profiling_queue = self.queue = self.context = None
