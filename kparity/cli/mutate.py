"""``kparity mutate``."""

from __future__ import annotations

import click


@click.command()
def mutate() -> None:
    """Not written yet."""
    raise click.ClickException("not written yet")
