"""Backends that lie to ``kparity check``, each in one way, and most of them in one case only (``add`` with D = 257)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from kparity_liars import Crash, Harmful, Honest, Lost, crash, give_up, hang

from kparity.device.adapter import Buffer, Kernel, Launch, Program
from kparity.errors import CompileFailed
from kparity.ops.spec import Case, Op


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


class InOneCase(Harmful):
    chosen = staticmethod(chosen)


class CrashOnce(InOneCase):
    name, harm = "liar-crash-once", staticmethod(crash)


class HangOnce(InOneCase):
    name, harm = "liar-hang-once", staticmethod(hang)


class ExitOnce(InOneCase):
    name, harm = "liar-exit-once", staticmethod(give_up)


class NoCompile(InOneCase):
    name, text = "liar-no-compile", "undeclared \x1b[31m<identifier>\x1b[0m & 'more'"

    def harm(self) -> None:
        raise CompileFailed("kernels/add/add.cu", 3, self.text)


class Mortal(Crash):
    """Crashes in every case."""

    name = "liar-mortal"


class Faulty(Lost):
    """The device faults at the first download."""

    name = "liar-faulty"


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
