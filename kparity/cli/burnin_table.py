"""A burn-in for people: the lines of its statistics, its gates, prompts that drift, and rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kparity.burnin.compare import around
from kparity.burnin.record import Row
from kparity.burnin.stats import Miss, Stats
from kparity.burnin.told import HEAD, cells, lines, spelt
from kparity.cli.table import STYLES, Table, say
from kparity.host.text import percent
from kparity.receipts.cutover import Gate

if TYPE_CHECKING:
    from kparity.burnin.perplexity import Perplexity

CONTEXT = 24
"""Characters of a reply on each side of where two part."""


def print_stats(found: Stats) -> None:
    """The lines, then the gates."""
    for line in lines(found):
        say(line)
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
    table = Table(*HEAD, right=("target", "current"))
    for gate in gates:
        table.add(*cells(gate))
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
                beneath.append(f"{name}: …'{spelt(''.join(around(side.reply, row.prefix, CONTEXT)))}'")
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
