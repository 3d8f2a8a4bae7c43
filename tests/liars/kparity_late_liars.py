"""Backends that are right while nobody looks far: wrong at late positions, in the next process, or after a while."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from kparity_liars import Honest, Interleaved, OtherReplay, Tampering

from kparity.device.adapter import Buffer, Kernel, Launch, Program
from kparity.ops.spec import Array, Case, Op


class LateReplay(OtherReplay):
    """A recording is wrong from a position on to which no text of the probe walks; its launches are right."""

    name, late = "liar-late-replay", 300

    def record(self, launches: Sequence[Launch]) -> Program:
        wrong, program = super().record(launches), Honest.record(self, launches)
        attention = next((launch for launch in launches if launch.kernel_id.startswith("attention")), None)
        if attention is not None and len(launches) > 1:
            right = program._run
            program._run = lambda: (wrong._run if attention.buffers[3].handle.max() >= self.late else right)()
        return program


class LastPart(Tampering):
    """Attention of a step forgets a part of the keys that is not full: it is never merged."""

    name, op, rows, parts = "liar-last-part", "attention", range(1, 2), range(256, 500)

    def seen(self, pos: Array) -> Array:
        return np.where((pos >= self.parts.start) & (pos < self.parts.stop), self.parts.start - 1, pos).astype(np.int32)

    def given(self, case: Case, b: list[Buffer]) -> list[Buffer]:
        few = self.altered(b[3], self.seen)
        self.few = [*getattr(self, "few", []), (b[3].handle, few)]
        return [*b[:3], few, *b[4:]]

    def write(self, buffer: Buffer, array: Array) -> None:
        super().write(buffer, array)
        for handle, few in getattr(self, "few", []):
            if handle is buffer.handle:
                super().write(few, self.seen(array))


class Ring(Tampering):
    """The cache is a ring of 2,048 positions, whatever the model's context is."""

    name, op, length = "liar-ring", "rope_store", 2048

    def given(self, case: Case, b: list[Buffer]) -> list[Buffer]:
        self.rings = {**getattr(self, "rings", {}), id(b[self.place(b)].handle): b[self.place(b)].handle}
        return b

    @staticmethod
    def place(b: list[Buffer]) -> int:
        return next(at for at, buffer in enumerate(b) if buffer.dtype == "i32")

    def write(self, buffer: Buffer, array: Array) -> None:
        if id(buffer.handle) in getattr(self, "rings", {}):
            array = np.where(array < 0, array, array % self.length).astype(np.int32)
        super().write(buffer, array)


class NextProcess(Interleaved):
    """Right in the probe's process; in the next one RoPE is another's, which the first token cannot show."""

    name = "liar-next"

    def build(self, op: Op, case: Case) -> Kernel:
        return super().build(op, case) if serving() else Honest.build(self, op, case)


class Weary(OtherReplay):
    """After some hundreds of steps that it serves a gain is off by 1e-4."""

    name, left = "liar-weary", 150

    def record(self, launches: Sequence[Launch]) -> Program:
        wrong, program = super().record(launches), Honest.record(self, launches)
        right = program._run

        def run() -> None:
            self.left -= serving() and len(launches) > 1
            (right if self.left > 0 else wrong._run)()

        program._run = run
        return program


def serving() -> bool:
    """Whether this process is not the probe's."""
    return not os.environ.get("KPARITY_PROBE_CHILD")
