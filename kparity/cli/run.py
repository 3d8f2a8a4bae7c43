"""``kparity run``: greedy text from the first backend that passes its probe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kparity.cli.options import dispatch_options, order_of

if TYPE_CHECKING:
    from kparity.model import Model
    from kparity.model.tokenizer import Tokenizer


@click.command()
@dispatch_options
@click.option("--prompt", required=True, help="Text to continue.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Tokens to generate at most."
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    default=None,
    help="Positions of the KV cache [default: the model's, at most 4096].",
)
@click.option(
    "--receipt",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write what serves, and how it was judged, to FILE.",
)
@click.option(
    "--tokenizer", type=click.Path(dir_okay=False), metavar="FILE", help="A tokenizer.json [default: the model's]."
)
def run(
    backends: str | None,
    require: str | None,
    require_gpu: bool,
    no_gpu: bool,
    model: str | None,
    depth: str,
    cached: bool,
    timeout: float | None,
    act: str,
    kv: str,
    places: tuple[str, ...],
    prompt: str,
    max_tokens: int,
    context: int | None,
    receipt: str | None,
    tokenizer: str | None,
) -> None:
    """Generate text, greedily, on the first backend that passes its probe; text goes to stdout, the log to stderr."""
    from kparity.errors import WrongInput
    from kparity.model import load_model
    from kparity.probe.dispatcher import select
    from kparity.receipts.statement import now, refuse_unwritable

    begun = now()
    refuse_unwritable([Path(receipt)] if receipt else [])
    order, _ = order_of(backends, require, no_gpu)
    loaded = load_model(model)
    chosen = _tokenizer(loaded, tokenizer)
    ids = chosen.encode(prompt)
    if not ids:
        raise WrongInput("the prompt has no token; give --prompt some text")
    selected = select(
        order,
        loaded,
        require=require,
        require_gpu=require_gpu,
        depth=depth,
        cached=cached,
        timeout=timeout or 0.0,
        act=act,
        kv=kv,
        context=context or 0,
        contracts=places,
    )
    engine = selected.engine
    if receipt:
        from kparity.cli.probe import write_receipt
        from kparity.probe.runner import Request

        request = Request(model, depth, require_gpu=require_gpu, act=act, kv=kv)
        write_receipt(Path(receipt), selected.rows, request, order, selected.name, begun)
    stream = chosen.stream(ids)
    sys.stdout.write(prompt)
    for token in engine.generate(ids, max_tokens):
        sys.stdout.write(stream.feed(token))
        sys.stdout.flush()
    sys.stdout.write(stream.finish() + "\n")
    engine.close()


def _tokenizer(model: Model, path: str | None) -> Tokenizer:
    """The model's own tokenizer, or that of a ``tokenizer.json`` with the model's BOS and EOS."""
    if path is None:
        return model.tokenizer
    from kparity.model.tokenizer import Tokenizer

    h = model.hparams
    return Tokenizer.from_file(path, h.bos, h.eos, h.add_bos)
