"""Stands in for CuPy, with the interpreter as the device: streams, graphs, events, memory and modules.

What is enqueued on a stream runs when somebody waits for it, and not before, as on a device.
"""

from __future__ import annotations

import ctypes
import time
import weakref
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np

from kparity.ptx import machine, text
from kparity.ptx.blocks import LaunchOf, Options, Size, readable
from kparity.ptx.memory import Fault, Root, Span
from kparity.ptx.nvrtc import Nvrtc
from kparity.ptx.text import Place
from kparity.ptx.translate import Program, translate

Work = Callable[[], object]
CAPABILITY = (9, 0)
"""The compute capability that texts are compiled for."""
GARBAGE = (0xFF, 0x7F)
"""What shared memory holds at the beginning of launches, in turn: a result that depends on it does not repeat."""
LARGEST_GRID = (2**31 - 1, 65535, 65535)


class Array:
    """``cupy.ndarray``: a part of an allocation with an element type and a shape."""

    def __init__(self, root: Root, start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.root, self.start, self.shape, self.dtype = root, start, tuple(shape), dtype
        self.nbytes = int(np.prod(self.shape, dtype=np.int64)) * dtype.itemsize
        self.data = SimpleNamespace(ptr=root.base + start)

    def reshape(self, *shape: Any) -> Array:
        """The same memory in another shape; −1 is for all elements."""
        wanted = shape[0] if isinstance(shape[0], tuple) else shape
        count = self.nbytes // self.dtype.itemsize
        return Array(self.root, self.start, (count,) if wanted == (-1,) else wanted, self.dtype)

    def __getitem__(self, part: slice) -> Array:
        begin, end, _ = part.indices(self.shape[0])
        size = self.dtype.itemsize
        return Array(self.root, self.start + begin * size, (max(end - begin, 0),), self.dtype)


class Stream:
    """A queue of operations that run when somebody waits."""

    def __init__(self, non_blocking: bool = False) -> None:
        self.ptr = id(self)
        self.queue: list[Work] = []
        self.captured: list[Work] | None = None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *args: object) -> None:
        """Nothing is left behind."""

    def enqueue(self, work: Work) -> None:
        """Put an operation at the end; into the graph, while one is captured."""
        (self.queue if self.captured is None else self.captured).append(work)

    def synchronize(self) -> None:
        """Run what is enqueued; after a fault the rest is dropped, and the stream goes on."""
        queue, self.queue = self.queue, []
        for work in queue:
            work()

    def begin_capture(self) -> None:
        """From now on operations are kept, not run."""
        self.captured = []

    def end_capture(self) -> Graph:
        """What was kept."""
        works, self.captured = self.captured or [], None
        return Graph(works)


class Graph:
    """Launches that were captured."""

    def __init__(self, works: Sequence[Work]) -> None:
        self.works = list(works)

    def launch(self, stream: Stream) -> None:
        """Enqueue all of them."""
        for work in self.works:
            stream.enqueue(work)


class Event:
    """A mark in a queue, with the time at which it was passed."""

    def __init__(self, disable_timing: bool = False) -> None:
        self.stream: Stream | None = None
        self.passed = 0.0

    def record(self, stream: Stream) -> None:
        """Put the mark at the end of a stream."""
        self.stream = stream
        stream.enqueue(lambda: setattr(self, "passed", time.perf_counter()))

    def synchronize(self) -> None:
        """Wait until it is passed."""
        if self.stream is not None:
            self.stream.synchronize()


class Function:
    """One entry point of a module. ``arguments`` are the names and roles of its parameters, where somebody told them;
    ``first`` says that it is the first launch of its kernel, before which outputs and scratch memory hold nothing.
    """

    def __init__(self, machine_: Machine, module: Module, program: Program) -> None:
        self.machine, self.module, self.program = machine_, module, program
        names = (f"argument {at}" for at in range(len(program.kernel.params)))
        self.arguments: Sequence[tuple[str, str]] = [(name, "in") for name in names]
        self.first = True

    def __call__(self, grid: Size, block: Size, args: Sequence[Any], shared_mem: int = 0, stream: Any = None) -> None:
        kernel = self.program.kernel
        if len(args) != len(kernel.params):
            raise Fault(f"{kernel.name} has {len(kernel.params)} parameters, {len(args)} were given")
        stream.enqueue(lambda: self._run(grid, block, args))

    def _run(self, grid: Size, block: Size, args: Sequence[Any]) -> None:
        params: dict[str, Span | bytes] = {}
        for parameter, (name, role), given in zip(self.program.kernel.params, self.arguments, args, strict=True):
            if isinstance(given, Array):
                params[parameter] = Span(name, given.root, given.start, given.nbytes)
                if role == "out" and self.first:
                    given.root.mark(given.start, given.nbytes, 0)
            else:
                params[parameter] = np.asarray(given).tobytes()
        options, garbage = self.machine.options, GARBAGE[self.machine.launches % len(GARBAGE)]
        self.machine.launches += 1
        launch = LaunchOf(self.program, grid, block, params, self.module.variables, options, garbage, self.module.where)
        (machine.run_watched if options.sanitize else machine.run)(launch)


class Module:
    """A PTX text, read and translated."""

    machine: Machine

    def __init__(self) -> None:
        self.where: Callable[[Place], str] = lambda place: f"line {place.line}"
        """How its lines are told."""
        self.variables: dict[str, Span] = {}

    def load(self, binary: bytes) -> None:
        """Raises CompileFailed for an instruction that is not known."""
        kernels = text.read(binary.decode())
        self.programs = {name: translate(kernel, self.machine.options.perturb) for name, kernel in kernels.items()}
        for kernel in kernels.values():
            for name, variable in kernel.variables.items():
                if variable.space in ("global", "const") and name not in self.variables:
                    root = Root(variable.size, self.machine.options.sanitize)
                    root.bytes[:] = 0  # as CUDA initialises them
                    root.bytes[: len(variable.content)] = np.frombuffer(variable.content, np.uint8)
                    root.mark(0, variable.size)
                    self.variables[name] = Span(readable(name), root, 0, variable.size)

    def get_function(self, entry: str) -> Function:
        """An entry point by its name."""
        if entry not in self.programs:
            raise Fault(f"no entry point {entry}; there are {', '.join(self.programs) or 'none'}")
        return Function(self.machine, self, self.programs[entry])


class Machine:
    """The device: its options, its allocations, and how many launches it ran."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.launches = 0
        self._roots: weakref.WeakValueDictionary[int, Root] = weakref.WeakValueDictionary()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """``cupy.empty``."""
        root = Root(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, self.options.sanitize)
        self._roots[root.base] = root
        return Array(root, 0, shape, dtype)

    def _mark(self, address: int, size: int, value: int) -> None:
        if not self.options.sanitize:
            return
        bases = sorted(self._roots)
        at = bisect_right(bases, address) - 1
        root = self._roots.get(bases[at]) if at >= 0 else None
        if root is not None and address < root.base + root.size:
            root.mark(address - root.base, size, value)

    def copy(self, target: int, source: int, size: int, stream: Stream) -> None:
        """``memcpyAsync``: what is copied counts as written."""

        def work() -> None:
            ctypes.memmove(target, source, size)
            self._mark(target, size, 0xFF)

        stream.enqueue(work)

    def fill(self, target: int, value: int, size: int, stream: Stream) -> None:
        """``memsetAsync``, with which the adapter poisons: a kernel that reads it reads what nobody wrote."""

        def work() -> None:
            ctypes.memset(target, value, size)
            self._mark(target, size, 0)

        stream.enqueue(work)


class Device(nullcontext[None]):
    """``cupy.cuda.Device``."""

    pci_bus_id = ""


def _pinned(size: int) -> Any:
    block = type("Pinned", (ctypes.c_char * size,), {"ptr": property(ctypes.addressof)})
    return block()


def cupy(library: Any, options: Options) -> Any:
    """The module ``cupy``, as far as the adapter of cuda uses it, over an opened NVRTC."""
    device, streams = Machine(options), weakref.WeakValueDictionary[int, Stream]()

    def stream(non_blocking: bool = False) -> Stream:
        made = Stream(non_blocking)
        streams[made.ptr] = made
        return made

    nvrtc = Nvrtc(library)
    properties = {
        "name": "PTX interpreter, not a GPU", "totalGlobalMem": 1 << 40, "major": CAPABILITY[0], "minor": CAPABILITY[1],
        "warpSize": 32, "maxThreadsPerBlock": 1024, "maxGridSize": LARGEST_GRID,
    }  # fmt: skip
    runtime = SimpleNamespace(
        CUDARuntimeError=Fault, memcpyHostToDevice=1, memcpyDeviceToHost=2, memcpyDeviceToDevice=3,
        memcpyAsync=lambda target, source, size, kind, ptr: device.copy(target, source, size, streams[ptr]),
        memsetAsync=lambda target, value, size, ptr: device.fill(target, value, size, streams[ptr]),
        getDeviceProperties=lambda index: properties,
    )  # fmt: skip
    cuda = SimpleNamespace(
        runtime=runtime, driver=SimpleNamespace(CUDADriverError=Fault), nvrtc=nvrtc, Device=Device,
        memory=SimpleNamespace(OutOfMemoryError=MemoryError), Stream=stream, Event=Event,
        function=SimpleNamespace(Module=type("Module", (Module,), {"machine": device})), alloc_pinned_memory=_pinned,
        get_elapsed_time=lambda begin, end: (end.passed - begin.passed) * 1e3,
    )  # fmt: skip
    return SimpleNamespace(
        cuda=cuda, empty=device.empty, get_default_memory_pool=lambda: SimpleNamespace(free_all_blocks=lambda: None)
    )
