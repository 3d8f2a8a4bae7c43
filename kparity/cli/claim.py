"""``kparity claim``: a published speed against bytes and bandwidth."""

from __future__ import annotations

import click

from kparity.cli.command import Command
from kparity.cli.options import FILE


@click.command(
    cls=Command,
    examples=("kparity claim claim.yaml --receipt bench.json",),
)
@click.argument("what", metavar="FILE|TEXT")
@click.option("--receipt", type=FILE, metavar="FILE", help="Of kparity bench, in place of the one that it names.")
def claim(what: str, receipt: str | None) -> int:
    """Hold a published speed against the bytes that it reads and the bandwidth of its memory: FILE is a small YAML or
    JSON (docs/claims.md), or a text, of which a strict pattern takes tokens/s, bytes and bandwidth.

    Every reason not to believe it is a sentence on stdout. Exit codes: 0 nothing speaks against it, 1 something does,
    2 there is no claim that can be read.
    """
    import msgspec

    from kparity.bench import claim as claims
    from kparity.cli.table import say
    from kparity.host.text import number, printable

    found = claims.read(what)
    found = msgspec.structs.replace(found, receipt=receipt) if receipt else found
    reasons = [printable(each) for each in claims.wrong(found)]
    for each in reasons:
        say(each)
    say(f"{number(found.tokens_per_s)} tokens/s: " + (f"not to be believed ({len(reasons)})" if reasons else "PASS"))
    return int(bool(reasons))
