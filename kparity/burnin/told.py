"""What a burn-in shows, in words: for the terminal and for pages."""

from __future__ import annotations

from collections.abc import Iterator

from kparity.burnin.record import Mode
from kparity.burnin.stats import Stats
from kparity.host.text import number, percent
from kparity.receipts.cutover import Gate, State

MARKS: dict[State, str] = {"PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "⌛"}
MODES: dict[Mode, str] = {"greedy": "at temperature 0", "seeded": "with a seed", "aa": "v1 against itself"}
ADVICE = {
    "one": "one prompt drifts: look at its sampler and at ties before the model",
    "many": "many prompts drift: look at the model",
}


HEAD = ("gate", "state", "target", "current", "95 % at any time", "needs")


def lines(found: Stats) -> Iterator[str]:
    """Rates, the prompt that misses most, latency, ties, and what came of how many rounds."""
    rate = "" if found.exact_rate is None else f" ({100 * found.exact_rate:.2f}%)"
    wilson = ""
    if found.wilson_low is not None and found.wilson_high is not None:
        wilson = f", Wilson 95 % {percent(found.wilson_low)} to {percent(found.wilson_high)}"
    yield (
        f"bytes_exact: {found.exact} / {found.compared}{rate}; prompts always exact {found.prompts_exact} / "
        f"{found.prompts}{wilson}"
    )
    if found.top_miss and found.fixed_rate is not None:
        top = found.top_miss
        yield (
            f'top_miss: idx={top.prompt} "{top.asked[:60]}" ({100 * top.share:.1f}% of misses); with it fixed '
            f"{100 * found.fixed_rate:.2f}%; {ADVICE[found.pattern]}"
        )
    if found.latency:
        each = found.latency
        yield (
            f"latency: v1 p50 {each.v1_p50:.1f} p95 {each.v1_p95:.1f} ms, v2 p50 {each.v2_p50:.1f} p95 "
            f"{each.v2_p95:.1f} ms, gap {each.p95_gap:+.1f} ms; v2 slower in {percent(each.above)} of pairs "
            f"(p {each.p:.2g})"
        )
    if found.median_prefix is not None:
        yield f"median prefix of a miss: {found.median_prefix:.0f} bytes"
    ties = found.ties
    if found.buckets["no-match"]:
        floor = "no floor: run --against-itself" if ties.floor is None else f"floor {ties.floor:.3g} nats"
        yield (
            f"no-match: {ties.exact_tie} exact ties, {ties.near_tie} near ties, {ties.diverged} unexplained, "
            f"{ties.unknown} without margins ({floor})"
        )
        if found.explained_rate is not None and ties.exact_tie + ties.near_tie:
            yield f"exact or a tie: {100 * found.explained_rate:.2f}% of rounds"
        if ties.margin_most is not None and ties.margin_median is not None:
            moved = "" if ties.moved is None else f"; those before it move by {ties.moved:.3g}"
            yield f"margins where they part: median {ties.margin_median:.3g}, up to {ties.margin_most:.3g} nats{moved}"
    counts = [f"{name} {count}" for name, count in {**found.buckets, **found.faults}.items() if count]
    if found.unmeasured:
        counts.append(f"both empty {found.unmeasured}")
    if found.clock_jumps:
        counts.append(f"clock set {found.clock_jumps} times")
    yield f"rounds: {found.rounds} in {found.hours:.2f} h; {', '.join(counts)}"


def cells(gate: Gate) -> tuple[str, str, str, str, str, str]:
    """What stands under ``HEAD``."""
    ends = [None if end is None else number(end) for end in (gate.low, gate.high)]
    span = "" if ends == [None, None] else f"{ends[0] or '?'} to {ends[1] or '?'}"
    current = "" if gate.current is None else number(float(gate.current))
    return gate.name, f"{MARKS[gate.state]} {gate.state}", gate.target, current, span, gate.needs


def spelt(text: str) -> str:
    """A text in which everything that does not show itself is an escape; bytes that are no UTF-8, for which surrogates
    stand, are ``⟨ff⟩``.
    """
    return "".join(f"⟨{ord(each) - 0xDC00:02x}⟩" if "\udc80" <= each <= "\udcff" else repr(each)[1:-1] for each in text)
