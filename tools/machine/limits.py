"""What the machine code of a kernel must show: what the comments of its text promise, from the constants of its case.

The numbers follow from the geometry of the text (how many loads it asks for before it uses one), not from what a
compiler was seen to make of it. A finding names what was wrong where a limit is not met:

- F1: an activation load waits for scales, or for anything else that it does not need;
- F2: activations are brought one after another, each waited for before the next is asked for;
- F3: weights are asked for in pieces, or waited for in order to bring activations;
- F4: loads of weights sink behind the branch in which they are used;
- F5: values are asked for only after the keys have been used, or keys one by one;
- F6: the gain is asked for after the row has arrived, or the row in pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

from kparity import ops
from kparity.ops.spec import Case
from tools.machine import Measures


@dataclass(frozen=True)
class Limits:
    """Of the first entry point of a case, on every target."""

    in_flight: int
    """16-byte loads under way before the first is waited for, at least."""
    kept: int
    """Of these, under way while the group stores activations to shared memory, at least."""
    rounds: int
    """Latencies of global memory in series, at most."""
    findings: str
    late: int = 0
    """Loads asked for after the stream has been waited for, at most."""

    merges: bool = False
    """Whether the last group reads behind the stream what the others have written: no load of it can come earlier."""

    def failures(self, found: Measures) -> list[str]:
        """What is not met, a clause each."""
        said = []
        if found.in_flight < self.in_flight:
            said.append(f"{found.in_flight} loads in flight, not {self.in_flight}")
        if found.kept < self.kept:
            said.append(f"{found.kept} loads kept in flight while activations are stored, not {self.kept}")
        if found.rounds > self.rounds:
            said.append(f"{found.rounds} latencies in series, more than {self.rounds}")
        if found.late > self.late and not self.merges:
            said.append(f"{found.late} loads asked for after the stream has been waited for")
        return said


def limits(case: Case) -> Limits | None:
    """Of the ops whose time is the stream; None for others."""
    has = {key: int(value) for key, value in ops.get(case.op).defines(case).items() if isinstance(value, int)}
    if case.op == "tgemv":
        loads, lanes = has["AHEAD"] * has["TILE_N"], has["GPU_LANES"]
        steps = -(-(has["WORDS"] // 4) // lanes)
        # Several rows of activations have a loop, before which the compilers wait for the scales: once in thousands of
        # products. And their pieces take so many scoreboards that weights share them.
        # On matrix cores an output's three (both scales, the sum of its activations) come once, after all products; and
        # a lane of gfx11 has four portions of activations of a block, of which two are under way at a time. The codes
        # of a block are four loads, and those of the next are asked for before these are used.
        one, rows = has["TILE_M"] == 1, has["GPU_BLOCK"] // lanes * has["TILE_N"]
        if has["TENSOR"]:
            return Limits(4, 0, 3, "F1 F2 F3", 3 * rows * 32 // has["GPU_BLOCK"])
        return Limits(loads, loads if one else 0, 1 if one and steps <= has["AHEAD"] else 2, "F1 F2 F3")
    if case.op == "dense_gemv":
        return Limits(has["AHEAD"] * has["TILE_N"] * (1 if has["F16"] else 2), 0, 1, "F4")
    if case.op == "attention":
        # The position, then the keys, then the values together with the next keys; the loop adds one for each tile.
        return Limits(2 * has["AHEAD"] * (1 if has["F16"] else 2), 0, 3, "F5", merges=has["SPLITS"] > 1)
    if case.op == "norm_quant":
        share = -(-(has["DP"] // 4) // has["GPU_BLOCK"])
        return Limits(share * (2 if has["PRE"] == 0 else 3), 0, 1, "F6")
    return None
