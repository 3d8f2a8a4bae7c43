"""``kparity contract``."""

from __future__ import annotations

import click


@click.command()
def contract() -> None:
    """Not written yet."""
    raise click.ClickException("not written yet")
