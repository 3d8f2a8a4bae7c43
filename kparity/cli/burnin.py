"""``kparity burnin``: two servers answer the same prompts for days, and what that shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kparity.cli.command import File, Group, for_people
from kparity.cli.options import FILE, OUT, SPAN, Number, json_option, quiet_option
from kparity.host.streams import log as say

if TYPE_CHECKING:
    from typing import NoReturn

    from kparity.burnin.listen import Listener

log_option = click.option(
    "--log", "path", type=File(path_type=Path), default="burnin.jsonl", show_default=True, metavar="FILE",
    help="The log, a line a round.",
)  # fmt: skip
mode_option = click.option(
    "--mode", type=click.Choice(["greedy", "seeded", "aa"]), default="greedy", show_default=True,
    help="Which rounds: at temperature 0, with a seed, or of v1 against itself.",
)  # fmt: skip
ppl_option = click.option("--ppl", type=FILE, metavar="FILE", help="The JSON of kparity ppl, as a gate more.")
dashboard_option = click.option(
    "--dashboard", type=click.IntRange(0, 65535), metavar="PORT",
    help="Show it at http://127.0.0.1:PORT too, a page that follows the log; 0 takes a free port.",
)  # fmt: skip


@click.group(cls=Group)
def burnin() -> None:
    """Two servers, the same prompts at the same time, replies compared byte for byte (see docs/burnin.md)."""


@burnin.command(
    examples=(
        "kparity burnin run --v1 http://127.0.0.1:8080 --v2 http://127.0.0.1:8180 --max-rounds 60 --log burnin.jsonl",
        "kparity burnin run --v1 http://127.0.0.1:8080 --against-itself --max-rounds 30 --log alone.jsonl",
    ),
)
@click.option("--v1", required=True, metavar="URL", help="The server that has the traffic.")
@click.option("--v2", metavar="URL", help="The server that is to take it over.")
@click.option(
    "--against-itself",
    is_flag=True,
    help="v1 against itself, or --v2 as another instance of it: the floor of what right servers differ by.",
)
@click.option("--prompts", type=File(), metavar="FILE",
              help="A prompt or a JSON a line: prompt, messages, requests [default: 240 of 30 kinds].")  # fmt: skip
@click.option("--long-context", "long", type=click.IntRange(1, 40_000), default=6000, show_default=True, metavar="N",
              help="Characters of a built-in long context.")  # fmt: skip
@click.option("--listen", metavar="HOST:PORT", help="Take requests that a proxy mirrors there, instead of prompts.")
@click.option("--max-rounds", "rounds", type=click.IntRange(min=1), metavar="N",
              help="End after as many [default: never].")  # fmt: skip
@click.option("--sleep", "sleep_s", type=Number(min=0), default=0.0, metavar="SECONDS", help="Between two rounds.")
@click.option("--timeout", type=SPAN, default="120s", show_default=True, help="For a whole reply.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Of a reply.")
@click.option("--api", type=click.Choice(["chat", "completions"]), default="chat", show_default=True,
              help="Which interface is asked.")  # fmt: skip
@click.option("--logprobs", type=click.IntRange(0, 20), default=5, show_default=True, metavar="N",
              help="Likeliest tokens to ask for, whose margins say what was a tie; 0 asks for none.")  # fmt: skip
@click.option("--model-v1", default="", metavar="NAME", help="The model's name, where the server wants one.")
@click.option("--model-v2", default="", metavar="NAME", help="The same of v2 [default: as --model-v1].")
@click.option("--seed", type=click.IntRange(min=0), metavar="N",
              help="Draw with this seed on both sides instead of taking the likeliest; counted apart.")  # fmt: skip
@click.option("--temperature", type=Number(min=0), metavar="T", help="With --seed [default: 1].")
@click.option("--halt-on-spike", is_flag=True, help="End, and do not begin again, when an hour goes wrong.")
@click.option("--clear-halt", is_flag=True, help="Begin again after a halt.")
@dashboard_option
@log_option
@click.option("--state", type=File(path_type=Path), metavar="FILE", help="Where it stands [default: LOG.state].")
@quiet_option
def run(
    v1: str, v2: str | None, prompts: str | None, listen: str | None, long: int, timeout: float, api: str,
    model_v1: str, model_v2: str, seed: int | None, temperature: float | None, clear_halt: bool,
    dashboard: int | None, path: Path, state: Path | None, quiet: bool, **asked: Any,
) -> int:  # fmt: skip
    """Ask both servers the same, round by round, and add what they answered to the log; goes on where the log ends.

    Exit codes: 0 the rounds are done, 1 an hour went wrong and the burn-in is halted, 2 a file or address is wrong, 3
    no round had a reply of both sides. What the rounds show is said by kparity burnin stats.
    """
    from kparity.burnin import prompts as known
    from kparity.burnin.log import Log
    from kparity.burnin.mirror import Mirror
    from kparity.burnin.run import Settings, burn
    from kparity.burnin.wire import Pair, Server
    from kparity.errors import WrongInput

    if v2 is None and not asked["against_itself"]:
        raise WrongInput("give --v2, or --against-itself")
    if temperature is not None and seed is None:
        raise WrongInput("--temperature needs --seed: without the same seed on both sides, replies differ by chance")
    if v2 and v2.rstrip("/") == v1.rstrip("/"):
        raise WrongInput("--v1 and --v2 are one server; --against-itself compares it with itself")
    if prompts and listen:
        raise WrongInput("--prompts and --listen exclude each other: give one of them")
    second = v1 if v2 is None else v2
    heat = 0.0 if seed is None else 1.0 if temperature is None else temperature
    settings = Settings(v1, second, chat=api == "chat", seed=seed, temperature=heat, **asked)
    source: known.Source = Mirror(listen, settings.chat) if listen else known.Listed(known.chosen(prompts, long))
    for prompt in source.prompts if isinstance(source, known.Listed) else ():
        settings.body(prompt)  # before the first round: one that cannot be asked
    if isinstance(source, Mirror):
        say(f"listening at http://{source.address}")
    one = Server("v1", v1, timeout, settings.chat, model_v1)
    other = Server("v2" if v2 else "v1", second, timeout, settings.chat, model_v2 or model_v1)
    log, watched = Log(path, state or state_beside(path), say), None
    try:
        if log.state.halted and not clear_halt:
            say(f"halted at {log.state.halted}; find out why, then go on with --clear-halt")
            return 1
        log.state.halted = ""
        if dashboard is not None:
            watched = _watched(dashboard, path, log.place, settings.mode)
        done = burn(settings, source, log, Pair(one, other), say)
    finally:
        log.close()
        if watched:
            watched.close()
        if isinstance(source, Mirror):
            source.close()
            if source.dropped or source.refused:
                say(f"{source.dropped} mirrored requests found no room, {source.refused} were no prompts")
    if for_people():
        from kparity.cli.table import say as tell

        counts = ", ".join(f"{name} {count}" for name, count in done.buckets.items() if count)
        tell(f"{done.rounds} rounds: {counts}; {log.state.rounds} in {path}")
    if done.halted:
        say(f"halted at {done.halted}")
    return done.exit_code


def state_beside(log: Path) -> Path:
    """Where a burn-in keeps its state, if nobody says otherwise."""
    return log.with_name(f"{log.name}.state")


def until_stopped(listener: Listener) -> NoReturn:
    """Answer until a signal comes."""
    from threading import Event

    try:
        Event().wait()
    finally:
        listener.close()
    raise AssertionError("nobody sets it")


def _watched(port: int, path: Path, state: Path, mode: Any, ppl: str | None = None) -> Listener:
    """The dashboard of a log."""
    from kparity.burnin import perplexity
    from kparity.burnin.watch import dashboard

    listener = dashboard(port, path, state, mode, perplexity.read(ppl) if ppl else None)
    say(f"dashboard at http://{listener.address}")
    return listener


def _shown(found: Any, json_path: str | None, printer: str) -> None:
    """What a log shows, as JSON and for people."""
    from kparity.host import files

    if json_path:
        files.write_record(json_path, found)
    if for_people():
        from kparity.cli import burnin_table

        getattr(burnin_table, printer)(found)


def _counted(path: Path, mode: Any, since: str, ppl: str | None, json_path: str | None) -> int:
    """The statistics of a log."""
    from kparity.burnin import query
    from kparity.burnin.stats import stats as counted

    with query.opened(path, since) as table:
        found = counted(table, mode, since and query.moment(since))
    if ppl:
        from kparity.burnin import perplexity

        perplexity.weigh(found, perplexity.read(ppl))
    _shown(found, json_path, "print_stats")
    return found.exit_code


@burnin.command(
    examples=("kparity burnin stats --log burnin.jsonl", "kparity burnin stats --log burnin.jsonl --json stats.json"),
)
@log_option
@mode_option
@ppl_option
@json_option
@dashboard_option
def stats(path: Path, mode: str, ppl: str | None, json_path: str | None, dashboard: int | None) -> int:
    """What the rounds show: exact rate, the prompt that misses most, latency, ties, and every gate with what it still
    needs. May be looked at at any time; with --dashboard it goes on until it is stopped.

    Exit codes: 0 every gate passes, 1 one failed, 3 there is too little data for one.
    """
    if dashboard is not None:
        from kparity.burnin import query
        from kparity.errors import WrongInput

        if json_path:
            raise WrongInput("--dashboard shows a log until it is stopped; leave out --json")
        with query.opened(path):
            pass  # what is no log is refused at once
        until_stopped(_watched(dashboard, path, state_beside(path), mode, ppl))
    return _counted(path, mode, "", ppl, json_path)


@burnin.command(
    examples=("kparity burnin since 2026-04-19T00:00:00Z --log burnin.jsonl",),
)
@click.argument("time", metavar="TIME")
@log_option
@mode_option
@ppl_option
@json_option
def since(time: str, path: Path, mode: str, ppl: str | None, json_path: str | None) -> int:
    """The same of the rounds since a TIME, ISO 8601; without a zone it is UTC."""
    return _counted(path, mode, time, ppl, json_path)


@burnin.command(
    examples=("kparity burnin drift --log burnin.jsonl",),
)
@log_option
@mode_option
@click.option("-n", "count", type=click.IntRange(min=1), default=20, show_default=True, help="How many prompts.")
@json_option
def drift(path: Path, mode: Any, count: int, json_path: str | None) -> int:
    """The prompts whose replies differ, most misses first.

    Exit codes: 0 the log was read, whatever it shows, 2 it cannot be read.
    """
    from kparity.burnin import query
    from kparity.burnin.stats import drift as found

    with query.opened(path) as table:
        _shown(found(table, mode, count), json_path, "print_drift")
    return 0


@burnin.command(
    examples=("kparity burnin recent -n 5 --log burnin.jsonl",),
)
@log_option
@click.option("-n", "count", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many rounds.")
@click.option("--differing", is_flag=True, help="Only those whose replies differ.")
@json_option
def recent(path: Path, count: int, differing: bool, json_path: str | None) -> int:
    """The last rounds, with the place where replies part.

    Exit codes: 0 the log was read, whatever it shows, 2 it cannot be read.
    """
    from kparity.burnin import query

    with query.opened(path) as table:
        _shown(query.last(table, count, differing), json_path, "print_rounds")
    return 0


@burnin.command(
    examples=("kparity burnin export rounds.parquet --log burnin.jsonl",),
)
@click.argument("output", type=OUT)
@log_option
def export(output: str, path: Path) -> int:
    """All rounds, with texts, as OUTPUT.parquet or OUTPUT.csv, for other programs."""
    from kparity.burnin import query

    with query.opened(path) as table:
        query.export(table, output)
    return 0
