"""``kparity fleet``: every GPU of a Ray cluster, and what its ledger shows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from kparity.cli.command import File, Group, for_people
from kparity.cli.options import OUT, SPAN, Number, backends_option, json_option, quiet_option
from kparity.host.streams import log as say

LOCAL = {"burnin": "burnin run"}
"""Command of a fleet → the local one, where that has another name."""
OWN = {"--receipt", "--json", "--junit", "--csv", "--dump", "--backends", "--quiet", "--github", "--list", "--row",
       "--log", "--state", "--max-rounds", "--dashboard", "--listen", "--clear-halt"}  # fmt: skip
"""Options of the local commands that a fleet gives itself, or that write on the node what nobody fetches."""

PATIENCE, WHEEL_PATIENCE = 60.0, 600.0
"""Seconds; the latter is as long as Ray itself waits for what it installs."""


@click.group(cls=Group)
def fleet() -> None:
    """One task per GPU of a Ray cluster, a receipt from each, and no device without a line (see docs/fleet.md)."""


def _options(function: Callable[..., Any], backends: bool = True, deadline: str = "30m") -> Callable[..., Any]:
    chosen = backends_option(
        "Backends of the local command [default: what a node's resources are marked for, or its own]."
    )
    for option in reversed((
        click.argument("words", nargs=-1, metavar="[-- OPTIONS]"),
        click.option("--address", default="auto", show_default=True, metavar="ADDRESS",
                     help="The cluster: auto, HOST:PORT of its head, or ray://HOST:10001."),
        click.option("--out", default="fleet", show_default=True, metavar="FOLDER|URL",
                     help="Where ledger and receipts go: a folder, or what fsspec knows (s3://…)."),
        *([chosen] if backends else []),
        click.option("--per", type=click.Choice(["gpu", "node"]), default="gpu", show_default=True,
                     help="A task for each GPU, or for each node, whatever it computes on."),
        click.option("--expect", metavar="N|FILE", help="How many devices there must be, or their names, one a line."),
        click.option("--deadline", type=SPAN, default=deadline, show_default=True, help="For a device."),
        click.option("--patience", type=SPAN, help="For Ray to find a task its place, and for a lost node to come back "
                     "[default: 60s; with --wheel 10m, since Ray installs it and what it needs]."),
        click.option("--retries", type=click.IntRange(0, 10), default=1, show_default=True, metavar="N",
                     help="Times that what was lost is tried again."),
        click.option("--resume", is_flag=True, help="Go on with the last round: what has a receipt is not run again."),
        click.option("--wheel", type=File(path_type=Path), metavar="FILE",
                     help="kparity as a wheel, which the nodes get for these tasks."),
        quiet_option,
    )):  # fmt: skip
        function = option(function)
    return function


def _round(
    command: Any, words: tuple[str, ...], address: str, out: str, per: Any, expect: str | None, quiet: bool,
    wheel: Path | None, backends: tuple[str, ...] | None = None, pairs: str | None = None, **spans: Any,
) -> int:  # fmt: skip
    from kparity.cli.fleet_table import print_round
    from kparity.fleet import here, store
    from kparity.fleet.apart import apart
    from kparity.fleet.ray import Cluster, reached
    from kparity.fleet.record import exit_code
    from kparity.fleet.round import Asked, Round
    from kparity.probe.dispatcher import parse_order

    slots = here.pairs(pairs) if pairs else []
    _refuse(command, words, slots[0].own if slots else ())
    chosen = parse_order(backends) if backends else []
    if spans["patience"] is None:
        spans["patience"] = WHEEL_PATIENCE if wheel else PATIENCE
    names, count = _expected(expect)
    said = [*(["-b", ",".join(chosen)] if chosen else []), *words]
    asked = Asked(command, said, per, names, count, backends=bool(chosen), **spans)
    kind: Callable[..., Round] = Round
    if command == "burnin":
        from kparity.fleet.burnin import Burnins

        kind = partial(Burnins, told=[" ".join((each.device, *each.own[1::2])) for each in slots])

    def work() -> int:
        cluster = here.Here(slots) if slots else Cluster(address, wheel)
        try:
            place = store.opened(out)
            try:
                found = kind(cluster, place, asked, (lambda _: None) if quiet else say).run()
            finally:
                place.close()
        finally:
            cluster.close()
        if for_people():
            print_round(found, out)
        return exit_code(each.outcome for each in found.values())

    if slots:
        return work()
    reached(address)
    return apart(work)


def _refuse(command: str, words: tuple[str, ...], own: tuple[str, ...] = ()) -> None:
    """Raise what the local command raises for its options, before a node is asked, and for those that are not free."""
    from kparity.cli.main import cli
    from kparity.errors import WrongInput

    local: click.Command | None = cli
    for name in LOCAL.get(command, command).split():
        assert isinstance(local, click.Group)
        local = local.get_command(click.Context(local), name)
    assert local is not None
    if named := {*own[::2]} & {each.partition("=")[0] for each in words}:
        raise WrongInput(f"{min(named)} behind -- is what --pairs names; leave it out")
    context = local.make_context(command, [*own, *words])
    for param in context.command.params:
        taken = OWN & {*param.opts}
        source = context.get_parameter_source(param.name or "")
        if taken and source is click.core.ParameterSource.COMMANDLINE:
            raise WrongInput(f"{param.opts[-1]} behind -- is not for a fleet, which gives it itself; leave it out")
    if isinstance(local, click.Group) and words and not words[0].startswith("-"):
        raise WrongInput(f"kparity {command} {words[0]} is not for a fleet; give options of kparity {command}")


def _expected(expect: str | None) -> tuple[list[str], int]:
    """Names of devices, or how many."""
    from kparity.errors import WrongInput
    from kparity.host import files

    if expect is None:
        return [], 0
    if expect.isdecimal():
        if not 0 < int(expect) <= 10_000_000:
            raise WrongInput(f"--expect {expect}: give the number of devices, at least 1")
        return [], int(expect)
    lines = files.read_text(expect, "a list of devices, one a line").splitlines()
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise WrongInput(f"--expect {expect}: no device is named there; write one a line, as kparity fleet names them")
    return names, 0


@fleet.command(examples=("kparity fleet probe --per node -b cpu --out fleet-probe",))
@_options
def probe(**options: Any) -> int:
    """Run kparity probe on each device of a Ray cluster, with OPTIONS, and keep its receipt.

    Exit codes: 0 every device passed, 1 one failed a gate, 2 a file, an option or the address is wrong, 3 one is
    missing, or nothing is known of it.
    """
    return _round("probe", **options)


@fleet.command(examples=("kparity fleet check --per node -b cpu --out fleet-check -- -o add --quick",))
@_options
def check(**options: Any) -> int:
    """Run kparity check on each device of a Ray cluster, with OPTIONS, and keep its JSON.

    Exit codes: as of kparity fleet probe.
    """
    return _round("check", **options)


@fleet.command(
    examples=("kparity fleet bench --per node -b cpu --out fleet-bench -- --pp 32 --tg 0 --seconds 2",),
)
@_options
def bench(**options: Any) -> int:
    """Run kparity bench on each device of a Ray cluster, with OPTIONS, and keep its receipt.

    Exit codes: as of kparity fleet probe.
    """
    return _round("bench", **options)


@fleet.command(
    examples=(
        "kparity fleet burnin --pairs pairs.txt --rounds 60 --out fleet-pairs -- --max-tokens 24",
        "kparity fleet burnin --per node --rounds 60 --out fleet-burnin -- --v1 http://127.0.0.1:8080 "
        "--v2 http://127.0.0.1:8180",
    ),
)
@click.option("--pairs", type=File(), metavar="FILE",
              help="A line NAME URL URL for each pair, asked from here; no Ray is needed.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), required=True, metavar="N", help="Of each burn-in, in all.")
@partial(_options, backends=False, deadline="168h")
def burnin(**options: Any) -> int:
    """Run kparity burnin run, with OPTIONS, on each device of a Ray cluster, whose number stands for {gpu}, or for each
    of --pairs, and keep its log; --resume goes on where it ends.

    Exit codes: 0 every gate of each burn-in passes, 1 one failed, 2 a file, an option or the address is wrong, 3 there
    is too little data for one, or one is missing.
    """
    from kparity.host import install

    install.library("duckdb", "reports", "the statistics of a burn-in")
    return _round("burnin", **options)


@fleet.command(examples=("kparity fleet report fleet-probe", "kparity fleet report fleet-probe --html fleet.html"))
@click.argument("place", metavar="FOLDER|URL")
@click.option("--html", "html_path", type=OUT, metavar="FILE", help="Write a page.")
@json_option
@click.option(
    "--since", metavar="FOLDER|URL", help="What drifted since the last round there [default: the one before]."
)
@click.option("--ratio", type=Number(min=1.0, min_open=True), default=2.0, show_default=True, metavar="R",
              help="An error, or a time, so many times the median of its equals is told.")  # fmt: skip
@click.option("--verify", is_flag=True, help="Hold the bytes of every receipt against the ledger, too.")
def report(
    place: str, html_path: str | None, json_path: str | None, since: str | None, ratio: float, verify: bool
) -> int:
    """Show what the ledgers below a folder hold: device model × backend × driver, the device that differs from its
    equals, and what changed since the round before. No Ray is needed.

    Exit codes: 0 every device of the last round passed and none differs, 1 one failed or differs, 2 there is no
    ledger, 3 one is missing, or nothing is known of it.
    """
    from kparity.cli.fleet_table import print_report
    from kparity.fleet import report as reports
    from kparity.host import files

    found = reports.report(place, since, ratio, verify)
    if json_path:
        files.write_record(json_path, found)
    if html_path:
        from kparity.fleet import page

        files.write(html_path, page.html(found))
    if for_people():
        print_report(found)
    return found.exit_code
