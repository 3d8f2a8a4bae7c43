"""How fast memory can be read: the ceiling that memory-bound kernels are held against, measured in the same run."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from kparity.bench.timing import Sample, Timed, row_of
from kparity.device.adapter import Backend
from kparity.device.registry import open_backend

CHUNK = 64 << 20
"""Bytes that one sample of the streaming read covers."""


class StreamRead(Timed):
    """Sums host memory with all threads of the cpu backend, ``chunk`` bytes at a time, in turn through ``data``; one is
    opened for it where ``backend`` is another.
    """

    def __init__(self, backend: Backend, data: npt.NDArray[np.uint8], chunk: int = CHUNK) -> None:
        from kparity import _native

        super().__init__(row_of(backend.info, "stream", chunk, name=f"{backend.name} streaming read", clock="wall"))
        native = backend if backend.dialect == "native" else open_backend("cpu")
        self.data, self.chunk, self.next_index = data, chunk, 0
        self.sums = np.zeros(8 * native.threads, np.uint64)  # type: ignore[attr-defined]
        kernel = _native.CpuKernel(native.isa, "stream", {"BYTES": float(chunk)})  # type: ignore[attr-defined]
        self.programs = [
            _native.CpuProgram(native.pool, [(kernel, [data.ctypes.data + start, self.sums.ctypes.data])])  # type: ignore[attr-defined]
            for start in range(0, data.nbytes - chunk + 1, chunk)
        ]

    def run(self) -> Sample:
        """The next chunk."""
        program = self.programs[self.next_index % len(self.programs)]
        self.next_index += 1
        started = time.perf_counter()
        program.run()
        seconds = time.perf_counter() - started
        return Sample(seconds, seconds)

    def check(self) -> str | None:
        """None, or how the checksum of the first chunk differs from numpy's."""
        self.sums[:] = 0
        self.programs[0].run()
        total, wanted = int(self.sums[::8].sum()), int(self.data[: self.chunk].view(np.uint64).sum())
        return None if total == wanted else f"the checksum is {total:#x}, expected {wanted:#x}"


class Copy(Timed):
    """Copies about ``nbytes`` on the device by the API's own copy; bytes read and bytes written both count."""

    def __init__(self, backend: Backend, nbytes: int) -> None:
        count, clock = min(nbytes, backend.info.max_binding) // 4, "device" if backend.copy_clock else "wall"
        super().__init__(row_of(backend.info, "copy", 8 * count, name=f"{backend.name} copy", clock=clock))
        self.backend = backend
        self.source = backend.upload(np.random.default_rng(3).integers(0, 1 << 32, count, np.uint32))
        self.target = backend.empty((count,), "u32")

    def run(self) -> Sample:
        """One copy."""
        began = time.perf_counter()
        seconds = self.backend.copy_timed(self.source, self.target)
        return Sample(seconds, time.perf_counter() - began)

    def check(self) -> str | None:
        """Whether the copy is like its source."""
        same = np.array_equal(self.backend.download(self.source), self.backend.download(self.target))
        return None if same else "the copy differs from its source"


def cold_memory(mib: int) -> npt.NDArray[np.uint8]:
    """``mib`` MiB on a cache line's boundary, filled with seeded bytes."""
    from kparity.backends._memory import aligned_empty

    data: npt.NDArray[np.uint8] = aligned_empty((mib << 20,), np.dtype(np.uint8))
    data.reshape(mib, 1 << 20)[:] = np.random.default_rng(1).integers(0, 256, 1 << 20, np.uint8)
    return data


def ceiling_of(backend: Backend, nbytes: int) -> Timed:
    """The ceiling of a backend: a streaming read of ``nbytes`` where a processor computes, whatever its API; else a
    copy of them on the device.
    """
    if backend.info.kind == "cpu":
        return StreamRead(backend, cold_memory(max(nbytes >> 20, 1)), min(CHUNK, nbytes))
    return Copy(backend, nbytes)
