"""A climb for people, in the playbook's words: the rungs, the positions, and what to do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kparity.cli.diagnose_table import print_findings
from kparity.cli.table import STYLES, Table, say
from kparity.host.text import number
from kparity.ladder.limits import HUNDRED

if TYPE_CHECKING:
    from kparity.engines.base import Facts
    from kparity.ladder.record import Document, Rung

NEAREST, LEAST, SHOWN, AROUND = 3, 0.01, 16, 2
"""Measures of a rung that are shown, what they have used of their limit at least; positions that are shown; ids on both
sides of a wrong one.
"""
DIVERGED = "DIVERGED"


def print_ladder(found: Document, verbose: bool = False, dump_ids: bool = False) -> None:
    """Both engines, the floor, a line for each rung, what failed, and the verdict."""
    for side, facts, spec in (("reference", found.reference, found.request.reference),
                              ("candidate", found.candidate, found.request.candidate)):  # fmt: skip
        say(f"{side}: {_engine(facts) if facts else spec}", hang=11)
    if given := found.request.overrides:
        say(f"overridden limits: {', '.join(f'{name} {limit:g}' for name, limit in given.items())}", hang=19)
    if found.floor:
        say(f"profile: {found.profile}; floor: {found.floor.basis}", hang=9)
        for control in found.floor.controls if verbose else ():
            told = ", ".join(
                f"{name} median {spread['median']:.3g}, most {spread['most']:.3g}"
                for name, spread in control.spreads.items()
            )
            say(f"floor, {control.name}, {control.positions} positions: {told}", indent=2)
    for at, tokens in enumerate(found.tokens):
        if tokens not in found.tokens[:at] and (dump_ids or tokens.first_difference >= 0):  # a prompt may be the text
            _ids(f"token IDs, text {at + 1}", tokens.reference, tokens.candidate, tokens.first_difference)
            if tokens.first_difference < 0:
                count = len(tokens.reference or tokens.candidate or [])
                say(f"Token parity: OK ({count} tokens match exactly)", indent=2)
    if found.positions:
        _positions(found, verbose)
    for at, each in enumerate(found.decode):
        wrong = each.steps.index(DIVERGED) if DIVERGED in each.steps else -1
        if dump_ids or wrong >= 0:
            _ids(f"generated IDs, prompt {at + 1}", each.reference, each.candidate, wrong)
            say(f"steps: {' '.join(each.steps)}", indent=2)
    table = Table("rung", "verdict", "s", right={"s"})
    for rung in found.rungs:
        table.add(
            rung.name, rung.verdict, round(rung.seconds, 2) if rung.seconds else "", beneath=_about(rung, verbose)
        )
    table.print()
    if found.diagnosis and found.verdict == "FAIL":
        print_findings(found.diagnosis, None if verbose else NEAREST)
    if way := found.three_way:
        say(f"median L2 to {way.third}: reference {number(way.reference_l2)}, candidate {number(way.candidate_l2)}; "
            f"the candidate is the farther one with probability {way.candidate_farther:.3f}")  # fmt: skip
    head = next((each for each in found.rungs if each.verdict == "FAIL"), None)
    where = f" at {head.name}" if head else ""
    first = f", first wrong position {found.divergence_token}" if found.divergence_token >= 0 else ""
    say((found.verdict, STYLES[found.verdict]),
        f"{where}{first}; {found.contract.id} {found.contract.version}, {found.seconds:.1f} s, "
        f"{found.engine_seconds:.1f} s of them in the engines")  # fmt: skip


def _engine(facts: Facts) -> str:
    return (f"{facts.name} ({facts.version}) on {facts.device.description}, {facts.device.kind}; {facts.numerics}, "
            f"KV {facts.kv or 'not told'}, context {facts.context}")  # fmt: skip


def _ids(title: str, reference: list[int] | None, candidate: list[int] | None, wrong: int) -> None:
    """Both lists, and what stands around the place that is wrong, marked; -1 for none."""
    for side, ids in (("reference", reference), ("candidate", candidate)):
        say(f"[{side} {title}]: {'none' if ids is None else ids}")
    if wrong < 0:
        return
    places = range(max(0, wrong - AROUND), wrong + AROUND + 1)
    table = Table("at", *map(str, places), right=set(map(str, places)))
    for side, ids in (("reference", reference), ("candidate", candidate)):
        table.add(side, *(ids[at] if ids and at < len(ids) else "" for at in places))
    table.add("", *("^" if at == wrong else "" for at in places))
    table.print()


def _positions(found: Document, verbose: bool) -> None:
    """The playbook's lines: all of few, the bad ones of many; and its summary."""
    positions, sums = found.positions, found.metrics
    shown = [each for at, each in enumerate(positions) if verbose or len(positions) <= SHOWN or each.verdict == "FAIL"]
    for each in shown if verbose else shown[:SHOWN]:
        numbers = f" (cos_sim: {each.cosine_similarity:.6f}, l2_dist: {each.l2_distance:.4g})"
        say(f"Position {each.position}: ", (each.verdict, STYLES.get(each.verdict, "yellow")), numbers)
    if len(shown) > SHOWN and not verbose:
        say(f"… and {len(shown) - SHOWN} more; -v shows all")
    bad = [each.position for each in positions if each.verdict == "FAIL"]
    diverged = f"first diverging position {bad[0]}, {len(bad)} of {len(positions)} beyond a limit" if bad else ""
    say(f"Summary: {diverged or 'All positions parity OK'}")
    say(f"Minimum cosine similarity: {sums.min_cosine_similarity:.6f}")
    say(f"Maximum L2 distance: {sums.max_l2_distance:.5g}")
    p99 = f", p99 {sums.p99_kl:.3g}" * (sums.token_count >= HUNDRED)
    say(f"KL divergence: mean {sums.mean_kl:.3g}{p99}, max {sums.max_kl:.3g}")
    ties = Counter(each.tie for each in positions)
    say(f"Likeliest ids: {', '.join(f'{count} {tie}' for tie, count in ties.most_common())}")


def _about(rung: Rung, verbose: bool) -> Iterator[str]:
    """Why it failed and what to do, what else to know, and the measures nearest to their limits."""
    for title, text in (("", rung.reason), ("cause: ", rung.cause), ("next: ", rung.next)):
        if text:
            yield title + text
    yield from rung.notes
    wrong = [each for each in rung.measures if each.outcome != "PASS" and not rung.reason.startswith(each.text)]
    right = sorted((each for each in rung.measures if each.outcome == "PASS"), key=lambda each: -each.used)
    if not verbose:
        wrong, right = wrong[:NEAREST], [] if wrong else [each for each in right[:NEAREST] if each.used > LEAST]
    for each in [*wrong, *right]:
        yield f"{'' if each.outcome == 'PASS' else each.outcome + ' '}{each.text}"
