"""``kparity ladder``: two engines on one model, rung by rung."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from kparity.cli import names
from kparity.cli.command import Command, File, for_people
from kparity.cli.names import completing
from kparity.cli.options import Number, github_option, json_option, junit_option, quiet_option
from kparity.cli.pair import asked_for, pair_options, prompt_options

RUNGS = ("preflight", "tokens", "masks", "first-logit", "positions", "decode")
LIMIT = Number(min=0)
TOLERANCES = {
    "cosine": ("--cos-tol", "Least cosine similarity at any position."),
    "l2": ("--l2-tol", "Largest L2 distance."),
    "mse": ("--mse-tol", "Largest mean squared error."),
    "kl": ("--kl-tol", "Largest KL divergence in nats."),
    "max_abs": ("--max-abs-tol", "Largest difference of a logit."),
    "norm": ("--norm-tol", "Largest |ln(norm ratio)|, and distance of a constant factor from 1."),
    "top5": ("--top5-tol", "Least mean overlap of the five likeliest tokens."),
}
"""Metric → the option that overrides its limit."""


@click.command(
    cls=Command,
    examples=(
        "kparity ladder --ref reference --cand kparity:cpu --positions 32",
        "kparity ladder --ref kparity:numpy --cand kparity:cpu --ladder first-logit --json ladder.json",
        'kparity ladder --ref reference --cand kparity:cpu --prompt "In the beginning" --ladder first-logit -v',
    ),
)
@pair_options
@prompt_options
@click.option("--third", default="", metavar="ENGINE", shell_complete=completing(names.engines),
              help="A third one: gives the floor, and says which side is wrong.")  # fmt: skip
@click.option("--ladder", "rung", type=click.Choice(RUNGS), default=RUNGS[-1], show_default=True,
              help="Climb up to this rung.")  # fmt: skip
@click.option("--positions", type=click.IntRange(min=1), metavar="N",
              help="Teacher-forced positions [default: 64, or what the text has]; of decode: ids.")  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N",
              help="Greedy ids of each prompt [default: --positions, at most 16].")  # fmt: skip
@click.option(
    "--prompts",
    "count",
    type=click.IntRange(min=1),
    metavar="N",
    help="Distinct prompts to decode until their rate is decided, 326 if all agree [default: 4, no rate].",
)
@click.option("--stop-at-first", is_flag=True, help="End the positions at the first bad one.")
@click.option("--keep-going", is_flag=True, help="Run later rungs although one failed.")
@click.option(
    "--sweep", is_flag=True, help="Growing prompts too: 1, 2, 3, 4, 5, 8 … tokens, in batches of several sizes."
)
@click.option("--traces", type=File(path_type=Path), metavar="DIR",
              help="Sweep, and trace both sides at every length into a new folder.")  # fmt: skip
@click.option("--deterministic", is_flag=True, help="Each side again in a second process: every bit must be the same.")
@click.option("--dump-ids", is_flag=True, help="Show the token ids of both sides.")
@json_option
@junit_option
@github_option
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Show every measure, and every position.")
def ladder(
    count: int | None, traces: Path | None, dump_ids: bool, json_path: str | None, junit_path: str | None, github: bool,
    quiet: bool, verbose: bool, **asked: Any,
) -> int:  # fmt: skip
    """Compare two engines on one model, rung by rung: preflight, tokens, masks, first-logit, positions, decode.

    The first rung that fails ends the climb and names the likely cause. Engines run in processes of their own; limits
    are those of the contract ladder-v1, or a multiple of a noise floor that is measured without the candidate.
    """
    from kparity.diagnose.diagnosis import diagnosed
    from kparity.errors import WrongInput
    from kparity.host import files
    from kparity.ladder import document
    from kparity.ladder.climb import climb

    asked["overrides"] = {name: limit for name in TOLERANCES if (limit := asked.pop(name)) is not None}
    if asked["max_tokens"] is None and asked["positions"] and _given("rung") and asked["rung"] == RUNGS[-1]:
        asked["max_tokens"], asked["positions"] = asked["positions"], None
    if traces:
        files.refuse_no_folder(traces)
        if any(traces.iterdir()):
            raise WrongInput(f"{traces} holds something already; name a new folder")
        asked |= {"sweep": True, "traces": str(traces)}
    settings, opener, _ = asked_for(asked, count)
    found = climb(settings, opener, diagnosed)
    if json_path:
        files.write_record(json_path, found)
    if junit_path:
        files.write(junit_path, document.as_junit(found))
    if github:
        document.to_github(found)
    if for_people():
        from kparity.cli.ladder_table import print_ladder

        print_ladder(found, verbose, dump_ids)
    return found.exit_code


def _given(name: str) -> bool:
    """Whether somebody wrote an option."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


for _name, (_option, _help) in reversed(TOLERANCES.items()):
    ladder = click.option(_option, _name, type=LIMIT, metavar="X", help=f"{_help} Overrides the contract.")(ladder)
