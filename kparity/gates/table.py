"""The gates of a probe, one entry each: what it runs, what it measures, how it rejects, what it sees and what it does
not. The probe, ``receipt verify``, ``mutate``, ``explain`` and docs/gates.md derive from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from kparity.gates.candidate import Candidate
    from kparity.gates.verdict import Gate

Depth = Literal["open", "bos", "full", "soak"]
DEPTHS: tuple[Depth, ...] = ("open", "bos", "full", "soak")
"""Each depth has the gates of those before it."""
BLIND = "BOS alone cannot see RoPE, mask, KV cache, prefill or reset errors, nor a constant factor"


@dataclass(frozen=True)
class GateSpec:
    """One gate, measured by ``kparity/gates/<name>.py`` in the candidate's process; the parent judges the measures."""

    name: str
    depth: Depth
    """The least depth at which it runs."""
    runs: str
    sees: str
    blind: str
    thresholds: tuple[str, ...] = ()
    """Of the contract, in the order in which they are judged: every one is measured at every run."""
    codes: tuple[str, ...] = ()
    """Reason codes of a rejection; the first stands for what the candidate gave no code of."""
    builds_on: str = ""
    """The gate whose logits it compares with."""
    alone: bool = False
    """Whether it needs no reference: it may run while that is computed."""

    @property
    def compares(self) -> bool:
        """Whether it compares logits of the model: where the model shows nothing, it sees nothing."""
        return self.name in ("BOS", "positions", "depth") or bool(self.builds_on)

    def load(self) -> Callable[[Candidate], Gate]:
        """The function that measures."""
        name = self.name.lower()
        function: Callable[[Candidate], Gate] = getattr(import_module(f"kparity.gates.{name}"), f"gate_{name}")
        return function


GATES: tuple[GateSpec, ...] = (
    GateSpec(
        "open", "open",
        "the device, its kind, its driver",
        "a missing driver; a software or CPU device that passes as a GPU; a device that a contract knows as bad",
        "whatever is computed",
        codes=("KP-FALSE-GPU", "KP-NOT-GPU", "KP-KNOWN-BAD"),
    ),
    GateSpec(
        "BOS", "bos",
        "one token on a fresh cache, cosine of the logits ≥ 0.99",
        "NaN, layout of another architecture, wrong activation function",
        "RoPE, mask, cache, constant factors",
        ("bos_cosine",), ("KP-BOS-COSINE", "KP-BOS-NONFINITE"),
    ),
    GateSpec(
        "graph", "full",
        "the constants of every kernel and the RoPE table on the device against the file, read a second time",
        "a base, eps, factor, activation or head count that is not the file's, however little it shows",
        "what the kernels make of them",
        ("graph_differences",), ("KP-GRAPH",),
    ),
    GateSpec(
        "exact", "full",
        "every GEMV shape with one-hot, random and extreme int8 activations",
        "any wrong int32 accumulator, bit for bit; then the file's scales, within 2 ULP",
        "layers that it does not sample",
        ("exact_mismatches", "exact_scaled_ulp"), ("KP-EXACT-BITS", "KP-EXACT-SCALE"), alone=True,
    ),
    GateSpec(
        "positions", "full",
        "72 teacher-forced tokens, each compared",
        "RoPE convention, mask, cache stride, factors; small errors, as a multiple of the noise of the reference",
        "later positions, which are the gate depth's; what norms and quantisers absorb",
        ("positions_cosine", "positions_noise", "positions_factor", "positions_norm", "positions_min"),
        ("KP-POS-COSINE", "KP-POS-NORM", "KP-POS-NONFINITE", "KP-UNSUPPORTED"),
    ),
    GateSpec(
        "prefill", "full",
        "batched prompts against step by step, and a step after each, as a multiple of the noise",
        "M > 1 kernels, chunk boundaries",
        "an error that both ways share",
        ("prefill_cosine", "prefill_noise", "prefill_norm"), ("KP-PREFILL",), "positions",
    ),
    GateSpec(
        "replay", "full",
        "the recording that serves against its launches one by one, bit for bit",
        "a captured graph that lost a launch; launches that overlap",
        "a recording that goes wrong later, which is the gate depth's",
        ("replay_differences",), ("KP-REPLAY",), "positions",
    ),
    GateSpec(
        "reset", "full",
        "all tokens and prompts again after all that, in rounds, bit for bit: 300 rows of logits",
        "state that outlives a reset, races, a step in a hundred that is wrong",
        "a fault that is rarer (--repeat)",
        ("reset_differences", "reset_compared"), ("KP-RESET",), "positions",
    ),
    GateSpec(
        "decode", "full",
        "greedy ids of the device against the reference, re-anchored at every position: same, tie, near-tie within the "
        "noise, or diverged",
        "the argmax kernel, ids that are not those of the logits",
        "sampling",
        ("decode_diverged", "decode_argmax", "decode_ties"), ("KP-DECODE", "KP-ARGMAX"), "positions",
    ),
    GateSpec(
        "turns", "full",
        "a second turn on a filled cache, from the middle of a chunk; rows beside other neighbours",
        "positions and masks that assume an empty cache or a full chunk; a turn that overwrites the one before",
        "a third turn",
        ("turns_cosine", "turns_noise", "turns_norm", "turns_rewritten"), ("KP-TURNS",), "positions",
    ),
    GateSpec(
        "depth", "full",
        "steps and prompts at powers of two, between them and at the end of the context, with the ids that the device "
        "returns, on a cache that is filled in bulk: the recording against its launches one by one, and against the "
        "reference",
        "a ring, window, part or recording that goes wrong at a late position",
        "what only a long walk brings about; a fault at single late positions that are not tried",
        ("depth_unreached", "depth_differences", "depth_cosine", "depth_noise", "depth_norm"), ("KP-DEPTH",),
    ),
    GateSpec(
        "resident", "full",
        "every weight, scale, norm and table on the device against the file, byte for byte, after all that",
        "flipped words, an upload that lost its end, a row that no token of the probe reads, a stray write",
        "what changes later",
        ("resident_differences",), ("KP-RESIDENT",),
    ),
    GateSpec(
        "kernels", "full",
        "every served kernel on random inputs, outliers, ties, small values and padding against fp64 truth; those that "
        "depend on the position, at both sides of every edge of the served context",
        "defects that a norm or a quantiser hides from every logit",
        "shapes and types that this model does not have: they are kparity check's",
        ("kernels_wrong",), ("KP-KERNEL",), alone=True,
    ),
)  # fmt: skip
"""In the order in which they run."""
SOAK = GateSpec(
    "soak", "soak",
    "two engines on one device for as long as `--soak` says: prompts and steps alone, in turn, and launch by launch",
    "scratch that engines share, the order of a queue, what wears out or is rare",
    "what takes longer",
    ("soak_differences", "soak_compared"), ("KP-SOAK", "KP-UNSUPPORTED"), "positions",
)  # fmt: skip
"""Runs behind them where somebody asks for it."""
EVERY = (*GATES, SOAK)
WHOLE = ("full", "soak")
"""Depths at which every gate of ``GATES`` runs."""


def of_depth(depth: str) -> Sequence[GateSpec]:
    """The gates that run at a depth."""
    reach = DEPTHS.index(depth)
    return [gate for gate in EVERY if DEPTHS.index(gate.depth) <= reach]


def thresholds(depth: str = "full") -> tuple[str, ...]:
    """Every measure that a pass of this depth has."""
    return tuple(name for gate in of_depth(depth) for name in gate.thresholds)


def named(name: str) -> GateSpec:
    """A gate by name; raises KeyError."""
    return {gate.name: gate for gate in EVERY}[name]


def markdown() -> str:
    """The table of docs/gates.md."""
    head = "| gate | what runs | what it sees | what it does not |\n|---|---|---|---|\n"
    return head + "".join(f"| {gate.name} | {gate.runs} | {gate.sees} | {gate.blind} |\n" for gate in EVERY)
