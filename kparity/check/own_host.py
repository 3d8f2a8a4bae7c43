"""What judges a kernel that is called on the host: numpy's memory, one call a launch, and no word on what computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from kparity.backends._memory import aligned_empty
from kparity.backends.numpy import NumpyBackend
from kparity.check.own import Own
from kparity.device.adapter import Buffer, DeviceInfo, Kernel, Launch
from kparity.errors import WrongInput
from kparity.ops.assemble import Source
from kparity.ops.spec import DTYPES, Array, Case, Op


class OwnHost(NumpyBackend):
    """The base of a backend that calls one kernel; its subclass is made by ``Own.adapter``."""

    own: ClassVar[Own]

    def __init__(self) -> None:
        super().__init__()
        self.info = DeviceInfo(
            backend=self.name, device="host", kind="cpu", api=self.name, driver="", library="",
            detail=f"{self.own.path}:{self.own.kernel}", shown=("detail",),
        )  # fmt: skip

    @classmethod
    def open(cls, index: int = 0) -> OwnHost:
        if index != 0:
            raise WrongInput(f"--index {index}: {cls.name} is called on the host, which is 0")
        return cls()

    @classmethod
    def source(cls, op: Op, case: Case, constants: Mapping[str, int | float]) -> Source | None:
        return None

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        buffer = Buffer(aligned_empty(shape, DTYPES[dtype]), dtype, shape)
        buffer.handle[...] = 0
        return buffer

    def supports(self, op: Op, case: Case) -> str | None:
        """None, or what the mapping, or the kernel itself, says against the case."""
        return None if self.own.takes(case) else f"left out by the condition of {self.own.map_path}"


class OwnBound(Launch):
    """A call with its arrays."""

    kernel: OwnHostKernel

    def __call__(self) -> None:
        given = zip(self.kernel.args, self.buffers, strict=True)
        self.kernel.call({arg.name: buffer.handle.reshape(buffer.shape) for arg, buffer in given})


class OwnHostKernel(Kernel):
    """One kernel at a case."""

    launch = OwnBound

    def __init__(self, backend: OwnHost, op: Op, case: Case) -> None:
        super().__init__(backend, op, case)
        self.id = f"{op.name}_{backend.id_dialect}_own_{op.variant(case)}"

    def call(self, arrays: Mapping[str, Array]) -> None:
        """Compute the outputs among the arrays (name → array of the op's dtype and shape) from the others."""
        raise NotImplementedError
