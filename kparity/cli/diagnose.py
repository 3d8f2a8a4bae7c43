"""``kparity diagnose``: what is wrong with an engine that differs from another, or from itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kparity.cli.command import Command, for_people
from kparity.cli.options import github_option, json_option, quiet_option
from kparity.cli.pair import asked_for, pair_options, prompt_options

if TYPE_CHECKING:
    from kparity.diagnose.document import Document
    from kparity.ladder.climb import Opener
    from kparity.ladder.record import Settings


@click.command(
    cls=Command,
    examples=(
        "kparity diagnose --ref reference --cand kparity:cpu",
        "kparity diagnose --ref kparity:numpy --cand kparity:cpu --positions 32 --json diagnosis.json",
        "kparity diagnose --cand kparity:cpu --batch-invariant",
    ),
)
@pair_options
@prompt_options
@click.option("--positions", type=click.IntRange(min=1), metavar="N",
              help="Teacher-forced positions [default: 64, or what the text has].")  # fmt: skip
@click.option("--deterministic", is_flag=True, help="Each side again in a second process: every bit must be the same.")
@click.option("--batch-invariant", is_flag=True, help="The candidate alone: the same bits in batches of other sizes.")
@json_option
@github_option
@quiet_option
def diagnose(batch_invariant: bool, json_path: str | None, github: bool, quiet: bool, **asked: Any) -> int:
    """Climb the ladder with two engines and, where they differ, say why: cause, evidence, confidence, next step, fix.

    Patterns are measured on any two engines; of a model that kparity's plain pass runs, known defects are simulated
    too, and the one that explains the candidate is named. Exit code 3: they differ, and nothing that is known fits.
    """
    from kparity.diagnose.diagnosis import diagnosed
    from kparity.diagnose.document import of_climb, to_github
    from kparity.host import files
    from kparity.ladder.climb import climb

    settings, opener, _ = asked_for(asked)
    found = _repeated(settings, opener) if batch_invariant else of_climb(climb(settings, opener, diagnosed))
    if json_path:
        files.write_record(json_path, found)
    if github:
        to_github(found)
    if for_people():
        from kparity.cli.diagnose_table import print_diagnosis

        print_diagnosis(found)
    return found.exit_code


def _repeated(settings: Settings, opener: Opener) -> Document:
    """The candidate alone, in other batches."""
    import time

    from kparity.diagnose.document import of_repeats
    from kparity.diagnose.repeats import batch_invariant
    from kparity.errors import WrongInput
    from kparity.ladder.record import POSITIONS
    from kparity.ladder.stream import EngineFailed, Seat

    began, spec, model = time.perf_counter(), settings.candidate, settings.candidate_model or settings.model
    seat = Seat("candidate", spec, lambda: opener(spec, model))
    try:
        ids = (seat.tokenize(settings.text) or [])[: settings.positions or POSITIONS]
        if not ids or seat.facts.answers:
            raise WrongInput(f"{spec} cannot be fed in other batches; name an engine that computes, with a tokenizer")
        return of_repeats(settings, seat.facts, batch_invariant(seat, ids), time.perf_counter() - began)
    except EngineFailed as failed:
        raise failed.error from None
    finally:
        seat.engine.close()
