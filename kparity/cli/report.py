"""``kparity report``: one HTML page of what kparity wrote."""

from __future__ import annotations

from pathlib import Path

import click

from kparity.cli.command import Command, File
from kparity.cli.options import OUT
from kparity.errors import WrongInput
from kparity.host.streams import log


@click.command(
    cls=Command,
    examples=("kparity report ladder.json -o report.html", "kparity report . -o report.html"),
)
@click.argument("place", type=File(path_type=Path), metavar="DIR_OR_FILE")
@click.option("-o", "--output", required=True, type=OUT, metavar="FILE", help="Where to write the page.")
def report(place: Path, output: str) -> int:
    """One HTML page, for a browser without network, of what kparity wrote below a folder: the JSON of ladder,
    diagnose, bisect, trace diff, probe and check, and receipts.

    Exit codes: 0 the page is written, whatever its verdict, 2 nothing there can be shown, or a document cannot (the
    page then says which).
    """
    from kparity.host import files
    from kparity.report import documents, page

    found = documents.read(place)
    for path in found.paths:
        if files.same(path, output):
            raise WrongInput(f"-o would write over {path}, which is to be shown; name another file")
    for line in (*found.unreadable, *found.others):
        log(line)
    files.write(output, page.html(found))
    log(f"{output}: {len(found.documents)} documents, {len(found.receipts)} receipts")
    return 2 if found.unreadable else 0
