"""A stand-in for CuPy and the driver, so that what the cuda and hip adapters do is executed where there is no device.

It is built to be unhelpful in the ways a device is: whatever is enqueued on a stream runs when somebody waits, and not
before, so a staging buffer that is overwritten too early, a launch that is forgotten or an order that is wrong changes
the bytes that come back. Device memory is host memory. A kernel computes the op's reference at f32 and checks that
its argument list is what the ABI says, so it proves nothing about kernels, and everything about what surrounds them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np

from kparity.ops.spec import DTYPES, Case, Op

Work = Callable[[], object]
UUID = bytes(range(0, 32, 2))  # begins with a zero byte


class RuntimeFault(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError."""


class DriverFault(RuntimeError):
    """cupy.cuda.driver.CUDADriverError."""


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""


class NVRTCError(RuntimeError):
    """cupy.cuda.nvrtc.NVRTCError."""


class Array:
    """cupy.ndarray: memory, an address, a shape."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.memory = np.full(int(np.prod(shape)), 0x77, np.uint8).repeat(dtype.itemsize).view(dtype).reshape(shape)
        self.shape, self.dtype, self.nbytes = shape, dtype, self.memory.nbytes
        self.data = SimpleNamespace(ptr=self.memory.ctypes.data if self.nbytes else 0)


class Machine:
    """One device with its streams, its faults and what it was asked to do."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Op, Case]] = {}
        self.launched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []  # entry point, grid, block of what ran
        self.log: list[str] = []  # enqueued operations, in order
        self.compiled: list[tuple[str, tuple[str, ...]]] = []  # texts and options that the compiler was given
        self.broken = ""  # the sticky error of a device that has faulted
        self.fails: dict[str, str] = {}  # entry point -> the error that it causes when it runs
        self.launch_fails: dict[str, str] = {}  # entry point -> the error that its launch returns at once
        self.capture_fails = ""
        self.capture_drops = 0  # how many of the first launches a capture loses
        self.tells_nodes = True
        self.refuses: Callable[[bytes], bool] = lambda binary: False
        self.memory_limit = 1 << 30
        self.used = 0
        self.current: list[Any] = []
        self.graphs: dict[int, int] = {}


class Stream:
    """A queue of operations that run when somebody waits."""

    def __init__(self, machine: Machine, non_blocking: bool = False) -> None:
        assert non_blocking, "the stream must not wait for the default stream"
        self.machine, self.ptr = machine, id(self)
        self.queue: list[Work] = []
        self.captured: list[Work] | None = None

    def __enter__(self) -> Stream:
        self.machine.current.append(self)
        return self

    def __exit__(self, *args: object) -> None:
        self.machine.current.pop()

    def enqueue(self, name: str, work: Work) -> None:
        if self.machine.broken:
            raise RuntimeFault(self.machine.broken)
        if self.captured is not None:
            assert name.startswith("launch"), f"{name} in a graph"
            self.captured.append(work)
        else:
            self.machine.log.append(name)
            self.queue.append(work)

    def run_until(self, mark: Callable[[], bool]) -> None:
        assert self.captured is None, "waited while capturing"
        while self.queue and not mark() and not self.machine.broken:
            self.queue.pop(0)()
        if self.machine.broken:
            raise RuntimeFault(self.machine.broken)

    def synchronize(self) -> None:
        self.run_until(lambda: False)

    def begin_capture(self) -> None:
        if self.machine.capture_fails == "begin":
            raise RuntimeError("streamBeginCapture is not supported in ROCm")
        assert self.captured is None
        self.captured = []
        self.machine.log.append("capture")

    def end_capture(self) -> Graph:
        assert self.captured is not None
        works, self.captured = self.captured, None
        if self.machine.capture_fails == "end":
            raise RuntimeFault("cudaErrorStreamCaptureInvalidated: operation failed due to a previous error")
        return Graph(self.machine, works[self.machine.capture_drops :])


class Graph:
    """Launches that were captured."""

    def __init__(self, machine: Machine, works: list[Work]) -> None:
        self.machine, self.works, self.graph = machine, works, id(self)
        machine.graphs[self.graph] = len(works)

    def launch(self, stream: Stream) -> None:
        stream.enqueue(f"graph of {len(self.works)}", lambda: [work() for work in self.works])


class Event:
    """A mark in a queue."""

    def __init__(self, machine: Machine, disable_timing: bool = False) -> None:
        self.machine, self.passed, self.stream = machine, True, None
        self.timing = not disable_timing

    def record(self, stream: Stream) -> None:
        self.passed, self.stream = False, stream
        stream.enqueue("event", lambda: setattr(self, "passed", True))

    def synchronize(self) -> None:
        if self.stream is not None:
            self.stream.run_until(lambda: self.passed)


class Function:
    """One entry point of a module."""

    def __init__(self, machine: Machine, text: str, entry: str) -> None:
        self.machine, self.text, self.entry = machine, text, entry
        self.ptr = id(self)
        if f"KERNEL {entry}(" not in text:
            raise DriverFault("CUDA_ERROR_NOT_FOUND: named symbol not found")

    def __call__(self, grid: Any, block: Any, args: Sequence[Array], shared_mem: int = 0, stream: Any = None) -> None:
        if self.machine.broken:
            raise RuntimeFault(self.machine.broken)
        if self.entry in self.machine.launch_fails:
            raise DriverFault(self.machine.launch_fails[self.entry])
        assert isinstance(grid, tuple) and isinstance(block, tuple) and len(grid) == len(block) == 3
        op, case = self.machine.known[self.text]
        wanted = [*op.args(case), *op.scratch(case, "gpu")]
        assert [(a.dtype, a.nbytes) for a in args] == [(DTYPES[arg.dtype], arg.nbytes) for arg in wanted], case.id
        stages = op.stages(case, "gpu")
        at = next(i for i, stage in enumerate(stages) if stage.entry == self.entry)
        assert (grid, block) == (stages[at].launch.groups, (stages[at].launch.block, 1, 1))
        stream.enqueue(f"launch {self.entry}", lambda: self.execute(op, case, list(args), at, len(stages), grid, block))

    def execute(self, op: Op, case: Case, args: list[Array], at: int, stages: int, grid: Any, block: Any) -> None:
        self.machine.launched.append((self.entry, grid, block))
        if self.entry in self.machine.fails:
            self.machine.broken = self.machine.fails[self.entry]
            return
        abi, scratch = op.args(case), args[len(op.args(case)) :]
        for one in scratch:  # each stage leaves its mark, and finds the one of the stage before
            marks = one.memory.reshape(-1).view(np.uint8)
            before = (at,) if at else (0xFF, stages)
            assert marks.min() == marks.max() and marks[0] in before, f"stage {at} found {marks[0]}"
            marks[:] = at + 1
        if at + 1 < stages:
            return
        views = [array.memory.reshape(arg.shape) for arg, array in zip(abi, args, strict=False)]
        inputs = [view for arg, view in zip(abi, views, strict=True) if arg.role != "out"]
        outputs = [view for arg, view in zip(abi, views, strict=True) if arg.role != "in"]
        with np.errstate(all="ignore"):
            results = op.reference(case, inputs, np.float32)
        for target, value in zip(outputs, results, strict=True):
            target[...] = value


class Module:
    """A loaded binary: the fake compiler's binary is the text."""

    machine: Machine

    def load(self, binary: bytes) -> None:
        if self.machine.refuses(binary):
            raise DriverFault("CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid")
        self.text = binary.decode()

    def get_function(self, entry: str) -> Function:
        return Function(self.machine, self.text, entry)


class Library:
    """The driver's library as ctypes sees it; counts nodes of graphs and knows the UUID."""

    def __init__(self, machine: Machine, devices: int = 1, status: int = 0) -> None:
        self.machine, self.devices, self.status = machine, devices, status

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDriverGetVersion(self, out: Any) -> int:
        return _store(out, ctypes.c_int(13000))

    def cuDeviceGetCount(self, out: Any) -> int:
        return _store(out, ctypes.c_int(self.devices))

    hipGetDeviceCount = cuDeviceGetCount

    def cuDeviceGet(self, out: Any, index: int) -> int:
        return 0

    def cuDeviceGetUuid_v2(self, out: Any, device: Any) -> int:
        ctypes.memmove(out, UUID, 16)
        return 0

    def cuGraphGetNodes(self, graph: Any, nodes: None, count: Any) -> int:
        if not self.machine.tells_nodes:
            return 1
        return _store(count, ctypes.c_size_t(self.machine.graphs[graph.value]))

    hipGraphGetNodes = cuGraphGetNodes


def _store(out: Any, value: Any) -> int:
    """What a function of the driver does with a result; returns its success."""
    ctypes.memmove(out, ctypes.byref(value), ctypes.sizeof(value))
    return 0


class Device(nullcontext[None]):
    """cupy.cuda.Device."""

    pci_bus_id = "0000:19:00.0"

    def __init__(self, index: int) -> None:
        super().__init__()
        self.id = index


def _memory(machine: Machine) -> dict[str, Any]:
    """cupy.empty, pinned memory and the copies."""

    def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        assert machine.current, "allocated outside of the stream: reuse would not be ordered"
        size = int(np.prod(shape)) * dtype.itemsize
        if size > machine.memory_limit:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")
        return Array(shape, dtype)

    def pinned(size: int) -> Any:
        block = type("Pinned", (ctypes.c_char * size,), {"ptr": property(ctypes.addressof)})
        return block()

    def enqueue(stream: int, name: str, work: Callable[[], Any]) -> None:
        next(each for each in machine.current if each.ptr == stream).enqueue(name, work)

    def copy(target: int, source: int, size: int, kind: int, stream: int) -> None:
        name = {1: "to device", 2: "to host", 3: "on device"}[kind]
        enqueue(stream, f"{name} {size}", lambda: ctypes.memmove(target, source, size))

    def fill(target: int, value: int, size: int, stream: int) -> None:
        enqueue(stream, f"fill {size}", lambda: ctypes.memset(target, value, size))

    return {"empty": empty, "pinned": pinned, "copy": copy, "fill": fill}


def cupy(machine: Machine, is_hip: bool = False, devices: int = 1, version: int = 13000, **properties: Any) -> Any:
    """The module ``cupy``, as far as the adapters use it."""
    memory = _memory(machine)
    found = {
        "name": b"Fake H200", "totalGlobalMem": 1 << 37, "major": 9, "minor": 0, "warpSize": 32,
        "maxThreadsPerBlock": 1024, "multiProcessorCount": 132, "maxGridSize": (2**31 - 1, 65535, 65535),
        "uuid": b"", "gcnArchName": b"gfx90a:sramecc+:xnack-", **properties,
    }  # fmt: skip
    programs: list[tuple[str, str]] = []

    def create(text: str, name: str, headers: tuple[()], names: tuple[()]) -> int:
        programs.append((text, name))
        return len(programs) - 1

    def compile_(program: int, options: tuple[str, ...]) -> None:
        machine.compiled.append((programs[program][0], options))
        if "WRONG" in programs[program][0]:
            raise NVRTCError("NVRTC_ERROR_COMPILATION")

    def attribute(number: int, index: int) -> int:
        return {36: 1980000, 37: 3201000}[number]

    def code(program: int) -> bytes:
        return programs[program][0].encode()

    module = type("Module", (Module,), {"machine": machine})
    runtime = SimpleNamespace(
        is_hip=is_hip, CUDARuntimeError=RuntimeFault, memcpyHostToDevice=1, memcpyDeviceToHost=2,
        memcpyDeviceToDevice=3, memcpyAsync=memory["copy"], memsetAsync=memory["fill"],
        driverGetVersion=lambda: 60342134 if is_hip else version,
        runtimeGetVersion=lambda: 60342134 if is_hip else 13000, getDeviceCount=lambda: devices,
        getDeviceProperties=lambda index: found, deviceGetAttribute=attribute,
        cudaDevAttrClockRate=36, cudaDevAttrMemoryClockRate=37,
    )  # fmt: skip
    nvrtc = SimpleNamespace(
        NVRTCError=NVRTCError, getVersion=lambda: (13, 0), getSupportedArchs=lambda: (75, 80, 90, 120),
        createProgram=create, compileProgram=compile_, getCUBIN=code, getPTX=code, destroyProgram=lambda program: None,
        getProgramLog=lambda program: "kernels/add/add.cu(3): error: WRONG is wrong\n",
    )  # fmt: skip
    cuda = SimpleNamespace(
        runtime=runtime, driver=SimpleNamespace(CUDADriverError=DriverFault), nvrtc=nvrtc, Device=Device,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        Stream=lambda non_blocking=False: Stream(machine, non_blocking), function=SimpleNamespace(Module=module),
        Event=lambda disable_timing=False: Event(machine, disable_timing), alloc_pinned_memory=memory["pinned"],
        get_elapsed_time=lambda begin, end: 1.5 if begin.passed and end.passed and begin.timing else -1.0,
    )  # fmt: skip
    pool = SimpleNamespace(free_all_blocks=lambda: None)
    return SimpleNamespace(__version__="14.2.0", cuda=cuda, empty=memory["empty"], get_default_memory_pool=lambda: pool)
