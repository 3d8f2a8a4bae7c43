"""A burn-in for people: the lines of its statistics, its gates, prompts that drift, and rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kparity.burnin.record import Row
from kparity.burnin.stats import Gate, Miss, Stats
from kparity.cli.table import STYLES, Table, percent, say
from kparity.host.text import number

if TYPE_CHECKING:
    from kparity.burnin.perplexity import Perplexity

MARKS = {"PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "⌛"}
ADVICE = {
    "one": "one prompt drifts: look at its sampler and at ties before the model",
    "many": "many prompts drift: look at the model",
}
CONTEXT = 24
"""Bytes of a reply on each side of where two part."""


def print_stats(found: Stats) -> None:
    """The lines, then the gates."""
    rate = "" if found.exact_rate is None else f" ({100 * found.exact_rate:.2f}%)"
    wilson = ""
    if found.wilson_low is not None and found.wilson_high is not None:
        wilson = f", Wilson 95 % {percent(found.wilson_low)} to {percent(found.wilson_high)}"
    say(f"bytes_exact: {found.exact} / {found.compared}{rate}; prompts always exact {found.prompts_exact} / "
        f"{found.prompts}{wilson}")  # fmt: skip
    if found.top_miss and found.fixed_rate is not None:
        top = found.top_miss
        say(f'top_miss: idx={top.prompt} "{top.asked[:60]}" ({100 * top.share:.1f}% of misses); with it fixed '
            f"{100 * found.fixed_rate:.2f}%; {ADVICE[found.pattern]}")  # fmt: skip
    if found.latency:
        each = found.latency
        say(f"latency: v1 p50 {each.v1_p50:.1f} p95 {each.v1_p95:.1f} ms, v2 p50 {each.v2_p50:.1f} p95 "
            f"{each.v2_p95:.1f} ms, gap {each.p95_gap:+.1f} ms; v2 slower in {percent(each.above)} of pairs "
            f"(p {each.p:.2g})")  # fmt: skip
    if found.median_prefix is not None:
        say(f"median prefix of a miss: {found.median_prefix:.0f} bytes")
    ties = found.ties
    if found.buckets["no-match"]:
        floor = "no floor: run --against-itself" if ties.floor is None else f"floor {ties.floor:.3g} nats"
        say(f"no-match: {ties.exact_tie} exact ties, {ties.near_tie} near ties, {ties.diverged} unexplained, "
            f"{ties.unknown} without margins ({floor})")  # fmt: skip
        if found.explained_rate is not None and ties.exact_tie + ties.near_tie:
            say(f"exact or a tie: {100 * found.explained_rate:.2f}% of rounds")
        if ties.margin_most is not None and ties.margin_median is not None:
            moved = "" if ties.moved is None else f"; those before it move by {ties.moved:.3g}"
            say(f"margins where they part: median {ties.margin_median:.3g}, up to {ties.margin_most:.3g} nats{moved}")
    counts = [f"{name} {count}" for name, count in {**found.buckets, **found.faults}.items() if count]
    if found.unmeasured:
        counts.append(f"both empty {found.unmeasured}")
    if found.clock_jumps:
        counts.append(f"clock set {found.clock_jumps} times")
    say(f"rounds: {found.rounds} in {found.hours:.2f} h; {', '.join(counts)}")
    for gate in found.gates:
        if gate.name == "ppl_delta":
            delta = "" if gate.current is None else f" (Δ {gate.current:+.4f})"
            say(f"ppl_v1: {shown(found.ppl_v1)}")
            say(f"ppl_v2: {shown(found.ppl_v2)}{delta} ", (gate.state, STYLES[gate.state]))
    print_gates(found.gates)
    say(f"{found.log}: ", (found.verdict, STYLES[found.verdict]))


def shown(ppl: float | None) -> str:
    """A perplexity; one that is none is not finite."""
    return "not finite" if ppl is None else f"{ppl:.4f}"


def print_gates(gates: Sequence[Gate]) -> None:
    """The table of the gates."""
    table = Table("gate", "state", "target", "current", "95 % at any time", "needs", right=("target", "current"))
    for gate in gates:
        ends = [None if end is None else number(end) for end in (gate.low, gate.high)]
        span = "" if ends == [None, None] else f"{ends[0] or '?'} to {ends[1] or '?'}"
        table.add(gate.name, f"{MARKS[gate.state]} {gate.state}", gate.target,
                  None if gate.current is None else number(float(gate.current)), span, gate.needs)  # fmt: skip
    table.print()


def print_drift(misses: Sequence[Miss]) -> None:
    """A row a prompt."""
    if not misses:
        say("no prompt drifts")
        return
    table = Table("idx", "misses", "rounds", "share", "prefix", "kind", "prompt", right=("idx", "misses", "rounds",
                                                                                       "share", "prefix"))  # fmt: skip
    for each in misses:
        table.add(each.prompt, each.misses, each.rounds, percent(each.share), each.median_prefix, each.kind, each.asked)
    table.print()


def print_rounds(rounds: Sequence[Row]) -> None:
    """A row a round, beneath those that differ what both sides say around the place."""
    table = Table("round", "bucket", "idx", "prefix", "v1 ms", "v2 ms", "margin", "time", "prompt",
                  right=("round", "idx", "prefix", "v1 ms", "v2 ms", "margin"))  # fmt: skip
    for row in rounds:
        beneath = []
        for name, side in (("v1", row.v1), ("v2", row.v2)):
            if row.bucket in ("prefix-only", "no-match"):
                shown = side.reply[max(row.prefix - CONTEXT, 0) : row.prefix + CONTEXT]
                beneath.append(f"{name}: …{shown.decode(errors='replace')!r}")
            elif side.fault:
                beneath.append(f"{name}: {side.fault} {side.why}".rstrip())
        bucket = row.bucket if row.tie == "none" else f"{row.bucket}, {row.tie}"
        table.add(row.round, bucket, row.prompt, row.prefix, row.v1.ms, row.v2.ms, row.margin, row.time,
                  row.asked[:60], beneath=beneath)  # fmt: skip
    table.print()


def print_perplexity(found: Perplexity) -> None:
    """Both sides, then the verdict."""
    plan = found.plan
    for name, side in (("ppl_ref", found.reference), ("ppl_cand", found.candidate)):
        say(f"{name}: {shown(side.ppl)}  {side.engine} {side.version}")
    say(f"{found.text}: {found.scored} tokens scored, windows of {plan.window} every {plan.stride}, BOS {plan.bos}")
    say(f"{found.why}: ", (found.verdict, STYLES[found.verdict]))
