"""``kparity explain``: the cause and the remedy behind a reason code."""

from __future__ import annotations

import click


@click.command()
@click.argument("code", required=False)
def explain(code: str | None) -> None:
    """Explain a reason code such as KP-CUDA-NODRIVER or RCPT-DIGEST, or a measure such as bos_cosine; without one, list
    all codes.
    """
    from kparity import contracts
    from kparity.device import codes
    from kparity.gates.table import GATES
    from kparity.receipts.findings import REFUSALS

    if gate := next((gate for gate in GATES if code in gate.thresholds), None):
        contract = contracts.load(contracts.PROBE)
        limit = contract.threshold(str(code))
        click.echo(
            f"{code} {limit.sign} {limit.value:g} ({contract.id} {contract.version})\n\n"
            f"gate:  {gate.name}: {gate.runs}\nsees:  {gate.sees}\nblind: {gate.blind}\n"
            f"codes: {', '.join(gate.codes)}\nbasis: {limit.basis}"
        )
        return
    known = {**codes.reasons(), **REFUSALS}
    if code is None:
        width = max(map(len, known))
        for name, reason in known.items():
            click.echo(f"{name:<{width}}  {reason.title}")
        return
    reason = codes.explain(code, known)
    click.echo(f"{code.strip().strip('[]').upper()}: {reason.title}\n\ncause:  {reason.cause}\nremedy: {reason.remedy}")
