"""``kparity cutover``: whether one server may take over from another, the change of the route, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kparity.cli.burnin import log_option, state_beside, until_stopped
from kparity.cli.command import File, Group, for_people
from kparity.cli.options import FILE, json_option
from kparity.errors import WrongInput
from kparity.host.streams import log as say

if TYPE_CHECKING:
    from kparity.burnin.cutover import Decision
    from kparity.burnin.route import Kept

EVIDENCE = (
    log_option,
    click.option("--state", type=File(path_type=Path), metavar="FILE", help="Where it stands [default: LOG.state]."),
    click.option("--ppl", type=FILE, metavar="FILE", help="The JSON of kparity ppl."),
    click.option("--receipt", "receipts", type=File(path_type=Path), multiple=True, metavar="FILE",
                 help="A receipt of a side. Repeatable: one of each is needed."),
    click.option("--since", default="", metavar="TIME", help="Count rounds since then alone."),
    click.option("--receipt-out", type=File(written=True, path_type=Path), metavar="FILE",
                 help="Write the decision as a receipt, which kparity receipt signs and verifies."),
)  # fmt: skip
kept_option = click.option(
    "--kept", type=File(written=True, over=True, path_type=Path), default="cutover-route.json", show_default=True,
    metavar="FILE", help="Where the way back is kept.",
)  # fmt: skip


def evidence_options(command: Any) -> Any:
    """What the gates look at."""
    for option in reversed(EVIDENCE):
        command = option(command)
    return command


@click.group(cls=Group)
def cutover() -> None:
    """Lead the traffic to another server once every gate is green, and back (see docs/burnin.md)."""


def _decided(
    path: Path, state: Path | None, ppl: str | None, receipts: tuple[Path, ...], since: str, receipt_out: Path | None
) -> Decision:
    from kparity.burnin.cutover import as_receipt, decide
    from kparity.receipts import statement

    found = decide(path, state or state_beside(path), ppl, receipts, since)
    if receipt_out:
        statement.write(receipt_out, as_receipt(found))
    return found


def _shown(found: Decision) -> None:
    from kparity.cli.burnin_table import print_gates
    from kparity.cli.table import STYLES
    from kparity.cli.table import say as tell

    print_gates(found.gates)
    tell("cutover: ", (found.decision, STYLES[found.verdict]))


@cutover.command(
    examples=(
        "kparity cutover status --log burnin.jsonl --json gates.json",
        "kparity cutover status --log burnin.jsonl --html gates.html --receipt-out cutover.json",
    ),
)
@evidence_options
@click.option("--html", "html_path", type=File(written=True), metavar="FILE", help="Write the table as a page.")
@click.option("--listen", metavar="HOST:PORT",
              help="Go on answering there with the gates as they then are: a page, and JSON at /status.")  # fmt: skip
@json_option
def status(html_path: str | None, listen: str | None, json_path: str | None, **evidence: Any) -> int:
    """The table of the gates: ✓ green, ✗ red, ⌛ not yet.

    Exit codes: 0 all are green, 1 one is red, 3 one waits. With --listen it goes on until it is stopped.
    """
    from kparity.host import files

    if listen and (html_path or json_path or evidence["receipt_out"]):
        raise WrongInput("--listen answers with what is asked there; leave out --html, --json and --receipt-out")
    found = _decided(**evidence)
    if listen:
        from kparity.burnin.watch import decisions

        listener = decisions(listen, lambda: _decided(**evidence))
        say(f"listening at http://{listener.address}")
        until_stopped(listener)
    if json_path:
        files.write_record(json_path, found)
    if html_path:
        from kparity.burnin import page

        files.write(html_path, page.cutover(found))
    if for_people():
        _shown(found)
    return found.exit_code


@cutover.command(
    examples=(
        "kparity cutover flip --exec ./route.sh --old http://127.0.0.1:8080 --public http://127.0.0.1:8180 "
        "--log burnin.jsonl --kept kept.json",
    ),
)
@evidence_options
@click.option("--caddy-admin", metavar="URL", help="The admin interface of a Caddy.")
@click.option("--id", "name", default="", metavar="NAME", help="The @id of its reverse_proxy.")
@click.option("--to", default="", metavar="HOST:PORT", help="The server that takes over.")
@click.option("--exec", "command", default="", metavar="CMD",
              help="Instead of Caddy: sh runs it with KPARITY_ROUTE=v2, and v1 to go back.")  # fmt: skip
@click.option("--old", required=True, metavar="URL", help="The server that had the traffic, itself.")
@click.option("--public", required=True, metavar="URL", help="Where the traffic comes in.")
@click.option("--rounds", type=click.IntRange(min=30), default=60, show_default=True, help="Of the burn-in afterwards.")
@click.option("--api", type=click.Choice(["chat", "completions"]), default="chat", show_default=True)
@click.option("--long-context", "long", type=click.IntRange(1, 40_000), default=6000, show_default=True, metavar="N",
              help="Characters of a built-in long context.")  # fmt: skip
@kept_option
def flip(
    caddy_admin: str | None, name: str, to: str, command: str, old: str, public: str, rounds: int, api: str, long: int,
    kept: Path, **evidence: Any,
) -> int:  # fmt: skip
    """Lead the traffic to the new server, if every gate is green; then hold what comes in at the public address against
    the old server, and go back by itself where replies differ too often or are missing.

    Exit codes: 0 the new server has the traffic, 1 a gate is red, or the traffic was led back, 3 a gate waits.
    """
    from kparity.burnin import route

    if bool(command) is bool(caddy_admin) or bool(caddy_admin) is not bool(name and to):
        raise WrongInput("give --caddy-admin with --id and --to, or --exec: one of them")
    found = _decided(**evidence)
    _shown(found)
    if found.exit_code:
        return found.exit_code
    before = route.Caddy(caddy_admin, name).read() if caddy_admin else {}
    if route.ends_streams(before):
        say(f"{name} has a negative flush_interval: Caddy may end each stream in flight when its route changes; leave "
            "it out, text/event-stream is flushed at once without it")  # fmt: skip
    way = route.Kept(caddy_admin or "", name, before, command)
    route.keep(way, kept)
    try:
        route.flip(way, to)
        why = _canary(old, public, rounds, api == "chat", long)
    except BaseException as error:
        _back(way, f"{error or type(error).__name__}")
        raise
    if why:
        return _back(way, why)
    say(f"the new server has the traffic; kparity cutover rollback --kept {kept} leads it back")
    return 0


def _back(way: Kept, why: str) -> int:
    from kparity.burnin import route

    route.back(way)
    say(f"led back to the old server: {why}")
    return 1


def _canary(old: str, public: str, rounds: int, chat: bool, long: int) -> str:
    """What is wrong with replies at the public address, beside those of the old server; empty where nothing is."""
    import tempfile

    from kparity.burnin import query
    from kparity.burnin.log import Log
    from kparity.burnin.prompts import Listed, built_in
    from kparity.burnin.run import Settings, burn
    from kparity.burnin.stats import stats
    from kparity.burnin.wire import Pair, Server

    pair = Pair(Server("v1", old, 120.0, chat), Server("v2", public, 120.0, chat))
    with tempfile.TemporaryDirectory(prefix="kparity-") as folder:
        log = Log(Path(folder, "canary"), Path(folder, "state"), say)
        try:
            settings = Settings(old, public, rounds=rounds, chat=chat, halt_on_spike=True)
            done = burn(settings, Listed(built_in(long)), log, pair, say)
        finally:
            log.close()
        with query.opened(log.path) as table:
            red = [f"{gate.name} {gate.current:g}" for gate in stats(table).gates if gate.state == "FAIL"]
    counts = ", ".join(f"{name} {count}" for name, count in done.buckets.items() if count)
    say(f"{done.rounds} rounds at {public}: {counts}")
    return done.halted or ", ".join(red) or ("" if done.exit_code == 0 else "no round had a reply of both sides")


@cutover.command(
    examples=("kparity cutover rollback --kept route.json",),
)
@click.option("--kept", type=File(path_type=Path), default="cutover-route.json", show_default=True, metavar="FILE",
              help="What cutover flip wrote.")  # fmt: skip
def rollback(kept: Path) -> int:
    """Lead the traffic back to where it was before the flip."""
    from kparity.burnin import route

    route.back(route.read_back(kept))
    say("the traffic is where it was")
    return 0
