"""torch: the ops in torch operations, on whatever device torch serves; for comparison, not for speed.

The first of CUDA, ROCm, XPU, MPS and the CPU is device 0, and the others follow in that order; ``DeviceInfo`` says
which one it is.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar

import numpy as np

from kparity.device.adapter import Backend, Buffer, DeviceInfo, Kernel, Launch, Program, require_fit, sliced
from kparity.device.remedies import Reason, missing_package
from kparity.errors import DeviceFault
from kparity.host.processors import processors
from kparity.ops.spec import DTYPES, Array, Case, Dispatches, Op

HANDLES = {"f32": "float32", "f16": "float16", "i32": "int32", "u32": "int32", "i8": "int8"}
"""torch's name of each element type; u32 words are held as int32, which has every operation and the same bits."""

Run = Callable[[Any, Case, list[Any]], list[Any]]


def module_of(op: Op) -> str:
    """Where the torch text of an op is."""
    return f"{op.texts}.{op.name}.{op.name}_torch"


@contextmanager
def faults(torch: Any) -> Iterator[None]:
    """Turn torch's errors into DeviceFault."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as problem:  # every device's, since torch 2.5 under a shorter name
        raise DeviceFault(f"torch is out of memory: {str(problem).splitlines()[0]}", "KP-DEVICE-OOM") from problem
    except RuntimeError as problem:
        raise DeviceFault(f"torch: {str(problem).splitlines()[0]}") from problem


class TorchBound(Launch):
    """The function of an op with its tensors."""

    kernel: TorchKernel

    def __init__(self, kernel: TorchKernel, buffers: Sequence[Buffer]) -> None:
        super().__init__(kernel, buffers)
        roles = [arg.role for arg in kernel.args]
        # One view per buffer: a buffer may be bound under another shape than it was made with.
        views = [buffer.handle.view(buffer.shape) for buffer in buffers]
        self.inputs = [view for role, view in zip(roles, views, strict=True) if role != "out"]
        self.outputs = [view for role, view in zip(roles, views, strict=True) if role != "in"]

    def __call__(self) -> None:
        """Run it; a result that was not written in place is copied to its buffer."""
        kernel = self.kernel
        results = kernel.run(kernel.backend.torch, kernel.case, self.inputs)
        for target, value in zip(self.outputs, results, strict=True):
            if value is not target:
                target.copy_(value.view(target.shape))


class TorchKernel(Kernel):
    """The torch text of an op at one case."""

    launch = TorchBound
    backend: TorchBackend

    def __init__(self, backend: TorchBackend, op: Op, case: Case) -> None:
        super().__init__(backend, op, case)
        self.run: Run = import_module(module_of(op)).run


class TorchProgram(Program):
    """Calls in order, without a gradient."""

    backend: TorchBackend

    def _run(self) -> None:
        with faults(self.backend.torch), self.backend.torch.inference_mode():
            super()._run()

    def run_timed(self) -> float:
        """Seconds between two events on CUDA, ROCm and XPU, by the device's clock; of the wall elsewhere."""
        if not self.backend.device_clock:
            return super().run_timed()
        torch, device = self.backend.torch, self.backend.device
        api = getattr(torch, device.type)
        self.backend.sync()
        with faults(torch), api.device(device):
            begin, end = (api.Event(enable_timing=True) for _ in range(2))
            begin.record()
        self.run()
        with faults(torch), api.device(device):
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end)) * 1e-3


class TorchBackend(Backend):
    """Tensors on one device of torch."""

    name = "torch"
    dialect = "torch"
    packages = ("torch",)
    extra = "torch"
    environment = ("CUDA_*", "HIP_*", "ROCR_*", "HSA_*", "ZE_*", "ONEAPI_*", "TORCH_*", "PYTORCH_*", "NVIDIA_*")
    options = ("threads",)
    reasons: ClassVar[Mapping[str, Reason]] = {
        "KP-TORCH-NOLIB": missing_package(packages[0], extra),
        "KP-TORCH-NODEVICE": Reason(
            "torch has no such device",
            "torch reports fewer devices than the index that was asked for.",
            "use a lower index",
        ),
    }
    view = sliced
    kernel = TorchKernel
    program = TorchProgram

    def __init__(self, torch: Any, device: str) -> None:
        self.torch, self.device = torch, torch.device(device)
        self.device_clock = self.device.type in ("cuda", "xpu")
        torch.set_float32_matmul_precision("highest")  # TF32 has 11 bits: sums of products would not be exact
        self.dispatches = Dispatches()
        self.info = describe(torch, self.device)

    @classmethod
    def open(cls, index: int = 0, threads: int = 0) -> TorchBackend:
        """Open device ``index``; ``threads`` is for the CPU, 0 for torch's own choice."""
        try:
            torch = import_module("torch")
        except (ImportError, OSError) as problem:  # OSError: a shared library of torch's own is missing
            raise cls.unavailable("KP-TORCH-NOLIB", f"torch cannot be imported ({problem})") from None
        torch.set_num_threads(threads or min(torch.get_num_threads(), processors()))  # torch heeds no quota
        names = devices(torch)
        if not 0 <= index < len(names):
            remedy = f"use 0 to {len(names) - 1}: {', '.join(names)}"
            raise cls.unavailable("KP-TORCH-NODEVICE", f"there is no torch device {index}", remedy)
        return cls(torch, names[index])

    def _tensor(self, array: Array) -> Any:
        return self.torch.from_numpy(array.view(np.int32) if array.dtype == np.uint32 else array)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        with faults(self.torch):
            kind = getattr(self.torch, HANDLES[dtype])
            return Buffer(self.torch.empty(shape, dtype=kind, device=self.device), dtype, shape)

    def host_memory(self, buffer: Buffer) -> Array | None:
        array: Array | None = buffer.handle.numpy() if self.device.type == "cpu" else None
        return array if array is None else array.view(DTYPES[buffer.dtype])

    def write(self, buffer: Buffer, array: Array) -> None:
        require_fit(buffer, array)
        with faults(self.torch):
            buffer.handle.copy_(self._tensor(array.reshape(buffer.shape).copy()))

    def download(self, buffer: Buffer) -> Array:
        with faults(self.torch):
            array: Array = np.array(buffer.handle.cpu().numpy(), order="C", copy=True)
        return array.view(DTYPES[buffer.dtype])

    def copy(self, source: Buffer, target: Buffer) -> None:
        with faults(self.torch):
            target.handle.copy_(source.handle)

    def sync(self) -> None:
        with faults(self.torch):
            if self.device.type == "mps":
                self.torch.mps.synchronize()
            elif self.device.type != "cpu":  # without the device, torch waits for its current one
                getattr(self.torch, self.device.type).synchronize(self.device)


def devices(torch: Any) -> list[str]:
    """The devices that torch serves here, the CPU last."""
    names = [f"cuda:{at}" for at in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        names += [f"xpu:{at}" for at in range(torch.xpu.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def cuda_driver(torch: Any) -> str:
    """The CUDA version that the driver speaks, or an empty string: torch's own version is that of its libraries."""
    ask = getattr(torch._C, "_cuda_getDriverVersion", None)
    version = int(ask()) if ask is not None else 0
    return f"CUDA {version // 1000}.{version % 1000 // 10}" if version else ""


def describe(torch: Any, device: Any) -> DeviceInfo:
    """What torch knows about a device."""
    library = f"torch {torch.__version__}"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        rocm = torch.version.hip is not None
        uuid = str(getattr(properties, "uuid", ""))
        facts = [properties.gcnArchName if rocm else f"sm_{properties.major}{properties.minor}"]
        facts += [f"{properties.multi_processor_count} {'CUs' if rocm else 'SMs'}"]
        return DeviceInfo(
            backend="torch", device=properties.name, kind="gpu", api="ROCm" if rocm else "CUDA",
            driver="" if rocm else cuda_driver(torch),
            library=f"{library}, HIP {torch.version.hip}" if rocm else f"{library}, CUDA {torch.version.cuda}",
            uuid=f"GPU-{uuid}" if uuid and not rocm else uuid, subgroup=getattr(properties, "warp_size", 0),
            max_binding=properties.total_memory, detail=", ".join(facts),
        )  # fmt: skip
    if device.type == "xpu":
        properties = torch.xpu.get_device_properties(device)
        return DeviceInfo(
            backend="torch", device=properties.name, kind="gpu", api="XPU", library=library,
            driver=str(getattr(properties, "driver_version", "")), uuid=str(getattr(properties, "uuid", "")),
        )  # fmt: skip
    if device.type == "mps":
        return DeviceInfo("torch", platform.processor() or "Apple GPU", "gpu", "MPS", platform.mac_ver()[0], library)
    return DeviceInfo(
        backend="torch", device=platform.processor() or platform.machine() or "cpu", kind="cpu", api="CPU", driver="",
        library=library, detail=f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
    )  # fmt: skip
