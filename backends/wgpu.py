"""wgpu: WGSL on Vulkan (Metal, Direct3D 12) through wgpu-py and wgpu-native."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import numpy as np

from kparity.device import vulkan
from kparity.device.adapter import Backend, Buffer, DeviceInfo, Kernel, Kind, Launch, Program, require_fit
from kparity.device.remedies import Reason, missing_package
from kparity.device.usage import pci_address
from kparity.errors import CompileFailed, DeviceFault
from kparity.ops.assemble import Source, wgsl_source
from kparity.ops.spec import DTYPES, Array, Case, Dispatches, Op

LOST = re.compile(r"device (was |is )?lost", re.IGNORECASE)
REAL = ("DiscreteGPU", "IntegratedGPU", "VirtualGPU")  # in order of preference
APIS = ("Vulkan", "Metal", "D3D12")  # WebGPU over OpenGL lacks too much
STAGING = 64 << 20  # bytes of uploads after which their staging memory is given back

NEEDED = {  # limits by wgpu-native's names: what the kernels cannot do without
    "max-storage-buffers-per-shader-stage": 8,  # WebGPU's default
    "max-compute-invocations-per-workgroup": 256,
    "max-compute-workgroup-size-x": 256,
    "max-compute-workgroup-storage-size": 16384,
    "max-compute-workgroups-per-dimension": 65535,
    "max-storage-buffer-binding-size": 128 << 20,
    "max-buffer-size": 128 << 20,
}


def kind_of(adapter_type: str, device: str) -> Kind:
    """Never guessed upwards: whatever is not plainly a GPU is software."""
    return "gpu" if adapter_type in REAL and not WgpuBackend.named_software(device) else "software"


def quicken(ffi: Any) -> None:
    """Let cffi declare only the types that a declaration names before it parses it, instead of wgpu's whole header.

    Each of the forty C types that a session uses costs cffi 25 ms on its first use otherwise, a second in all.
    """
    parser: Any = getattr(ffi, "_parser", None)
    if not hasattr(parser, "_declarations") or not hasattr(parser, "_parse") or "_parse" in vars(parser):
        return
    parse_slowly = parser._parse

    def parse(source: str) -> Any:
        words, everything = set(re.findall(r"\w+", source)), parser._declarations
        parser._declarations = {key: value for key, value in everything.items() if key.split()[-1] in words}
        try:
            return parse_slowly(source)
        finally:
            parser._declarations = everything

    parser._parse = parse


class FaultLog(logging.Handler):
    """Errors that wgpu can only log, because no call is under way that could raise them: a lost device above all.

    wgpu has one log for all devices. What is logged in a thread that is calling one of them is that one's; what is
    logged elsewhere may be anyone's.
    """

    calling = threading.local()

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(self.calling, "log", None) in (None, self):
            self.messages.append(record.getMessage())


class WgpuBound(Launch):
    """A kernel with its bind group."""

    kernel: WgpuKernel

    def __init__(self, kernel: WgpuKernel, buffers: Sequence[Buffer]) -> None:
        super().__init__(kernel, buffers)
        entries = [{"binding": at, "resource": {"buffer": each.handle}} for at, each in enumerate(self.buffers)]
        with kernel.backend.guarded():
            self.group = kernel.backend.device.create_bind_group(layout=kernel.layout, entries=entries)


class WgpuKernel(Kernel):
    """A compute pipeline per stage, one bind group layout for all of them."""

    launch = WgpuBound
    backend: WgpuBackend

    def __init__(self, backend: WgpuBackend, op: Op, case: Case, pipelines: Sequence[Any], layout: Any) -> None:
        super().__init__(backend, op, case)
        self.layout = layout
        groups = (stage.launch.groups for stage in self.stages)
        self.dispatches = list(zip(pipelines, groups, strict=True))

    def shared(self, one: Buffer, other: Buffer) -> bool:
        return one.handle is other.handle


class WgpuProgram(Program):
    """One compute pass, encoded at each run: WebGPU takes a command buffer once."""

    backend: WgpuBackend
    _stamps: Any = None

    def _run(self) -> None:
        with self.backend.guarded():
            encoder = self.backend.device.create_command_encoder()
            compute = encoder.begin_compute_pass(timestamp_writes=self._stamps)
            pipeline = None
            for launch in self.launches:
                assert isinstance(launch, WgpuBound)
                compute.set_bind_group(0, launch.group)  # stays bound from stage to stage: their layout is the same
                for needed, groups in launch.kernel.dispatches:
                    if needed is not pipeline:
                        pipeline = needed
                        compute.set_pipeline(pipeline)
                    compute.dispatch_workgroups(*groups)
            compute.end()
            self.backend.device.queue.submit([encoder.finish()])

    def run_timed(self) -> float:
        clock = self.backend.clock
        if clock is None:
            return super().run_timed()
        self.backend.sync()
        self._stamps = clock.writes
        try:
            self.run()
        finally:
            self._stamps = None
        self.backend.sync()
        with self.backend.guarded():
            return clock.seconds()


class Clock:
    """Two timestamps of the device's own clock, around one pass."""

    def __init__(self, wgpu: Any, device: Any) -> None:
        self.device = device
        self.queries = device.create_query_set(type="timestamp", count=2)
        self.writes = {
            "query_set": self.queries, "beginning_of_pass_write_index": 0, "end_of_pass_write_index": 1,
        }  # fmt: skip
        usage = wgpu.BufferUsage.QUERY_RESOLVE | wgpu.BufferUsage.COPY_SRC
        self.ticks = device.create_buffer(size=16, usage=usage)
        # Ticks are raw, most often nanoseconds: their length is known to wgpu-native only, below what wgpu-py offers.
        self.seconds_per_tick = 1e-9
        with suppress(AttributeError):
            lib = wgpu.backends.wgpu_native.lib
            self.seconds_per_tick *= float(lib.wgpuQueueGetTimestampPeriod(device.queue._internal))

    def seconds(self) -> float:
        """The last timed pass."""
        encoder = self.device.create_command_encoder()
        encoder.resolve_query_set(self.queries, 0, 2, self.ticks, 0)
        self.device.queue.submit([encoder.finish()])
        began, ended = np.frombuffer(self.device.queue.read_buffer(self.ticks), np.uint64)
        return (int(ended) - int(began)) * self.seconds_per_tick


class WgpuBackend(Backend):
    """One adapter and its device."""

    name = "wgpu"
    dialect = "wgsl"
    id_dialects = ("wgsl",)
    place = 30
    program = WgpuProgram
    packages = ("wgpu",)
    extra = "vulkan"
    libraries = ("libvulkan.so.1",)
    manifests = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d")
    nodes = ("/dev/dri",)
    driver_files = (
        "/usr/lib/*-linux-gnu/libvulkan*.so*", "/usr/lib/*-linux-gnu/libLLVM-*.so*", "/usr/share/vulkan/*_layer.d/*",
        "/etc/vulkan/*_layer.d/*", "/usr/local/share/vulkan/*/*", "/usr/share/drirc.d/*", "/etc/drirc",
    )  # fmt: skip
    environment = (
        "VK_*", "WGPU_*", "MESA_*", "GALLIUM_*", "LP_*", "RADV_*", "ACO_*", "AMD_*", "ANV_*", "INTEL_*", "HASVK_*",
        "NVK_*", "NOUVEAU_*", "TU_*", "PAN_*", "V3D*", "ZINK_*", "DZN_*", "NIR_*", "LIBGL_*", "DRI_*", "__GL*", "__NV*",
        "__VK*", "ENABLE_*", "DISABLE_*", "DRAW_*", "ST_*", "DXIL_*",
    )  # fmt: skip
    reasons: ClassVar[Mapping[str, Reason]] = {
        "KP-WGPU-NOLIB": missing_package(packages[0], extra),
        "KP-WGPU-NODEVICE": Reason(
            "no Vulkan device",
            "wgpu found no adapter: no Vulkan driver (ICD) is installed or it failed to load.",
            "install the GPU vendor's Vulkan driver, or mesa-vulkan-drivers (Debian, Ubuntu) for a software device",
            ("sudo apt-get install mesa-vulkan-drivers", f"VK_DRIVER_FILES={manifests[0]}/lvp_icd.x86_64.json"),
        ),
        "KP-WGPU-LIMITS": Reason(
            "the adapter lacks something that the kernels need",
            "A limit of the adapter (bindings per stage, work-group size) is below what WebGPU's defaults promise.",
            "update the driver or choose another device",
        ),
    }

    def __init__(self, wgpu: Any, adapter: Any) -> None:
        self.wgpu, self.faults, self.dispatches = wgpu, FaultLog(), Dispatches()
        features = [name for name in ("timestamp-query",) if name in adapter.features]
        limits = {name: adapter.limits[name] for name in NEEDED}
        self.device = adapter.request_device_sync(required_features=features, required_limits=limits)
        logging.getLogger("wgpu").addHandler(self.faults)
        self.limits = self.device.limits
        self.grid = (self.limits["max-compute-workgroups-per-dimension"],) * 3
        self.clock = Clock(wgpu, self.device) if features else None
        self.device_clock = self.clock is not None
        self._usage = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_SRC | wgpu.BufferUsage.COPY_DST
        self._pipelines: dict[tuple[str, ...], tuple[list[Any], Any]] = {}
        self._layouts: dict[tuple[bool, ...], Any] = {}
        self._staged, self._lost = 0, ""
        self._token = self.device.create_buffer(size=4, usage=self._usage)
        info = adapter.info
        kind = kind_of(info["adapter_type"], info["device"])
        native = getattr(wgpu.backends.wgpu_native, "__version__", "unknown")
        self.info = DeviceInfo(
            backend="wgpu", device=info["device"], kind=kind,
            api=info["backend_type"], driver=" ".join(filter(None, (info["vendor"], info["description"]))),
            library=f"wgpu {wgpu.__version__}, wgpu-native {native}",
            uuid=self._identity(info, kind),
            max_binding=min(self.limits["max-storage-buffer-binding-size"], self.limits["max-buffer-size"]),
            max_threads=self.limits["max-compute-invocations-per-workgroup"],
        )  # fmt: skip

    @classmethod
    def open(cls, index: int = 0) -> WgpuBackend:
        try:
            import wgpu
        except (ImportError, OSError, RuntimeError) as error:
            raise cls.unavailable("KP-WGPU-NOLIB", f"the wgpu package cannot be imported ({error})") from error
        if "XDG_RUNTIME_DIR" not in os.environ:  # Mesa's layer that reorders devices complains about it on stderr
            os.environ.setdefault("NODEVICE_SELECT", "1")
        with suppress(Exception):  # an instance exists already, or the package is older: then every API is searched
            from wgpu.backends.wgpu_native import ffi
            from wgpu.backends.wgpu_native.extras import set_instance_extras

            quicken(ffi)
            set_instance_extras(backends=["Primary"])  # OpenGL takes longer to start than all the rest
        adapters = [each for each in wgpu.gpu.enumerate_adapters_sync() if each.info["backend_type"] in APIS]
        types = (*REAL, "CPU")  # anything unknown comes last
        adapters.sort(key=lambda each: (*types, each.info["adapter_type"]).index(each.info["adapter_type"]))
        if not 0 <= index < len(adapters):
            names = ", ".join(each.info["device"] for each in adapters)
            message = f"no Vulkan adapter {index} (found: {names})" if adapters else "no Vulkan adapter found"
            raise cls.unavailable("KP-WGPU-NODEVICE", message)
        adapter = adapters[index]
        for name, least in NEEDED.items():
            if adapter.limits[name] < least:
                message = f"{adapter.info['device']}: {name} is {adapter.limits[name]}, the kernels need {least}"
                raise cls.unavailable("KP-WGPU-LIMITS", message)
        try:
            return cls(wgpu, adapter)
        except (wgpu.GPUError, RuntimeError) as error:
            message = f"{adapter.info['device']} gave no device ({error})"
            raise cls.unavailable("KP-WGPU-NODEVICE", message, "update the driver or choose another device") from error

    @staticmethod
    def _identity(info: Mapping[str, Any], kind: Kind) -> str:
        """wgpu tells neither bus nor UUID: what the loader says of its only adapter of this name or, of a GPU, the bus
        that the system has for its model, where that is one.
        """
        model = info["vendor_id"], info["device_id"]
        known = vulkan.adapters(vulkan.loader()) if info["backend_type"] == "Vulkan" else []
        return vulkan.identity(known, *model, info["device"]) or (pci_address(*model) if kind == "gpu" else "")

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn whatever wgpu raises or logs into a DeviceFault."""
        if self._lost:  # not to be asked again: wgpu-native aborts the process when work is submitted to a lost device
            raise DeviceFault(self._lost, "KP-DEVICE-LOST")
        FaultLog.calling.log = self.faults
        try:
            yield
        except (self.wgpu.GPUError, RuntimeError) as error:
            self._drop_losses_of_others()
            self.faults.messages.insert(0, str(error))
            if isinstance(error, self.wgpu.GPUOutOfMemoryError):
                raise self._fault("KP-DEVICE-OOM") from error
            raise self._fault() from error
        finally:
            FaultLog.calling.log = None
        self._drop_losses_of_others()
        if self.faults.messages:
            raise self._fault()

    def _drop_losses_of_others(self) -> None:
        """Forget logged losses of devices where this one still answers: another backend of this process has that."""
        kept = [message for message in self.faults.messages if not LOST.search(message)]
        if len(kept) < len(self.faults.messages):
            with suppress(self.wgpu.GPUError):
                self.device.create_buffer(size=4, usage=self._usage)
                self.faults.messages[:] = kept

    def _fault(self, code: str = "") -> DeviceFault:
        text = " ".join(f"{self.info.device}: {'; '.join(map(headless, self.faults.messages))}".split())
        self.faults.messages.clear()
        if LOST.search(text):
            self._lost, code = text, "KP-DEVICE-LOST"
        return DeviceFault(text, code or "KP-DEVICE-FAULT")

    def supports(self, op: Op, case: Case) -> str | None:
        buffers = len(op.args(case)) + len(op.scratch(case, self.dialect))
        if buffers > self.limits["max-storage-buffers-per-shader-stage"]:
            return f"{buffers} storage buffers"
        return super().supports(op, case)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        buffer = Buffer(None, dtype, tuple(shape))
        if buffer.nbytes > self.limits["max-buffer-size"]:
            raise DeviceFault(f"{self.info.device}: no buffer of {buffer.nbytes} bytes", "KP-DEVICE-OOM")
        with self.guarded():
            buffer.handle = self.device.create_buffer(size=-(-buffer.nbytes // 4) * 4, usage=self._usage)
        return buffer

    def write(self, buffer: Buffer, array: Array) -> None:
        require_fit(buffer, array)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if data.size % 4:
            data = np.concatenate([data, np.zeros(-data.size % 4, np.uint8)])
        with self.guarded():
            for at in range(0, data.size, STAGING):
                piece = data[at : at + STAGING]
                self.device.queue.write_buffer(buffer.handle, at, piece)
                self._staged += piece.size
                if self._staged > STAGING:
                    self._wait()

    def download(self, buffer: Buffer) -> Array:
        with self.guarded():
            data = np.frombuffer(self.device.queue.read_buffer(buffer.handle), np.uint8)
        return data[: buffer.nbytes].view(DTYPES[buffer.dtype]).reshape(buffer.shape)

    def copy(self, source: Buffer, target: Buffer) -> None:
        with self.guarded():
            encoder = self.device.create_command_encoder()
            encoder.copy_buffer_to_buffer(source.handle, 0, target.handle, 0, source.handle.size)
            self.device.queue.submit([encoder.finish()])

    @classmethod
    def source(cls, op: Op, case: Case, constants: Mapping[str, int | float]) -> Source:
        return wgsl_source(op, case)

    def build(self, op: Op, case: Case) -> WgpuKernel:
        source = self.source(op, case, self.constants)
        entries = tuple(stage.entry for stage in op.stages(case, self.dialect))
        key = (source.sha256, *entries)
        if key not in self._pipelines:
            written = (False,) * len(op.scratch(case, self.dialect))
            read_only = (*(arg.role == "in" for arg in op.args(case)), *written)
            self._pipelines[key] = self._compile(source, read_only, entries)
        return WgpuKernel(self, op, case, *self._pipelines[key])

    def _compile(self, source: Source, read_only: tuple[bool, ...], entries: Sequence[str]) -> tuple[list[Any], Any]:
        """A pipeline per entry point, and the layout of their bind group."""
        with self.guarded():
            if read_only not in self._layouts:
                types = [{"type": "read-only-storage" if ro else "storage"} for ro in read_only]
                bound = [{"binding": at, "visibility": "COMPUTE", "buffer": each} for at, each in enumerate(types)]
                self._layouts[read_only] = self.device.create_bind_group_layout(entries=bound)
            layout = self._layouts[read_only]
            try:
                module = self.device.create_shader_module(code=source.text)
                together = self.device.create_pipeline_layout(bind_group_layouts=[layout])
                stages = [{"module": module, "entry_point": entry} for entry in entries]
                pipelines = [self.device.create_compute_pipeline(layout=together, compute=each) for each in stages]
            except (self.wgpu.GPUError, RuntimeError) as error:
                if LOST.search(str(error)):
                    raise
                self.faults.messages.clear()
                raise compile_failed(source, str(error)) from error
        return pipelines, layout

    def sync(self) -> None:
        with self.guarded():
            self._wait()

    def _wait(self) -> None:
        # A read is behind everything in the queue. (on_submitted_work_done fails in some releases of wgpu-py.)
        self.device.queue.read_buffer(self._token)
        self._staged = 0

    def close(self) -> None:
        self._pipelines.clear()
        self._layouts.clear()
        self.device.destroy()
        logging.getLogger("wgpu").removeHandler(self.faults)


def headless(message: str) -> str:
    """A message of wgpu-native without its first lines, which name the call and not the cause."""
    return re.sub(r"^\s*Validation Error\s+Caused by:\s+In wgpu\w+\s*", "", message).rstrip()


def compile_failed(source: Source, log: str) -> CompileFailed:
    """A compiler's log as an error at a line of the op's own file."""
    match = re.search(r"wgsl:(\d+):\d+", log)
    return source.failed(int(match.group(1)) if match else 0, headless(log))
