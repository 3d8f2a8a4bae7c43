"""``kparity explain``: the cause and the remedy behind a reason code."""

from __future__ import annotations

import click


@click.command()
@click.argument("code", required=False)
def explain(code: str | None) -> None:
    """Explain a reason code such as KP-CUDA-NODRIVER or RCPT-DIGEST; without one, list them all."""
    from kparity.codes import REASONS
    from kparity.codes import explain as look_up
    from kparity.receipts.reasons import REFUSALS

    known = {**REASONS, **REFUSALS}
    if code is None:
        width = max(map(len, known))
        for name, reason in known.items():
            click.echo(f"{name:<{width}}  {reason.title}")
        return
    reason = look_up(code, known)
    click.echo(f"{code.strip().strip('[]').upper()}: {reason.title}\n\ncause:  {reason.cause}\nremedy: {reason.remedy}")
