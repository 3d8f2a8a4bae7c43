"""A model on one backend, in a process of its own, measured one sample at a time (``kparity.process.worker``)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from kparity.bench.bandwidth import ceiling_of
from kparity.bench.machine import cache_bytes, cold_bytes
from kparity.bench.subject import Subject, sequence
from kparity.bench.timing import Sample, Timed
from kparity.device.adapter import Launch
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.gates.challenge import sampled
from kparity.model import load_model
from kparity.ops.spec import Array

CEILING_BYTES = {"gpu": 1 << 30, "cpu": 1 << 29, "software": 1 << 26}
"""What the streaming read or copy moves at least, by kind of device: on a software device no more than a moment."""
KERNEL_REPEATS = 5
"""Replays of the launches of one kernel, of which the median is kept."""


class EndToEnd(Subject):
    """A model on one of our backends."""

    def __init__(
        self, *, backend: str, model: str, seed: int, length: int, context: int, nonce: str = "",
        index: int = 0, isa: str = "", act: str = "token", kv: str = "f16", fused: bool = True,
    ) -> None:  # fmt: skip
        self.model = load_model(model)
        self.backend = open_backend(backend, index, isa=isa)
        self.engine = Engine(self.model, self.backend, act=act, kv=kv, context=context, fused=fused)
        super().__init__(sequence(self.model, seed, length, nonce), self.backend.info)
        self.drawn_by = nonce, seed
        self.replays: Counter[tuple[int, bool]] = Counter()
        """By rows, and whether the head ran."""
        self._ceiling: Timed | None = None

    def about(self) -> dict[str, Any]:
        """Device, options and graph, as a receipt tells them."""
        return {
            "device": self.backend.info.as_dict(),
            "label": self.backend.info.label,
            "options": self.engine.options_dict(),
            "device_clock": self.backend.device_clock,
            "cache_bytes": cache_bytes(self.backend.info),
            "chunk": self.engine.chunk,
            "launches": {name: len(launches) for name, launches in self._programs().items()},
            "energy": {"source": self.meter.source, "reason": self.meter.reason},
        }

    def start_counting(self) -> None:
        """From here on dispatches and replays are those of the timed run."""
        self.backend.dispatches.counts.clear()
        self.replays.clear()

    def conclude(self, path: str) -> dict[str, Any]:
        """As ``Subject.conclude``, with dispatches by kernel id, how often each program was replayed, kernels, and the
        logits of every timed output at drawn entries.
        """
        chunk, dispatches = self.engine.chunk, dict(self.backend.dispatches.counts)
        replays = {
            "step": self.replays[1, True], "headless_step": self.replays[1, False],
            "chunk": self.replays[chunk, True], "headless_chunk": self.replays[chunk, False],
        }  # fmt: skip
        last = {point.prefix - 1: row for point, row in self.outputs.items()}
        logits = [sampled(row, at, self.tokens[at], *self.drawn_by) for at, row in sorted(last.items())]
        return {
            **super().conclude(path), "dispatches": dispatches, "replays": replays, "kernels": self.kernels(),
            "logits": msgspec.to_builtins(logits),
        }  # fmt: skip

    def prompt(self, length: int) -> tuple[float, Array]:
        """As ``Subject.prompt``."""
        tokens = self.tokens[:length]
        self.engine.reset()
        began = time.perf_counter()
        logits = self.engine.prefill(tokens)
        seconds = time.perf_counter() - began
        self._noted(length)
        return seconds, logits

    def go_to(self, depth: int) -> None:
        """As ``Subject.go_to``: ``fill`` wrote every position before it."""
        self.engine.position = depth

    def step(self, position: int) -> float:
        """As ``Subject.step``; of the logits only the largest one's id leaves the device."""
        began = time.perf_counter()
        self.best.append(self.engine.step_greedy(self.tokens[position]))
        seconds = time.perf_counter() - began
        self.replays[1, True] += 1
        return seconds

    def logits(self) -> Array:
        """As ``Subject.logits``."""
        row: Array = self.backend.download(self.engine.recorded(1).graph.logits)[0]
        return row

    def device(self, phase: str, length: int) -> Sample:
        """The same work once more by both clocks: the last step, or a prompt."""
        began = time.perf_counter()
        if phase == "decode":  # the same token at the same position: what it writes is there already
            seconds = self.engine.recorded(1).program.run_timed()
            self.replays[1, True] += 1
        else:
            self.engine.reset()
            seconds = self.engine.prefill_timed(self.tokens[:length])
            self._noted(length)
        return Sample(seconds, time.perf_counter() - began)

    def bandwidth(self) -> dict[str, Any]:
        """One sample of the streaming read (of a processor) or of a copy on the device."""
        if self._ceiling is None:
            kind = self.backend.info.kind
            nbytes = max(CEILING_BYTES[kind], cold_bytes(self.backend.info) if kind == "gpu" else 0)
            self._ceiling = ceiling_of(self.backend, nbytes)
            self._ceiling.sample()
        row, seconds = self._ceiling.row, self._ceiling.sample().device_s
        what = "streaming read" if row.op == "stream" else "device copy"
        return {"what": what, "bytes": row.bytes, "seconds": seconds}

    def write_outputs(self, prefixes: list[int], path: str) -> None:
        """The part of a reference: logits after each prefix of the sequence, as an .npz file."""
        self.engine.reset()
        found, at = {}, 0
        for prefix in sorted(set(prefixes)):
            found[str(prefix)] = self.engine.prefill(self.tokens[at:prefix])
            at = prefix
        np.savez(path, **found)  # type: ignore[arg-type]

    def kernels(self) -> list[dict[str, Any]]:
        """Every kernel: its launches in each program, and nanoseconds of those of a step alone (None for one that no
        step launches).
        """
        step = self.engine.recorded(1).program.launches
        counts = {name: Counter(each.kernel_id for each in made) for name, made in self._programs().items()}
        found = []
        for kernel_id in dict.fromkeys(each for count in counts.values() for each in count):
            own = [each for each in step if each.kernel_id == kernel_id]
            launches = {name: count[kernel_id] for name, count in counts.items()}
            found.append({"id": kernel_id, "device_ns": self._alone(own) if own else None, "launches": launches})
        return found

    def _alone(self, launches: Sequence[Launch]) -> float:
        """Nanoseconds of some launches and nothing else, the median of some replays."""
        program = self.backend.record(launches)
        return float(np.median([program.run_timed() for _ in range(KERNEL_REPEATS + 1)][1:])) * 1e9

    def _programs(self) -> dict[str, list[Launch]]:
        """The launches of each program that is replayed, by the names of ``record.Programs``."""
        step, chunk = self.engine.recorded(1), self.engine.recorded(self.engine.chunk)
        return {
            "step": step.program.launches, "headless_step": step.graph.body,
            "chunk": chunk.program.launches, "headless_chunk": chunk.graph.body,
        }  # fmt: skip

    def close(self) -> None:
        """Release the device and the model."""
        self.engine.close()
        self.model.close()

    def _noted(self, length: int) -> None:
        """Count the replays of a prompt."""
        self.replays.update((rows, head) for _, rows, head in self.engine.pieces(length))
