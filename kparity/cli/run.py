"""``kparity run``: greedy text from the first backend that passes its probe."""

from __future__ import annotations

import sys

import click

from kparity.cli.options import dispatch_options, order_of


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
    prompt: str,
    max_tokens: int,
    context: int | None,
) -> None:
    """Generate text, greedily, on the first backend that passes its probe; text goes to stdout, the log to stderr."""
    from kparity.dispatcher import select
    from kparity.model import load_model

    order, _ = order_of(backends, require, no_gpu)
    loaded = load_model(model)
    engine = select(
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
    ).engine
    tokenizer = loaded.tokenizer
    ids = tokenizer.encode(prompt)
    stream = tokenizer.stream()
    sys.stdout.write(prompt)
    for token in engine.generate(ids, max_tokens):
        sys.stdout.write(stream.feed(token))
        sys.stdout.flush()
    sys.stdout.write(stream.finish() + "\n")
    engine.close()
