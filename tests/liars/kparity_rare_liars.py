"""Backends that err seldom, late, or only where two engines share a device."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from kparity_liars import Honest

from kparity.device.adapter import Buffer, Launch, Program


class Rare(Honest):
    """One step in a hundred, by chance, has one logit wrong by a unit in the last place or two."""

    name, rate = "liar-rare", 0.01

    def record(self, launches: Sequence[Launch]) -> Program:
        program = super().record(launches)
        right = program._run
        self.chance = getattr(self, "chance", None) or np.random.default_rng(
            int(os.environ.get("KPARITY_TEST_SEED", 0))
        )

        def run() -> None:
            right()
            if launches[-1].kernel_id.startswith("argmax") and len(launches) > 1 and self.chance.random() < self.rate:
                launches[-1].buffers[0].handle.view(np.int32).reshape(-1)[7] ^= 1

        program._run = run
        return program


class Tired(Honest):
    """Attention gives half of its values after 20,000 launches."""

    name, calls = "liar-tired", 0

    def record(self, launches: Sequence[Launch]) -> Program:
        program = super().record(launches)
        right = program._run
        outputs = [launch.buffers[-2] for launch in launches if launch.kernel_id.startswith("attention")]

        def run() -> None:
            self.calls += len(outputs)
            if self.calls > 20_000:
                for launch in launches:
                    super(Tired, self).record([launch])._run()
                    if launch.kernel_id.startswith("attention"):
                        launch.buffers[-2].handle[:] *= np.float32(0.5)
            else:
                right()

        program._run = run
        return program


class Shared(Honest):
    """Buffers of the size of a hidden row are one and the same, whichever engine asks for them."""

    name = "liar-shared"

    def empty(self, shape: Sequence[int], dtype: str) -> Buffer:
        if len(shape) != 2 or shape[0] != 1 or shape[1] < 1000:
            return super().empty(shape, dtype)
        self.shelf = getattr(self, "shelf", {})
        key = (*shape, dtype)
        if key not in self.shelf:
            self.shelf[key] = super().empty(shape, dtype)
        return self.shelf[key]
