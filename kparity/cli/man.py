"""``kparity man``: the manual page, made from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from kparity import __version__
from kparity.cli.command import EXIT_CODES, Command
from kparity.host import files


@click.command(cls=Command, examples=("kparity man > kparity.1",))
def man() -> None:
    """Print the manual page in troff: every command with its options and examples."""
    from kparity.cli.main import cli

    files.write(files.STDIO, "\n".join([*_page(cli), ""]))


def _page(cli: click.Group) -> Iterator[str]:
    yield f'.TH KPARITY 1 "" "kparity {__version__}" "User Commands"'
    yield from (".SH NAME", r"kparity \- decides whether a GPU backend may be trusted with ternary inference")
    yield from (".SH SYNOPSIS", r"\fBkparity\fR \fICOMMAND\fR [\fIOPTIONS\fR] [\fIARGUMENTS\fR]", ".SH COMMANDS")
    ctx = click.Context(cli, info_name="kparity")
    yield from _command(cli, ctx)
    yield from _commands(cli, ctx)
    yield from (".SH EXIT STATUS", _plain(EXIT_CODES))


def _commands(group: click.Group, above: click.Context) -> Iterator[str]:
    for name in group.list_commands(above):
        command = group.get_command(above, name)
        assert command is not None
        ctx = click.Context(command, info_name=name, parent=above)
        yield from _command(command, ctx)
        if isinstance(command, click.Group):
            yield from _commands(command, ctx)


def _command(command: click.Command, ctx: click.Context) -> Iterator[str]:
    yield f".SS {_plain(' '.join([ctx.command_path, *command.collect_usage_pieces(ctx)]))}"
    yield from (_plain(" ".join(part.split())) + "\n.P" for part in (command.help or "").split("\n\n"))
    for record in filter(None, (param.get_help_record(ctx) for param in command.params)):
        yield from (".TP", rf"\fB{_plain(record[0])}\fR", _plain(record[1]))
    if isinstance(command, Command) and command.examples:
        yield from (".P", "Examples:", ".nf", *map(_plain, command.examples), ".fi")


def _plain(text: str) -> str:
    """Text that troff takes as it is."""
    return re.sub(r"^([.'])", r"\\&\1", text.replace("\\", r"\e").replace("-", r"\-"))
