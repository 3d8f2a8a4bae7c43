"""A device of ggml as a backend: buffers between kparity's sentinels, a graph per case, ``supports_op`` as its word."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from kparity.device.adapter import Backend, Buffer, DeviceInfo, Kernel, Launch, names_software, require_fit
from kparity.device.remedies import Reason
from kparity.errors import DeviceFault
from kparity.ops.spec import DTYPES, Array, Case, Dispatches, Op
from kparity_ggml.library import Graph, Place, opened
from kparity_ggml.op import GgmlOp

THREADS = 2
"""Of ggml's processor code: cases are small, and the split among threads is under test too."""


class GgmlLaunch(Launch):
    """A graph whose tensors lie in the buffers."""

    kernel: GgmlKernel

    def __init__(self, kernel: Kernel, buffers: Sequence[Buffer]) -> None:
        super().__init__(kernel, buffers)
        named = (*kernel.args, *kernel.op.scratch(kernel.case, kernel.backend.dialect))
        self.graph = Graph({arg.name: each.handle for arg, each in zip(named, self.buffers, strict=True)})
        self.kernel.op.graph(self.graph, kernel.case)
        self.whole = self.graph.whole()

    def __call__(self) -> None:
        status = opened().ggml.ggml_backend_graph_compute(self.kernel.backend.handle, self.whole)
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
            "no build of llama.cpp is named", "ggml's kernels are judged as they were built: in a folder of libraries.",
            "give --lib FOLDER, or set KPARITY_LLAMACPP",
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
    kernel = GgmlKernel

    @classmethod
    def open(cls, index: int = 0) -> Ggml:
        devices = opened().library.devices()
        found = next((each for each in devices if each.name == cls.device), None)
        if found is None or index:
            listed = ", ".join(each.name for each in devices) or "none"
            raise cls.unavailable("KP-GGML-NODEVICE", f"no device {index} of ggml's {cls.device}; it lists: {listed}")
        return cls(found)

    def __init__(self, found: Any) -> None:
        self.ggml, self.found = opened().ggml, found
        self.handle = self.ggml.ggml_backend_dev_init(found.handle, None)
        if not self.handle:
            raise self.unavailable("KP-GGML-NODEVICE", f"ggml does not open {found.name}")
        self.buffer_type = self.ggml.ggml_backend_dev_buffer_type(found.handle)
        registry = self.ggml.ggml_backend_dev_backend_reg(found.handle)
        threads = self.ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_set_n_threads")
        if threads:
            ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(threads)(self.handle, THREADS)
        software = names_software([found.description])
        self.dispatches = Dispatches()
        self.info = DeviceInfo(
            backend=self.name, device=found.description.strip(), kind="software" if software else self.kind,
            api=self.api, driver="", library=f"ggml {opened().library.version}", shown=("device", "library", "kind"),
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
        buffer = self.ggml.ggml_backend_buft_alloc_buffer(self.buffer_type, nbytes)
        if not buffer:
            raise DeviceFault(f"ggml allocates no {nbytes} bytes on {self.device}")
        return Buffer(Place(buffer, self.ggml.ggml_backend_buffer_get_base(buffer), nbytes), dtype, shape)

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


class Vulkan0(Ggml):
    """ggml's first Vulkan device."""

    name, device, id_dialects = "ggml:Vulkan0", "Vulkan0", ("ggmlvulkan",)


class Cuda0(Ggml):
    """ggml's first CUDA device."""

    name, device, id_dialects = "ggml:CUDA0", "CUDA0", ("ggmlcuda",)
