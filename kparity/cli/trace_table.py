"""Traces for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kparity.cli.table import STYLES, Table, say
from kparity.host.text import number
from kparity.traces.diff import SlotDiff, TraceDiff
from kparity.traces.files import End, Loaded
from kparity.traces.slots import ABSENT, TABLE, Key

FAILED = 8
"""Failed checks that are shown."""


def print_captured(folder: Path, tokens: int, end: End) -> None:
    """What was recorded, and the proof."""
    say(f"{folder}: {end.tensors} slots of {tokens} tokens; tracing changed no bit of the logits")
    _say_rest(end)


def _say_rest(end: End) -> None:
    for why in dict.fromkeys(end.absent.values()):
        say(("not there: ", "dim"), ", ".join(slot for slot, of in end.absent.items() if of == why) + f": {why}")
    if end.unmapped:
        say(("no slot: ", "dim"), ", ".join(f"{name} ({count})" for name, count in end.unmapped.items()))


def print_trace(loaded: Loaded, slots: Sequence[str], verbose: bool) -> None:
    """Of what it is, and its statistics."""
    if loaded.begin and loaded.end:
        begin = loaded.begin
        say(f"{begin.engine}: {begin.facts.name} ({begin.facts.version}), {begin.facts.device.description}")
        say(f"model {begin.facts.model}, sha256 {begin.model_sha256[:16]}; {len(begin.tokens)} tokens, {begin.time}")
        _say_rest(loaded.end)
    numbers = ("min", "max", "mean", "std", "NaN", "inf", "zero", "count")
    table = Table("layer", "slot", "over", *numbers, right=("layer", *numbers))
    for key, entry in loaded.entries.items():
        for over, stats in (("all tokens", entry.all_tokens), ("last token", entry.last_token)):
            if key.slot in slots and (verbose or over == "all tokens"):
                counts = (str(each) for each in (stats.nan_count, stats.inf_count, stats.zero_count, stats.count))
                layer = "" if key.layer == ABSENT else str(key.layer)
                table.add(layer, key.name, over, stats.min, stats.max, stats.mean, stats.std, *counts)
    table.print()


def print_diff(found: TraceDiff, verbose: bool) -> None:
    """The gates, the slots of the layer that is worst for each (all with ``verbose``), the verdict."""
    for name, gate in (("sample-size parity", found.sample_size_parity), ("std ratio", found.std_ratio)):
        say((gate.verdict, STYLES[gate.verdict]), f" {name}, {found.tokens_compared}: {gate.reason}")
        for line in gate.failed[: None if verbose else FAILED]:
            say(line, indent=2)
    if found.slots:
        _slots(found, verbose).print()
    for note in found.notes:
        say(("note: ", "dim"), note)
    if found.not_compared:
        say(("not compared: ", "dim"), ", ".join(found.not_compared))
    say((found.verdict, STYLES[found.verdict]), f": {found.reason}")
    if advice := found.sample_size_parity.advice or (found.verdict == "PASS" and found.std_ratio.advice):
        say(advice)


def _slots(found: TraceDiff, verbose: bool) -> Table:
    numbers = ("error", "inputs", "follows", "excess", "gain", "cosine", "max abs", "position")
    table = Table("slot", "layer", *numbers, "", right=numbers, title="" if verbose else "the worst layer of each slot")
    for each in found.slots if verbose else _worst(found.slots):
        key = Key.parse(each.key)
        verdict = {None: "not judged", True: "", False: "FAIL"}[each.agrees]
        table.add(
            key.slot, "" if key.layer == ABSENT else str(key.layer), each.error, each.error_in, each.explained,
            each.excess, each.amplification, number(each.cosine, 7), each.max_abs, str(each.worst_position), verdict,
        )  # fmt: skip
    return table


def _worst(slots: Sequence[SlotDiff]) -> list[SlotDiff]:
    """Of each slot the layer with the largest excess."""
    found: dict[str, SlotDiff] = {}
    for each in slots:
        before = found.setdefault(Key.parse(each.key).slot, each)
        if (each.excess or 0) > (before.excess or 0):
            found[Key.parse(each.key).slot] = each
    return [found[slot] for slot in TABLE if slot in found]
