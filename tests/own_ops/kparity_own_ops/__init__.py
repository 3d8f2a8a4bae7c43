"""Ops of another package: leaky, y = x for x > 0, else slope·x; once more with a wrong WGSL text, and without any text.

ABI: x [N] f32 → y [N] f32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kparity.ops.spec import Arg, Array, Case, ErrorBound, Grid, Op, Work, ceil_div, span


class Leaky(Op):
    """Parameters: N elements, slope."""

    name, texts, required = "leaky", "kparity_own_ops", ("N",)
    defaults = {"slope": 0.1}  # noqa: RUF012 - as short as somebody else would write it

    def args(self, case: Case) -> tuple[Arg, ...]:
        return (Arg("x", "f32", (case["N"],)), Arg("y", "f32", (case["N"],), "out"))

    def reference(self, case: Case, inputs: Sequence[Array], dtype=np.float64) -> list[Array]:
        x, slope = inputs[0].astype(dtype), np.float32(case["slope"]).astype(dtype)
        return [np.where(x > 0, x, slope * x)]

    def constants(self, case: Case) -> dict[str, int | float]:
        return {"SLOPE": float(case["slope"])}

    def launch(self, case: Case) -> Grid:
        return Grid(span(ceil_div(case["N"], 64)), 64)

    def cases(self) -> list[Case]:
        return [self.case(N=n) for n in (1, 64, 1000)]

    def inputs(self, case: Case, rng: np.random.Generator, kind: str = "random") -> list[Array]:
        return [rng.standard_normal(case["N"]).astype(np.float32)]

    def bounds(self, case: Case, inputs: Sequence[Array], truth: Sequence[Array]) -> list[ErrorBound]:
        return [ErrorBound(2.0**-24 * np.abs(truth[0]) + 2.0**-126, "u·|y| + 2^-126: one rounding")]

    def work(self, case: Case) -> Work:
        return Work(8 * case["N"], case["N"])


class LeakyWrong(Leaky):
    """Its WGSL text forgets the slope."""

    name = "leaky_wrong"


class LeakyAlone(Leaky):
    """A specification without a text."""

    name = "leaky_alone"


LEAKY, LEAKY_WRONG, LEAKY_ALONE = Leaky(), LeakyWrong(), LeakyAlone()
