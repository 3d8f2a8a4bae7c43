"""The interface between the harness and a device API: one subclass of ``Backend`` per file in ``backends/``."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta, Struct

from kparity.device.remedies import Reason
from kparity.errors import Unavailable, WrongInput
from kparity.ops.assemble import Source, missing_text
from kparity.ops.spec import DTYPES, Array, Case, Dispatches, Op

Kind = Literal["gpu", "cpu", "software"]
Shown = Literal["device", "kind", "api", "driver", "library", "uuid", "detail"]
LARGEST = 2**63 - 1
"""Of a whole number in a document."""

SOFTWARE = ("llvmpipe", "lavapipe", "softpipe", "swiftshader", "basic render")
"""Parts of the names of rasterisers, which several APIs reach; ``Backend.software`` adds those of one API."""


class Device(Struct, frozen=True, forbid_unknown_fields=True):
    """Which device serves, as far as its API tells, and as documents hold it.

    ``kind`` is never guessed upwards: a software rasteriser is ``software`` and a CPU behind a GPU API is ``cpu``,
    whatever their names say. ``uuid`` is the API's UUID or PCI id, or an empty string where the API has none.
    """

    backend: str
    device: str
    kind: Kind
    api: str
    driver: str
    library: str
    uuid: str
    max_binding: Annotated[int, Meta(ge=1, le=LARGEST)] = 1 << 62
    """Largest single buffer in bytes that a kernel can bind."""
    max_threads: Annotated[int, Meta(ge=1, le=1 << 20)] = 256
    """Work-items that one group may have."""
    subgroup: Annotated[int, Meta(ge=0, le=128)] = 0
    """Lanes of a subgroup (wavefront, warp); 0 where there are none."""
    detail: str = ""
    """Whatever else identifies the code that runs: instruction set and threads, compute capability, architecture."""

    @property
    def identified(self) -> bool:
        """Whether it can be told from another one of its model: a GPU by its UUID or bus alone."""
        return self.kind != "gpu" or bool(self.uuid)

    def another(self, now: Device) -> str:
        """How it differs from a device that should be the same one, in words; empty where nothing differs that both
        tell. Where that is no identity, they may be two all the same.
        """
        told = ((name, getattr(self, name), getattr(now, name)) for name in ("uuid", "device", "kind", "api", "driver"))
        return next((f"{name} {now or 'none'} for {then or 'none'}" for name, then, now in told if then != now), "")


class DeviceInfo(Device, frozen=True):
    """A device as its backend describes it."""

    uuid: str = ""
    shown: tuple[Shown, ...] = ("api", "device", "detail", "kind")
    """The fields that ``label`` shows; of the kinds it shows those that are no GPU."""

    @property
    def label(self) -> str:
        """What stands after ``Backend:`` in the log, for example ``wgpu (Vulkan, llvmpipe …, software)``."""
        values = {**self.as_dict(), "kind": {"gpu": "", "cpu": "cpu device", "software": "software"}[self.kind]}
        parts = [values[name] for name in self.shown if values[name]]
        return f"{self.backend} ({', '.join(dict.fromkeys(parts))})"

    @property
    def plain(self) -> Device:
        """Without how it is shown."""
        return Device(**self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The fields of ``Device``, plain values for JSON."""
        return {name: getattr(self, name) for name in Device.__struct_fields__}


def names_software(names: Sequence[str], more: Sequence[str] = ()) -> bool:
    """Whether one of a device's names has a part of SOFTWARE, or of ``more``."""
    text = " ".join(names).lower()
    return any(part in text for part in (*SOFTWARE, *more))


@dataclass
class Buffer:
    """Memory on a device. ``handle`` belongs to the backend that made it."""

    handle: Any
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of payload (a backend may allocate more)."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class Launch:
    """A kernel with its buffers, then its scratch memory, fixed: what a program is made of. It keeps them alive."""

    def __init__(self, kernel: Kernel, buffers: Sequence[Buffer]) -> None:
        self.kernel, self.buffers = kernel, (*buffers, *kernel.scratch)
        self.kernel_id, self.case = kernel.id, kernel.case

    def __call__(self) -> None:
        """Run it, where a program is nothing but its launches, one after the other."""
        raise NotImplementedError


class Kernel:
    """A compiled op at one case, with the scratch memory that its stages share: launches follow each other."""

    launch: ClassVar[type[Launch]] = Launch
    """What ``bind`` makes of it."""
    id: str
    """``<op>_<dialect>_<variant>``."""

    def __init__(self, backend: Backend, op: Op, case: Case) -> None:
        self.backend, self.op, self.case = backend, op, case
        self.id = f"{op.name}_{backend.id_dialect}_{op.variant(case)}"
        self.args, self.stages = op.args(case), op.stages(case, backend.dialect)
        self.scratch = []
        for arg in op.scratch(case, backend.dialect):
            self.scratch.append(backend.empty(arg.shape, arg.dtype))
            if arg.role == "inout":  # what a launch leaves there is read by the next
                backend.write(self.scratch[-1], np.zeros(arg.shape, DTYPES[arg.dtype]))

    def shared(self, one: Buffer, other: Buffer) -> bool:
        """Whether two buffers have memory in common, where the text declares that what it writes has not."""
        return False

    def check(self, buffers: Sequence[Buffer]) -> None:
        """Raise WrongInput unless the buffers are what the ABI says, and nothing written shares memory with another."""
        if len(buffers) != len(self.args):
            raise WrongInput(f"{self.case.id}: {len(buffers)} buffers given, the ABI has {len(self.args)}")
        for arg, buffer in zip(self.args, buffers, strict=True):
            if buffer.dtype != arg.dtype or tuple(buffer.shape) != arg.shape:
                raise WrongInput(
                    f"{self.case.id}: {arg.name} is {buffer.dtype}{list(buffer.shape)}, "
                    f"expected {arg.dtype}{list(arg.shape)}"
                )
        for at, arg in enumerate(self.args):
            others = (*buffers[:at], *buffers[at + 1 :])
            if arg.role != "in" and any(self.shared(buffers[at], other) for other in others):
                raise WrongInput(f"{self.case.id}: {arg.name} is written and bound twice; its text forbids that")

    def bind(self, *buffers: Buffer) -> Launch:
        """Fix the buffers; cheap to replay."""
        self.check(buffers)
        return self.launch(self, buffers)


class Program:
    """A fixed list of launches that replays in order: a decode step, a prefill chunk, one op."""

    def __init__(self, backend: Backend, launches: Sequence[Launch]) -> None:
        self.backend, self.launches = backend, list(launches)
        if any(launch.kernel.backend is not backend for launch in launches):
            raise WrongInput(f"a program of {backend.name} holds launches of this device only")
        self._counts = Counter(launch.kernel_id for launch in self.launches)

    @property
    def replayed(self) -> bool | None:
        """Whether the last run replayed a graph of the API; None where there are none."""
        return None

    def _run(self) -> None:
        """Enqueue every launch, in order."""
        for launch in self.launches:
            launch()

    def run(self) -> None:
        """Replay the program (asynchronously where the API is) and count its dispatches."""
        self._run()
        self.count()

    def count(self) -> None:
        """Count the dispatches of one run."""
        for kernel_id, times in self._counts.items():
            self.backend.dispatches.add(kernel_id, times)

    def run_eager(self) -> None:
        """Run each launch by itself, the device idle in between: a recording must not differ from it by a bit."""
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
    """One device behind one API. Opened by ``open``, closed by ``close``; not thread-safe.

    A backend is one file: its class declares what is true of it, and the registry, the commands, the fingerprints and
    the rules of receipts read it there. They import the module to read it, in a child where it is another package's
    (``kparity.device.declared``), so that this opens no device and imports no vendor library: ``open`` does. What has
    a default here may be left out.
    """

    name: ClassVar[str]
    """What it is called by, and the stem of its file in ``backends/``."""
    dialect: ClassVar[str]
    """What it compiles: a key of ``assemble.TEXTS``, or a language whose texts it brings itself."""
    api: ClassVar[str] = ""
    """The one API that ``DeviceInfo.api`` names; empty where the backend sits on several."""
    id_dialects: ClassVar[tuple[str, ...]] = ()
    """Dialects in the ids of its kernels (``<op>_<dialect>_<variant>``); empty for its name."""
    drives_gpu: ClassVar[bool] = True
    """Whether its device can be a GPU."""
    place: ClassVar[int | None] = None
    """Place in the dispatcher's default order, the smallest first; None, and in a package outside of kparity, for a
    backend that is tried where it is named."""
    slow: ClassVar[bool] = False
    """Whether commands leave it out where nobody names it: an interpreter, with which everything takes long."""
    bound_by_memory: ClassVar[bool] = False
    """Of one on a processor, whether its kernels are as fast as memory: then cold weights are timed beside hot ones."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Python distributions that it is driven through, any one of a kind."""
    extra: ClassVar[str] = ""
    """The pip extra of kparity that brings them."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Shared libraries of the driver, as the dynamic linker looks for them."""
    manifests: ClassVar[tuple[str, ...]] = ()
    """Folders in which drivers are registered."""
    nodes: ClassVar[tuple[str, ...]] = ()
    """Device nodes that this user must be allowed to open."""
    driver_files: ClassVar[tuple[str, ...]] = ()
    """Patterns of the files, beside those in ``manifests``, that change when the driver does."""
    environment: ClassVar[tuple[str, ...]] = ()
    """Variables that change which device it gets or what it computes: names, and prefixes written ``VK_*``."""
    software: ClassVar[tuple[str, ...]] = ()
    """Parts of the names of its software devices, in small letters, that ``SOFTWARE`` lacks."""
    options: ClassVar[tuple[str, ...]] = ()
    """What ``open`` takes beside the index, by keyword."""
    reasons: ClassVar[Mapping[str, Reason]] = {}
    """Code → why it cannot be opened: the codes of every Unavailable that ``open`` raises."""

    kernel: ClassVar[type[Kernel]] = Kernel
    program: ClassVar[type[Program]] = Program
    """What ``build`` and ``record`` make."""
    grid: tuple[int, ...] = ()
    """Work-groups that a launch may have, per dimension; empty where there are no grids."""
    constants: Mapping[str, int | float] = {}
    """What the device adds to the constants of a text; of the class, what stands for a device that is not here."""

    info: DeviceInfo
    dispatches: Dispatches
    device_clock: bool = False
    """Whether ``Program.run_timed`` reads the device's own clock, not the wall's."""
    copy_clock: bool = False
    """Whether ``copy_timed`` does."""

    @classmethod
    @abstractmethod
    def open(cls, index: int = 0) -> Backend:
        """Open device ``index``; raise ``unavailable(code, reason)`` where there is none."""

    @classmethod  # noqa: B027
    def refuse_environment(cls) -> None:
        """Raise WrongInput for a variable of the user's that cannot be heeded, before anything is opened."""

    @classmethod
    def source(cls, op: Op, case: Case, constants: Mapping[str, int | float]) -> Source | None:
        """The text that its compiler gets; None where it assembles none."""
        return None

    @classmethod
    def kernel_dialects(cls) -> tuple[str, ...]:
        """The dialects that the ids of its kernels name."""
        return cls.id_dialects or (cls.name,)

    @property
    def id_dialect(self) -> str:
        """The dialect in the ids of its kernels."""
        return self.kernel_dialects()[0]

    @classmethod
    def unavailable(cls, code: str, reason: str, remedy: str = "") -> Unavailable:
        """The error of a device that cannot be opened; the remedy is the class's own, unless one is given."""
        return Unavailable(reason, remedy or cls.reasons[code].remedy, code)

    @classmethod
    def named_software(cls, *names: str) -> bool:
        """Whether one of a device's names is that of a device which computes on the host."""
        return names_software(names, cls.software)

    def supports(self, op: Op, case: Case) -> str | None:
        """``None``, or the reason why this device cannot run the case."""
        for launch in (stage.launch for stage in op.stages(case, self.dialect) if self.grid):
            if launch.block > self.info.max_threads:
                return f"groups of {launch.block} work-items, this device has {self.info.max_threads}"
            if any(asked > limit for asked, limit in zip(launch.groups, self.grid, strict=True)):
                return f"a grid of {launch.groups} work-groups, this device has {self.grid}"
        for arg in (*op.scratch(case, self.dialect), *op.args(case)):
            if arg.nbytes > self.info.max_binding:
                return f"{arg.name} has {arg.nbytes} bytes, one binding of this device holds {self.info.max_binding}"
        return missing_text(op, self.dialect)

    def upload(self, array: Array) -> Buffer:
        """Copy a C-contiguous array to the device; raise WrongInput for another layout or dtype."""
        if not array.flags.c_contiguous:
            raise WrongInput(f"array of shape {array.shape} is not C-contiguous; pass np.ascontiguousarray(array)")
        buffer = self.empty(array.shape, dtype_name(array))
        self.write(buffer, array)
        return buffer

    def fill(self, shape: tuple[int, ...], dtype: str, read: Callable[[Array], object]) -> Buffer:
        """A buffer of what ``read`` puts into a C-contiguous array: the buffer's own memory, where the host has it."""
        buffer = self.empty(shape, dtype)
        own = self.host_memory(buffer)
        array = np.empty(shape, DTYPES[dtype]) if own is None else own
        read(array)
        if own is None:
            self.write(buffer, array)
        return buffer

    def host_memory(self, buffer: Buffer) -> Array | None:
        """A buffer's own memory as an array of its shape and dtype; None where the host cannot write it."""
        return None

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Allocate without defined content."""

    def view(self, buffer: Buffer, start: int, shape: tuple[int, ...]) -> Buffer | None:
        """Elements from ``start`` on as a buffer in the same memory; None where the handle cannot be divided."""
        return None

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

    def build(self, op: Op, case: Case) -> Kernel:
        """Compile (or fetch from the backend's own memory) the kernel; raise CompileFailed."""
        return self.kernel(self, op, case)

    def record(self, launches: Sequence[Launch]) -> Program:
        """Make a program of bound kernels."""
        return self.program(self, launches)

    @abstractmethod
    def sync(self) -> None:
        """Wait until the device is idle; raise DeviceFault for whatever went wrong since the last call."""

    def close(self) -> None:  # noqa: B027 - some hold nothing
        """Release the device. The backend must not be used afterwards."""


def sliced(backend: Backend, buffer: Buffer, start: int, shape: tuple[int, ...]) -> Buffer:
    """``Backend.view`` of handles that are sliced as numpy's arrays are."""
    handle = buffer.handle.reshape(-1)[start : start + math.prod(shape)].reshape(shape)
    return Buffer(handle, buffer.dtype, shape)


def dtype_name(array: Array) -> str:
    """The kparity name of a numpy dtype; raise WrongInput for one that no buffer has."""
    for name, dtype in DTYPES.items():
        if array.dtype == dtype:
            return name
    raise WrongInput(f"no buffer holds dtype {array.dtype}; use one of {', '.join(DTYPES)}")


def require_fit(buffer: Buffer, array: Array) -> None:
    """Raise WrongInput unless the array has the buffer's dtype and number of elements."""
    if dtype_name(array) != buffer.dtype or array.nbytes != buffer.nbytes:
        raise WrongInput(
            f"{array.dtype}{list(array.shape)} does not fill a buffer of {buffer.dtype}{list(buffer.shape)}"
        )


def filled(shape: tuple[int, ...], dtype: str, byte: int) -> Array:
    """An array whose every byte is ``byte``."""
    count = math.prod(shape)
    return np.full(count * DTYPES[dtype].itemsize, byte, np.uint8).view(DTYPES[dtype]).reshape(shape)


def launched(backend: Backend, kernel: Kernel, inputs: Sequence[Array | Buffer], poison: int = 0xFF) -> list[Array]:
    """The outputs of one launch by itself on inputs, which are copied to the device unless they are there already.

    Every byte of a pure output is ``poison`` before: NaN, or −1.
    """
    given = iter(inputs)
    arrays = [filled(arg.shape, arg.dtype, poison) if arg.role == "out" else next(given) for arg in kernel.args]
    buffers = [backend.upload(np.ascontiguousarray(a)) if isinstance(a, np.ndarray) else a for a in arrays]
    backend.record([kernel.bind(*buffers)]).run()
    outputs = zip(kernel.args, buffers, strict=True)
    return [backend.download(buffer).astype(DTYPES[arg.dtype]) for arg, buffer in outputs if arg.role != "in"]
