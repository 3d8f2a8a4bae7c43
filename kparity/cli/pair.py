"""What commands over two engines are asked: which two, on which model, with which text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from kparity.cli import names
from kparity.cli.names import completing
from kparity.cli.options import FILE, model_option

if TYPE_CHECKING:
    from kparity.ladder.record import Settings

ROOM = 512
"""Positions that a cache has at least."""
OPTIONS = (
    click.option("--ref", "reference", required=True, metavar="ENGINE", shell_complete=completing(names.engines),
                 help="The engine that is taken for right: kparity:BACKEND, llama.cpp[:FOLDER], reference, …"),
    click.option("--cand", "candidate", required=True, metavar="ENGINE", shell_complete=completing(names.engines),
                 help="The engine that is judged."),
    model_option,
    click.option("--cand-model", "candidate_model", type=FILE, default="", metavar="FILE",
                 help="Another file for the candidate."),
    click.option("--prompt", "given", metavar="TEXT", help="Text to compare [default: built in]."),
    click.option("--prompt-file", type=FILE, metavar="FILE", help="The same from a file."),
    click.option("--positions", type=click.IntRange(min=2), metavar="N",
                 help="Positions to look at [default: what the text has, some dozens at most]."),
    click.option("--profile", type=click.Choice(["auto", "same", "other"]), default="auto", show_default=True,
                 help="Whether both sides have the same numerics."),
    click.option("--context", type=click.IntRange(min=1), metavar="N",
                 help="Positions of both caches [default: what is needed, at least 512]."),
)  # fmt: skip


def pair_options(command: Any) -> Any:
    """The options of a pair, in their order."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def asked_for(usual: int, **asked: Any) -> tuple[Settings, int]:
    """What was asked for, of one text, and the positions that caches need; of the built-in text ``usual`` positions."""
    from kparity.engines.registry import parsed
    from kparity.ladder import prompts
    from kparity.ladder.record import Settings
    from kparity.model.gguf_file import embedded

    given, path, context = (asked.pop(name) for name in ("given", "prompt_file", "context"))
    for spec in (asked["reference"], asked["candidate"]):
        parsed(spec)
    model = asked.pop("model") or str(embedded())
    positions = asked.pop("positions") or (0 if given or path else usual)
    text = prompts.chosen((given,) if given is not None else (), path, positions or usual, 1).text
    candidate_model = asked.pop("candidate_model") or model
    # Engines take turns: threads that spin while another one computes would cost it a multiple of its time.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    settings = Settings(
        text=text, prompts=(), model=model, candidate_model=candidate_model, positions=positions, **asked
    )
    return settings, context or max(ROOM, positions + 1)
