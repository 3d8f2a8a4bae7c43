"""``kparity explain``: the cause and the remedy behind a reason code, and what a contract says of a measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from kparity.cli import names
from kparity.cli.command import Command
from kparity.cli.names import completing

if TYPE_CHECKING:
    from kparity.contracts.terms import Term

Told = tuple[str, Mapping[str, str]]
"""A line, and what is known, by name."""


@click.command(
    cls=Command,
    examples=(
        "kparity explain KP-CUDA-NODRIVER",
        "kparity explain bos_cosine",
        "kparity explain near-tie",
    ),
)
@click.argument("code", required=False, shell_complete=completing(names.codes))
def explain(code: str | None) -> None:
    """Explain a reason code such as KP-CUDA-NODRIVER or RCPT-DIGEST, a measure or a term of a contract such as
    bos_cosine or "sigma ratio", or a slot of a trace such as ffn_gate; without one, list all codes.
    """
    from kparity.cli.table import Table, say
    from kparity.device import codes
    from kparity.receipts.findings import REFUSALS

    if code is None:
        table = Table("", "")
        for name, reason in {**codes.reasons(), **REFUSALS}.items():
            table.add(name, reason.title)
        table.print()
        return
    for number, (head, facts) in enumerate(_told(code)):
        if number:
            say("")
        say(head)
        say("")
        width = 2 + max(map(len, facts))
        for name, text in facts.items():
            say(f"{name + ':':<{width}}{text}", hang=width)


def _told(code: str) -> list[Told]:
    """What there is of that name; else what has these words; raises UnknownName with the nearest name."""
    from kparity.contracts import terms
    from kparity.device import codes
    from kparity.errors import UnknownName
    from kparity.receipts.findings import REFUSALS

    word = code.strip().strip("[]")
    if exact := [*_terms(terms.named(word)), *_slot(word.lower())]:
        return exact
    try:
        reason = codes.explain(word, REFUSALS)
    except UnknownName:
        if not word.upper().startswith(("KP-", "RCPT-")):
            if said := list(_terms(terms.saying(word))):
                return said
            raise UnknownName("measure, slot or code", word, names.measures()) from None
        raise
    return [(f"{word.upper()}: {reason.title}", {"cause": reason.cause, "remedy": reason.remedy})]


def _terms(found: Sequence[Term]) -> Iterator[Told]:
    """Of contracts; a measure of the probe with the gate that judges it."""
    from kparity import contracts
    from kparity.gates.table import EVERY

    for term in found:
        of_probe = term.contract.id == contracts.PROBE
        gate = next((gate for gate in EVERY if of_probe and term.name in gate.thresholds), None)
        facts = {"gate": f"{gate.name}: {gate.runs}", "sees": gate.sees, "blind": gate.blind,
                 "codes": ", ".join(gate.codes)} if gate else {}  # fmt: skip
        yield f"{term.name}{term.limit} ({term.contract.id} {term.contract.version})", {**facts, **term.facts}


def _slot(name: str) -> Iterator[Told]:
    from kparity.traces.slots import STREAM, TABLE

    if slot := TABLE.get(name):
        made = ", ".join("the output of the layer before" if each == STREAM else each for each in slot.inputs)
        yield f"{name}: a slot of kparity trace", {"means": slot.means, "made of": made or "the tokens"}
