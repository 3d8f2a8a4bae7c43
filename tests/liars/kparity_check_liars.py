"""Backends that lie to ``kparity check``, each in one way, and most of them in one case only (``add`` with D = 257)."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence

from kparity_liars import Honest

from kparity.device.adapter import Buffer, Kernel, Launch, Program
from kparity.errors import CompileFailed, DeviceFault
from kparity.ops.spec import Array, Case, Op


def chosen(case: Case) -> bool:
    """The case in which they lie."""
    return case.op == "add" and case["D"] == 257


class Spoilt(Honest):
    """Runs ``spoil`` after every launch of the chosen case."""

    def record(self, launches: Sequence[Launch]) -> Program:
        program = super().record(launches)
        right, buffers = program._run, launches[0].buffers
        if not self.lies:
            return program

        def wrong() -> None:
            right()
            self.spoil(program, list(buffers))

        program._run = wrong
        return program

    def build(self, op: Op, case: Case) -> Kernel:
        self.lies = chosen(case)
        return super().build(op, case)

    def spoil(self, program: Program, buffers: list[Buffer]) -> None:
        raise NotImplementedError


class Beyond(Spoilt):
    """Writes one element after its output."""

    name = "liar-beyond"

    def spoil(self, program: Program, buffers: list[Buffer]) -> None:
        out = buffers[-1].handle
        ctypes.memset(out.ctypes.data + out.nbytes, 0, 4)


class OneNan(Spoilt):
    """The last element is NaN."""

    name = "liar-one-nan"

    def spoil(self, program: Program, buffers: list[Buffer]) -> None:
        buffers[-1].handle[..., -1] = float("nan")


class Spoiler(Spoilt):
    """Changes its first input."""

    name = "liar-spoiler"

    def spoil(self, program: Program, buffers: list[Buffer]) -> None:
        buffers[0].handle.reshape(-1)[0] += 1


class Twice(Spoilt):
    """Launches twice."""

    name = "liar-twice"

    def spoil(self, program: Program, buffers: list[Buffer]) -> None:
        self.dispatches.add(program.launches[0].kernel_id)


class Unlaunched(Honest):
    """Answers with what an honest launch gave, and counts none."""

    name = "liar-unlaunched"

    def record(self, launches: Sequence[Launch]) -> Program:
        program = super().record(launches)
        program._counts = {}
        return program


class Unsteady(Spoilt):
    """Adds one unit of the last place in every second run."""

    name = "liar-unsteady"
    runs = 0

    def spoil(self, program: Program, buffers: list[Buffer]) -> None:
        self.runs += 1
        if self.runs % 2:
            buffers[-1].handle.view("i4").reshape(-1)[0] ^= 1


class InOneCase(Honest):
    """Does ``harm`` while it builds the chosen case."""

    def build(self, op: Op, case: Case) -> Kernel:
        if chosen(case):
            self.harm()
        return super().build(op, case)

    def harm(self) -> None:
        raise NotImplementedError


class CrashOnce(InOneCase):
    name = "liar-crash-once"

    def harm(self) -> None:
        ctypes.string_at(0)


class HangOnce(InOneCase):
    name = "liar-hang-once"

    def harm(self) -> None:
        while True:
            time.sleep(1)


class ExitOnce(InOneCase):
    name = "liar-exit-once"

    def harm(self) -> None:
        print("vendor library: giving up", flush=True)
        os._exit(0)


class NoCompile(InOneCase):
    name = "liar-no-compile"

    def harm(self) -> None:
        raise CompileFailed("kernels/add/add.cu", 3, "undeclared \x1b[31m<identifier>\x1b[0m & 'more'")


class Faulty(Honest):
    """The device faults at the first download."""

    name = "liar-faulty"

    def download(self, buffer: Buffer) -> Array:
        raise DeviceFault("the device was removed", "KP-DEVICE-LOST")


class Choosy(Honest):
    """Does not support the chosen case, and says so."""

    name = "liar-choosy"

    def supports(self, op: Op, case: Case) -> str | None:
        return "257 is not a multiple of 2" if chosen(case) else super().supports(op, case)


class Nothing(Honest):
    """Supports nothing."""

    name = "liar-nothing"

    def supports(self, op: Op, case: Case) -> str | None:
        return "no kernel is written yet"


class Mortal(Honest):
    """Crashes in every case."""

    name = "liar-mortal"

    def build(self, op: Op, case: Case) -> Kernel:
        ctypes.string_at(0)
        raise AssertionError("unreachable")
