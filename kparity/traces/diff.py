"""Two traces of the same tokens: where do their numbers part, and what of that follows from what came in?

Sample-size parity comes first, then the ratio of standard deviations (``parity``). Of tensors that both sides kept,
the error of each slot is held against the errors of its inputs: one that agrees in its inputs and not in its output is
where a difference begins. Errors of healthy engines grow along the way, because activations next to a rounding tie get
another code; what of it must be expected follows from the sizes of the steps (contract ``trace-parity-v1``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Literal

import msgspec
import numpy as np

from kparity import contracts
from kparity.engines.base import Facts
from kparity.engines.tokens import around, first_difference
from kparity.errors import WrongInput
from kparity.traces.files import Loaded
from kparity.traces.measure import measured, pairs_of, relative, rms, through_norm
from kparity.traces.parity import CONTRACT, Report, Stats, sample_size_parity, std_ratio_gate
from kparity.traces.slots import ABSENT, HEAD_NORMS, HEADS, TABLE, Key

SCHEMA: Literal["kparity-trace-diff-v1"] = "kparity-trace-diff-v1"
F32, F16 = 2.0**-20, 2.0**-11
"""What an operation in f32 may lose of a row, sixteen times its rounding; half a step of f16."""
CODES = 127
"""Steps from zero to the largest activation of a row."""
Gate = Callable[..., Report]
ALIKE = {"Q8_K": "int8 block256", "Q8_0": "int8 block32"}
"""llama.cpp's name of what ours do too."""
ADDED, NORMS = ("attn_residual", "output"), ("attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm", "result_norm")


Number = Annotated[float, msgspec.Meta(extra_json_schema={"anyOf": [{"type": "number"}, {"type": "null"}]})]
"""Null in JSON where it is infinite."""


class SlotDiff(msgspec.Struct, frozen=True, kw_only=True):
    """One slot of both traces. ``error`` is the norm of the difference over that of the second side, row by row, and
    of these the root of the mean square; ``explained`` is what the inputs' errors and rounding make of it. ``allowed``
    says why it may be larger than between two that compute alike.
    """

    key: str
    rows: int
    error: Number
    error_in: float | None
    explained: float | None
    excess: float | None
    amplification: float | None
    cosine: Number
    max_abs: Number
    worst_position: int
    sigma_ratio: float | None
    agrees: bool | None
    allowed: str


class GateDiff(msgspec.Struct, frozen=True):
    """A gate of ``parity``: how many checks it made, and which failed."""

    verdict: str
    reason: str
    checks: int
    failed: list[str]
    advice: str


class TraceDiff(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of two traces; ``first`` is the first slot whose output does not follow from its inputs."""

    schema: Literal["kparity-trace-diff-v1"] = SCHEMA
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    reason: str
    a: str
    b: str
    tokens_compared: Literal["all tokens", "last token"]
    sample_size_parity: GateDiff
    std_ratio: GateDiff
    first: SlotDiff | None
    slots: list[SlotDiff]
    not_compared: dict[str, str]
    notes: list[str]


def size_of(stats: Stats) -> float:
    """The root of the mean square."""
    return math.hypot(stats.mean, stats.std)


class Judge:
    """Holds the error of each slot against those of its inputs."""

    def __init__(self, a: Loaded, b: Loaded, last_token: bool, floor: Loaded | None) -> None:
        self.facts = [each.begin.facts if each.begin else None for each in (a, b)]
        self.limit = contracts.load(CONTRACT).threshold("local_excess")
        self.pairs = pairs_of(a, b, last_token)
        self.errors = {key: measured(pairs) for key, pairs in self.pairs.items()}
        against = pairs_of(a, floor, last_token) if floor else {}
        self.floor = {key: measured(pairs).error for key, pairs in against.items() if key in self.pairs}

    def slot(self, key: Key) -> SlotDiff:
        """One slot of both sides."""
        found, pairs = self.errors[key], self.pairs[key]
        inputs = key.inputs(self.errors) if self.errors else None
        error_in = self._error_in(key, inputs) if inputs else 0.0 if TABLE[key.slot].kind == "given" else None
        explained, allowed = None, ""
        if error_in is not None:
            alike, lost, why = self._explained(key, error_in, inputs or [])
            explained = math.hypot(alike, lost) + F32
            allowed = "" if self.limit.holds(found.error / (alike + F32)) else why
        if key in self.floor:
            explained = max(explained or 0.0, self.floor[key], F32)
        excess = None if explained is None else found.error / explained
        a, b = pairs[0].a.all_tokens.std, pairs[0].b.all_tokens.std
        return SlotDiff(
            key=str(key), rows=len(found.positions), error=found.error, error_in=error_in, explained=explained,
            excess=excess, amplification=found.error / error_in if error_in else None, cosine=found.cosine,
            max_abs=found.max_abs, worst_position=found.positions[int(np.argmax(found.rows))],
            sigma_ratio=a / b if b else None, agrees=None if excess is None else self.limit.holds(excess),
            allowed=allowed,
        )  # fmt: skip

    def _error_in(self, key: Key, inputs: Sequence[Key]) -> float:
        """What comes in, relative to a row: of a sum, both errors over the sum; through a norm, channel by channel; of
        attention, the worst row of the cache, which every later one may read, and what the scores make of q and k.
        """
        if key.slot in ADDED:
            together = sum(np.sqrt(self.errors[each].apart) for each in inputs)
            return rms(relative(np.square(together), self.errors[key].size))
        if key.slot in NORMS and len(inputs) == 1:
            return through_norm(self.pairs[inputs[0]][0], self.pairs[key][0])
        if TABLE[key.slot].kind == "attention":
            errors = {each: float(self.errors[each].rows.max()) if each.slot in HEADS else self.errors[each].error
                      for each in inputs}  # fmt: skip
            sharp = self._sharpness(key.layer)
            return max(error * (1 if each.slot == "v_cache" else sharp) for each, error in errors.items())
        return max(self.errors[each].error for each in inputs)

    def _sharpness(self, layer: int) -> float:
        """By how much a score differs, in nats, where q and k are off by their own size in directions of their own:
        √2 · rms(q) · rms(k). Softmax makes a relative error of that.
        """
        sizes = [next((size_of(self.pairs[key][0].b.all_tokens) for slot in slots
                       if (key := Key(layer, slot)) in self.pairs), 0.0)
                 for slots in (("q_rope", "qkv"), ("k_rope", "k_cache", "qkv"))]  # fmt: skip
        return max(1.0, math.sqrt(2) * math.prod(sizes))

    def _explained(self, key: Key, error: float, inputs: Sequence[Key]) -> tuple[float, float, str]:
        """√(error² + error·step + one²): of activations that are off by an error, some get another code, and each that
        does is off by a whole step, of which ``one`` is what a single code loses. Then what is lost where both sides
        are not known to compute alike, and what they may do otherwise.
        """
        kind, step, one, lost, why = TABLE[key.slot].kind, 0.0, 0.0, 0.0, ""
        if kind == "product":
            stats, source = self.pairs[inputs[0]][0].b.all_tokens, self.errors[inputs[0]]
            size = size_of(stats)
            step = max(abs(stats.min), abs(stats.max)) / size / CODES if size > 0 else 0.0
            one = step / math.sqrt(source.width * len(source.positions))
            if not self._same(_activations):
                lost, why = step / math.sqrt(12), "activations may be quantised otherwise"
        elif key.slot in HEADS or kind == "attention":
            step = 2 * F16
            if kind == "attention" and not self._same(_attention):
                lost, why = 2 * F16, "flash attention may add up in f16"
            elif not self._same(_cache):
                lost, why = F16, "the caches may hold other types"
        return math.sqrt(error**2 + error * step + one**2), lost, why

    def _same(self, what: Callable[[Facts], str]) -> bool:
        """Whether both sides are known to do alike what they may do otherwise."""
        one, other = (what(each) if each else "" for each in self.facts)
        return bool(one) and one == other


def _activations(facts: Facts) -> str:
    return ALIKE.get(facts.activations, facts.activations)


def _cache(facts: Facts) -> str:
    return facts.kv


def _attention(facts: Facts) -> str:
    """Flash attention adds up in f16, in an order that differs from build to build."""
    return "" if "flash" in facts.numerics else "f32"


def diff(a: Loaded, b: Loaded, *, last_token: bool = False, floor: Loaded | None = None) -> TraceDiff:
    """Compare two traces over all tokens, or over the last one; ``floor`` is a third whose distance from ``a`` is to be
    expected. Raises WrongInput for traces of other tokens, and where there is nothing to compare.
    """
    _same_tokens(a, b)
    if floor is not None:
        _same_tokens(a, floor)
        if a.begin and floor.begin and a.begin.model_sha256 != floor.begin.model_sha256:
            raise WrongInput(f"{a.path} and the floor {floor.path} are of other model files; capture both with one")
    _same_shape(a, b)
    if not {*a.entries} & {*b.entries}:
        raise WrongInput(f"{a.path} and {b.path} have no slot in common; nothing could be compared")
    _whole(a, b, *([floor] if floor else []))
    lacking = dict(_lacking(a, b))
    parity, ratio = (_gated(gate, a, b, lacking, last_token) for gate in (sample_size_parity, std_ratio_gate))
    judge = Judge(a, b, last_token, floor) if parity.verdict == "PASS" else None
    slots = [judge.slot(key) for key in judge.pairs] if judge else []
    first = next((each for each in slots if each.agrees is False), None)
    verdict, reason = _verdict(parity, ratio, slots, first, _other_bits(a, b, last_token))
    return TraceDiff(
        verdict=verdict, reason=reason, a=a.path, b=b.path, sample_size_parity=parity, std_ratio=ratio, first=first,
        tokens_compared="last token" if last_token else "all tokens", slots=slots,
        not_compared={str(key): why for key, why in lacking.items()}, notes=list(_notes(a, b, slots)),
    )  # fmt: skip


def _same_tokens(a: Loaded, b: Loaded) -> None:
    if not a.begin or not b.begin or (at := first_difference(a.begin.tokens, b.begin.tokens)) < 0:
        return
    one, other, paths = a.begin, b.begin, [f"trace {each.path}" for each in (a, b)]
    why = around(one.tokens, other.tokens, (one.facts, other.facts), paths)
    raise WrongInput(
        f"{a.path} and {b.path} are of other tokens, first at position {at}, and of {len(one.tokens)} and "
        f"{len(other.tokens)}{f' ({why[0]})' if why else ''}; capture both with the same --tokens"
    )


def _same_shape(a: Loaded, b: Loaded) -> None:
    """Raise WrongInput for models of other sizes, and for a slot that is not the same tensor on both sides."""
    for size in ("layers", "width"):
        told = [getattr(each.begin.facts, size) for each in (a, b) if each.begin]
        if all(told) and len({*told}) > 1:  # a server tells no size
            raise WrongInput(f"{a.path} has {size} {told[0]}, {b.path} {told[1]}; capture both with one model")
    for key in {*a.entries} & {*b.entries}:
        if a.entries[key].means != b.entries[key].means:
            raise WrongInput(
                f"{key.place} is {a.entries[key].means!r} in {a.path} and {b.entries[key].means!r} in {b.path}; "
                "record both with one version"
            )


def _whole(*traces: Loaded) -> None:
    """Raise WrongInput for tensors that changed since the capture, and for one that is zero on both sides."""
    for trace in traces:
        for entry in trace.entries.values():
            if entry.rows:
                entry.rows.verify()
    empty = [{key for key, each in trace.entries.items() if not each.all_tokens.min and not each.all_tokens.max}
             for trace in traces]  # fmt: skip
    for key in sorted(empty[0].intersection(*empty), key=lambda key: key.order):
        raise WrongInput(f"{key.place} is zero on both sides: it was recorded before it was computed; record it again")


def _lacking(a: Loaded, b: Loaded) -> Iterator[tuple[Key, str]]:
    """What one side has and the other says it does not; a dump says so by not having it."""
    for here, there in ((a, b), (b, a)):
        for key in sorted({*here.entries} - {*there.entries}, key=lambda key: key.order):
            untold = "the engine gives no such tensor" if key.slot in HEAD_NORMS else None
            why = "not in the dump" if there.end is None else there.end.absent.get(key.slot, untold)
            if why:
                yield key, f"{there.path}: {why}"


def _gated(gate: Gate, a: Loaded, b: Loaded, lacking: Mapping[Key, str], last_token: bool) -> GateDiff:
    layered = [key for key in {*a.entries, *b.entries} if key.layer != ABSENT]
    names = list(dict.fromkeys(key.name for key in sorted(layered, key=lambda key: (key.order[1], key.head))))
    count = max((key.layer + 1 for key in layered), default=0)
    there = {(key.layer, key.name) for key in layered if key not in lacking}
    skip = {(layer, name) for layer in range(count) for name in names} - there
    report = gate(a.layers(count), b.layers(count), slots=names, last_token=last_token, skip=skip)
    failed = [f"{check.place}: {check.reason}" for check in report.failed]
    return GateDiff(report.verdict, report.reason, len(report.checks), failed, report.advice)


def _other_bits(a: Loaded, b: Loaded, last_token: bool) -> str:
    """The first slot, in the order of computation, whose statistics are not those of the other side."""
    of = attrgetter("last_token" if last_token else "all_tokens")
    shared = sorted({*a.entries} & {*b.entries}, key=lambda key: key.order)
    return next((key.place for key in shared if of(a.entries[key]) != of(b.entries[key])), "")


def _verdict(
    parity: GateDiff, ratio: GateDiff, slots: Sequence[SlotDiff], first: SlotDiff | None, other: str
) -> tuple[Literal["PASS", "FAIL", "INCONCLUSIVE"], str]:
    if parity.verdict != "PASS":
        return "INCONCLUSIVE", ratio.reason
    if first:
        came = f"inputs differ by {first.error_in:.2g}, " if first.error_in is not None else ""
        times = f", {first.amplification:.3g} times as much" if first.amplification else ""
        out = f"output by {first.error:.2g}{times}" if math.isfinite(first.error) else "a side is empty or not finite"
        place = Key.parse(first.key).place
        return "FAIL", (
            f"{place} is the first that does not follow from its inputs: {came}{out}; "
            f"{first.explained:.2g} would follow; worst at position {first.worst_position}"
        )
    if ratio.verdict == "FAIL":
        return "FAIL", ratio.reason
    judged = sum(each.agrees is not None for each in slots)
    if not judged and other:  # a ratio of standard deviations sees coarse defects alone
        return "INCONCLUSIVE", (
            f"{ratio.reason}, but {other} differs and no tensors were kept on both sides to judge by how much; "
            "capture both with --tensors"
        )
    kept = f"{judged} of {len(slots)} slots follow from their inputs" if judged else "every statistic is equal"
    return "PASS", f"{ratio.reason}; {kept}"


def _notes(a: Loaded, b: Loaded, slots: Sequence[SlotDiff]) -> Iterator[str]:
    other = next((each for each in slots if each.allowed), None)
    if other:
        yield (
            f"{Key.parse(other.key).place} is the first that differs by more than the same arithmetic would: inputs by "
            f"{other.error_in:.2g}, output by {other.error:.2g}; {other.allowed}"
        )
    if a.begin and b.begin and a.begin.model_sha256 != b.begin.model_sha256:
        yield "the traces are of other model files"
    for each in (a, b):
        if each.end and each.end.absent:
            yield f"{each.path} has no {', '.join(each.end.absent)}: the engine gives no such tensor"
        if each.left_out:
            yield f"{each.path}: left out: {', '.join(each.left_out)}"
        if each.begin is None:
            yield f"{each.path} does not say of which tokens it is, nor before or after which operation: the map does"
