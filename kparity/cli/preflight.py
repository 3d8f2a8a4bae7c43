"""``kparity preflight``: AVAILABLE or NOT AVAILABLE per backend, what was found, where it was looked for, and what to
do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kparity.probe.preflight import Availability


@click.command()
@click.option("--backends", metavar="A,B,C", help="Backends to examine [default: all].")
@click.option(
    "--shell",
    type=click.Choice(["sh", "fish", "pwsh", "all"]),
    default="all",
    show_default=True,
    help="Shell of the remedies.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=30.0, show_default=True, help="Seconds per backend.")
@click.pass_context
def preflight(ctx: click.Context, backends: str | None, shell: str, as_json: bool, timeout: float) -> None:
    """Show which backends this machine has, and what the others lack.

    Exit code 0 when every backend that --backends names is available; without --backends, when any is; else 3.
    """
    from kparity.device.registry import names
    from kparity.probe.dispatcher import parse_order
    from kparity.probe.preflight import examine

    findings = examine(parse_order(backends) if backends else names(), timeout)
    if as_json:
        import json

        click.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        for finding in findings:
            _print(finding, shell)
    available = [finding.available for finding in findings]
    ctx.exit(0 if (all(available) if backends else any(available)) else 3)


def _print(finding: Availability, shell: str) -> None:
    state = "AVAILABLE" if finding.available else "NOT AVAILABLE"
    click.echo(f"{finding.backend}: {click.style(state, fg='green' if finding.available else 'yellow', bold=True)}")
    if finding.available and finding.device:
        device = finding.device
        click.echo(f"  device     {device['device']} ({device['kind']}), {device['api']}")
        click.echo(f"  driver     {device['driver'] or '—'}, uuid {device['uuid'] or '—'}")
        click.echo(f"  library    {device['library']}")
    else:
        click.echo(f"  reason     [{finding.code}] {finding.reason}")
    for title, found in (("package", finding.packages), ("library", finding.libraries)):
        for name, value in found.items():
            click.echo(f"  {title:<10} {name}: {value or 'not found'}")
    for path, node in finding.nodes.items():
        click.echo(f"  node       {path}: {node}")
    for manifest in finding.manifests:
        click.echo(f"  manifest   {manifest}")
    for name, value in finding.environment.items():
        click.echo(f"  variable   {name}={value}")
    if not finding.available:
        if finding.searched:
            click.echo(f"  searched   {', '.join(finding.searched)}")
        for name, lines in finding.remedies.items():
            if shell in (name, "all"):
                for line in lines:
                    click.echo(f"  {name:<10} {line}")
    click.echo()
