"""How fast memory can be read: the ceiling that memory-bound kernels are held against, measured in the same run."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from kparity.bench.machine import identity
from kparity.bench.timing import Sample, Series, WarmUp
from kparity.device.adapter import Backend
from kparity.device.registry import open_backend

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
        self.awake = WarmUp()

    def sample(self) -> float:
        """GB/s over a chunk, after others where the processors have rested."""
        return self.chunk / self.timed().wall_s * 1e-9

    def timed(self) -> Sample:
        """Seconds of the same."""
        return self.awake.sample(self._read, self._read)

    def _read(self) -> Sample:
        program = self.programs[self.turn % len(self.programs)]
        self.turn += 1
        started = time.perf_counter()
        program.run()
        seconds = time.perf_counter() - started
        return Sample(seconds, seconds)

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
    native = backend if backend.dialect == "native" else open_backend("cpu")
    reader = StreamRead(native, cold_memory(max(nbytes >> 20, 1)), chunk)
    about = {**identity(backend.info), "op": "stream", "clock": "wall"}
    return Series(f"{backend.name} streaming read", reader.timed, 1, chunk, True, reader.check, about)


def copy_series(backend: Backend, nbytes: int) -> Series:
    """Copying ``nbytes`` on the device."""
    count = min(nbytes, backend.info.max_binding) // 4
    source = backend.upload(np.random.default_rng(3).integers(0, 1 << 32, count, np.uint32))
    target = backend.empty((count,), "u32")

    def check() -> str | None:
        same = np.array_equal(backend.download(source), backend.download(target))
        return None if same else "the copy differs from its source"

    def copied() -> Sample:
        began = time.perf_counter()
        seconds = backend.copy_timed(source, target)
        return Sample(seconds, time.perf_counter() - began)

    awake = WarmUp()
    about = {**identity(backend.info), "op": "copy", "clock": "device" if backend.copy_clock else "wall"}
    return Series(f"{backend.name} copy", lambda: awake.sample(copied, copied), 1, 8 * count, True, check, about)
