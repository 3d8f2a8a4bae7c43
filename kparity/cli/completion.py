"""``kparity completion``: what makes a shell complete kparity's commands, options, backends and ops."""

from __future__ import annotations

import click

from kparity.cli.command import Command
from kparity.host import files


@click.command(
    cls=Command,
    examples=("kparity completion bash > kparity-completion.bash", "kparity completion fish"),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion of kparity for a shell; source it, or put it where the shell looks for completions."""
    from click.shell_completion import get_completion_class

    from kparity.cli.main import cli

    made = get_completion_class(shell)
    assert made is not None
    files.write(files.STDIO, made(cli, {}, "kparity", "_KPARITY_COMPLETE").source() + "\n")
