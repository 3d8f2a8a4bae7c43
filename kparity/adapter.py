"""The interface between the harness and a device API: one subclass of ``Backend`` per file in ``backends/``."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from kparity.assemble import missing_text
from kparity.errors import WrongInput
from kparity.spec import DTYPES, Array, Case, Dispatches, Op

Kind = Literal["gpu", "cpu", "software"]


@dataclass(frozen=True)
class DeviceInfo:
    """Which device serves, as far as its API tells.

    ``kind`` is never guessed upwards: a software rasteriser is ``software`` and a CPU behind a GPU API is ``cpu``,
    whatever their names say. ``uuid`` is the API's UUID or PCI id, or an empty string where the API has none.
    """

    backend: str
    device: str
    kind: Kind
    api: str
    driver: str
    library: str
    uuid: str = ""
    max_binding: int = 1 << 62
    """Largest single buffer in bytes that a kernel can bind."""
    max_threads: int = 256
    """Work-items that one group may have."""
    subgroup: int = 0
    """Lanes of a subgroup (wavefront, warp); 0 where there are none."""
    detail: str = ""
    """Whatever else identifies the code that runs: instruction set and threads, compute capability, architecture."""

    @property
    def label(self) -> str:
        """What stands after ``Backend:`` in the log, for example ``wgpu (Vulkan, llvmpipe …, software)``."""
        if self.backend == "cpu" and self.detail:  # the instruction set and the threads say it all
            return f"cpu ({self.detail})"
        parts = [part for part in (self.api, self.device, self.detail) if part]
        if self.kind != "gpu" and self.backend not in ("cpu", "numpy"):
            parts.append(f"{self.kind} device" if self.kind == "cpu" else "software")
        return f"{self.backend} ({', '.join(dict.fromkeys(parts))})"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass
class Buffer:
    """Memory on a device. ``handle`` belongs to the backend that made it."""

    handle: Any
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of payload (a backend may allocate more)."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count * DTYPES[self.dtype].itemsize


class Bound(ABC):
    """A kernel with its buffers fixed: what a program is made of."""

    kernel_id: str


class Kernel(ABC):
    """A compiled op at one case."""

    id: str
    """``<op>_<dialect>_<variant>``."""

    def __init__(self, kernel_id: str, op: Op, case: Case) -> None:
        self.id, self.op, self.case = kernel_id, op, case
        self.args = op.args(case)

    def check(self, buffers: Sequence[Buffer]) -> None:
        """Raise WrongInput unless the buffers are what the ABI says, in number, dtype and shape."""
        if len(buffers) != len(self.args):
            raise WrongInput(f"{self.case.id}: {len(buffers)} buffers given, the ABI has {len(self.args)}")
        for arg, buffer in zip(self.args, buffers, strict=True):
            if buffer.dtype != arg.dtype or tuple(buffer.shape) != arg.shape:
                raise WrongInput(
                    f"{self.case.id}: {arg.name} is {buffer.dtype}{list(buffer.shape)}, "
                    f"expected {arg.dtype}{list(arg.shape)}"
                )

    @abstractmethod
    def bind(self, *buffers: Buffer) -> Bound:
        """Fix the buffers; cheap to replay."""


class Program(ABC):
    """A fixed list of launches that replays in order: a decode step, a prefill chunk, one op."""

    def __init__(self, backend: Backend, launches: Sequence[Bound]) -> None:
        self.backend, self.launches = backend, list(launches)
        self._counts: dict[str, int] = {}
        for launch in self.launches:
            self._counts[launch.kernel_id] = self._counts.get(launch.kernel_id, 0) + 1

    @abstractmethod
    def _run(self) -> None:
        """Enqueue every launch, in order."""

    def run(self) -> None:
        """Replay the program (asynchronously where the API is) and count its dispatches."""
        self._run()
        for kernel_id, times in self._counts.items():
            self.backend.dispatches.add(kernel_id, times)

    def run_eager(self) -> None:
        """Run every launch by itself, with the device idle in between: what a recording must not differ from by a
        bit.
        """
        for launch in self.launches:
            self.backend.record([launch]).run()
            self.backend.sync()

    def run_timed(self) -> float:
        """Replay, synchronise, and return seconds on the device's own clock, or of the wall where the API has none."""
        self.backend.sync()
        started = time.perf_counter()
        self.run()
        self.backend.sync()
        return time.perf_counter() - started


class Backend(ABC):
    """One device behind one API. Opened by ``open``, closed by ``close``; not thread-safe."""

    name: ClassVar[str]
    dialect: ClassVar[str]
    info: DeviceInfo
    dispatches: Dispatches

    @classmethod
    @abstractmethod
    def open(cls, index: int = 0) -> Backend:
        """Open device ``index``; raise Unavailable(reason, remedy, code) where there is none."""

    def supports(self, op: Op, case: Case) -> str | None:
        """``None``, or the reason why this device cannot run the case."""
        for arg in op.args(case):
            if arg.nbytes > self.info.max_binding:
                return f"{arg.name} has {arg.nbytes} bytes, one binding of this device holds {self.info.max_binding}"
        return missing_text(op, self.dialect)

    @abstractmethod
    def upload(self, array: Array) -> Buffer:
        """Copy a C-contiguous array to the device; raise WrongInput for another layout or dtype."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Allocate without defined content."""

    @abstractmethod
    def write(self, buffer: Buffer, array: Array) -> None:
        """Overwrite a whole buffer, in order with the programs that run before and after."""

    @abstractmethod
    def download(self, buffer: Buffer) -> Array:
        """Copy to a new numpy array; waits for everything enqueued before."""

    def copy(self, source: Buffer, target: Buffer) -> None:
        """Copy a buffer over another of its size, in order with the programs that run before and after. This way leads
        through the host: an adapter overrides it by its API's copy on the device.
        """
        self.write(target, self.download(source))

    def copy_timed(self, source: Buffer, target: Buffer) -> float:
        """Copy, synchronise, and return seconds on the device's own clock, or of the wall where the API has none: then
        five copies less one, which are free of what a submission costs.
        """
        few, many = (self._copied(source, target, times) for times in (1, 5))
        return (many - few) / 4 if many > few else many / 5

    def _copied(self, source: Buffer, target: Buffer, times: int) -> float:
        """Wall seconds of copies that nobody waits for in between."""
        self.sync()
        started = time.perf_counter()
        for _ in range(times):
            self.copy(source, target)
        self.sync()
        return time.perf_counter() - started

    @abstractmethod
    def build(self, op: Op, case: Case) -> Kernel:
        """Compile (or fetch from the backend's own memory) the kernel; raise CompileFailed."""

    @abstractmethod
    def record(self, launches: Sequence[Bound]) -> Program:
        """Make a program of bound kernels."""

    @abstractmethod
    def sync(self) -> None:
        """Wait until the device is idle; raise DeviceFault for whatever went wrong since the last call."""

    @abstractmethod
    def close(self) -> None:
        """Release the device. The backend must not be used afterwards."""


def dtype_name(array: Array) -> str:
    """The kparity name of a numpy dtype; raise WrongInput for one that no buffer has."""
    for name, dtype in DTYPES.items():
        if array.dtype == dtype:
            return name
    raise WrongInput(f"no buffer holds dtype {array.dtype}; use one of {', '.join(DTYPES)}")


def require_contiguous(array: Array) -> None:
    """Raise WrongInput unless the array can be copied as it lies."""
    if not array.flags.c_contiguous:
        raise WrongInput(f"array of shape {array.shape} is not C-contiguous; pass np.ascontiguousarray(array)")
