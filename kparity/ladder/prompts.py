"""What two engines are fed: a text that is walked through, and prompts that are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from importlib import resources
from typing import NamedTuple

from kparity.engines.chat import Chat
from kparity.errors import KparityError, WrongInput
from kparity.host import files
from kparity.ladder.record import Decoded, Position
from kparity.model.gguf_file import keys_of
from kparity.model.gguf_header import StringArray

LONGEST, PER_TOKEN, PIECE = 1 << 20, 12, 80
"""Bytes of a file of prompts; characters of the built-in text for a position; characters that are told of a token."""


class Prompts(NamedTuple):
    """``text`` is walked through, each of ``prompts`` is decoded."""

    text: str
    prompts: tuple[str, ...]

    def instructed(self, model: str) -> Prompts:
        """All of them in the chat template of the model's file."""
        text, *prompts = instructed(model, (self.text, *self.prompts))
        return Prompts(text, tuple(prompts))


def lines(text: str) -> list[str]:
    """The lines that hold something."""
    return [line for line in text.splitlines() if line.strip()]


def built_in() -> str:
    """Chapters that no model of kparity was trained on, a verse a line."""
    return resources.files("kparity").joinpath("data/heldout.txt").read_text(encoding="utf-8")


def chosen(given: Sequence[str], path: str | None, positions: int, count: int) -> Prompts:
    """Of ``--prompt`` (the first is walked through) or ``--prompt-file`` (all of it, a prompt a line); else of the
    built-in text, whose last ``count`` lines are decoded. Raises WrongInput.
    """
    if given and path:
        raise WrongInput("--prompt and --prompt-file exclude each other: give one of them")
    if any("\ud800" <= character <= "\udfff" for character in "".join(given)):
        raise WrongInput("--prompt is not UTF-8; write it to a file in UTF-8 and give --prompt-file")
    if given:
        return Prompts(given[0], tuple(dict.fromkeys(given)))
    if path:
        text = files.read_text(path, "a file of prompts", LONGEST)
        if not lines(text):
            raise WrongInput(f"{path} holds no prompt; write one a line")
        return Prompts(text, tuple(dict.fromkeys(lines(text)))[:count])
    whole = built_in()
    known = tuple(dict.fromkeys(lines(whole)))
    if count > len(known):
        raise WrongInput(f"--prompts {count} is more than the {len(known)} that are built in; give --prompt-file")
    return Prompts(whole[: positions * PER_TOKEN], known[-count:])


def pieces(model: str, fed: Sequence[int], positions: Sequence[Position], decoded: Sequence[Decoded]) -> dict[str, str]:
    """How the model's file spells the ids of a climb; empty where it is no GGUF file that can be read."""
    ids = {*fed} | {token for each in positions for token in (*each.tokens, *(each.top.ids if each.top else ()))}
    ids |= {token for each in decoded for token in (*each.reference, *each.candidate)}
    try:
        spelt = keys_of(model or None).get("tokenizer.ggml.tokens")
        known = spelt if isinstance(spelt, StringArray) else ()
        return {str(each): known[each][:PIECE] for each in sorted(ids) if 0 <= each < len(known)}
    except (KparityError, OSError):
        return {}


def instructed(model: str, prompts: Sequence[str]) -> list[str]:
    """Prompts in the chat template of the model's file; raises WrongInput where it has none, or none that can be filled
    in. The tokenizer puts the beginning of the text in front, where the model has one.
    """
    template = keys_of(model or None).get("tokenizer.chat_template")
    if not isinstance(template, str):
        raise WrongInput(f"{model} has no tokenizer.chat_template; use --prompt-template raw")
    with closing(Chat(template, model, "reports", "--prompt-template instruct")) as chat:
        try:
            return [chat.filled([{"role": "user", "content": each}]) for each in prompts]
        except WrongInput as error:
            raise WrongInput(f"{error}; use raw") from None
