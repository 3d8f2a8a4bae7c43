"""A model on one backend, in a process of its own, measured one sample at a time (``kparity.bench.worker``)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from kparity.bench import energy
from kparity.bench.bandwidth import bandwidth_series
from kparity.bench.machine import cache_bytes, cold_bytes
from kparity.bench.outputs import Outputs, digest
from kparity.bench.plan import BLOCK, Point, sequence
from kparity.bench.timing import Series
from kparity.device.adapter import Launch
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.model import load_model

CEILING_BYTES = {"gpu": 1 << 30, "cpu": 1 << 29, "software": 1 << 26}
"""What the streaming read or copy moves at least, by kind of device: on a software device no more than a moment."""
KERNEL_REPEATS = 5
"""Replays of the launches of one kernel, of which the median is kept."""


class EndToEnd:
    """One engine. Every point is a prefix of one sequence, so that a cache that was filled once serves every depth."""

    def __init__(
        self, *, backend: str, model: str, seed: int, length: int, context: int,
        index: int = 0, isa: str = "", act: str = "token", kv: str = "f16", fused: bool = True,
    ) -> None:  # fmt: skip
        self.model = load_model(model)
        self.backend = open_backend(backend, index, isa=isa)
        self.engine = Engine(self.model, self.backend, act=act, kv=kv, context=context, fused=fused)
        self.tokens = sequence(self.model, seed, length)
        self.meter = energy.meter(self.backend.info)
        self.outputs = Outputs()
        self.replays: Counter[tuple[int, bool]] = Counter()
        """By rows, and whether the head ran."""
        self._bandwidth: Series | None = None

    def about(self) -> dict[str, Any]:
        """Device, options and graph, as a receipt tells them."""
        return {
            "device": self.backend.info.as_dict(),
            "label": self.backend.info.label,
            "dialect": self.backend.dialect,
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

    def counted(self) -> dict[str, Any]:
        """Dispatches by kernel id, and how often each program was replayed."""
        chunk = self.engine.chunk
        return {
            "dispatches": dict(self.backend.dispatches.counts),
            "replays": {
                "step": self.replays[1, True], "headless_step": self.replays[1, False],
                "chunk": self.replays[chunk, True], "headless_chunk": self.replays[chunk, False],
            },
        }  # fmt: skip

    def prefill(self, length: int) -> dict[str, Any]:
        """A prompt on an empty cache, until its logits are on the host: seconds, joules, digest."""
        tokens = self.tokens[:length]
        self.engine.reset()
        before, began = self.meter.read(), time.perf_counter()
        logits = self.engine.prefill(tokens)
        seconds = time.perf_counter() - began
        self._noted(length)
        self.outputs.keep(Point("prefill", length), logits)
        return {"seconds": [seconds], "joules": energy.spent(before, self.meter.read()), "digest": digest(logits)}

    def fill(self, length: int) -> float:
        """Fill the cache for ``decode``; seconds."""
        self.engine.reset()
        began = time.perf_counter()
        if length:
            self.engine.prefill(self.tokens[:length])
            self._noted(length)
        return time.perf_counter() - began

    def decode(self, depth: int) -> dict[str, Any]:
        """A block of steps behind ``depth`` tokens, each until its token is on the host: seconds of each, joules,
        digest of the last logits and of all tokens.

        The first step is done once beforehand, untimed: another process has used the caches meanwhile.
        """
        engine, tokens = self.engine, self.tokens
        engine.position = depth  # `fill` wrote every position before it
        engine.step_greedy(tokens[depth])
        engine.rewind(depth)
        seconds, best = [], []
        before = self.meter.read()
        for token in tokens[depth : depth + BLOCK]:
            began = time.perf_counter()
            best.append(engine.step_greedy(token))
            seconds.append(time.perf_counter() - began)
        joules = energy.spent(before, self.meter.read())
        self.replays[1, True] += BLOCK + 1
        logits = self.backend.download(engine.recorded(1).graph.logits)[0]
        self.outputs.keep(Point("decode", depth), logits)
        return {"seconds": seconds, "joules": joules, "digest": digest(logits, best)}

    def device(self, phase: str, length: int) -> dict[str, float]:
        """The same work once more by the device's clock, with the wall beside it: the last step, or a prompt."""
        if phase == "decode":  # the same token at the same position: what it writes is there already
            began = time.perf_counter()
            seconds = self.engine.recorded(1).program.run_timed()
            self.replays[1, True] += 1
            return {"device_s": seconds, "wall_s": time.perf_counter() - began}
        self.engine.reset()
        began = time.perf_counter()
        seconds = self.engine.prefill_timed(self.tokens[:length])
        self._noted(length)
        return {"device_s": seconds, "wall_s": time.perf_counter() - began}

    def bandwidth(self) -> dict[str, Any]:
        """One sample of the streaming read (of a processor) or of a copy on the device."""
        if self._bandwidth is None:
            kind = self.backend.info.kind
            nbytes = max(CEILING_BYTES[kind], cold_bytes(self.backend.info) if kind == "gpu" else 0)
            self._bandwidth = bandwidth_series(self.backend, nbytes)
            self._bandwidth.sample()
        series = self._bandwidth
        what = "streaming read" if series.about["op"] == "stream" else "device copy"
        return {"what": what, "bytes": series.nbytes, "seconds": series.sample().device_s}

    def write_outputs(self, prefixes: list[int], path: str) -> None:
        """The part of a reference: logits after each prefix of the sequence, as an .npz file."""
        self.engine.reset()
        found, at = {}, 0
        for prefix in sorted(set(prefixes)):
            found[str(prefix)] = self.engine.prefill(self.tokens[at:prefix])
            at = prefix
        np.savez(path, **found)  # type: ignore[arg-type]

    def check(self, path: str) -> dict[str, float | None]:
        """Cosine of the last output of each point that was timed with the reference's."""
        return self.outputs.cosines(path)

    def kernels(self) -> list[dict[str, Any]]:
        """Every kernel: its launches in each program, and nanoseconds of those of a step alone (None for one that no
        step launches).
        """
        step = self.engine.recorded(1).program.launches
        ops = {kernel.id: kernel.op.name for kernel in self.engine.kernels.built.values()}
        counts = {name: Counter(each.kernel_id for each in made) for name, made in self._programs().items()}
        found = []
        for kernel_id in dict.fromkeys(each for count in counts.values() for each in count):
            own = [each for each in step if each.kernel_id == kernel_id]
            seconds = self._alone(own) if own else None
            found.append({
                "id": kernel_id, "op": ops[kernel_id], "device_ns": seconds * 1e9 if seconds is not None else None,
                "launches": {name: count[kernel_id] for name, count in counts.items()},
            })  # fmt: skip
        return found

    def _alone(self, launches: Sequence[Launch]) -> float:
        """Seconds of some launches and nothing else, the median of some replays."""
        program = self.backend.record(launches)
        return float(np.median([program.run_timed() for _ in range(KERNEL_REPEATS + 1)][1:]))

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
