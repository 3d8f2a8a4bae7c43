"""``kparity probe``: the table of gates, the JSON of it, and a receipt."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import click

from kparity.cli.command import Command, for_people
from kparity.cli.options import (
    NONCE,
    OUT,
    SPAN,
    Dispatch,
    ctrf_option,
    dispatch_options,
    github_option,
    json_option,
    junit_option,
    quiet_option,
    sarif_option,
)  # fmt: skip

if TYPE_CHECKING:
    from kparity.gates.verdict import Row
    from kparity.probe.messages import Request
    from kparity.receipts.record import Canary


@click.command(
    cls=Command,
    examples=(
        "kparity probe --backends cuda,wgpu,cpu",
        "kparity probe -b cpu --json",
        "kparity probe --require cpu --receipt probe.json",
    ),
)
@dispatch_options
@click.option("--positions", type=click.IntRange(min=1),
              help="Teacher-forced positions [default: 72, or the model's context].")  # fmt: skip
@click.option("--repeat", type=click.IntRange(min=1), default=1, metavar="N",
              help="Run everything again N times at least, bit for bit [default: as the contract asks].")  # fmt: skip
@click.option("--soak", type=SPAN, metavar="TIME",
              help="Run two engines on each device for so long (30s, 10m, 2h), behind all other gates.")  # fmt: skip
@json_option
@quiet_option
@click.option("--receipt", type=OUT, metavar="FILE", help="Write what was measured, and on what, to FILE.")
@click.option("--nonce", type=NONCE, default="", metavar="N",
              help="Draw the tokens from somebody's word, which the receipt tells.")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Show every measured number.")
@junit_option
@ctrf_option
@sarif_option
@github_option
@click.option("--timings", is_flag=True, help="Show where the time went.")
@click.pass_context
def probe(
    ctx: click.Context, /, dispatch: Dispatch, positions: int | None, repeat: int, soak: float | None,
    json_path: str | None, quiet: bool,
    receipt: str | None, nonce: str, verbose: bool, timings: bool, junit_path: str | None, github: bool,
    ctrf_path: str | None, sarif_path: str | None,
) -> int:  # fmt: skip
    """Probe backends in order and show which one may serve.

    Each backend runs in a process of its own. A backend that is missing, wrong, slow to answer or crashing is
    rejected with a line on stderr; the first one that passes every gate serves.
    """
    from kparity.errors import WrongInput
    from kparity.host.files import write, write_record
    from kparity.model import held
    from kparity.probe.dispatcher import probe_all
    from kparity.receipts.statement import now

    begun = now()
    order, forced = dispatch.order()
    model = ctx.with_resource(held(dispatch.model))  # a bad file is an error of its own, not a rejected backend
    dispatch.fit(model)
    length = dispatch.context or model.hparams.context
    if positions and positions > length:
        raise WrongInput(f"--positions {positions} is more than the {length} positions of the cache; ask for fewer")
    request = replace(dispatch.request(positions or min(72, length), nonce), repeat=repeat)
    if soak and request.depth != "full":
        raise WrongInput(f"--soak and --depth {request.depth} exclude each other: give one of them")
    if soak:
        request = replace(request, depth="soak", soak=soak)
    if for_people():  # imports what shows the table while other processes work
        Thread(target=import_module, args=["kparity.cli.probe_table"]).start()
    outcome = probe_all(order, request, cached=dispatch.cached, forced=forced)
    if json_path:
        from kparity.probe.document import document

        whole = document(outcome.rows, outcome.serving, request, order, outcome.exit_code)
        write_record(json_path, whole)
    if for_people():
        from kparity.cli.probe_table import print_probe

        whose = "" if dispatch.model else " of the embedded model (--model proves yours)"
        print_probe(outcome, verbose, timings, whose)
    if junit_path or ctrf_path or sarif_path or github:
        from kparity.probe import ci

        for path, form in ((junit_path, ci.as_junit), (ctrf_path, ci.as_ctrf), (sarif_path, ci.as_sarif)):
            if path:
                write(path, form(outcome.rows))
        if github:
            ci.to_github(outcome.rows, outcome.serving)
    if receipt:
        write_receipt(Path(receipt), outcome.rows, request, order, outcome.serving, begun)
    return outcome.exit_code


def write_receipt(
    path: Path, rows: Sequence[Row], request: Request, order: Sequence[str], serving: str, begun: str,
    served: Mapping[str, Canary] | None = None,
) -> None:  # fmt: skip
    """The receipt of a probe: what ``kparity probe`` and ``kparity run`` found, on what, from which command line."""
    from kparity.receipts.probe import receipt
    from kparity.receipts.statement import write

    write(path, receipt(rows, request, order, serving, ["kparity", *sys.argv[1:]], begun, served))
