"""One backend and the series of one case at a time: made, sampled and checked on request, so that it can live in a
process of its own (``kparity.process.worker`` with the factory ``kparity.bench.ops.session:Session``).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from kparity import ops
from kparity.bench.bandwidth import ceiling_of
from kparity.bench.machine import cache_bytes, cold_bytes, peak_bandwidth
from kparity.bench.ops.cases import short
from kparity.bench.ops.rotation import SMALLEST, Rotation, Unsupported
from kparity.bench.timing import Sample, Timed, noted, row_of
from kparity.device.adapter import DeviceInfo
from kparity.device.registry import drives_gpu, open_backend
from kparity.ops.spec import Case

CEILING_BYTES = {"gpu": 1 << 30, "cpu": 1 << 30, "software": 1 << 26}
"""What the ceiling moves, by kind of device: beyond its caches, and on a software device no more than a moment."""
LOOK_S, IDLE, REST_S = 0.005, 0.1, 3.0
"""After a sample threads may spin before they sleep, on the processors that the next one wants: how often this
process's processor time is looked at, the share of a processor that counts as none, and the longest wait.
"""
Described = list[list[Any]]
"""Of each series: its row as plain values, and the operations of a launch."""


def rest() -> None:
    """Wait until no thread of this process spends processor time."""
    until = time.monotonic() + REST_S
    while time.monotonic() < until:
        before = time.process_time()
        time.sleep(LOOK_S)
        if time.process_time() - before < IDLE * LOOK_S:
            return


class Group:
    """The series of the case at hand, which a caller in another process names by their place in the table.

    ``cold_mib`` is the most that a rotation takes; 0 leaves the cold series out.
    """

    def __init__(self, info: DeviceInfo, cold_mib: int) -> None:
        self.info, self.cold_mib, self.table = info, cold_mib, list[Timed]()

    def device(self) -> dict[str, Any]:
        """``kind`` and ``peak`` of the memory, in bytes per second (0 where the driver does not tell)."""
        return {"kind": self.info.kind, "peak": peak_bandwidth(self.info)}

    def ceiling(self) -> Described:
        """Make the series of the device's bandwidth, which from then on stands beside every cold case."""
        return []

    def build(self, op: str, params: dict[str, Any]) -> Described:
        """Make the series of a case instead of the last one's; the bandwidth's comes first where something is cold."""
        self.release()
        return self._described(self.made(ops.get(op).case(**params)))

    def made(self, case: Case) -> Sequence[Timed]:
        """The series of a case; those that cannot be made have the reason in their row."""
        raise NotImplementedError

    def _described(self, table: Sequence[Timed]) -> Described:
        self.table = list(table)
        return [[msgspec.to_builtins(series.row), series.flops] for series in self.table]

    def sizes(self, nbytes: int) -> list[int]:
        """Bytes of the rotations of ``nbytes``; 0 is the hot one. What is small has no cold one, and what no cache
        holds has no hot one.
        """
        if nbytes < SMALLEST or not self.cold_mib:
            return [0]
        cold = cold_bytes(self.info, self.cold_mib << 20)
        return [cold, 0] if nbytes <= cache_bytes(self.info) else [cold]

    def sample(self, at: int) -> Sample:
        """A sample of series ``at``; on a processor until the threads rest."""
        sample = self.table[at].sample()
        if self.info.kind != "gpu":
            rest()
        return sample

    def check(self, at: int) -> dict[str, Any]:
        """What was ``wrong`` with the output of series ``at``, timed once more, and what was counted in its samples."""
        series = self.table[at]
        return {"wrong": series.check(), "dispatches": series.row.dispatches, "replays": series.row.replays}

    def release(self) -> None:
        """Give back what the last case held: buffers refer to each other in circles."""
        for series in self.table:
            series.free()
        self.table = []
        gc.collect()

    def close(self) -> None:
        """As ``release``."""
        self.release()


class Session(Group):
    """A backend that is open: each case cold and hot, on a software device, whose times are far above those of any
    memory, hot. ``isa`` and ``threads`` are for the backends that take them; ``index`` counts GPUs: a processor beside
    them is the only one.
    """

    def __init__(
        self, backend: str, index: int = 0, isa: str = "", threads: int = 0, cold_mib: int = 1024, seed: int = 0
    ) -> None:
        self.backend = open_backend(backend, index if drives_gpu(backend) else 0, isa=isa, threads=threads)
        self.seed = seed
        self._ceiling: list[Timed] = []
        super().__init__(self.backend.info, cold_mib)

    def ceiling(self) -> Described:
        """As ``Group.ceiling``."""
        self._ceiling = self._ceiling or [ceiling_of(self.backend, CEILING_BYTES[self.info.kind])]
        return self._described(self._ceiling)

    def _described(self, table: Sequence[Timed]) -> Described:
        beside = self._ceiling if table is not self._ceiling and any(each.row.cold for each in table) else []
        return super()._described([*beside, *table])

    def made(self, case: Case) -> Sequence[Timed]:
        """As ``Group.made``."""
        nbytes = sum(arg.nbytes for arg in ops.get(case.op).args(case))
        bound = self.info.kind == "gpu" or self.backend.bound_by_memory
        return [self._series(case, cold) for cold in (self.sizes(nbytes) if bound else [0])]

    def _series(self, case: Case, cold: int) -> Timed:
        """A rotation, or a row that says why there is none."""
        state = "cold" if cold else "hot"
        row = row_of(
            self.info, case.op, 0, name=f"{self.backend.name} {short(case)} {state}", case=case.id, state=state
        )
        with noted(row.errors):
            try:
                return Rotation(self.backend, case, cold, seed=self.seed)
            except Unsupported as reason:
                row.unsupported = str(reason)
        return Timed(row)

    def close(self) -> None:
        """Close the backend."""
        self._ceiling = []
        self.release()
        self.backend.close()
