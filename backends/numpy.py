"""numpy: the specification itself, run op by op; the reference at f32, and the truth at fp64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from kparity.device.adapter import Backend, Buffer, DeviceInfo, Kernel, Launch, sliced
from kparity.device.remedies import Reason
from kparity.errors import WrongInput
from kparity.ops.spec import DTYPES, Array, Dispatches


class NumpyBound(Launch):
    """A reference function with its arrays."""

    kernel: NumpyKernel

    def __call__(self) -> None:
        kernel = self.kernel
        inputs = [b.handle.reshape(b.shape) for a, b in zip(kernel.args, self.buffers, strict=True) if a.role != "out"]
        outputs = [b.handle.reshape(b.shape) for a, b in zip(kernel.args, self.buffers, strict=True) if a.role != "in"]
        with np.errstate(all="ignore"):  # infinities and NaN are values here; gates judge them
            results = kernel.op.reference(kernel.case, inputs, kernel.backend.floats)
        for target, value in zip(outputs, results, strict=True):
            target[...] = value


class NumpyKernel(Kernel):
    """The op's reference function at the backend's precision."""

    launch = NumpyBound
    backend: NumpyBackend


class NumpyBackend(Backend):
    """With ``precision="f64"`` every f32 buffer holds fp64 values: nothing is rounded between two ops."""

    name = "numpy"
    dialect = "numpy"
    api = "numpy"
    drives_gpu = False
    packages = ("numpy",)
    reasons: ClassVar[Mapping[str, Reason]] = {
        "KP-NUMPY-NODEVICE": Reason(
            "numpy has one device",
            "An index above 0 was asked for; numpy computes on the machine that it runs on.",
            "use index 0",
        ),
    }
    view = sliced
    kernel = NumpyKernel

    def __init__(self, precision: str = "f32") -> None:
        self.floats = np.dtype(np.float64 if precision == "f64" else np.float32)
        self.dispatches = Dispatches()
        self.info = DeviceInfo(
            backend="numpy", device="host", kind="cpu", api=self.api, driver="", library=f"numpy {np.__version__}",
            detail=precision, shown=("api", "device", "detail"),
        )  # fmt: skip

    @classmethod
    def open(cls, index: int = 0) -> NumpyBackend:
        if index != 0:
            raise cls.unavailable("KP-NUMPY-NODEVICE", f"there is no numpy device {index}")
        return cls()

    def _storage(self, dtype: str) -> np.dtype[Any]:
        return self.floats if dtype == "f32" else DTYPES[dtype]

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        return Buffer(np.zeros(shape, self._storage(dtype)), dtype, shape)

    def host_memory(self, buffer: Buffer) -> Array | None:
        return buffer.handle if buffer.handle.dtype == DTYPES[buffer.dtype] else None

    def write(self, buffer: Buffer, array: Array) -> None:
        if array.dtype not in (DTYPES[buffer.dtype], buffer.handle.dtype) or array.size != buffer.handle.size:
            got, wanted = f"{array.dtype}{list(array.shape)}", f"{buffer.dtype}{list(buffer.shape)}"
            raise WrongInput(f"{got} does not fill a buffer of {wanted}")
        buffer.handle[...] = array.reshape(buffer.handle.shape)

    def download(self, buffer: Buffer) -> Array:
        copy: Array = buffer.handle.reshape(buffer.shape).copy()
        return copy

    def sync(self) -> None:
        """Nothing is pending."""
