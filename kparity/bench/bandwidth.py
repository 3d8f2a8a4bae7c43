"""How fast memory can be read: the ceiling that memory-bound kernels are held against, measured in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kparity.adapter import Backend
from kparity.bench.machine import identity
from kparity.bench.timing import Sample, Series
from kparity.registry import open_backend

CHUNK = 64 << 20
"""Bytes that one sample of the streaming read covers."""


class StreamRead:
    """Sums a buffer with all threads of a cpu backend, ``chunk`` bytes at a time, in turn through ``data``."""

    def __init__(self, backend: Any, data: npt.NDArray[np.uint8], chunk: int = CHUNK) -> None:
        from kparity import _native

        self.data, self.chunk = data, chunk
        self.sums = np.zeros(8 * backend.threads, np.uint64)
        kernel = _native.CpuKernel(backend.isa, "stream", {"BYTES": float(chunk)})
        self.programs = [
            _native.CpuProgram(backend.pool, [(kernel, [data.ctypes.data + start, self.sums.ctypes.data])])
            for start in range(0, data.nbytes - chunk + 1, chunk)
        ]
        self.turn = 0

    def sample(self) -> float:
        """GB/s over the next chunk."""
        program = self.programs[self.turn % len(self.programs)]
        self.turn += 1
        started = time.perf_counter_ns()
        program.run()
        return self.chunk / (time.perf_counter_ns() - started)

    def check(self) -> str | None:
        """None, or how the checksum of the first chunk differs from numpy's."""
        self.sums[:] = 0
        self.programs[0].run()
        found, wanted = int(self.sums[::8].sum()), int(self.data[: self.chunk].view(np.uint64).sum())
        return None if found == wanted else f"the checksum is {found:#x}, expected {wanted:#x}"


def cold_memory(mib: int) -> npt.NDArray[np.uint8]:
    """``mib`` MiB on a cache line's boundary, filled with seeded bytes."""
    from kparity.backends._memory import aligned_empty

    data: npt.NDArray[np.uint8] = aligned_empty((mib << 20,), np.dtype(np.uint8))
    tile = np.random.default_rng(1).integers(0, 256, 1 << 20, np.uint8)
    data.reshape(mib, 1 << 20)[:] = tile
    return data


def bandwidth_series(backend: Backend, nbytes: int) -> Series:
    """The ceiling of a backend: a streaming read of ``nbytes`` by the native threads for a processor, whatever its API;
    else a copy of them on the device by the API's own copy, where bytes read and bytes written both count.
    """
    return stream_series(backend, nbytes) if backend.info.kind == "cpu" else copy_series(backend, nbytes)


def stream_series(backend: Backend, nbytes: int) -> Series:
    """A streaming read, in chunks, of ``nbytes`` of host memory by the threads of the cpu backend; one is opened for it
    where ``backend`` is another.
    """
    chunk = min(CHUNK, nbytes)
    reader = StreamRead(
        backend if backend.name == "cpu" else open_backend("cpu"), cold_memory(max(nbytes >> 20, 1)), chunk
    )

    def sample() -> Sample:
        seconds = chunk / reader.sample() * 1e-9
        return Sample(seconds, seconds)

    about = {**identity(backend), "op": "stream", "clock": "wall"}
    return Series(f"{backend.name} streaming read", sample, 1, chunk, True, reader.check, about)


def copy_series(backend: Backend, nbytes: int) -> Series:
    """Copying ``nbytes`` on the device."""
    count = min(nbytes, backend.info.max_binding) // 4
    source = backend.upload(np.random.default_rng(3).integers(0, 1 << 32, count, np.uint32))
    target = backend.empty((count,), "u32")

    def check() -> str | None:
        same = np.array_equal(backend.download(source), backend.download(target))
        return None if same else "the copy differs from its source"

    clock, sample = _copier(backend, source.handle, target.handle)
    about = {**identity(backend), "op": "copy", "clock": clock}
    return Series(f"{backend.name} copy", sample, 1, 8 * count, True, check, about)


def _copier(backend: Any, source: Any, target: Any) -> tuple[str, Callable[[], Sample]]:
    """Whose clock tells, and a function that copies once."""
    if hasattr(backend, "cupy"):
        return "device", lambda: _by_events(backend, source, target)
    if backend.name == "opencl":
        return "device", lambda: _by_profile(backend, source, target)
    return "wall", lambda: _by_difference(backend, source, target)


def _by_events(backend: Any, source: Any, target: Any) -> Sample:
    """CUDA and HIP: two events around the copy."""
    began = time.perf_counter()
    with backend.guarded("copying"):
        first, last = backend.cupy.cuda.Event(), backend.cupy.cuda.Event()
        first.record(backend.stream)
        target.data.copy_from_device_async(source.data, source.nbytes, backend.stream)
        last.record(backend.stream)
        last.synchronize()
        seconds = float(backend.cupy.cuda.get_elapsed_time(first, last)) * 1e-3
    return Sample(seconds, time.perf_counter() - began)


def _by_profile(backend: Any, source: Any, target: Any) -> Sample:
    """OpenCL: the times of the copy's own event."""
    began = time.perf_counter()
    event = backend.cl.enqueue_copy(backend.profiling_queue(), target, source)
    event.wait()
    return Sample((event.profile.end - event.profile.start) * 1e-9, time.perf_counter() - began)


def _by_difference(backend: Any, source: Any, target: Any) -> Sample:
    """APIs without a clock: five copies less one copy are free of what a submission costs."""
    few, many = _wall(backend, source, target, 1), _wall(backend, source, target, 5)
    seconds = (many - few) / 4
    return Sample(seconds if seconds > 0 else many / 5, few + many)


def _wall(backend: Any, source: Any, target: Any, times: int) -> float:
    """Seconds of ``times`` copies that are submitted together."""
    backend.sync()
    began = time.perf_counter()
    if backend.name == "wgpu":
        encoder = backend.device.create_command_encoder()
        for _ in range(times):
            encoder.copy_buffer_to_buffer(source, 0, target, 0, source.size)
        backend.device.queue.submit([encoder.finish()])
    else:
        for _ in range(times):
            target.copy_(source) if hasattr(target, "copy_") else np.copyto(target, source)
    backend.sync()
    return time.perf_counter() - began
