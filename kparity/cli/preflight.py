"""``kparity preflight``: AVAILABLE or NOT AVAILABLE per backend, what was found, where it was looked for, and what to
do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from kparity.cli.command import Command
from kparity.cli.options import Number, backends_option, json_option

if TYPE_CHECKING:
    from kparity.probe.preflight import Availability


@click.command(cls=Command, examples=("kparity preflight -b cpu", "kparity preflight --json"))
@backends_option("Backends to examine [default: all].")
@click.option("--shell", type=click.Choice(["sh", "fish", "pwsh"]), help="Shell of the remedies [default: yours].")
@click.option("-v", "--verbose", is_flag=True, help="Remedies for every shell.")
@json_option
@click.option("--timeout", type=Number(min=0.1), default=30.0, show_default=True, help="Seconds per backend.")
def preflight(
    backends: tuple[str, ...] | None, shell: str | None, verbose: bool, json_path: str | None, timeout: float
) -> int:  # fmt: skip
    """Show which backends this machine has, and what the others lack.

    Exit code 0 when every backend that --backends names is available; without --backends, when any is; else 3.
    """
    from kparity.device.registry import names
    from kparity.device.remedies import SHELLS, own_shell
    from kparity.probe.dispatcher import parse_order
    from kparity.probe.preflight import examine

    findings = examine(parse_order(backends or names()), timeout)
    if json_path:
        from kparity.host import files

        files.write_json(json_path, [vars(finding) for finding in findings])
    else:
        for finding in findings:
            _print(finding, [*SHELLS] if verbose else [shell or own_shell()])
    available = [finding.available for finding in findings]
    return 0 if (all(available) if backends else any(available)) else 3


def _print(finding: Availability, shells: Sequence[str]) -> None:
    from kparity.cli.table import Table, say, say_command

    state = ("AVAILABLE", "bold green") if finding.available else ("NOT AVAILABLE", "bold yellow")
    say(f"{finding.backend}: ", state)
    lines: list[tuple[str, str]] = []
    if finding.available and (device := finding.device):
        lines += [
            ("device", f"{device['device']} ({device['kind']}), {device['api']}"),
            ("driver", f"{device['driver'] or '—'}, uuid {device['uuid'] or '—'}"),
            ("library", device["library"]),
        ]
    else:
        lines.append(("reason", f"[{finding.code}] {finding.reason}"))
    for kind, values in (("package", finding.packages), ("library", finding.libraries)):
        found = {name: value for name, value in values.items() if value or not finding.available}
        lines += [(kind, f"{name}: {value or 'not found'}") for name, value in found.items()]
    lines += [("node", f"{path}: {node}") for path, node in finding.nodes.items()]
    lines += [("manifest", manifest) for manifest in finding.manifests]
    lines += [("variable", f"{name}={value}") for name, value in finding.environment.items()]
    if finding.searched and not finding.available:
        lines.append(("searched", ", ".join(finding.searched)))
    table = Table("", "")
    for title, text in lines:
        table.add(f"  {title}", text)
    table.print()
    for name in shells:
        for line in finding.remedies.get(name, []):
            if line.startswith("#") or name == "pwsh":
                say(f"  {name}: {line}")
            else:
                say_command(f"  {name}:", line)
    say("")
