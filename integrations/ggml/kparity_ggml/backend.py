"""A device of ggml as a backend: buffers between kparity's sentinels, a graph per case, ``supports_op`` as its word."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from kparity.backends._memory import Memory
from kparity.device.adapter import (
    Backend,
    Buffer,
    DeviceInfo,
    Kernel,
    Launch,
    Program,
    names_software,
    require_fit,
)  # fmt: skip
from kparity.device.remedies import Reason
from kparity.errors import DeviceFault
from kparity.ops.spec import DTYPES, Array, Case, Dispatches, Op
from kparity_ggml.library import Graph, Place, opened
from kparity_ggml.op import GgmlOp

THREADS = 2
"""Of ggml's processor code: cases are small, and the split among threads is under test too."""


class GgmlLaunch(Launch):
    """An op with the buffers in which its tensors lie."""

    kernel: GgmlKernel

    def draw(self, graph: Graph) -> None:
        """Add its tensors and nodes."""
        named = (*self.kernel.args, *self.kernel.op.scratch(self.case, self.kernel.backend.dialect))
        graph.places = {arg.name: each.handle for arg, each in zip(named, self.buffers, strict=True)}
        self.kernel.op.graph(graph, self.case)


class GgmlProgram(Program):
    """Launches as one graph of ggml's, so that its threads start once."""

    backend: Ggml

    def __init__(self, backend: Backend, launches: Sequence[GgmlLaunch]) -> None:
        super().__init__(backend, launches)
        self.graph = Graph({}, len(launches))
        for launch in launches:
            launch.draw(self.graph)
        self.whole = self.graph.whole()

    def _run(self) -> None:
        status = opened().ggml.ggml_backend_graph_compute(self.backend.handle, self.whole)
        if status:
            raise DeviceFault(f"ggml_backend_graph_compute returned {status}")

    def __del__(self) -> None:
        self.graph.free()


class GgmlKernel(Kernel):
    """An op of ggml at one case."""

    launch = GgmlLaunch
    backend: Ggml
    op: GgmlOp


class Ggml(Backend):
    """A device by the name that ggml gives it."""

    device: ClassVar[str]
    dialect = "ggml"
    api = "ggml"
    libraries = ("libggml-base.so",)
    environment = ("KPARITY_LLAMACPP", "GGML_*")
    reasons: ClassVar[Mapping[str, Reason]] = {
        "KP-GGML-NOLIB": Reason(
            "no build of llama.cpp is here", "ggml's kernels are judged as they were built: in a folder, or a wheel.",
            "give --lib FOLDER, set KPARITY_LLAMACPP, or pip install xllamacpp",
        ),
        "KP-GGML-ABI": Reason(
            "the ggml of this build lacks a function", "Its C interface is older, or newer, than what is called here.",
            "use a build of llama.cpp of autumn 2026",
        ),
        "KP-GGML-NODEVICE": Reason(
            "ggml lists no such device", "Its backend is not in the folder, or found no device.",
            "see which devices the reason lists, and name one of them",
        ),
    }  # fmt: skip
    kernel, program, options = GgmlKernel, GgmlProgram, ("threads",)

    @classmethod
    def open(cls, index: int = 0, threads: int = THREADS) -> Ggml:
        devices = opened().library.devices()
        found = next((each for each in devices if each.name == cls.device), None)
        if found is None or index:
            listed = ", ".join(each.name for each in devices) or "none"
            raise cls.unavailable("KP-GGML-NODEVICE", f"no device {index} of ggml's {cls.device}; it lists: {listed}")
        return cls(found, threads)

    def __init__(self, found: Any, threads: int = THREADS) -> None:
        self.ggml, self.found = opened().ggml, found
        self.handle = self.ggml.ggml_backend_dev_init(found.handle, None)
        if not self.handle:
            raise self.unavailable("KP-GGML-NODEVICE", f"ggml does not open {found.name}")
        self.buffer_type = self.ggml.ggml_backend_dev_buffer_type(found.handle)
        registry = self.ggml.ggml_backend_dev_backend_reg(found.handle)
        setter = self.ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_set_n_threads")
        if setter:
            ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(setter)(self.handle, threads)
        software = names_software([found.description])
        self.dispatches, self.memory = Dispatches(), Memory()
        self.info = DeviceInfo(
            backend=self.name, device=found.description.strip(), kind="software" if software else self.kind,
            api=self.api, driver="", library=f"ggml {opened().library.version}",
            detail=f"{threads} thread{'s' * (threads > 1)}" if setter else "",
            shown=("device", "library", "detail", "kind"),
        )  # fmt: skip

    kind: ClassVar[Any] = "gpu"

    def supports(self, op: Op, case: Case) -> str | None:
        """The answer of ggml to each node."""
        if not isinstance(op, GgmlOp):
            return f"{op.name} is no op of ggml"
        graph = Graph()
        try:
            op.graph(graph, case)
            for node in graph.nodes:
                if not self.ggml.ggml_backend_dev_supports_op(self.found.handle, node):
                    return f"supports_op says no to {self.ggml.ggml_op_desc(node).decode()}"
            return graph.refused or None
        finally:
            graph.free()

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        nbytes = max(math.prod(shape) * DTYPES[dtype].itemsize, 1)
        buffer, memory = self.allocated(nbytes)
        if not buffer:
            raise DeviceFault(f"ggml allocates no {nbytes} bytes on {self.device}")
        base = self.ggml.ggml_backend_buffer_get_base(buffer)
        return Buffer(Place(buffer, base, nbytes, memory=memory), dtype, shape)

    def allocated(self, nbytes: int) -> tuple[int, Any]:
        """A buffer of ggml's, and what lies under it where that is ours."""
        return self.ggml.ggml_backend_buft_alloc_buffer(self.buffer_type, nbytes), None

    def view(self, buffer: Buffer, start: int, shape: tuple[int, ...]) -> Buffer:
        size = DTYPES[buffer.dtype].itemsize
        return Buffer(buffer.handle.part(start * size, math.prod(shape) * size), buffer.dtype, shape)

    def write(self, buffer: Buffer, array: Array) -> None:
        require_fit(buffer, array)
        array = np.ascontiguousarray(array)
        self.ggml.ggml_backend_tensor_set(buffer.handle.bytes, array.ctypes.data, 0, array.nbytes)

    def download(self, buffer: Buffer) -> Array:
        array = np.empty(buffer.shape, DTYPES[buffer.dtype])
        self.ggml.ggml_backend_tensor_get(buffer.handle.bytes, array.ctypes.data, 0, array.nbytes)
        return array

    def sync(self) -> None:
        self.ggml.ggml_backend_synchronize(self.handle)


class Cpu(Ggml):
    """ggml's processor code, of whatever instruction set it chose."""

    name, device, id_dialects, kind, drives_gpu = "ggml:CPU", "CPU", ("ggmlcpu",), "cpu", False
    bound_by_memory = True

    def allocated(self, nbytes: int) -> tuple[int, Any]:
        """On huge pages, as the buffers of the cpu backend: beside each other, both are timed alike."""
        memory = self.memory.empty((nbytes,), np.dtype(np.uint8))
        return self.ggml.ggml_backend_cpu_buffer_from_ptr(memory.ctypes.data, nbytes), memory


class Vulkan0(Ggml):
    """ggml's first Vulkan device."""

    name, device, id_dialects = "ggml:Vulkan0", "Vulkan0", ("ggmlvulkan",)


class Cuda0(Ggml):
    """ggml's first CUDA device."""

    name, device, id_dialects = "ggml:CUDA0", "CUDA0", ("ggmlcuda",)
