"""What the cuda and hip adapters are made of: error codes, the compiler's cache, pinned transfers, kernels, programs.

Nothing here imports CuPy: the adapters pass in what they have opened.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kparity.device.adapter import Buffer, Kernel, Launch, Program
from kparity.errors import CompileFailed, DeviceFault
from kparity.host import cachedir
from kparity.ops.assemble import Source
from kparity.ops.spec import Array, Case, Op, Stage

if TYPE_CHECKING:
    from kparity.backends.cuda import CudaBackend

OOM = ("outofmemory", "memoryallocation")
LOST = (
    "nodevice", "invaliddevice", "devicesunavailable", "deviceunavailable", "contextisdestroyed", "systemnotready",
    "eccuncorrectable", "eccnotcorrectable", "nvlinkuncorrectable", "deinitialized", "cudartunloading",
)  # fmt: skip
"""Parts of the names of errors, in small letters without underscores: the runtime says ``cudaErrorECCUncorrectable``,
the driver ``CUDA_ERROR_ECC_UNCORRECTABLE``, HIP ``hipErrorECCNotCorrectable``."""


def cdll(names: Sequence[str]) -> Any:
    """The first of these libraries that loads, or ``None``: tells of a missing driver long before CuPy is imported."""
    for name in names:
        with suppress(OSError):
            return ctypes.CDLL(name)
    return None


def fault(error: BaseException, doing: str, hint: str = "") -> DeviceFault:
    """An error of the API as a DeviceFault with a stable code; the hint is for a fault of unknown origin."""
    text = f"{type(error).__name__}: {error}"
    plain = text.lower().replace("_", "")
    code = next((c for words, c in ((OOM, "OOM"), (LOST, "LOST")) if any(w in plain for w in words)), "FAULT")
    more = f" ({hint})" if hint and code == "FAULT" else ""
    return DeviceFault(f"{text} while {doing}{more}", f"KP-DEVICE-{code}")


def compile_failed(source: Source, log: str) -> CompileFailed:
    """The first error: ``file(12): error: …``, ``file:12:3: error: …``; those of ptxas and the linker have no line."""
    match = re.search(r"[(:](\d+)(?:\)|:\d+): (?:fatal |catastrophic )?error:? ", log)
    return source.failed(int(match.group(1)), log[match.end() :]) if match else source.failed(0, log)


class Compiler:
    """NVRTC or hipRTC with a cache on disk; a cache that cannot be read or written is no error."""

    def __init__(self, nvrtc: Any, name: str, options: Sequence[str], extract: Callable[[Any, Any], bytes]) -> None:
        self.nvrtc, self.name, self.options, self.extract = nvrtc, name, tuple(options), extract
        self.compiled = 0
        """Texts that this process compiled: the others came from the disk."""

    def kept(self, source: Source) -> Path:
        """Where the machine code of a text is kept, by text, options and the compiler's version; raises OSError."""
        key = hashlib.sha256(repr((source.sha256, self.options, self.nvrtc.getVersion())).encode()).hexdigest()
        return cachedir.folder(self.name) / f"{source.op}-{key[:32]}.bin"

    def load(self, source: Source, loader: Callable[[bytes], Any], refused: tuple[type[BaseException], ...]) -> Any:
        """What ``loader`` makes of the machine code; a kept file that it refuses is compiled anew, once."""
        with suppress(OSError, *refused):
            return loader(cachedir.read(self.kept(source)))
        return loader(self.compile(source))

    def compile(self, source: Source) -> bytes:
        """Compile and keep; raises CompileFailed."""
        nvrtc = self.nvrtc
        program = nvrtc.createProgram(source.text, source.path, (), ())
        try:
            nvrtc.compileProgram(program, self.options)
            binary = self.extract(nvrtc, program)
        except nvrtc.NVRTCError as error:
            raise compile_failed(source, nvrtc.getProgramLog(program) or str(error)) from None
        finally:
            nvrtc.destroyProgram(program)
        self.compiled += 1
        with suppress(OSError):
            cachedir.write(self.kept(source), binary)
        return binary


class Ring:
    """Slots of pinned host memory, used in turn. Only pinned memory is copied while the host goes on, so a slot may
    not be touched before its copy is over: an event per slot says so.
    """

    def __init__(self, cuda: Any, slots: int, size: int) -> None:
        self.slots, self.size = slots, size
        self._block = cuda.alloc_pinned_memory(slots * size)
        memory = np.frombuffer(self._block, np.uint8, slots * size)
        self.views = [memory[at * size : (at + 1) * size] for at in range(slots)]
        self.addresses = [int(self._block.ptr) + at * size for at in range(slots)]
        self._events = [cuda.Event(disable_timing=True) for _ in range(slots)]
        self._busy = [False] * slots
        self._turn = 0

    def take(self) -> int:
        """The next slot, once the copy that used it last is over."""
        slot, self._turn = self._turn, (self._turn + 1) % self.slots
        self.wait(slot)
        return slot

    def used(self, slot: int, stream: Any) -> None:
        """The copy that was just enqueued uses this slot."""
        self._events[slot].record(stream)
        self._busy[slot] = True

    def wait(self, slot: int) -> None:
        """Wait for the copy that uses the slot."""
        if self._busy[slot]:
            self._events[slot].synchronize()
            self._busy[slot] = False


SMALL = (64, 4096)
"""Slots and bytes of the ring for token ids and positions: a decode step writes two of them and waits for none."""
LARGE = (2, 8 << 20)
"""Slots and bytes of the ring for weights: one slot is filled while the other one travels."""


class Transfers:
    """Copies through pinned memory on one stream: in order with the launches on it, and without waiting for them."""

    def __init__(self, cuda: Any, stream: Any) -> None:
        self.cuda, self.stream = cuda, stream
        self._rings: dict[tuple[int, int], Ring] = {}

    def _ring(self, nbytes: int) -> Ring:
        shape = SMALL if nbytes <= SMALL[1] else LARGE
        if shape not in self._rings:
            self._rings[shape] = Ring(self.cuda, *shape)
        return self._rings[shape]

    def write(self, address: int, array: Array) -> None:
        """Copy a contiguous array to the device; it may be changed as soon as this returns."""
        flat, ring, runtime = array.reshape(-1).view(np.uint8), self._ring(array.nbytes), self.cuda.runtime
        for at in range(0, flat.size, ring.size):
            piece = flat[at : at + ring.size]
            slot = ring.take()
            ring.views[slot][: piece.size] = piece
            runtime.memcpyAsync(
                address + at, ring.addresses[slot], piece.size, runtime.memcpyHostToDevice, self.stream.ptr
            )
            ring.used(slot, self.stream)

    def read(self, address: int, array: Array) -> None:
        """Copy from the device to a contiguous array, and wait for it."""
        flat, ring, runtime = array.reshape(-1).view(np.uint8), self._ring(array.nbytes), self.cuda.runtime
        pending: deque[tuple[int, int]] = deque()

        def arrived() -> None:
            slot, at = pending.popleft()
            ring.wait(slot)
            piece = flat[at : at + ring.size]
            piece[:] = ring.views[slot][: piece.size]

        for at in range(0, flat.size, ring.size):
            if len(pending) == ring.slots:
                arrived()
            slot, size = ring.take(), min(ring.size, flat.size - at)
            runtime.memcpyAsync(ring.addresses[slot], address + at, size, runtime.memcpyDeviceToHost, self.stream.ptr)
            ring.used(slot, self.stream)
            pending.append((slot, at))
        while pending:
            arrived()


@dataclass(frozen=True)
class Call:
    """One launch: function, grid, block and the argument list, whose handles also keep the memory alive."""

    function: Any
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    handles: tuple[Any, ...]
    where: str
    """What an error message says about it."""


class CupyBound(Launch):
    """The launches of a kernel with their argument lists."""

    def __init__(self, kernel: CupyKernel, buffers: Sequence[Buffer]) -> None:
        super().__init__(kernel, buffers)
        handles = tuple(buffer.handle for buffer in self.buffers)
        self.calls = [
            Call(function, stage.launch.groups, (stage.launch.block, 1, 1), handles, kernel.where(stage))
            for stage, function in zip(kernel.stages, kernel.functions, strict=True)
        ]


class CupyKernel(Kernel):
    """The functions of a loaded module, one per stage."""

    launch = CupyBound
    backend: CudaBackend

    def __init__(self, backend: CudaBackend, module: Any, op: Op, case: Case) -> None:
        super().__init__(backend, op, case)
        with backend.guarded(f"loading {self.id} ({case.id})"):
            self.functions = [module.get_function(stage.entry) for stage in self.stages]
        for arg, buffer in zip(op.scratch(case, backend.dialect), self.scratch, strict=True):
            if arg.role != "inout":
                backend.poison(buffer)

    def where(self, stage: Stage) -> str:
        """Kernel id, case, entry point and grid of a launch."""
        entry = "" if stage.entry == self.op.name else f" {stage.entry}"
        return f"{self.id}{entry} ({self.case.id}, grid {stage.launch.groups}, block {stage.launch.block})"

    def shared(self, one: Buffer, other: Buffer) -> bool:
        begin, start = int(one.handle.data.ptr), int(other.handle.data.ptr)
        return begin < start + other.nbytes and start < begin + one.nbytes


class CupyProgram(Program):
    """Launches on the backend's stream: a graph where there are several of them."""

    backend: CudaBackend

    def __init__(self, backend: CudaBackend, launches: Sequence[Launch]) -> None:
        super().__init__(backend, launches)
        self._calls = [call for each in launches if isinstance(each, CupyBound) for call in each.calls]
        self._graph: Any = None

    @property
    def replayed(self) -> bool:
        """Whether the last run replayed a graph."""
        return self._graph is not None

    def _launch(self, wait: bool) -> None:
        """Enqueue every launch; with ``wait``, let each one end before the next one begins."""
        cuda, stream, where = self.backend, self.backend.stream, ""
        try:
            for call in self._calls:
                where = call.where
                call.function(call.grid, call.block, call.handles, stream=stream)
                if wait:
                    stream.synchronize()
        except cuda.faults as error:
            raise fault(error, f"running {where}") from error

    def _capture(self) -> Any:
        """The graph of all launches; nothing runs. Whatever goes wrong, the stream is an ordinary one afterwards."""
        stream = self.backend.stream
        stream.begin_capture()
        try:
            self._launch(wait=False)
        except BaseException:
            with suppress(Exception):  # a capture that failed is ended with an error of its own
                stream.end_capture()
            raise
        graph = stream.end_capture()
        count = self.backend.graph_nodes(graph)
        if count not in (None, len(self._calls)):
            raise RuntimeError(f"the graph has {count} nodes for {len(self._calls)} launches")
        return graph

    def prepare(self) -> None:
        """Capture the graph, where there is to be one and it is not there yet."""
        cuda = self.backend
        if self._graph is None and len(self._calls) > 1 and cuda.graphs:
            with cuda.guarded("capturing a graph"):
                try:
                    self._graph = self._capture()
                except (RuntimeError, AttributeError, DeviceFault) as error:
                    cuda.without_graphs(str(error))

    def _run(self) -> None:
        self.prepare()
        with self.backend.guarded(f"replaying a graph of {len(self._calls)} launches"):
            if self._graph is not None:
                self._graph.launch(self.backend.stream)
            else:
                self._launch(wait=self.backend.debug)

    def run_eager(self) -> None:
        """Run every launch, stages too, by itself, with the device idle in between."""
        self.backend.sync()
        with self.backend.guarded("running kernels"):
            self._launch(wait=True)
        self.count()

    def run_timed(self) -> float:
        """Seconds between two events around the launches, by the device's clock."""
        self.prepare()  # a capture is no part of the time
        return float(self.backend.timed(self.run))
