"""What commands over two engines are asked: which two, on which model, with which text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from kparity.cli import names
from kparity.cli.names import completing
from kparity.cli.options import FILE, model_option

if TYPE_CHECKING:
    from kparity.ladder.climb import Opener
    from kparity.ladder.record import Settings

ROOM = 512
"""Positions that a cache has at least."""
OPTIONS = (
    click.option("--ref", "reference", default="reference", show_default=True, metavar="ENGINE",
                 shell_complete=completing(names.engines),
                 help="The engine that is taken for right: kparity:BACKEND, llama.cpp[:FOLDER], …"),
    click.option("--cand", "candidate", required=True, metavar="ENGINE", shell_complete=completing(names.engines),
                 help="The engine that is judged."),
    model_option,
    click.option("--cand-model", "candidate_model", type=FILE, default="", metavar="FILE",
                 help="Another file for the candidate."),
    click.option("--prompt-file", type=FILE, metavar="FILE", help="Text from a file, a prompt a line."),
    click.option("--profile", type=click.Choice(["auto", "same", "other"]), default="auto", show_default=True,
                 help="Whether both sides have the same numerics."),
    click.option("--context", type=click.IntRange(min=1), metavar="N",
                 help="Positions of both caches [default: what is needed, at least 512]."),
)  # fmt: skip
PROMPTS = (
    click.option("--prompt", "given", multiple=True, metavar="TEXT",
                 help="Text to compare [default: built in]. Repeatable: all are decoded."),
    click.option("--prompt-template", "template", type=click.Choice(["raw", "instruct"]), default="raw",
                 show_default=True, help="Texts as they are, or in the model's chat template."),
)  # fmt: skip


def pair_options(command: Any) -> Any:
    """The options of a pair, in their order."""
    return _with(OPTIONS, command)


def prompt_options(command: Any) -> Any:
    """The options of several prompts."""
    return _with(PROMPTS, command)


def _with(options: Any, command: Any) -> Any:
    for option in reversed(options):
        command = option(command)
    return command


def asked_for(asked: dict[str, Any], count: int | None = None, usual: int = 0) -> tuple[Settings, Opener, int]:
    """What was asked for, what opens its engines in processes of their own, and the positions that caches need.

    Raises UnknownName or WrongInput for engines that there are not. Of ``count`` prompts the rate is judged; where one
    text alone is looked at, ``usual`` are the positions of the built-in one.
    """
    from kparity.engines.registry import parsed
    from kparity.engines.remote import open_engine
    from kparity.ladder import prompts
    from kparity.ladder.record import POSITIONS, Settings
    from kparity.model.gguf_file import embedded

    for spec in filter(None, (asked["reference"], asked["candidate"], asked.get("third"))):
        parsed(spec)
    # Engines take turns: threads that spin while another one computes would cost it a multiple of its time.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    given, path, template, context = (asked.pop(name, None) for name in ("given", "prompt_file", "template", "context"))
    given = (given,) if isinstance(given, str) else given or ()
    positions = asked["positions"] or (0 if given or path else usual)
    longest = positions or usual or POSITIONS
    chosen = prompts.chosen(given, path, longest, count or 4)
    asked["model"] = asked["model"] or str(embedded())
    if template == "instruct":
        chosen = chosen.instructed(asked["model"])
    asked |= {"positions": positions, "candidate_model": asked["candidate_model"] or asked["model"],
              "max_tokens": asked.get("max_tokens") or min(longest, 16)}  # fmt: skip
    decoded = () if usual else chosen.prompts
    settings = Settings(text=chosen.text, prompts=decoded, sequential=count is not None, **asked)
    room = context or max(ROOM, settings.max_tokens + max(longest, *(len(text.encode()) for text in decoded), 0))
    return settings, lambda spec, model: open_engine(spec, model=model, context=room), room
