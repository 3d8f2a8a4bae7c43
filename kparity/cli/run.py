"""``kparity run``: greedy text from the first backend that passes its probe."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kparity.cli.command import Command, outputs
from kparity.cli.options import FILE, OUT, Dispatch, dispatch_options
from kparity.host.streams import log


@click.command(
    cls=Command,
    examples=(
        'kparity run --backend cpu --prompt "In the beginning"',
        'kparity run -b wgpu,cpu --prompt "And God said" --max-tokens 16',
    ),
)
@dispatch_options
@click.option("--prompt", required=True, help="Text to continue.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=64, show_default=True,
              help="Tokens to generate at most.")  # fmt: skip
@click.option(
    "--beyond-proof", is_flag=True, help="Serve positions, too, up to which nothing was proved (--depth bos)."
)
@click.option("--column-sums", type=click.IntRange(min=0), default=0, metavar="N",
              help="Hold each matrix on the device against its column sums every N tokens; 0: never.")  # fmt: skip
@click.option("--receipt", type=OUT, metavar="FILE", help="Write what serves, and how it was judged, to FILE.")
@click.option("--tokenizer", type=FILE, metavar="FILE", help="A tokenizer.json [default: the model's].")
@click.pass_context
def run(
    ctx: click.Context, /, dispatch: Dispatch, prompt: str, max_tokens: int, beyond_proof: bool, column_sums: int,
    receipt: str | None, tokenizer: str | None,
) -> None:  # fmt: skip
    """Generate text, greedily, on the first backend that passes its probe; text goes to stdout, the log to stderr."""
    from kparity.errors import WrongInput
    from kparity.model import held
    from kparity.model.tokenizer import Tokenizer
    from kparity.probe.dispatcher import first_accepted
    from kparity.receipts.statement import now

    if "-" in outputs().values():
        raise WrongInput("the text goes to stdout, and a receipt there would end up in it; name a file")
    begun = now()
    order, forced = dispatch.order()
    model = ctx.with_resource(held(dispatch.model))
    h = model.hparams
    dispatch.fit(model)
    words = model.tokenizer if tokenizer is None else Tokenizer.from_file(tokenizer, h.bos, h.eos, h.add_bos)
    ids = words.encode(prompt)
    if not ids:
        raise WrongInput("the prompt has no token; give --prompt some text")
    if max(ids) >= h.vocab:
        raise WrongInput(f"--tokenizer gives token {max(ids)}, the model has {h.vocab}; name the model's own tokenizer")
    request = dispatch.request()
    selected = first_accepted(
        order, request, model, cached=dispatch.cached, forced=forced, beyond_proof=beyond_proof
    )  # fmt: skip
    if receipt:
        from kparity.cli.probe import write_receipt

        write_receipt(Path(receipt), selected.rows, request, order, selected.name, begun)
    selected.engine.column_sums_every = column_sums
    stream = words.stream(ids)
    _write(prompt)
    for token in selected.engine.generate(ids, max_tokens):
        _write(stream.feed(token))
    _write(stream.finish() + "\n")
    if selected.engine.full:
        room, most = selected.engine.context, h.context
        more = f"give --context up to {most}" if room < most else "the model has no more; shorten the prompt"
        log(f"stopped: the context of {room} positions is full; {more}")
    model.file.unchanged()
    selected.close()


def _write(text: str) -> None:
    """At once: a model's vocabulary may hold anything, also what a terminal would obey."""
    from kparity.host.text import printable

    sys.stdout.write(printable(text, "\n\t"))
    sys.stdout.flush()
