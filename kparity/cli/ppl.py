"""``kparity ppl``: perplexity of two engines on one text."""

from __future__ import annotations

from contextlib import ExitStack

import click

from kparity.cli import names
from kparity.cli.command import Command, for_people
from kparity.cli.names import completing
from kparity.cli.options import FILE, json_option, model_option, quiet_option


@click.command(
    cls=Command,
    examples=(
        "kparity ppl --cand kparity:cpu --json ppl.json",
        "kparity ppl --baseline ppl.json --cand kparity:cpu",
    ),
)
@click.option("--ref", "reference", default="reference", show_default=True, metavar="ENGINE",
              shell_complete=completing(names.engines), help="The engine that has the traffic.")  # fmt: skip
@click.option("--baseline", type=FILE, metavar="FILE",
              help="Instead of --ref: the candidate of an earlier --json.")  # fmt: skip
@click.option("--cand", "candidate", required=True, metavar="ENGINE", shell_complete=completing(names.engines),
              help="The engine that is to take it over.")  # fmt: skip
@model_option
@click.option("--text", type=FILE, metavar="FILE", help="UTF-8 [default: built in].")
@click.option("--tokens", type=click.IntRange(min=2), default=4096, show_default=True, help="Read so many at most.")
@click.option("--window", type=click.IntRange(min=2), default=512, show_default=True,
              help="Positions that are read on one cache.")  # fmt: skip
@click.option("--stride", type=click.IntRange(min=1), metavar="N",
              help="Tokens from one window to the next [default: half of one].")  # fmt: skip
@click.option("--bos", type=click.Choice(["first", "each"]), default="first", show_default=True,
              help="BOS before the text, or before every window, where the model wants one.")  # fmt: skip
@json_option
@quiet_option
def ppl(
    reference: str, baseline: str | None, candidate: str, model: str | None, text: str | None, tokens: int, window: int,
    stride: int | None, bos: str, json_path: str | None, quiet: bool,
) -> int:  # fmt: skip
    """Perplexity of two engines or servers on the same tokens, and whether they may differ so much: ±0.05, by the
    contract burnin-cutover-v1, with a paired bootstrap.

    Exit codes: 0 they may, 1 they differ by more, 2 an input is wrong, 3 the text is too short to say, or the reference
    predicts nothing.
    """
    from kparity.burnin import perplexity
    from kparity.engines.remote import open_engine
    from kparity.errors import WrongInput
    from kparity.host import files

    plan = perplexity.Plan(tokens, window, stride or max(1, window // 2), bos)  # type: ignore[arg-type]
    if plan.stride >= window - (bos == "each"):
        raise WrongInput(f"--stride {plan.stride} leaves tokens out of a --window of {window}; give a smaller one")
    content, name = perplexity.text_of(text)
    with ExitStack() as stack:
        engines = [open_engine(spec, model=model or "", context=window)
                   for spec in ([candidate] if baseline else [reference, candidate])]  # fmt: skip
        for engine in engines:
            stack.callback(engine.close)
        ids = perplexity.ids_of(content, engines, plan)
        known = [perplexity.baseline(baseline, ids, plan)] if baseline else []
        sides = [*known, *(perplexity.score(engine, ids, plan) for engine in engines)]
    found = perplexity.compared(sides[0], sides[1], ids, plan, name)
    if json_path:
        files.write_record(json_path, found)
    if for_people():
        from kparity.cli.burnin_table import print_perplexity

        print_perplexity(found)
    return found.exit_code
