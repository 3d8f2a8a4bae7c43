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


def _refuse(asked: dict[str, Any]) -> None:
    """Raise UnknownName or WrongInput for engines that there are not; the model has its default."""
    from kparity.engines.registry import parsed
    from kparity.model.gguf_file import embedded

    for spec in filter(None, (asked["reference"], asked["candidate"], asked.get("third"))):
        parsed(spec)
    asked["model"] = asked["model"] or str(embedded())
    # Engines take turns: threads that spin while another one computes would cost it a multiple of its time.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def asked_for(usual: int, **asked: Any) -> tuple[Settings, int]:
    """What was asked for, of one text, and the positions that caches need; of the built-in text ``usual`` positions."""
    from kparity.ladder import prompts
    from kparity.ladder.record import Settings

    _refuse(asked)
    given, path, context = (asked.pop(name) for name in ("given", "prompt_file", "context"))
    positions = asked.pop("positions") or (0 if given is not None or path else usual)
    text = prompts.chosen((given,) if given is not None else (), path, positions or usual, 1).text
    asked["candidate_model"] = asked["candidate_model"] or asked["model"]
    return Settings(text=text, prompts=(), positions=positions, **asked), context or max(ROOM, positions + 1)


def asked_of_prompts(asked: dict[str, Any], count: int | None = None) -> tuple[Settings, Opener]:
    """What was asked for, of several prompts, and what opens its engines, in processes of their own."""
    from kparity.engines.remote import open_engine
    from kparity.ladder import prompts
    from kparity.ladder.record import POSITIONS, Settings

    _refuse(asked)
    given, path, template, context = (asked.pop(name) for name in ("given", "prompt_file", "template", "context"))
    positions = asked["positions"] or POSITIONS
    chosen = prompts.chosen(given, path, positions, count or 4)
    if template == "instruct":
        chosen = chosen.instructed(asked["model"])
    asked |= {"positions": asked["positions"] or 0, "max_tokens": asked.get("max_tokens") or min(positions, 16)}
    settings = Settings(text=chosen.text, prompts=chosen.prompts, sequential=count is not None, **asked)
    longest = max(positions, *(len(text.encode()) for text in settings.prompts))
    room = context or max(ROOM, longest + settings.max_tokens)
    return settings, lambda spec, model: open_engine(spec, model=model, context=room)
