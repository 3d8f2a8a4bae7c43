"""``kparity explain``: the cause and the remedy behind a reason code."""

from __future__ import annotations

import click

from kparity.cli import names
from kparity.cli.command import Command
from kparity.cli.names import completing


@click.command(
    cls=Command,
    examples=(
        "kparity explain KP-CUDA-NODRIVER",
        "kparity explain bos_cosine",
    ),
)
@click.argument("code", required=False, shell_complete=completing(names.codes))
def explain(code: str | None) -> None:
    """Explain a reason code such as KP-CUDA-NODRIVER or RCPT-DIGEST, or a measure such as bos_cosine; without one, list
    all codes.
    """
    from kparity import contracts
    from kparity.cli.table import Table, say
    from kparity.device import codes
    from kparity.gates.table import GATES
    from kparity.receipts.findings import REFUSALS

    if code is None:
        table = Table("", "")
        for name, reason in {**codes.reasons(), **REFUSALS}.items():
            table.add(name, reason.title)
        table.print()
        return
    measure = code.strip().lower()
    if gate := next((gate for gate in GATES if measure in gate.thresholds), None):
        contract = contracts.load(contracts.PROBE)
        limit = contract.threshold(measure)
        head = f"{measure} {limit.sign} {limit.value:g} ({contract.id} {contract.version})"
        facts = {
            "gate": f"{gate.name}: {gate.runs}", "sees": gate.sees, "blind": gate.blind,
            "codes": ", ".join(gate.codes), "basis": limit.basis,
        }  # fmt: skip
    else:
        reason = codes.explain(code, REFUSALS)
        head, facts = (
            f"{code.strip().strip('[]').upper()}: {reason.title}",
            {"cause": reason.cause, "remedy": reason.remedy},
        )
    say(head)
    say("")
    width = 2 + max(map(len, facts))
    for name, text in facts.items():
        say(f"{name + ':':<{width}}{text}", hang=width)
