"""Backends that are right until they have served some steps, and then go wrong, each in one way; and a slow one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import ClassVar

from kparity_late_liars import serving
from kparity_liars import Honest

from kparity.device.adapter import Launch, Program
from kparity.errors import DeviceFault


class Later(Honest):
    """Right for ``left`` runs of the process that serves."""

    left: ClassVar[int] = 80

    def record(self, launches: Sequence[Launch]) -> Program:
        program = super().record(launches)
        right = program._run

        def run() -> None:
            right()
            if serving() and len(launches) > 1:
                type(self).left -= 1
                if self.left <= 0:
                    self.fault(launches)

        program._run = run
        return program

    def fault(self, launches: Sequence[Launch]) -> None:
        raise NotImplementedError


class LaterNan(Later):
    name = "liar-later-nan"

    def fault(self, launches: Sequence[Launch]) -> None:
        if launches[-1].kernel_id.startswith("argmax"):
            logits, best = launches[-1].buffers[:2]
            logits.handle[:], best.handle[:] = float("nan"), -1


class LaterLost(Later):
    name = "liar-later-lost"

    def fault(self, launches: Sequence[Launch]) -> None:
        raise DeviceFault("the device was removed", "KP-DEVICE-LOST")


class LaterCrash(Later):
    name = "liar-later-crash"

    def fault(self, launches: Sequence[Launch]) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class LaterHang(Later):
    name = "liar-later-hang"

    def fault(self, launches: Sequence[Launch]) -> None:
        time.sleep(1000)


class LaterWrong(Later):
    """Another token than the likeliest, with logits to match: nothing but the canary can tell."""

    name = "liar-later-wrong"

    def fault(self, launches: Sequence[Launch]) -> None:
        if launches[-1].kernel_id.startswith("argmax"):
            logits, best = launches[-1].buffers[:2]
            logits.handle[..., 7], best.handle[:] = 99.0, 7


class Sluggish(Honest):
    """A step takes 10 ms and more."""

    name = "liar-sluggish"

    def record(self, launches: Sequence[Launch]) -> Program:
        program = super().record(launches)
        right = program._run

        def run() -> None:
            right()
            time.sleep(0.01 * (serving() and len(launches) > 1))

        program._run = run
        return program
