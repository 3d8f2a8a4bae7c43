"""What every command of ``kparity`` has: examples and exit codes at the end of its help, and one form of ``--json``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from kparity.errors import WrongInput
from kparity.host.streams import log

EXIT_CODES = (
    "0 pass; 1 a gate failed; 2 usage or bad input; 3 inconclusive: nothing ran, or what was asked for is not here; "
    "130 interrupted (128 and the signal)."
)
JSON = "--json"
MAY_BE_EMPTY = ("--prompt", "--ops")


def _refuse_empty(args: Sequence[str]) -> None:
    """Raise WrongInput for a value without anything in it: mostly that of a variable which is not set."""
    before = ""
    for word in args:
        option, joined, value = word.partition("=") if word.startswith("--") else (before, "", word)
        if (not word.strip() or (joined and not value.strip())) and option not in MAY_BE_EMPTY:
            raise WrongInput(f"{option or 'an argument'} is empty; give a value, or leave it out")
        before = word if word.startswith("-") else ""


class File(click.Path):
    """The name of a file or folder that a command reads or, where ``written``, writes.

    Whoever opens it says what is wrong with it. Before the work, what is written must be writable, and neither a file
    that is read (but where ``over`` its input is its default) nor one that is written twice.
    """

    def __init__(self, written: bool = False, over: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.written, self.over = written, over

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """The name as it was given."""
        return self.coerce_path_result(value)


def outputs() -> dict[str, str]:
    """Option → where the command that runs writes what was asked for."""
    ctx = click.get_current_context()
    written = [each for each in ctx.command.params if isinstance(each.type, File) and each.type.written]
    return {each.opts[-1]: str(path) for each in written if (path := ctx.params.get(each.name or "")) is not None}


def for_people() -> bool:
    """Whether a table belongs on stdout: no result for a program goes there, and nobody asked for quiet."""
    return "-" not in outputs().values() and not click.get_current_context().params.get("quiet")


class Formatter(click.HelpFormatter):
    """Help in which no name is broken at its hyphens, with room for the longest word of a narrow terminal."""

    HYPHEN = "\u2011"

    def write_text(self, text: str) -> None:
        """As click does."""
        super().write_text(text.replace("-", self.HYPHEN))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """As click does."""
        whole = [(name, text.replace("-", self.HYPHEN)) for name, text in rows]
        super().write_dl(whole, min(col_max, self.width // 3), col_spacing)

    def getvalue(self) -> str:
        """As click does."""
        return super().getvalue().replace(self.HYPHEN, "-")


class Context(click.Context):
    """The context of every command."""

    formatter_class = Formatter


def _refuse_outputs(ctx: click.Context) -> None:
    """Raise WrongInput where an output could not be written, or would take the place of another file of the command."""
    from pathlib import Path

    from kparity.host import files

    named, folders = list[tuple[File, str, str]](), dict[str, str]()
    for param in ctx.command.params:
        given = ctx.params.get(param.name or "")
        if isinstance(param.type, File) and given is not None:
            every = given if isinstance(given, tuple) else (given,)
            named += [(param.type, param.get_error_hint(ctx), str(path)) for path in every]
        elif param.metavar == "ENGINE" and given:  # may be a folder: a recording, a checkpoint, a build
            folders[str(given).partition(":")[2].partition("?")[0]] = param.get_error_hint(ctx)
    for at, (kind, name, path) in enumerate(named):
        if kind.written:
            files.refuse_unwritable(path)
            for other, its_name, its_path in (*named[:at], *named[at + 1 :]):
                if files.same(path, its_path) and not kind.over and (other.written or path != files.STDIO):
                    raise WrongInput(f"{name} would write over {path}, which {its_name} names; name another file")
            for folder, its_name in folders.items():
                if folder and Path(path).exists() and files.same(Path(path).resolve().parent, folder):
                    raise WrongInput(f"{name} would write over {path}, a file of {its_name}; name another file")


class Command(click.Command):
    """A command whose help ends with the exit codes and its ``examples``, whole lines as they are typed."""

    context_class = Context

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.examples = examples

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, but nothing is empty or lost, and ``--json`` takes no argument of the command for its file."""
        _refuse_empty(args)
        settled = self._settled(args)
        if not ctx.resilient_parsing:
            self._refuse_twice(ctx, settled)
        return super().parse_args(ctx, settled)

    def _refuse_twice(self, ctx: click.Context, args: Sequence[str]) -> None:
        """Of an option with one value that stands twice the last counts, and a line says so; raises WrongInput for an
        output and for what is required, which nobody may lose.
        """
        for param, times in Counter(self.make_parser(ctx).parse_args([*args])[2]).items():
            if times > 1 and isinstance(param, click.Option) and not (param.multiple or param.is_flag):
                if param.name == "require" or (isinstance(param.type, File) and param.type.written):
                    raise WrongInput(f"{param.opts[-1]} is given {times} times; give it once")
                log(f"{param.opts[-1]} is given {times} times; the last one counts")

    def invoke(self, ctx: click.Context) -> Any:
        """As click does, once its outputs can be written."""
        _refuse_outputs(ctx)
        return super().invoke(ctx)

    def _settled(self, args: Sequence[str]) -> list[str]:
        """``--json`` by itself is ``--json=-``. The next word is its file where it can be no argument of the command,
        or ends in ``.json``.
        """
        arguments, settled, rest = [p for p in self.params if isinstance(p, click.Argument)], list[str](), list(args)
        while rest:
            word = rest.pop(0)
            if word == "--":
                return [*settled, word, *rest]
            if word == JSON and any(JSON in each.opts for each in self.params):
                following = rest[0] if rest else ""
                taken = any(getattr(each.type, "could_be", bool)(following) for each in arguments)
                named = following == "-" or (following[:1] not in ("", "-") and not taken)
                word = f"{JSON}={rest.pop(0) if named or following.endswith('.json') else '-'}"
            settled.append(word)
        return settled

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Exit codes, then the examples, which are not wrapped."""
        with formatter.section("Exit codes"):
            formatter.write_text(EXIT_CODES)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class Group(Command, click.Group):
    """A group of such commands; ``lazy`` ones are imported when they are used: name → module, and a line of help."""

    command_class = Command

    def __init__(self, *arguments: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(self.lazy[cmd_name][0]), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest name in the error."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            from kparity.errors import UnknownName

            raise UnknownName("command", args[0], known)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, with whole sentences; lazy ones are not imported."""
        rows = [(name, line) for name, (_, line) in self.lazy.items()]
        rows += [(name, each.get_short_help_str(1 << 10)) for name, each in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
