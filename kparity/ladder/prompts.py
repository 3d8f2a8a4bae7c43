"""What two engines are fed: a text that is walked through, and prompts that are decoded."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

from kparity.errors import KparityError, WrongInput
from kparity.host import files, install
from kparity.host.text import printable
from kparity.ladder.record import Decoded, Position
from kparity.model.gguf_file import keys_of
from kparity.model.gguf_header import StringArray
from kparity.process.worker import Worker, WorkerFailed

LONGEST, PER_TOKEN, PIECE = 1 << 20, 12, 80
"""Bytes of a file of prompts; characters of the built-in text for a position; characters that are told of a token."""
TEMPLATE_S, TEMPLATE_BYTES = 10.0, 4 << 30
"""What filling in a chat template may take, of time and of a process's address space."""


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


class Template:
    """A chat template, in a process of its own: it comes with a model, and can loop for ever or make a terabyte."""

    def __init__(self, text: str) -> None:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        resource.setrlimit(resource.RLIMIT_AS, (TEMPLATE_BYTES, TEMPLATE_BYTES))
        self.made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(text)

    def filled(self, prompt: str) -> str:
        """With a prompt. The tokenizer puts the beginning of the text in front, where the model has one."""
        messages = [{"role": "user", "content": prompt}]
        return str(self.made.render(messages=messages, add_generation_prompt=True, bos_token="", eos_token=""))

    def close(self) -> None:
        """Nothing is open."""


def instructed(model: str, prompts: Sequence[str]) -> list[str]:
    """Prompts in the chat template of the model's file; raises WrongInput where it has none, or none that can be filled
    in within ``TEMPLATE_S`` each.
    """
    install.library("jinja2", "reports", "--prompt-template instruct")
    template = keys_of(model or None).get("tokenizer.chat_template")
    if not isinstance(template, str):
        raise WrongInput(f"{model} has no tokenizer.chat_template; use --prompt-template raw")
    worker = Worker("the chat template", "kparity.ladder.prompts:Template", {"text": template})
    try:
        worker.opened(TEMPLATE_S)
        return [str(worker.call("filled", TEMPLATE_S, prompt=each)) for each in prompts]
    except WorkerFailed as failed:
        why = printable(failed.reason)[:300]
        raise WrongInput(f"the chat template of {model} cannot be filled in ({why}); use raw") from None
    finally:
        worker.close()
