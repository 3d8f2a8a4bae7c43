"""``kparity run``: greedy text from the first backend that passes its probe."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kparity.cli.command import Command, outputs
from kparity.cli.options import FILE, OUT, Dispatch, Number, dispatch_options
from kparity.host.streams import log

if TYPE_CHECKING:
    from kparity.model.tokenizer import Tokenizer
    from kparity.probe.dispatcher import Selection
    from kparity.receipts.record import Canary


@click.command(
    cls=Command,
    examples=(
        'kparity run --backend cpu --prompt "In the beginning"',
        'kparity run -b cuda,cpu --prompt "And God said" --max-tokens 16',
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
@click.option("--canary", type=click.IntRange(min=0), default=None, metavar="N",
              help="Repeat a known step after every N runs while it serves; 0: never [default: 256, or more where that "
              "would take over 1 % of the time].")  # fmt: skip
@click.option("--canary-seconds", type=Number(min=0), default=0.0, metavar="T", help="And after T seconds.")
@click.option("--receipt", type=OUT, metavar="FILE", help="Write what serves, and how it was judged, to FILE.")
@click.option("--tokenizer", type=FILE, metavar="FILE", help="A tokenizer.json [default: the model's].")
@click.pass_context
def run(
    ctx: click.Context, /, dispatch: Dispatch, prompt: str, max_tokens: int, beyond_proof: bool, column_sums: int,
    canary: int | None, canary_seconds: float, receipt: str | None, tokenizer: str | None,
) -> int:  # fmt: skip
    """Generate text, greedily, on the first backend that passes its probe; text goes to stdout, the log to stderr."""
    from kparity.errors import WrongInput
    from kparity.model import held
    from kparity.model.tokenizer import Tokenizer
    from kparity.probe.dispatcher import Serving, first_accepted
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
    serving = Serving(beyond_proof, canary, canary_seconds)
    selected = first_accepted(order, request, model, cached=dispatch.cached, forced=forced, serving=serving)
    served = [Served(selected)]

    def record() -> None:
        if receipt:
            from kparity.cli.probe import write_receipt

            rows = [row for each in served for row in each.by.rows]
            seen = {each.by.name: found for each in served if (found := each.seen())}
            write_receipt(Path(receipt), rows, request, order, served[0].by.name, begun, seen)

    record()  # before the first word: it is there whatever happens next
    selected.engine.column_sums_every = column_sums
    _write(prompt)
    try:
        _generated(served, words, ids, max_tokens)
    finally:
        record()
    selected = served[-1].by
    if selected.engine.full:
        room, most = selected.engine.context, h.context
        more = f"give --context up to {most}" if room < most else "the model has no more; shorten the prompt"
        log(f"stopped: the context of {room} positions is full; {more}")
    model.file.unchanged()
    selected.close()
    return int(len(served) > 1)


@dataclass
class Served:
    """A backend that served, and the first token of the output that it leaves in doubt, from 1, where it tripped."""

    by: Selection
    doubtful: int | None = None

    def seen(self) -> Canary | None:
        """What its canary saw."""
        from kparity.receipts.record import Canary

        canary, tripped = self.by.engine.canary, self.doubtful is not None
        return Canary(canary.every, canary.checks, int(tripped), self.doubtful) if canary else None


def _generated(served: list[Served], words: Tokenizer, prompt: list[int], max_tokens: int) -> None:
    """Write a continuation by the last that serves. Where it trips, the next one goes on behind the last token that is
    sure, and is one more of them.
    """
    from kparity.engine.canary import Tripped

    sure: list[int] = []
    while True:
        selected = served[-1].by
        told, stream = list(sure), words.stream([*prompt, *sure])
        try:
            for token in selected.engine.generate([*prompt, *sure], max_tokens - len(sure)):
                told.append(token)
                _write(stream.feed(token))
            if (canary := selected.engine.canary) and canary.runs:  # one step, after a probe of hundreds
                canary.check()
            _write(stream.finish() + "\n")
            return
        except Tripped as trip:
            _write(stream.finish() + "\n")
            sure = told[: max(0, trip.sure - len(prompt) + 1)]
            served[-1].doubtful = len(sure) + 1
            log(f"tokens {len(sure) + 1} to {len(told)} of the output above are in doubt")
            every = selected.engine.column_sums_every
            served.append(Served(selected.fall_back()))
            served[-1].by.engine.column_sums_every = every
            log(f"the output follows from token {len(sure) + 1} on")
            if len(sure) == max_tokens:
                return


def _write(text: str) -> None:
    """At once: a model's vocabulary may hold anything, also what a terminal would obey."""
    from kparity.host.text import printable

    sys.stdout.write(printable(text, "\n\t"))
    sys.stdout.flush()
