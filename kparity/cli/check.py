"""``kparity check``."""

from __future__ import annotations

import click


@click.command()
def check() -> None:
    """Not written yet."""
    raise click.ClickException("not written yet")
