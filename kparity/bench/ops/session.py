"""One backend and the series of one case at a time: made, sampled and checked on request, so that it can live in a
process of its own (``kparity.bench.worker`` with the factory ``kparity.bench.ops.session:Session``).
"""

from __future__ import annotations

import gc
from typing import Any

from kparity import ops
from kparity.bench.bandwidth import bandwidth_series
from kparity.bench.machine import cache_bytes, cold_bytes, identity, peak_bandwidth
from kparity.bench.ops.cases import case_of, short
from kparity.bench.ops.inputs import Expected, facts_of
from kparity.bench.ops.rotation import SMALLEST, Rotation, Unsupported
from kparity.bench.timing import Sample, Series
from kparity.bench.torch_baseline import ELEMENT_BYTES, TorchGemv
from kparity.device.adapter import Backend
from kparity.device.registry import drives_gpu, open_backend
from kparity.ops.spec import Case

GEMVS = ("tgemv", "dense_gemv")
"""Ops that torch's own product of the same shape stands beside."""
CEILING_BYTES = {"gpu": 1 << 30, "cpu": 1 << 30, "software": 1 << 26}
"""What the ceiling moves, by kind of device: beyond its caches, and on a software device no more than a moment."""


class Group:
    """The series of the group at hand, which a caller in another process names by their place in the table."""

    def __init__(self) -> None:
        self.table: list[Series] = []

    def described(self) -> list[dict[str, Any]]:
        """Every field of each series that is plain."""
        plain = ("name", "launches", "nbytes", "cold", "about", "fault", "flops")
        return [{name: getattr(series, name) for name in plain} for series in self.table]

    def sample(self, at: int) -> list[float]:
        """Device and wall seconds of one sample of series ``at``."""
        found = self.table[at].sample()
        return [found.device_s, found.wall_s]

    def check(self, at: int) -> str | None:
        """What was wrong with the output of series ``at``, timed once more."""
        return self.table[at].check()


class Session(Group):
    """A backend that is open, and the series of the group at hand.

    ``isa`` and ``threads`` are for the backends that take them. ``cold_mib`` is the most that a rotation takes; 0
    leaves the cold series out.
    """

    def __init__(
        self,
        backend: str | Backend,
        index: int = 0,
        isa: str = "",
        threads: int = 0,
        cold_mib: int = 1024,
        seed: int = 0,
    ) -> None:
        self.backend = backend if isinstance(backend, Backend) else _opened(backend, index, isa=isa, threads=threads)
        self.cold_mib, self.seed = cold_mib, seed
        super().__init__()
        self._ceiling: Series | None = None

    def device(self) -> dict[str, Any]:
        """``info``, ``label``, ``cache_bytes``, and ``peak_bytes_per_s`` (0 where the driver does not tell)."""
        sizes = {"cache_bytes": cache_bytes(self.backend.info), "peak_bytes_per_s": peak_bandwidth(self.backend.info)}
        return {"info": self.backend.info.as_dict(), "label": self.backend.info.label, **sizes}

    def ceiling(self) -> list[dict[str, Any]]:
        """Make the series of the device's bandwidth, which stays, so that it can stand beside every cold case;
        described as by ``build``.
        """
        if self._ceiling is None:
            self._ceiling = bandwidth_series(self.backend, CEILING_BYTES[self.backend.info.kind])
        return self._made([self._ceiling])

    def build(self, group: dict[str, Any], baseline: list[str] | None = None) -> list[dict[str, Any]]:
        """Make the series of a group instead of the last one's: cold and hot (a software device, whose times are far
        above those of any memory: hot), or torch's of these types where ``baseline`` names some. Returns every field of
        each that is plain; the bandwidth's comes first where something is cold and ``ceiling`` was called.
        """
        self.release()
        case = case_of(group)
        if baseline is not None:
            return self._made(self._baselines(case, baseline))
        nbytes = sum(arg.nbytes for arg in ops.get(case.op).args(case))
        bound = self.backend.info.kind == "gpu" or self.backend.dialect == "native"
        sizes = self._rotations(nbytes) if bound else [0]
        return self._made([self._series(case, facts_of(case, self.seed), size) for size in sizes])

    def _rotations(self, nbytes: int) -> list[int]:
        """Bytes of the rotations of ``nbytes``; 0 is the hot one. What is small has no cold one, and what no cache
        holds has no hot one.
        """
        if nbytes < SMALLEST or not self.cold_mib:
            return [0]
        cold = cold_bytes(self.backend.info, self.cold_mib << 20)
        return [cold, 0] if nbytes <= cache_bytes(self.backend.info) else [cold]

    def _series(self, case: Case, facts: Expected, cold: int) -> Series:
        """A rotation's series, or one that says why there is none."""
        try:
            return Rotation(self.backend, case, facts, cold).series()
        except Exception as error:  # one kernel that does not build must not take the others along
            about = {**identity(self.backend.info), "op": case.op, "case": case.id, "state": "cold" if cold else "hot"}
            if isinstance(error, Unsupported):
                about["unsupported"] = str(error)
            name = f"{self.backend.name} {short(case)} {about['state']}"
            return Series(name, lambda: Sample(0, 0), about=about, fault=f"{type(error).__name__}: {error}")

    def _baselines(self, case: Case, dtypes: list[str]) -> list[Series]:
        if case.op not in GEMVS or case["M"] != 1:
            return []
        n, k = case["N"], case["K"]
        return [
            TorchGemv(self.backend, n, k, dtype, cold).series()
            for dtype in dtypes
            for cold in self._rotations(n * k * ELEMENT_BYTES[dtype])
        ]

    def _made(self, table: list[Series]) -> list[dict[str, Any]]:
        beside = [self._ceiling] if self._ceiling and any(each.cold for each in table) else []
        self.table = table if table == beside else [*beside, *table]
        return self.described()

    def launched(self, at: int) -> dict[str, Any]:
        """What the backend counted in the samples of series ``at`` (``Rotation.launched``)."""
        return self.table[at].launched()

    def release(self) -> None:
        """Give back what the last group held: buffers refer to each other in circles."""
        self.table = []
        gc.collect()

    def close(self) -> None:
        """Close the backend."""
        self._ceiling = None
        self.release()
        self.backend.close()


def _opened(name: str, index: int, **options: Any) -> Backend:
    """The backend with the options that it takes. The index counts GPUs: a processor beside them is the only one."""
    return open_backend(name, index if drives_gpu(name) else 0, **options)
